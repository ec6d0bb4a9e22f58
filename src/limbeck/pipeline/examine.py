"""The final examination: the one time that the test samples are looked at.

Every artefact of the chain is asked the same questions on the file that ships, and their latencies are taken in turn, so
that whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from limbeck import fingerprint
from limbeck.atomic import write_json
from limbeck.evaluate.accuracy import accuracy, confusion
from limbeck.evaluate.calibration import calibration
from limbeck.evaluate.cost import Cost
from limbeck.evaluate.fidelity import fidelity
from limbeck.evaluate.flops import flops, parameters
from limbeck.evaluate.interval import Result
from limbeck.evaluate.measure import Artefact as Costed
from limbeck.evaluate.measure import measure
from limbeck.export.predictor import Answers, OnnxPredictor, answers
from limbeck.pipeline.candidate import Artefact, Candidate
from limbeck.report.result import Disagreement, Measured

if TYPE_CHECKING:
    from limbeck.data.split import Split
    from limbeck.pipeline.context import Context

SHOWN = 12
SIMILARITY_TEMPERATURE = 4.0


class Place(Result):
    """Which artefact: the number of its stage in the lineage, and its role there."""

    stage: int
    role: str


class Examination(Result):
    """What the examination of one seed found.

    Attributes:
        key: The hash of all that was examined.
        places: Which artefact each entry of `measured` is.
        measured: The figures of each artefact.
        class_similarity: The teacher's mean soft answer to each class, on validation.
        disagreements: Test samples to which teacher and shipped student answer differently.
        disagreement_count: How many of these there are in all.
    """

    key: str
    places: tuple[Place, ...]
    measured: tuple[Measured, ...]
    class_similarity: tuple[tuple[float, ...], ...] | None
    disagreements: tuple[Disagreement, ...]
    disagreement_count: int

    def find(self, stage: int, role: str) -> Measured:
        """Find the figures of one artefact."""
        return self.measured[self.places.index(Place(stage=stage, role=role))]


def examination(candidate: Candidate, context: Context) -> Examination:
    """Examine a seed's chain, or read what an earlier examination of the very same files found."""
    path = context.run / "examination.json"
    try:
        done = Examination.model_validate(json.loads(path.read_text()))
        if done.key == context.key:
            context.watch.say("examination: unchanged, reused")
            return done
    except (OSError, ValueError, ValidationError):
        pass  # none, or of another version: examine
    context.watch.say("examination on the test samples")
    examined = _examine(candidate, context)
    write_json(path, examined.model_dump(mode="json"))
    return examined


def _examine(candidate: Candidate, context: Context) -> Examination:
    artefacts = [
        (Place(stage=number, role=artefact.role), link.folder / artefact.file, artefact)
        for number, link in enumerate(candidate.lineage)
        for artefact in link.record.artefacts
    ]
    digests = [fingerprint.of_file(path) for _, path, _ in artefacts]
    # What ships is often a copy of what the stage before made: the same bytes are asked once.
    files = {
        digest: (path, artefact)
        for digest, (_, path, artefact) in zip(digests, artefacts, strict=True)
    }
    answered = _answer(files, context)
    costs = _costs(files, context)
    teachers = [
        digest
        for digest, (place, _, _) in zip(digests, artefacts, strict=True)
        if place.role == "teacher"
    ]
    students = [
        digest
        for digest, (place, _, _) in zip(digests, artefacts, strict=True)
        if place.role == "student"
    ]
    teacher = answered[teachers[-1]] if teachers else None
    measured = [
        _measured(artefact, path, digest, answered[digest], teacher, costs[digest], context)
        for digest, (_, path, artefact) in zip(digests, artefacts, strict=True)
    ]
    apart = _apart(teacher, answered[students[-1]]) if teacher is not None and students else []
    return Examination(
        key=context.key,
        places=tuple(place for place, _, _ in artefacts),
        measured=tuple(measured),
        class_similarity=_similarity(files[teachers[-1]][0], context) if teachers else None,
        disagreements=tuple(
            _disagreement(index, context.data.test, teacher, answered[students[-1]])
            for index in apart[:SHOWN]
            if teacher is not None
        ),
        disagreement_count=len(apart),
    )


def _answer(files: dict[str, tuple[Path, Artefact]], context: Context) -> dict[str, Answers]:
    ticker = context.ticker("test samples")
    answered = {}
    for number, (digest, (path, artefact)) in enumerate(files.items(), start=1):
        answered[digest] = answers(OnnxPredictor(path), context.batches(context.data.test))
        ticker.tick(number, len(files), artefact.label)
    return answered


def _costs(files: dict[str, tuple[Path, Artefact]], context: Context) -> dict[str, Cost]:
    """Measure what every file costs, side by side."""
    example = context.data.validation.__getitems__([0])
    counts = {
        role: _counts(role, context) for role in {artefact.role for _, artefact in files.values()}
    }
    return measure(
        {
            digest: Costed(
                path, parameters=counts[artefact.role][0], flops=counts[artefact.role][1]
            )
            for digest, (path, artefact) in files.items()
        },
        example,
    )


def _counts(role: str, context: Context) -> tuple[int, int]:
    """Count parameters and operations of the network behind a role."""
    recipe = context.recipe
    specs = recipe.teachers if role == "teacher" else [recipe.student] if recipe.student else []
    example = context.data.validation.__getitems__([0])
    models = [context.build(spec.model_copy(update={"weights": None}), seed=0) for spec in specs]
    return sum(map(parameters, models)), sum(
        flops(model, context.task, example) for model in models
    )


def _measured(
    artefact: Artefact,
    path: Path,
    digest: str,
    given: Answers,
    teacher: Answers | None,
    cost: Cost,
    context: Context,
) -> Measured:
    follows = artefact.role != "teacher" and teacher is not None
    return Measured(
        seed=context.seed,
        file=path.relative_to(context.run).as_posix(),
        digest=digest,
        validation_accuracy=artefact.validation_accuracy,
        accuracy=accuracy(given),
        fidelity=fidelity(given, teacher) if follows and teacher is not None else None,
        calibration=calibration(given),
        cost=cost,
        parity=artefact.parity,
        confusion=confusion(given),
    )


def _softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _similarity(path: Path, context: Context) -> tuple[tuple[float, ...], ...]:
    """Average the teacher's softened answers over the validation samples of each class."""
    given = context.answers(path)
    soft = _softmax(given.logits, SIMILARITY_TEMPERATURE)
    rows = [soft[given.labels == number] for number in range(len(context.task.classes))]
    return tuple(
        tuple(row.mean(axis=0).tolist()) if len(row) else (0.0,) * soft.shape[1] for row in rows
    )


def _apart(teacher: Answers, student: Answers) -> list[int]:
    """List the samples with different top answers, those first on which the student is surest."""
    rows = np.flatnonzero(teacher.logits.argmax(1) != student.logits.argmax(1))
    sureness = _softmax(student.logits)[rows].max(axis=1)
    return [int(row) for row in rows[np.argsort(-sureness, kind="stable")]]


def _disagreement(index: int, test: Split, teacher: Answers, student: Answers) -> Disagreement:
    raw = test.raw(index)
    picture = None
    if "picture" in raw:
        buffer = io.BytesIO()
        raw["picture"].save(buffer, format="PNG")
        picture = base64.b64encode(buffer.getvalue()).decode()
    return Disagreement(
        index=index,
        label=int(teacher.labels[index]),
        teacher=tuple(_softmax(teacher.logits[index : index + 1])[0].tolist()),
        student=tuple(_softmax(student.logits[index : index + 1])[0].tolist()),
        picture=picture,
        text=raw.get("text"),
    )
