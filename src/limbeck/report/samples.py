"""Classes and samples: confusion matrices, class similarity, and teacher–student disagreements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from limbeck.display import format as fmt
from limbeck.display.blocks import Panel
from limbeck.display.matrix import busiest, largest, matrix, needed_width
from limbeck.display.svg import WIDTH, finite
from limbeck.report.panels import compared
from limbeck.report.result import Disagreement, Link, Role, RunResult
from limbeck.report.verdict import first

_LIMIT = 25
_LEAST_SCALE = 5.0  # a single error does not get the darkest shade


def confusion(result: RunResult) -> list[Panel]:
    """Draw the confusion matrices of the teacher and the exported student over the same classes."""
    links = [link for link in compared(result) if _confusion(link)]
    if not links:
        return []
    classes = busiest(_confusion(links[-1]), _LIMIT)
    most = max(_LEAST_SCALE, *(largest(_confusion(link)) for link in links))
    return [_confusion_matrix(link, classes, most, result) for link in links]


def _confusion(link: Link) -> Sequence[Sequence[int]]:
    measured = first(link)
    return measured.confusion if measured else ()


def _confusion_matrix(link: Link, classes: Sequence[int], most: float, result: RunResult) -> Panel:
    values = _confusion(link)
    errors = sum(v for i, row in enumerate(values) for j, v in enumerate(row) if i != j)
    total = sum(map(sum, values))
    seed = f" of seed {result.seeds[0]}" if len(result.seeds) > 1 else ""
    title = f"Confusion matrix: {link.label}"
    summary = f"{fmt.integer(errors)} of {fmt.integer(total)} test samples are misclassified."
    return _class_matrix(
        result,
        values,
        classes,
        link.role,
        title=title,
        caption=f"{summary} Counts from the exported file{seed}; correct predictions are outlined, "
        "errors shaded.",
        description=summary,
        written=lambda value: f"{value:.0f}" if value else "",
        tip=lambda truth, other, value: f"true {truth}, predicted {other}: {value}",
        most=most,
        columns="predicted class",
    )


def similarity(result: RunResult) -> Panel | None:
    """Draw the teacher's class similarity; return `None` if there was no teacher."""
    values = result.class_similarity
    if not values:
        return None
    return _class_matrix(
        result,
        values,
        busiest(values, _LIMIT),
        "teacher",
        title="Mean teacher probabilities by true class",
        caption="Mean predicted probability in per cent, on the validation split at temperature "
        f"{result.similarity_temperature:g}; shades are relative to the largest off the diagonal.",
        description="; ".join(f"{p.truth} to {p.other}" for p in similar_classes(result)),
        written=_cell_percent,
        tip=lambda truth, other, value: f"true {truth}, {other}: {fmt.percent(value)}",
        most=largest(values),
        columns="mean probability of",
    )


def _class_matrix(
    result: RunResult,
    values: Sequence[Sequence[float]],
    classes: Sequence[int],
    role: Role,
    *,
    title: str,
    caption: str,
    description: str,
    written: Callable[[float], str],
    tip: Callable[[str, str, float], str],
    most: float,
    columns: str,
) -> Panel:
    """Draw the chosen classes of a matrix, with a note if others were left out."""
    names = _names(result, len(values))
    labels = [names[i] for i in classes]
    if len(classes) < len(values):
        shown = f"{len(classes)} of {len(values)} classes"
        caption += f" Shown are the {shown} with the largest off-diagonal sums."
    chart: Markup = matrix(
        [[values[i][j] for j in classes] for i in classes],
        labels,
        role,
        written=written,
        tip=lambda i, j: tip(labels[i], labels[j], values[classes[i]][classes[j]]),
        most=most,
        rows="true class",
        columns=columns,
        title=title,
        description=description,
    )
    width = needed_width(labels)
    return Panel(title, caption, chart, least_width=width if width > WIDTH else None)


def _names(result: RunResult, count: int) -> list[str]:
    """Return the class names; numbers if there are not as many names as classes."""
    classes = result.data.classes
    return list(classes) if len(classes) == count else [str(index) for index in range(count)]


def _cell_percent(share: float) -> str:
    """Write a percentage that fits into a cell; empty if it would round to zero."""
    value = share * 100
    return "" if not value >= 0.05 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


@dataclass(frozen=True)
class Pair:
    """Two classes, and the teacher's mean probability of the second when the first is true."""

    truth: str
    other: str
    share: float


def similar_classes(result: RunResult, count: int = 6) -> list[Pair]:
    """Return the pairs of classes of highest teacher similarity, in descending order."""
    values = result.class_similarity or ()
    names = _names(result, len(values))
    pairs = [(row[j], i, j) for i, row in enumerate(values) for j in range(len(row)) if i != j]
    pairs = sorted((pair for pair in pairs if pair[0] > 0), key=lambda pair: (-pair[0], *pair[1:]))
    return [Pair(names[i], names[j], share) for share, i, j in pairs[:count]]


@dataclass(frozen=True)
class Prediction:
    """A model's prediction: its class, its confidence, and whether it is correct."""

    role: Role
    name: str
    share: float
    correct: bool


@dataclass(frozen=True)
class Sample:
    """A sample: its true class, an image in base64 or a sentence or neither, both predictions."""

    index: int
    truth: str
    image: str | None
    text: str | None
    predictions: tuple[Prediction, ...]


def samples(result: RunResult) -> list[Sample]:
    """Convert the samples for the page, in the order of the result."""
    return [_sample(one, result.data.classes) for one in result.disagreements]


def _sample(one: Disagreement, classes: Sequence[str]) -> Sample:
    predictions = (
        _prediction("teacher", one.teacher, one.label, classes),
        _prediction("student", one.student, one.label, classes),
    )
    return Sample(one.index, _name(one.label, classes), one.image, one.text, predictions)


def _prediction(
    role: Role, shares: Sequence[float], label: int, classes: Sequence[str]
) -> Prediction:
    """Return the class with the largest share; a share that is not finite counts as 0."""
    known = [share if finite([share]) else 0.0 for share in shares] or [0.0]
    top = max(range(len(known)), key=known.__getitem__)
    return Prediction(role, _name(top, classes), known[top], top == label)


def _name(index: int, classes: Sequence[str]) -> str:
    return classes[index] if 0 <= index < len(classes) else str(index)
