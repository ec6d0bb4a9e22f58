"""Disagreements: the test samples on which teacher and student predict different classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.report.charts.scale import finite
from limbeck.report.result import Disagreement, Role, RunResult


@dataclass(frozen=True)
class Reply:
    """A model's prediction: its class, its confidence, and whether it is correct."""

    role: Role
    name: str
    share: float
    right: bool


@dataclass(frozen=True)
class Sample:
    """A sample: its true class, an image in base64 or a sentence or neither, both predictions."""

    index: int
    truth: str
    picture: str | None
    text: str | None
    replies: tuple[Reply, ...]


def samples(result: RunResult) -> list[Sample]:
    """Convert the samples for the page, in the order of the result."""
    return [_sample(one, result.data.classes) for one in result.disagreements]


def _sample(one: Disagreement, classes: Sequence[str]) -> Sample:
    replies = (
        _reply("teacher", one.teacher, one.label, classes),
        _reply("student", one.student, one.label, classes),
    )
    return Sample(one.index, _name(one.label, classes), one.picture, one.text, replies)


def _reply(role: Role, shares: Sequence[float], label: int, classes: Sequence[str]) -> Reply:
    """Return the class with the largest share; a share that is not finite counts as 0."""
    known = [share if finite([share]) else 0.0 for share in shares] or [0.0]
    top = max(range(len(known)), key=known.__getitem__)
    return Reply(role, _name(top, classes), known[top], top == label)


def _name(index: int, classes: Sequence[str]) -> str:
    return classes[index] if 0 <= index < len(classes) else str(index)
