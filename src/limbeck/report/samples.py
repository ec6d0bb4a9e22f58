"""Classes: confusion matrices, and the class similarity learned by the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.display import format as fmt
from limbeck.display.blocks import Panel
from limbeck.display.matrix import busiest, largest, matrix, needed_width
from limbeck.display.svg import WIDTH, finite
from limbeck.report.result import Disagreement, Link, Role, RunResult
from limbeck.report.verdict import first

_LIMIT = 25
_FAINT = 5.0


def confusion(result: RunResult) -> list[Panel]:
    """Draw the confusion matrices of the teacher and the exported student over the same classes."""
    taught, shipped = result.teacher, result.shipped
    both = [shipped] if taught is None or taught is shipped else [taught, shipped]
    links = [link for link in both if _confusion(link)]
    if not links:
        return []
    classes = busiest(_confusion(links[-1]), _LIMIT)
    # One scale for both, on which a single error does not get the darkest shade.
    most = max(_FAINT, *(largest(_confusion(link)) for link in links))
    return [_confused(link, classes, most, result) for link in links]


def similarity(result: RunResult) -> Panel | None:
    """Draw the teacher's class similarity; return `None` if there was no teacher."""
    values = result.class_similarity
    if not values:
        return None
    classes = busiest(values, _LIMIT)
    names = _names(result, len(values))
    title = "Which classes the teacher finds alike"
    labels = [names[i] for i in classes]
    return Panel(
        title,
        "Mean probability in per cent that the teacher gives to each class, by true class, on the "
        f"validation split at "
        f"temperature {result.similarity_temperature:g}; the shades are relative to the largest "
        f"off the diagonal.{_left_out(classes, len(values))}",
        matrix(
            [[values[i][j] for j in classes] for i in classes],
            labels,
            "teacher",
            written=_per_cent,
            tip=lambda i, j: (
                f"{labels[i]} looks like {labels[j]}: {fmt.percent(values[classes[i]][classes[j]])}"
            ),
            most=largest(values),
            rows="true class",
            columns="probability given to",
            title=title,
            description="; ".join(f"{p.truth} looks like {p.other}" for p in closest(result)),
        ),
        least_width=_least_width(labels),
    )


@dataclass(frozen=True)
class Pair:
    """Two classes, and the teacher's mean probability of the second when the first is true."""

    truth: str
    other: str
    share: float


def closest(result: RunResult, count: int = 6) -> list[Pair]:
    """Return the pairs of classes of highest teacher similarity, in descending order."""
    values = result.class_similarity or ()
    names = _names(result, len(values))
    pairs = [(row[j], i, j) for i, row in enumerate(values) for j in range(len(row)) if i != j]
    pairs = sorted((pair for pair in pairs if pair[0] > 0), key=lambda pair: (-pair[0], *pair[1:]))
    return [Pair(names[i], names[j], share) for share, i, j in pairs[:count]]


def _confused(link: Link, classes: Sequence[int], most: float, result: RunResult) -> Panel:
    values = _confusion(link)
    names = _names(result, len(values))
    labels = [names[i] for i in classes]
    wrong = sum(v for i, row in enumerate(values) for j, v in enumerate(row) if i != j)
    total = sum(map(sum, values))
    seed = f" of seed {result.seeds[0]}" if len(result.seeds) > 1 else ""
    title = f"Confusion: {link.label}"
    said = f"{fmt.integer(wrong)} of {fmt.integer(total)} test samples answered wrongly."
    return Panel(
        title,
        f"{said} Counts from the exported file{seed}; right answers are outlined, errors shaded."
        f"{_left_out(classes, len(values))}",
        matrix(
            [[values[i][j] for j in classes] for i in classes],
            labels,
            link.role,
            written=lambda value: f"{value:.0f}" if value else "",
            tip=lambda i, j: (
                f"true {labels[i]}, answered {labels[j]}: {values[classes[i]][classes[j]]}"
            ),
            most=most,
            rows="true class",
            columns="answer",
            title=title,
            description=said,
        ),
        least_width=_least_width(labels),
    )


def _confusion(link: Link) -> Sequence[Sequence[int]]:
    measured = first(link)
    return measured.confusion if measured else ()


def _names(result: RunResult, count: int) -> list[str]:
    """Return the class names; numbers if there are not as many names as classes."""
    classes = result.data.classes
    return list(classes) if len(classes) == count else [str(index) for index in range(count)]


def _per_cent(share: float) -> str:
    """Write a percentage that fits into a cell; empty if it would round to zero."""
    value = share * 100
    return "" if not value >= 0.05 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _left_out(classes: Sequence[int], count: int) -> str:
    """Write a note if not all classes are drawn."""
    if len(classes) == count:
        return ""
    return f" Drawn are the {len(classes)} of {count} classes with most off the diagonal."


def _least_width(labels: Sequence[str]) -> float | None:
    width = needed_width(labels)
    return width if width > WIDTH else None


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
