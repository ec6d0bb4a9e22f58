"""Evaluation of the shipped student against its teacher, on the test samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ValidationError

from limbeck.core import fingerprint
from limbeck.core.files import read_json, write_json
from limbeck.core.measurement import Result
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
    depends_on_seeds,
    estimate,
    evaluate_one,
)
from limbeck.evaluate.hardware import describe
from limbeck.export.predictor import OnnxPredictor
from limbeck.pipeline import machine
from limbeck.pipeline import run_folder as folders
from limbeck.pipeline.artefacts import EVALUATION_BATCH
from limbeck.pipeline.candidate import Candidate
from limbeck.pipeline.context import normalization_of_data
from limbeck.pipeline.diagnosis_inputs import distillation_of
from limbeck.pipeline.progress import ProgressReporter
from limbeck.pipeline.publish import write_report
from limbeck.pipeline.stages.evaluate import Evaluate
from limbeck.report.load import load_run

if TYPE_CHECKING:
    from limbeck.data.split import Split
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.context import Context
    from limbeck.report.result import RunResult

FOLDER = "evaluations"
Ended = Callable[[Evaluation], None]


class Kept(Result):
    """A saved evaluation, in its own file.

    Attributes:
        candidate: The hash of the models, the data, the code and the machine.
        key: The hash of the evaluation's settings, and of the files they refer to.
        result: The result of the evaluation.
    """

    candidate: str
    key: str
    result: EvaluationResult


def evaluation(
    candidate: Candidate, context: Context, stage: Evaluate, *, result: RunResult, ended: Ended
) -> Evaluation:
    """Run the evaluations one by one, and save each when it ends.

    A saved evaluation of the same models, data, code and settings is loaded instead. An evaluation
    that raises is recorded with its error, and the others continue.

    Args:
        candidate: The first seed's chain, whose student ships.
        context: Its context.
        stage: The selected evaluations.
        result: The result of the run so far, with all seeds.
        ended: Called after each evaluation with all results.
    """
    identity = _identity(candidate, context)
    inputs = build_context(candidate, context, limit=stage.max_samples)
    done: list[EvaluationResult] = []
    failed: list[Failed] = []
    selected = stage.selected(context.task)
    names = list(selected)
    if any(map(depends_on_seeds, names)):  # only those read the distillation
        inputs = replace(inputs, distillation=distillation_of(candidate, context, result))
    for number, (name, settings) in enumerate(selected.items(), start=1):
        path = context.run / FOLDER / f"{name}.json"
        seeds = _scores(result) if depends_on_seeds(name) else []
        key = fingerprint.of_json([stage.max_samples, name, settings, _files(settings), *seeds])
        kept = _kept(path)
        label = f"evaluation {number}/{len(names)} {name}"
        if kept is not None and (kept.candidate, kept.key) == (identity, key):
            context.progress.log(f"{label}: unchanged, reused")
            done.append(kept.result)
        else:
            one = _evaluated(inputs, name, settings, watch=context.progress, label=label)
            if isinstance(one, Failed):
                context.progress.log(f"{label}: failed: {one.reason}")
                failed.append(one)
            else:
                done.append(one)
                kept = Kept(candidate=identity, key=key, result=one)
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


def _scores(result: RunResult) -> list[tuple[float, ...]]:
    links = [*result.chain, *filter(None, [result.baseline])]
    return [link.score.values for link in links]


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
    """Build the context of the evaluations."""
    student = _model(candidate, context, "student", [context.student_spec])
    if student is None:  # ensured by the chain check
        raise ValueError("an evaluation without a student")
    data, texts = context.data, None
    if data.preprocess.raw_texts:
        raw = [data.test.raw(row)["text"] for row in range(len(data.test))]
        texts = TextInputs(raw=raw, encode=data.preprocess)
    normalization = None
    if (statistics := normalization_of_data(data.preprocess)) is not None:
        normalization = Normalization(mean=statistics.mean, std=statistics.std)
    return EvaluationContext(
        student=student,
        teacher=_model(candidate, context, "teacher", context.recipe.teachers),
        batches=lambda: _arrays(context, data.test),
        validation=lambda: _arrays(context, data.validation),
        classes=tuple(data.outputs),
        normalization=normalization,
        texts=texts,
        sensitive_features=data.test.groups,
        max_samples=limit,
        seed=context.seed,
        axes=context.task.inputs,
        example=data.test.__getitems__([0]),
    )


def _model(
    candidate: Candidate,
    context: Context,
    role: Literal["teacher", "student"],
    specs: Sequence[ModelSpec],
) -> EvaluatedModel | None:
    found, state = candidate.newest(role), candidate.state(role)
    if found is None:
        return None
    folder, artefact = found
    torch_model = None  # as that of an ensemble
    if len(specs) == len(state.weights) == 1:
        model = context.restore(specs[0], state).eval().requires_grad_(False)
        torch_model = TorchModel(model, context.task)
    return EvaluatedModel(
        role,
        OnnxPredictor(folder / artefact.file),
        torch_model=torch_model,
        file=folder / artefact.file,
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


def _arrays(context: Context, split: Split) -> Iterator[Batch]:
    for batch in split.batches(EVALUATION_BATCH):
        yield {name: np.asarray(batch[name]) for name in (*context.task.inputs, "labels")}


def reevaluate(run: Path, stage: Evaluate, *, watch: ProgressReporter) -> Evaluation:
    """Evaluate a finished run's student again, and rewrite its report.

    Earlier results stay, unless the same evaluation is repeated.

    Raises:
        InputError: Not a run folder, or a file of it is missing or was changed.
    """
    result = load_run(run)
    before = result.evaluation or Evaluation(results=())

    def write(found: Evaluation) -> None:
        """Merge the results so far into the report; a repeated evaluation replaces its old one."""
        names = {one.evaluation for one in found.results} | {one.evaluation for one in found.failed}
        results = [one for one in before.results if one.evaluation not in names]
        failed = [one for one in before.failed if one.evaluation not in names]
        whole = Evaluation(
            results=(*results, *found.results),
            failed=(*failed, *found.failed),
            pending=found.pending,
        )
        write_report(result.model_copy(update={"evaluation": whole}), out=run)

    with folders.lock(run):
        candidate, context = folders.open_run(run, watch=watch)
        with machine.threads(context.recipe.threads):
            return evaluation(candidate, context, stage, result=result, ended=write)
