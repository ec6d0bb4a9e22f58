"""Put the student that ships and its teacher before the test samples, and ask the questions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ValidationError

from limbeck import fingerprint
from limbeck.atomic import write_json, write_text
from limbeck.data.preprocess import ImagePreprocess, TextPreprocess
from limbeck.evaluate.evaluation import Evaluation, evaluate
from limbeck.evaluate.interval import Result
from limbeck.evaluate.sitting import Batch, Pixels, Side, Sitting, Texts, Twin
from limbeck.export.predictor import OnnxPredictor
from limbeck.pipeline import folder as folders
from limbeck.pipeline import machine
from limbeck.pipeline.candidate import Candidate
from limbeck.pipeline.reopen import reopen
from limbeck.pipeline.stages.evaluate import Evaluate
from limbeck.pipeline.watch import Watch
from limbeck.report.load import load_run
from limbeck.report.page import render_page

if TYPE_CHECKING:
    from limbeck.data.split import Split
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.context import Context

FILE = "evaluation.json"


class Kept(Result):
    """An evaluation as it is kept: with the hash of all that was asked."""

    key: str
    evaluation: Evaluation


def evaluation(candidate: Candidate, context: Context, asked: Evaluate) -> Evaluation:
    """Ask the questions, or read what was found when the same was asked of the same files."""
    path = context.run / FILE
    key = fingerprint.of_json([context.key, asked.model_dump(mode="json"), _files(asked)])
    try:
        kept = Kept.model_validate(json.loads(path.read_text()))
        if kept.key == key:
            context.watch.say("questions: unchanged, reused")
            return kept.evaluation
    except (OSError, ValueError, ValidationError):
        pass  # none, or of another version: ask
    sitting = sitting_of(candidate, context, limit=asked.limit)
    found = evaluate(sitting, asked.asked, say=context.watch.say)
    write_json(path, Kept(key=key, evaluation=found).model_dump(mode="json"))
    return found


def _files(asked: Evaluate) -> dict[str, str]:
    """Hash the files that settings name: another file at the same place is another question."""
    values = (value for settings in asked.asked.values() for value in settings.values())
    paths = {str(value) for value in values if isinstance(value, str | Path)}
    return {path: fingerprint.of_file(Path(path)) for path in sorted(paths) if Path(path).is_file()}


def sitting_of(candidate: Candidate, context: Context, *, limit: int) -> Sitting:
    """Bring together what the questions may look at.

    Args:
        candidate: The whole chain of a seed.
        context: Its data and task.
        limit: Test samples that the costly questions look at.
    """
    student = _side(candidate, context, "student", [context.small])
    if student is None:  # the chain was checked before anything ran
        raise ValueError("an evaluation without a student")
    return Sitting(
        student=student,
        teacher=_side(candidate, context, "teacher", context.recipe.teachers),
        batches=lambda: _arrays(context, context.data.test),
        validation=lambda: _arrays(context, context.data.validation),
        classes=tuple(context.data.classes),
        pixels=_pixels(context),
        texts=_texts(context),
        groups=context.data.test.groups,
        limit=limit,
        seed=context.seed,
    )


def _side(
    candidate: Candidate,
    context: Context,
    role: Literal["teacher", "student"],
    specs: Sequence[ModelSpec],
) -> Side | None:
    found = candidate.newest(role)
    if found is None:
        return None
    folder, artefact = found
    path = folder / artefact.file
    return Side(
        role,
        OnnxPredictor(path),
        twin=_twin(candidate, context, role, specs),
        file=path,
        seconds=_seconds(candidate, role),
    )


def _seconds(candidate: Candidate, role: Literal["teacher", "student"]) -> float | None:
    """Add up what the stages took that made or changed a model; what was loaded is not known.

    Its twin that learns from labels alone, for comparison, is trained in the same stage, and is no
    part of it.
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


def _twin(
    candidate: Candidate,
    context: Context,
    role: Literal["teacher", "student"],
    specs: Sequence[ModelSpec],
) -> Twin | None:
    """Build the model anew; an ensemble has several and no one twin."""
    state = candidate.state(role)
    if len(specs) != 1 or len(state.weights) != 1:
        return None
    model = context.restore(specs[0], state).eval().requires_grad_(False)
    return Twin(model, context.task)


def _arrays(context: Context, split: Split) -> Iterator[Batch]:
    for batch in context.batches(split):
        yield {name: np.asarray(batch[name]) for name in (*context.task.inputs, "label")}


def _pixels(context: Context) -> Pixels | None:
    prepare = context.data.preprocess
    if not isinstance(prepare, ImagePreprocess):
        return None
    return Pixels(mean=prepare.mean, std=prepare.std)


def _texts(context: Context) -> Texts | None:
    prepare, split = context.data.preprocess, context.data.test
    if not isinstance(prepare, TextPreprocess):
        return None
    raw = [split.raw(row)["text"] for row in range(len(split))]
    return Texts(raw=raw, encode=prepare)


def ask_again(run: Path, asked: Evaluate, *, watch: Watch) -> Evaluation:
    """Ask a finished run's student more questions, and draw its page anew.

    What was found before stays, unless the same is asked again.

    Args:
        run: A run folder.
        asked: Which questions.
        watch: Who hears how far it has come.

    Raises:
        InputError: It is no run folder, or a file of it is missing or was changed.
    """
    result = load_run(run)
    with folders.held(run):
        candidate, context = reopen(run, watch=watch)
        with machine.threads(context.recipe.threads):
            found = evaluation(candidate, context, asked)
        before = result.evaluation.asked if result.evaluation else ()
        names = {one.question for one in found.asked}
        together = (*(one for one in before if one.question not in names), *found.asked)
        result = result.model_copy(update={"evaluation": Evaluation(asked=together)})
        write_json(run / "run.json", result.model_dump(mode="json"))
        write_text(run / "report.html", render_page(result))
    return found
