"""Evaluation of the shipped student against its teacher, on the test samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ValidationError

from limbeck.core import fingerprint
from limbeck.core.files import read_json, write_json
from limbeck.core.measurement import Result
from limbeck.data.preprocess import ImagePreprocess, TextPreprocess
from limbeck.errors import InputError, LimbeckError
from limbeck.evaluate.context import (
    Batch,
    EvaluatedModel,
    EvaluationContext,
    Normalization,
    TextInputs,
    TorchModel,
)
from limbeck.evaluate.evaluation import (
    Evaluation,
    EvaluationResult,
    Failed,
    check,
    estimate,
    evaluate_one,
)
from limbeck.evaluate.hardware import describe
from limbeck.export.predictor import OnnxPredictor
from limbeck.pipeline import machine
from limbeck.pipeline import run_folder as folders
from limbeck.pipeline.candidate import Candidate
from limbeck.pipeline.progress import ProgressReporter
from limbeck.pipeline.publish import write_report
from limbeck.pipeline.run_folder import open_run
from limbeck.pipeline.stages.evaluate import Evaluate
from limbeck.report.load import load_run

if TYPE_CHECKING:
    from limbeck.data.split import Split
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.context import Context

FOLDER = "evaluations"
Ended = Callable[[Evaluation], None]


class Kept(Result):
    """A saved evaluation, in its own file.

    Attributes:
        candidate: The hash of the models, the data, the code and the machine.
        key: The hash of the evaluation's settings, and of the files they refer to.
        asked: The evaluation.
    """

    candidate: str
    key: str
    asked: EvaluationResult


def evaluation(
    candidate: Candidate, context: Context, asked: Evaluate, *, ended: Ended
) -> Evaluation:
    """Run the evaluations one by one, and save each when it ends.

    A saved evaluation of the same models, data, code and settings is loaded instead. An evaluation
    that raises is recorded with its error, and the others continue.

    Args:
        candidate: The whole chain of a seed.
        context: Its data and task.
        asked: The evaluations with their settings.
        ended: Called with the results so far, after each evaluation.
    """
    whose = _identity(candidate, context)
    inputs = build_context(candidate, context, limit=asked.max_samples)
    done: list[EvaluationResult] = []
    failed: list[Failed] = []
    names = list(asked.asked)
    for number, (name, settings) in enumerate(asked.asked.items(), start=1):
        path = context.run / FOLDER / f"{name}.json"
        key = fingerprint.of_json([asked.max_samples, name, settings, _files(settings)])
        kept = _kept(path)
        label = f"evaluation {number}/{len(names)} {name}"
        if kept is not None and (kept.candidate, kept.key) == (whose, key):
            context.progress.log(f"{label}: unchanged, reused")
            done.append(kept.asked)
        else:
            one = _evaluated(inputs, name, settings, watch=context.progress, label=label)
            if isinstance(one, Failed):
                context.progress.log(f"{label}: failed: {one.reason}")
                failed.append(one)
            else:
                done.append(one)
                kept = Kept(candidate=whose, key=key, asked=one)
                write_json(path, kept.model_dump(mode="json"))
        ended(Evaluation(results=(*done,), failed=(*failed,), pending=(*names[number:],)))
    return Evaluation(results=(*done,), failed=(*failed,))


def _evaluated(
    inputs: EvaluationContext,
    name: str,
    settings: Mapping[str, Any],
    *,
    watch: ProgressReporter,
    label: str,
) -> EvaluationResult | Failed:
    began = perf_counter()
    try:
        check({name: settings})  # referenced files may be gone since the recipe was checked
        watch.begin(f"{label}: {estimate(inputs, name, settings)}")
        return evaluate_one(inputs, name, settings)
    # Models, and attack and attribution libraries, raise errors of many types.
    except Exception as error:
        kind = "" if isinstance(error, LimbeckError) else f"{type(error).__name__}: "
        return Failed(evaluation=name, seconds=perf_counter() - began, reason=f"{kind}{error}")


def _identity(candidate: Candidate, context: Context) -> str:
    """Hash the models, the data, the code and the machine, on which latencies depend."""
    stages = [
        [link.record.key, link.record.files]
        for link in candidate.lineage
        if link.record.stage != Evaluate.__name__.lower()
    ]
    machine_ = describe().model_dump(mode="json")
    data = context.data.facts.fingerprint
    return fingerprint.of_json([stages, data, fingerprint.of_code(), machine_])


def _kept(path: Path) -> Kept | None:
    try:
        return Kept.model_validate(read_json(path))
    except (InputError, ValidationError):
        return None  # missing, or of another version


def _files(settings: Mapping[str, Any]) -> dict[str, str]:
    """Hash the files that settings refer to, so that a changed file is a new evaluation."""
    paths = {str(value) for value in settings.values() if isinstance(value, str | Path)}
    return {path: fingerprint.of_file(Path(path)) for path in sorted(paths) if Path(path).is_file()}


def build_context(candidate: Candidate, context: Context, *, limit: int) -> EvaluationContext:
    """Build the context of the evaluations.

    Args:
        candidate: The whole chain of a seed.
        context: Its data and task.
        limit: Number of test samples for costly evaluations.
    """
    student = _side(candidate, context, "student", [context.student_spec])
    if student is None:  # ensured by the chain check
        raise ValueError("an evaluation without a student")
    return EvaluationContext(
        student=student,
        teacher=_side(candidate, context, "teacher", context.recipe.teachers),
        batches=lambda: _arrays(context, context.data.test),
        validation=lambda: _arrays(context, context.data.validation),
        classes=tuple(context.data.classes),
        normalization=_pixels(context),
        texts=_texts(context),
        sensitive_features=context.data.test.groups,
        max_samples=limit,
        seed=context.seed,
    )


def _side(
    candidate: Candidate,
    context: Context,
    role: Literal["teacher", "student"],
    specs: Sequence[ModelSpec],
) -> EvaluatedModel | None:
    found = candidate.newest(role)
    if found is None:
        return None
    folder, artefact = found
    path = folder / artefact.file
    return EvaluatedModel(
        role,
        OnnxPredictor(path),
        torch_model=_torch_model(candidate, context, role, specs),
        file=path,
        seconds=_seconds(candidate, role),
        tested=context.tested.get(role),
    )


def _seconds(candidate: Candidate, role: Literal["teacher", "student"]) -> float | None:
    """Sum the duration of the stages that produced a model; None if one was loaded.

    The label-only baseline, which is trained in the same stage, is excluded.
    """
    stages = [link.record for link in candidate.lineage if link.artefact(role) is not None]
    if any(record.stage == "load" for record in stages):
        return None
    others = (
        row.get("seconds", 0.0)
        for record in stages
        for curve in record.curves
        if curve.role != role
        for row in curve.rows
    )
    return sum(record.seconds for record in stages) - sum(others)


def _torch_model(
    candidate: Candidate,
    context: Context,
    role: Literal["teacher", "student"],
    specs: Sequence[ModelSpec],
) -> TorchModel | None:
    """Build the torch model of a role; None for an ensemble."""
    state = candidate.state(role)
    if len(specs) != 1 or len(state.weights) != 1:
        return None
    model = context.restore(specs[0], state).eval().requires_grad_(False)
    return TorchModel(model, context.task)


def _arrays(context: Context, split: Split) -> Iterator[Batch]:
    for batch in context.batches(split):
        yield {name: np.asarray(batch[name]) for name in (*context.task.inputs, "labels")}


def _pixels(context: Context) -> Normalization | None:
    prepare = context.data.preprocess
    if not isinstance(prepare, ImagePreprocess):
        return None
    return Normalization(mean=prepare.mean, std=prepare.std)


def _texts(context: Context) -> TextInputs | None:
    prepare, split = context.data.preprocess, context.data.test
    if not isinstance(prepare, TextPreprocess):
        return None
    raw = [split.raw(row)["text"] for row in range(len(split))]
    return TextInputs(raw=raw, encode=prepare)


def reevaluate(run: Path, asked: Evaluate, *, watch: ProgressReporter) -> Evaluation:
    """Evaluate a finished run's student again, and rewrite its report.

    Earlier results stay, unless the same evaluation is repeated.

    Args:
        run: A run folder.
        asked: The evaluations with their settings.
        watch: The progress reporter.

    Raises:
        InputError: Not a run folder, or a file of it is missing or was changed.
    """
    result = load_run(run)
    before = result.evaluation or Evaluation(results=())

    def write(found: Evaluation) -> None:
        """Merge the results so far into the report; a repeated evaluation replaces its old one."""
        names = {one.evaluation for one in found.results} | {one.evaluation for one in found.failed}
        asked = [one for one in before.results if one.evaluation not in names]
        failed = [one for one in before.failed if one.evaluation not in names]
        whole = Evaluation(
            results=(*asked, *found.results), failed=(*failed, *found.failed), pending=found.pending
        )
        write_report(result.model_copy(update={"evaluation": whole}), out=run)

    with folders.lock(run):
        candidate, context = open_run(run, watch=watch)
        with machine.threads(context.recipe.threads):
            return evaluation(candidate, context, asked, ended=write)
