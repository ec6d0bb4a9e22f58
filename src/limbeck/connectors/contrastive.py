"""The connector of `crd`: embeddings of student and teacher, and a memory bank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from limbeck.connectors.base import ConnectorOutput, PairConnector
from limbeck.connectors.features import single_pair
from limbeck.connectors.layouts import layout_pair
from limbeck.core.tensors import Features, precise, unit_length
from limbeck.errors import InputError, Problem


class Embedding(nn.Module):
    """Average pooling over the dimensions `places`, and a linear projection to a unit vector."""

    def __init__(self, width: int, dimension: int, *, places: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.places = places
        self.linear = nn.Linear(width, dimension)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return embeddings of length one, `[samples, dimension]`; float32 for half precision.

        The mask `[samples, tokens]`, true for tokens that are not padding, is used for tokens only.
        """
        features = features.to(self.linear.weight.dtype)
        if self.places == (1,) and mask is not None and mask.shape == features.shape[:2]:
            weights = mask.to(features.dtype).unsqueeze(-1)
            features = (features * weights).sum(1) / weights.sum(1).clamp_min(1)
        elif self.places:
            features = features.mean(self.places)
        return unit_length(precise(self.linear(features)))

    def extra_repr(self) -> str:
        """Return the pooled dimensions, for the module's repr."""
        return f"places={self.places}"


class Embeddings(PairConnector):
    """The embeddings of student and teacher for `crd`, both trained, and the bank of negatives.

    Without a bank the loss uses negatives of the batch.
    """

    def __init__(
        self, student: Embedding, teacher: Embedding, *, bank: MemoryBank | None = None
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.bank = bank

    def forward(
        self, student: Features, teacher: Features, inputs: Mapping[str, Tensor]
    ) -> ConnectorOutput:
        """Return both embeddings, the teacher's also with gradient, and the bank's negatives.

        Raises:
            InputError: There is a bank, and the batch has no sample indices.
        """
        student, teacher = single_pair(student, teacher, where="contrastive")
        mask = inputs.get("mask")
        first, second = self.student(student, mask), self.teacher(teacher.detach(), mask)
        arguments = {} if self.bank is None else self.bank(first, second, inputs)
        return ConnectorOutput(first, second.detach(), {"trained_teacher": second, **arguments})


def build(
    student: Features,
    teacher: Features,
    *,
    samples: int | None = None,
    dimension: PositiveInt = 128,
    negatives: NonNegativeInt = 4096,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5,
) -> PairConnector:
    """Build the connector from example features, with weights from torch's generator.

    Args:
        student: The student's feature: `[n, channels, height, width]`, `[n, tokens, d]` or
            `[n, d]`; maps and tokens are averaged.
        teacher: The teacher's feature; its layout may differ.
        samples: The number of training samples; None uses negatives of the batch.
        dimension: The length of the embeddings.
        negatives: The number of negatives per sample from the memory bank (16384 in the paper); 0
            uses the batch.
        momentum: The momentum of the bank's running mean.

    Raises:
        InputError: Unsupported feature shapes.

    Example:
        >>> student, teacher = torch.zeros(2, 8, 4, 4), torch.zeros(2, 64)
        >>> output = build(student, teacher)(student, teacher, {})
        >>> output.student.shape, output.teacher.shape, list(output.arguments)
        (torch.Size([2, 128]), torch.Size([2, 128]), ['trained_teacher'])

    Source: Tian, Krishnan and Isola 2020.
    """
    student, teacher = single_pair(student, teacher, where="contrastive")
    embeddings = (
        _embedding(student, teacher, dimension, "contrastive.student"),
        _embedding(teacher, student, dimension, "contrastive.teacher"),
    )
    bank = None
    if samples is not None and negatives != 0:
        bank = MemoryBank(samples, dimension, negatives=negatives, momentum=momentum)
    return Embeddings(*embeddings, bank=bank).to(student.device)


_AXES: dict[int, tuple[int, ...]] = {2: (), 3: (1,), 4: (2, 3)}


def _embedding(feature: Tensor, other: Tensor, dimension: int, where: str) -> Embedding:
    allowed = "[n, d], [n, tokens, d] or [n, channels, height, width] of floating-point numbers"
    if not (feature.is_floating_point() and feature.ndim in _AXES):
        raise InputError(Problem(where, tuple(feature.shape), allowed))
    if feature.ndim < 4:
        return Embedding(feature.shape[-1], dimension, places=_AXES[feature.ndim])
    # Compared with another map, a channels-last map is recognised more reliably.
    layouts = layout_pair(feature, other if other.ndim == 4 else feature.new_zeros(len(feature), 1))
    if isinstance(layouts, str):
        raise InputError(Problem(where, tuple(feature.shape), allowed, layouts))
    places = (1, 2) if layouts[0].channels_last else (2, 3)
    return Embedding(layouts[0].channels, dimension, places=places)


_FIRST = 2**14  # the number of stored cosines of the first batch, per side
_FEW = 32  # up to this ratio to the negatives, a product with all samples is faster than a copy


class MemoryBank(nn.Module):
    """A memory bank: an embedding of every training sample for both sides, to draw negatives from.

    Negatives are drawn by index, uniformly with replacement, from torch's generator: a step's cost
    does not grow with the number of samples. On a CPU, a bank of at most 32 times as many samples
    as negatives returns all embeddings and the drawn indices, which is faster than a copy;
    otherwise it returns a copy. The loss is equal. A sample is never its own negative. If the batch
    has a label per sample, negatives are of other classes, among the samples of known class.

    In training mode, each forward pass updates the batch's rows by its embeddings, without
    gradient, as a running mean normalised to length one. Each process has its own bank; a
    checkpoint has the main process's.

    Args:
        samples: The number of training samples; each has a row.
        dimension: The length of an embedding.
        negatives: The number of negatives per sample.
        momentum: The momentum of the running mean, in [0, 1).

    Attributes:
        student: `[samples, dimension]`, of length one; random at first.
        teacher: The same for the teacher.
        first_cosines: `[2, 16384]`, the first training batch's cosines of the student's embeddings
            with the teacher's rows of the bank, and of the teacher's with the student's rows.
        begun: Whether `first_cosines` are set.
        order: The samples by class.

    Raises:
        InputError: Fewer than two samples, no negatives, or a momentum out of range.

    Source: Wu et al. 2018; Tian, Krishnan and Isola 2020.
    """

    student: Tensor
    teacher: Tensor
    first_cosines: Tensor
    begun: Tensor

    def __init__(
        self, samples: int, dimension: int, *, negatives: int = 4096, momentum: float = 0.5
    ) -> None:
        super().__init__()
        _check_bank(samples, negatives, momentum)
        self.negatives = negatives
        self.momentum = momentum
        self.register_buffer("student", unit_length(torch.randn(samples, dimension)))
        self.register_buffer("teacher", unit_length(torch.randn(samples, dimension)))
        self.register_buffer("first_cosines", torch.zeros(2, _FIRST))
        self.register_buffer("begun", torch.tensor(False))
        self.order = ClassOrder(samples)
        self._cache: dict[str, int] = {}  # buffers' values, without a device synchronisation
        self.register_load_state_dict_post_hook(_clear_cache)

    def forward(
        self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the arguments of `limbeck.losses.crd` for this batch, and then update the bank.

        The embeddings are `[samples, dimension]`, of length one. The inputs are `index`,
        `[samples]`: the samples' indices in the training set; and `labels` if present.

        Raises:
            InputError: The index is missing, is not one number per sample, or (checked on a CPU) is
                out of range.
        """
        student, teacher = student.detach(), teacher.detach()
        index = self._index(inputs, len(student))
        with torch.no_grad():
            arguments = {
                "positives": self.teacher[index],
                "student_positives": self.student[index],
                **self._negatives(self.draw(index, inputs.get("labels"))),
            }
            if self.training and len(index):
                if not self._started():
                    self._store_first_cosines(student, teacher, arguments)
                self._update(self.student, index, student)
                self._update(self.teacher, index, teacher)
        return arguments | ({"first_cosines": self.first_cosines} if self._started() else {})

    def draw(self, index: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw negatives for samples by index, `[len(index), negatives]`.

        The samples' classes, the labels, are ignored unless there is one integer per sample.
        """
        labelled = (
            labels is not None and labels.shape == index.shape and not labels.is_floating_point()
        )
        if labels is None or not labelled or not (self.training or self.order.has_classes()):
            size = (len(index), self.negatives)
            others = torch.randint(len(self.student) - 1, size, device=index.device)
            return others + (others >= index.unsqueeze(1))  # skips the sample itself
        labels = labels.long().contiguous()
        if self.training:
            self.order.update(index, labels)
        return self.order.draw(labels, self.negatives)

    def _negatives(self, drawn: Tensor) -> dict[str, Tensor]:
        """Return copies of the drawn rows: the bank changes before the backward pass."""
        sides = {"negatives": self.teacher, "student_negatives": self.student}
        few = len(self.student) <= min(_FEW, len(drawn)) * self.negatives
        # Elsewhere the backward pass of a gather sums in any order, which is not reproducible.
        if few and drawn.device.type == "cpu":
            return {"drawn": drawn} | {name: bank.clone() for name, bank in sides.items()}
        places = drawn.flatten()
        # A third faster than `bank[drawn]`.
        return {
            name: bank.index_select(0, places).view(*drawn.shape, bank.shape[1])
            for name, bank in sides.items()
        }

    def _store_first_cosines(
        self, student: Tensor, teacher: Tensor, arguments: Mapping[str, Tensor]
    ) -> None:
        """Store an evenly chosen subset of the first batch's cosines, for the loss's constants."""
        for row, anchors, side in ((0, student, ""), (1, teacher, "student_")):
            positives, negatives = arguments[f"{side}positives"], arguments[f"{side}negatives"]
            if "drawn" in arguments:
                negatives = negatives[arguments["drawn"]]
            bank = torch.cat([positives.unsqueeze(1), negatives], 1)
            cosines = (bank @ anchors.to(bank.dtype).unsqueeze(-1)).flatten()
            chosen = torch.arange(_FIRST, device=cosines.device) * len(cosines) // _FIRST
            self.first_cosines[row] = cosines[chosen]
        self.begun.fill_(True)
        self._cache["begun"] = True

    def _update(self, bank: Tensor, index: Tensor, embeddings: Tensor) -> None:
        new = embeddings.to(bank.dtype)
        bank[index] = unit_length(bank[index].lerp(new, 1 - self.momentum))

    def _started(self) -> bool:
        if "begun" not in self._cache:
            self._cache["begun"] = bool(self.begun)
        return bool(self._cache["begun"])

    def _index(self, inputs: Mapping[str, Tensor], samples: int) -> Tensor:
        index, rows = inputs.get("index"), len(self.student)
        allowed = f"a whole number for each of {samples} samples, from 0 to {rows - 1}"
        if index is None or index.shape != (samples,) or index.is_floating_point():
            given = "nothing" if index is None else f"{tuple(index.shape)} of {index.dtype}"
            fix = "Without an index per sample, take negatives from the batch: negatives=0."
            raise InputError(Problem("index", given, allowed, fix))
        if index.device.type == "cpu" and samples:
            low, high = (int(end) for end in index.aminmax())
            if low < 0 or high >= rows:
                raise InputError(Problem("index", low if low < 0 else high, allowed))
        return index.long()


def _clear_cache(module: Any, keys: object) -> None:
    module._cache.clear()


def _check_bank(samples: int, negatives: int, momentum: float) -> None:
    problems = []
    if samples < 2:
        fix = "Take negatives from the batch: negatives=0."
        problems.append(Problem("samples", samples, "at least two samples", fix))
    if negatives < 1:
        problems.append(Problem("negatives", negatives, "a whole number, at least 1", "Try 4096."))
    if not 0 <= momentum < 1:
        problems.append(Problem("momentum", momentum, "at least 0 and below 1", "Try 0.5."))
    if problems:
        raise InputError(*problems)


_UNKNOWN = torch.iinfo(torch.int64).max  # after every class, so that it is sorted last


class ClassOrder(nn.Module):
    """The class of every sample, learned from the batches, and sampling from other classes.

    Samples are sorted whenever the number of samples processed has doubled, until every class is
    known: a few times per training. Between sorts, the only cost of a step that grows with the
    number of samples is a binary search.

    Attributes:
        classes: Each sample's class; the largest integer if unknown.
        order: The samples by class, as of the last sort.
        ranked: The classes in that order.
        passed: The number of samples processed.
        due: The number of samples processed at the next sort; 0 if there is none.
    """

    classes: Tensor
    order: Tensor
    ranked: Tensor
    passed: Tensor
    due: Tensor

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.register_buffer("classes", torch.full((samples,), _UNKNOWN))
        self.register_buffer("order", torch.arange(samples))
        self.register_buffer("ranked", torch.full((samples,), _UNKNOWN))
        self.register_buffer("passed", torch.tensor(0))
        self.register_buffer("due", torch.tensor(1))
        self._cache: dict[str, int] = {}  # buffers' values, without a device synchronisation
        self.register_load_state_dict_post_hook(_clear_cache)

    def update(self, index: Tensor, labels: Tensor) -> None:
        """Store the classes of some samples.

        Raises:
            InputError: All samples are of one class.
        """
        if not self._number("due"):
            return
        self.classes[index] = labels
        passed = self._number("passed") + len(index)
        self._set("passed", passed)
        if passed >= self._number("due"):
            self._sort(passed)

    def has_classes(self) -> bool:
        """Return whether samples of at least two classes were sorted."""
        return self._number("distinct") > 1

    def draw(self, labels: Tensor, count: int) -> Tensor:
        """Draw `count` samples of other classes per label, `[len(labels), count]`.

        The labels have been passed to `update`. While only one class is known, samples of unknown
        class are drawn.
        """
        known, size = self._number("known"), (len(labels), count)
        if not self.has_classes():
            return self.order[torch.randint(known, len(self.order), size).to(labels)]
        start = torch.searchsorted(self.ranked, labels)
        own = torch.searchsorted(self.ranked, labels, right=True) - start
        # One of 2^62 integers, so that the modulo bias is below 2^-40.
        drawn = torch.randint(2**62, size, device=labels.device)
        place = drawn % (known - own).unsqueeze(1)
        place += (place >= start.unsqueeze(1)) * own.unsqueeze(1)  # skips the class
        return self.order[place]

    def _sort(self, passed: int) -> None:
        self.ranked, self.order = self.classes.sort(stable=True)
        self._cache.clear()
        distinct = self._number("distinct")
        complete = self._number("known") == len(self.order)
        if complete and distinct < 2:
            allowed = "samples of at least two classes, for negatives of another class"
            raise InputError(Problem("labels", "one class", allowed, "Leave the labels out."))
        # With a single class there is nothing to draw from: sort again at every batch.
        due = 2 * passed if distinct > 1 else passed + 1
        self._set("passed", passed)
        self._set("due", 0 if complete else due)

    def _number(self, name: str) -> int:
        if name not in self._cache:
            known = self.ranked[self.ranked != _UNKNOWN]
            self._cache |= {
                "passed": int(self.passed),
                "due": int(self.due),
                "known": len(known),
                "distinct": len(known.unique_consecutive()),
            }
        return self._cache[name]

    def _set(self, name: str, value: int) -> None:
        getattr(self, name).fill_(value)
        self._cache[name] = value
