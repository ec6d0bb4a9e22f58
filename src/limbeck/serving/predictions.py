"""Predictions as a user reads them, by the outputs of the student's file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np

from limbeck.core.entity_spans import entity_spans, is_bio
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.data.preprocess import Preprocess

LOGITS, VALUES, QUANTILES, CLASSES = "logits", "values", "quantiles", "classes"
Outputs: TypeAlias = Mapping[str, "NDArray[Any]"]


class Result(ABC):
    """The prediction of one input."""

    @property
    @abstractmethod
    def row(self) -> dict[str, str | float]:
        """Return the prediction as the columns of a table."""

    def content(self) -> dict[str, Any]:
        """Return the prediction as JSON."""
        return asdict(cast("Any", self))


@dataclass(frozen=True)
class Prediction(Result):
    """The predicted class of one input.

    Attributes:
        label: The name of the most probable class.
        probability: Its probability.
        probabilities: The probability of every class, by name, in the order of the outputs.
    """

    label: str
    probability: float
    probabilities: dict[str, float]

    @property
    def row(self) -> dict[str, str | float]:
        """Return the label and its probability."""
        return {"label": self.label, "probability": self.probability}


@dataclass(frozen=True)
class Values(Result):
    """The predicted values of one input, of a regression or of independent labels.

    Attributes:
        values: The value of every target, or the probability of every label, by name, in the order
            of the outputs.
    """

    values: dict[str, float]

    @property
    def row(self) -> dict[str, str | float]:
        """Return the values."""
        return dict(self.values)


@dataclass(frozen=True)
class Segmentation(Result):
    """The predicted class of every pixel of one image.

    Attributes:
        classes: The names of the classes.
        mask: The number of the class of every pixel, `[height, width]`, in the size of the model's
            input.
    """

    classes: tuple[str, ...]
    mask: NDArray[np.uint16]

    @property
    def row(self) -> dict[str, str | float]:
        """Return the share of pixels of every class."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes)) / self.mask.size
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def content(self) -> dict[str, Any]:
        """Return the shares of the classes, and the mask as rows of class numbers."""
        return {"shares": self.row, "mask": self.mask.tolist()}


@dataclass(frozen=True)
class Forecast(Result):
    """The predicted quantiles of the next steps of a series.

    Attributes:
        levels: The levels of the quantiles.
        values: For every target, by name, the quantiles of each step, `[horizon, quantiles]`.
    """

    levels: tuple[float, ...]
    values: dict[str, NDArray[np.float64]]

    @property
    def row(self) -> dict[str, str | float]:
        """Return every quantile of every step, named such as `load+1 q0.5`."""
        return {
            _step(name, step, level): float(value)
            for name, steps in self.values.items()
            for step, row in enumerate(steps, start=1)
            for level, value in zip(self.levels, row, strict=True)
        }

    def content(self) -> dict[str, Any]:
        """Return the quantiles of every target, a list of steps each."""
        values = {name: steps.tolist() for name, steps in self.values.items()}
        return {"levels": list(self.levels), "values": values}


@dataclass(frozen=True)
class Detections(Result):
    """The objects found in one image, by descending score.

    Attributes:
        labels: The name of the class of each object.
        scores: Its score, from 0 to 1.
        boxes: Its box (x1, y1, x2, y2) in pixels of the given image, `[objects, 4]`.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    boxes: NDArray[np.float32]

    @property
    def row(self) -> dict[str, str | float]:
        """Return the number of objects, and them as one text."""
        found = zip(self.labels, self.scores, self.boxes.tolist(), strict=True)
        shown = "; ".join(
            f"{label} {score:.2f} [{', '.join(f'{edge:.1f}' for edge in box)}]"
            for label, score, box in found
        )
        return {"count": len(self.labels), "objects": shown}

    def content(self) -> dict[str, Any]:
        """Return the objects as a list."""
        found = zip(self.labels, self.scores, self.boxes.tolist(), strict=True)
        names = ("label", "score", "box")
        return {"objects": [dict(zip(names, one, strict=True)) for one in found]}


@dataclass(frozen=True)
class Entity:
    """An entity in a sequence of words.

    Attributes:
        label: Its type.
        text: Its part of the given text, or its words joined by spaces.
        start: Its first word.
        end: The word after its last one.
    """

    label: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Tags(Result):
    """The predicted tag of every word of one input.

    Attributes:
        words: The words; a text was divided into words and punctuation marks.
        tags: The tag of each word; None for words beyond the model's length, which have none.
        probabilities: The probability of each tag; None without one.
        entities: The entities, if the tags are BIO tags.
    """

    words: tuple[str, ...]
    tags: tuple[str | None, ...]
    probabilities: tuple[float | None, ...]
    entities: tuple[Entity, ...] = ()

    @property
    def row(self) -> dict[str, str | float]:
        """Return the entities as one text, and the tags; `-` for words without one."""
        shown = "; ".join(f"{one.label} {one.text}" for one in self.entities)
        return {"entities": shown, "tags": " ".join(tag or "-" for tag in self.tags)}


@dataclass(frozen=True)
class Form:
    """The conversion of a file's output to predictions.

    Attributes:
        output: The name of the file's output.
        axes: The number of its axes.
        width: The axis that has one entry per class or target.
        read: Converts the output of a batch, with the preprocessing, to predictions.
        columns: Returns the names of a prediction's columns in a table.
        further: The other outputs that `read` needs, as further arguments.
        takes_samples: Whether `read` needs the samples of the batch, too, as `samples`.
    """

    output: str
    axes: int
    width: int
    read: Callable[..., Sequence[Result]]
    columns: Callable[[Preprocess], Sequence[str]]
    further: tuple[str, ...] = ()
    takes_samples: bool = False


def _softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Compute the probabilities of classes, which are the second axis."""
    logits = logits.astype(np.float64)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def _classes(logits: NDArray[Any], prepare: Preprocess) -> Sequence[Result]:
    if prepare.targets:
        return _values(1 / (1 + np.exp(-logits.astype(np.float64))), prepare)
    shares, names = _softmax(logits), prepare.classes
    return [
        Prediction(names[top], float(row[top]), dict(zip(names, row.tolist(), strict=True)))
        for row, top in zip(shares, shares.argmax(axis=1), strict=True)
    ]


def _values(values: NDArray[Any], prepare: Preprocess) -> Sequence[Result]:
    names = _targets(prepare)
    rows = values.astype(np.float64).tolist()
    return [Values(dict(zip(names, row, strict=True))) for row in rows]


def _segmentation(logits: NDArray[Any], prepare: Preprocess) -> Sequence[Result]:
    masks = logits.argmax(axis=1).astype(np.uint16)
    return [Segmentation(prepare.classes, mask) for mask in masks]


def _detections(
    classes: NDArray[Any],
    prepare: Preprocess,
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
) -> Sequence[Result]:
    names, found = prepare.classes, labels >= 0  # others are padding
    return [
        Detections(
            tuple(names[label] for label in labels[image][kept]),
            tuple(scores[image][kept].tolist()),
            boxes[image][kept],
        )
        for image, kept in enumerate(found)
    ]


class Worded(Protocol):
    """A sequence of words: they, and the text that they are of."""

    @property
    def words(self) -> tuple[str, ...]:
        """Return the words."""
        ...

    @property
    def text(self) -> str:
        """Return the text; empty if words were given."""
        ...

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """Return the first and the end character of each word in the text."""
        ...


@runtime_checkable
class PlacesWords(Protocol):
    """A preprocessing that states at which position of the model's input each word is."""

    def places(self, samples: Sequence[Any]) -> Sequence[NDArray[np.int64]]:
        """Return the position of each word, `[words]` per sample; -1 for words without one."""
        ...


def _tags(
    logits: NDArray[Any], prepare: Preprocess, *, samples: Sequence[Worded]
) -> Sequence[Result]:
    if not isinstance(prepare, PlacesWords):
        allowed = "preprocessing of words, for a file with a class per position"
        raise InputError(Problem("preprocess.json", prepare.kind, allowed))
    shares, names = _softmax(logits), np.array(prepare.classes)
    results = []
    for own, sample, places in zip(shares, samples, prepare.places(samples), strict=True):
        top = own.argmax(axis=0)
        tags = [str(names[top[place]]) if place >= 0 else None for place in places]
        likely = [float(own[top[place], place]) if place >= 0 else None for place in places]
        spans = entity_spans(tags) if is_bio(prepare.classes) else []
        entities = tuple(Entity(label, _text(sample, a, b), a, b) for label, a, b in spans)
        results.append(Tags(sample.words, tuple(tags), tuple(likely), entities))
    return results


def _text(sample: Worded, start: int, end: int) -> str:
    if not sample.offsets:
        return " ".join(sample.words[start:end])
    return sample.text[sample.offsets[start][0] : sample.offsets[end - 1][1]]


def _forecast(quantiles: NDArray[Any], prepare: Preprocess) -> Sequence[Result]:
    names = _targets(prepare)
    levels: tuple[float, ...] = getattr(prepare, "quantiles", ())
    return [
        Forecast(levels, dict(zip(names, one.astype(np.float64).swapaxes(0, 1), strict=True)))
        for one in quantiles
    ]


def _targets(prepare: Preprocess) -> Sequence[str]:
    return [target.name for target in prepare.targets]


def _steps(prepare: Preprocess) -> Sequence[str]:
    horizon: int = getattr(prepare, "horizon", 0)
    return [
        _step(name, step, level)
        for name in _targets(prepare)
        for step in range(1, horizon + 1)
        for level in getattr(prepare, "quantiles", ())
    ]


def _step(name: str, step: int, level: float) -> str:
    return f"{name}+{step} q{level:g}"


FORMS = (
    Form(VALUES, axes=2, width=1, read=_values, columns=_targets),
    Form(QUANTILES, axes=4, width=2, read=_forecast, columns=_steps),
    Form(
        CLASSES,
        axes=3,
        width=1,
        read=_detections,
        columns=lambda prepare: ("count", "objects"),
        further=("boxes", "scores", "labels"),
    ),
    Form(
        LOGITS,
        axes=3,
        width=1,
        read=_tags,
        columns=lambda prepare: ("entities", "tags"),
        takes_samples=True,
    ),
    Form(LOGITS, axes=4, width=1, read=_segmentation, columns=lambda prepare: prepare.classes),
    Form(
        LOGITS,
        axes=2,
        width=1,
        read=_classes,
        columns=lambda prepare: _targets(prepare) or ("label", "probability"),
    ),
)
"""The forms of predictions; a file has that of the first that its outputs have."""


def form_of(outputs: Mapping[str, Sequence[object]], prepare: Preprocess, *, where: str) -> Form:
    """Return the form of a file's predictions.

    Args:
        outputs: The axes of each output of the file.
        prepare: The preprocessing, with the names of classes or targets.
        where: The file, for messages.

    Raises:
        InputError: No form has these outputs, or their width is not that of the names.
    """
    form = next(
        (
            one
            for one in FORMS
            if len(outputs.get(one.output, ())) == one.axes and {*one.further} <= {*outputs}
        ),
        None,
    )
    if form is None:
        found = ", ".join(f"{name} {list(axes)}" for name, axes in outputs.items())
        known = ", ".join(f"{one.output} of {one.axes} axes" for one in FORMS)
        raise InputError(Problem(where, f"outputs {found}", f"an output {known}"))
    names, kind = (prepare.classes, "classes") if prepare.classes else (prepare.targets, "targets")
    size = outputs[form.output][form.width]
    if isinstance(size, int) and size != len(names):
        given = f"outputs of shape {list(outputs[form.output])}"
        allowed = f"one output for each of the {len(names)} {kind} of preprocess.json"
        raise InputError(Problem(where, given, allowed))
    return form
