"""The connector of `crd`: embeddings of student and teacher, and a memory bank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.connectors.joints import ConnectorOutput, PairConnector
from limbeck.connectors.layouts import pair
from limbeck.core.tensors import unit_length
from limbeck.errors import InputError, Problem

_HALF = (torch.float16, torch.bfloat16)


class Embedding(nn.Module):
    """Average pooling over positions, and a linear projection to a unit vector.

    Args:
        width: The number of channels of the features.
        dimension: The length of the embedding.
        places: The dimensions to average over.
    """

    def __init__(self, width: int, dimension: int, *, places: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.places = places
        self.linear = nn.Linear(width, dimension)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return embeddings of length one, `[samples, dimension]`; float32 for half precision.

        Args:
            features: Features of the shape that the layer was built for.
            mask: `[samples, tokens]`, true for tokens that are not padding; used for tokens only.
        """
        features = features.to(self.linear.weight.dtype)
        if self.places == (1,) and mask is not None and mask.shape == features.shape[:2]:
            real = mask.to(features.dtype).unsqueeze(-1)
            features = (features * real).sum(1) / real.sum(1).clamp_min(1)
        elif self.places:
            features = features.mean(self.places)
        embedded = self.linear(features)
        return unit_length(embedded.float() if embedded.dtype in _HALF else embedded)

    def extra_repr(self) -> str:
        """Return the pooled dimensions, for the module's repr."""
        return f"places={self.places}"


class Embeddings(PairConnector):
    """The embeddings of student and teacher for `crd`; both are trained.

    Args:
        student: The embedding of the student's features.
        teacher: The embedding of the teacher's features.
        bank: The memory bank of negatives; None to use the batch.
    """

    def __init__(
        self, student: Embedding, teacher: Embedding, *, bank: MemoryBank | None = None
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.bank = bank

    def forward(
        self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor]
    ) -> ConnectorOutput:
        """Return both embeddings, the teacher's also with gradient, and the bank's negatives.

        Raises:
            InputError: There is a bank, and the batch has no sample indices.
        """
        mask = inputs.get("mask")
        ours, theirs = self.student(student, mask), self.teacher(teacher.detach(), mask)
        held = {} if self.bank is None else self.bank(ours, theirs, inputs)
        return ConnectorOutput(ours, theirs.detach(), {"trained_teacher": theirs, **held})


def build(
    student: Any,
    teacher: Any,
    *,
    samples: int | None = None,
    dimension: int = 128,
    negatives: int = 4096,
    momentum: float = 0.5,
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
        InputError: Unsupported feature shapes, or a setting out of range.

    Example:
        >>> student, teacher = torch.zeros(2, 8, 4, 4), torch.zeros(2, 64)
        >>> joined = build(student, teacher)(student, teacher, {})
        >>> joined.student.shape, joined.teacher.shape, list(joined.arguments)
        (torch.Size([2, 128]), torch.Size([2, 128]), ['trained_teacher'])

    Source: Tian, Krishnan and Isola 2020.
    """
    if dimension < 1:
        raise InputError(Problem("dimension", dimension, "a whole number, at least 1", "Try 128."))
    ours = _embedding(student, teacher, dimension, "student")
    theirs = _embedding(teacher, student, dimension, "teacher")
    bank = None
    if samples is not None and negatives != 0:
        bank = MemoryBank(samples, dimension, negatives=negatives, momentum=momentum)
    return Embeddings(ours, theirs, bank=bank).to(student.device)


def _embedding(feature: Any, other: Any, dimension: int, side: str) -> Embedding:
    allowed = "[n, d], [n, tokens, d] or [n, channels, height, width] of floating-point numbers"
    if not (isinstance(feature, Tensor) and feature.is_floating_point() and feature.ndim in _AXES):
        given = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
        raise InputError(Problem(f"contrastive.{side}", given, allowed))
    if feature.ndim < 4:
        return Embedding(feature.shape[-1], dimension, places=_AXES[feature.ndim])
    # Compared with another map, a channels-last map is recognised more reliably.
    beside = other if other.ndim == 4 else feature.new_zeros(len(feature), 1)
    read = pair(feature, beside)
    if isinstance(read, str):
        raise InputError(Problem(f"contrastive.{side}", tuple(feature.shape), allowed, read))
    layout = read[0]
    return Embedding(layout.channels, dimension, places=(1, 2) if layout.channels_last else (2, 3))


_AXES: dict[int, tuple[int, ...]] = {2: (), 3: (1,), 4: (2, 3)}
_FIRST = 2**14  # the number of stored cosines of the first batch, per side
_FEW = 32  # up to this ratio to the negatives, a product with all samples is faster than a copy


class MemoryBank(nn.Module):
    """A memory bank: an embedding of every training sample for both sides, to draw negatives from.

    Negatives are drawn by index, uniformly with replacement, from torch's generator: a step's cost
    does not grow with the number of samples. On a CPU, a bank of at most 32 times as many samples
    as negatives returns all embeddings and the drawn indices, which is faster than a copy;
    otherwise it returns a copy. The loss is equal. A sample is never its own negative. If the batch
    has a label per sample, negatives are of other classes, among the samples whose class the bank
    has seen.

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
        _check(samples, negatives, momentum)
        self.negatives = negatives
        self.momentum = momentum
        self.register_buffer("student", unit_length(torch.randn(samples, dimension)))
        self.register_buffer("teacher", unit_length(torch.randn(samples, dimension)))
        self.register_buffer("first_cosines", torch.zeros(2, _FIRST))
        self.register_buffer("begun", torch.tensor(False))
        self.order = ClassOrder(samples)
        self._has_begun: bool | None = (
            None  # the value of `begun`, without a device synchronisation
        )
        self.register_load_state_dict_post_hook(_forget)

    def forward(
        self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """Return the loss's arguments for this batch, and then update the bank.

        Args:
            student: Embeddings, `[samples, dimension]`, of length one.
            teacher: The same for the teacher.
            inputs: `index`, `[samples]`: the samples' indices in the training set; `labels` if
                present.

        Returns:
            The bank's arguments of `limbeck.losses.crd`.

        Raises:
            InputError: The index is missing, is not one number per sample, or (checked on a CPU) is
                out of range.
        """
        student, teacher = student.detach(), teacher.detach()
        index = self._index(inputs, len(student))
        with torch.no_grad():
            drawn = self.draw(index, inputs.get("labels"))
            held = {
                "positives": self.teacher[index],
                "student_positives": self.student[index],
                **self._negatives(drawn),
            }
            if self.training and len(index):
                self._begin(student, teacher, held)
                self._remember(self.student, index, student)
                self._remember(self.teacher, index, teacher)
        return held | ({"first_cosines": self.first_cosines} if self._started() else {})

    def draw(self, index: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw negatives for some samples, `[len(index), negatives]`.

        Args:
            index: The indices of the samples.
            labels: Their classes; ignored unless there is one integer per sample.
        """
        if labels is None or labels.shape != index.shape or labels.is_floating_point():
            return self._uniform(index)
        if not (self.training or self.order.has_classes()):
            return self._uniform(index)
        labels = labels.long().contiguous()
        if self.training:
            self.order.see(index, labels)
        return self.order.draw(labels, self.negatives)

    def _uniform(self, index: Tensor) -> Tensor:
        others = torch.randint(
            len(self.student) - 1, (len(index), self.negatives), device=index.device
        )
        return others + (others >= index.unsqueeze(1))  # skips the sample itself

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

    def _begin(self, student: Tensor, teacher: Tensor, held: Mapping[str, Tensor]) -> None:
        """Store an evenly chosen subset of the first batch's cosines, for the loss's constants."""
        if self._started():
            return
        for row, anchors, side in ((0, student, ""), (1, teacher, "student_")):
            near, far = held[f"{side}positives"], held[f"{side}negatives"]
            if "drawn" in held:
                far = far[held["drawn"]]
            bank = torch.cat([near.unsqueeze(1), far], 1)
            cosines = (bank @ anchors.to(bank.dtype).unsqueeze(-1)).flatten()
            chosen = torch.arange(_FIRST, device=cosines.device) * len(cosines) // _FIRST
            self.first_cosines[row] = cosines[chosen]
        self.begun.fill_(True)
        self._has_begun = True

    def _remember(self, bank: Tensor, index: Tensor, embeddings: Tensor) -> None:
        new = embeddings.to(bank.dtype)
        bank[index] = unit_length(bank[index].lerp(new, 1 - self.momentum))

    def _started(self) -> bool:
        if self._has_begun is None:
            self._has_begun = bool(self.begun)
        return self._has_begun

    def _index(self, inputs: Mapping[str, Tensor], samples: int) -> Tensor:
        index, held = inputs.get("index"), len(self.student)
        allowed = f"a whole number for each of {samples} samples, from 0 to {held - 1}"
        if index is None or index.shape != (samples,) or index.is_floating_point():
            given = "nothing" if index is None else f"{tuple(index.shape)} of {index.dtype}"
            fix = "Without a number for each sample, take negatives from the batch: negatives=0."
            raise InputError(Problem("index", given, allowed, fix))
        if index.device.type == "cpu" and samples:
            low, high = (int(end) for end in index.aminmax())
            if low < 0 or high >= held:
                raise InputError(Problem("index", low if low < 0 else high, allowed))
        return index.long()


def _forget(bank: Any, keys: object) -> None:
    bank._has_begun = None


def _check(samples: int, negatives: int, momentum: float) -> None:
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


_UNSEEN = torch.iinfo(torch.int64).max  # after every class, so that it is sorted last


class ClassOrder(nn.Module):
    """The class of every sample, learned from the batches, and sampling from other classes.

    Samples are sorted whenever their number seen has doubled, until every class is known: a few
    times per training. Between sorts, the only cost of a step that grows with the number of samples
    is a binary search.

    Args:
        samples: The number of samples.

    Attributes:
        classes: Each sample's class; the largest integer if it was not seen yet.
        order: The samples by class, as of the last sort.
        ranked: The classes in that order.
        passed: The number of samples seen.
        due: The number of samples seen at the next sort; 0 if there is none.
    """

    classes: Tensor
    order: Tensor
    ranked: Tensor
    passed: Tensor
    due: Tensor

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.register_buffer("classes", torch.full((samples,), _UNSEEN))
        self.register_buffer("order", torch.arange(samples))
        self.register_buffer("ranked", torch.full((samples,), _UNSEEN))
        self.register_buffer("passed", torch.tensor(0))
        self.register_buffer("due", torch.tensor(1))
        self._numbers: dict[
            str, int
        ] = {}  # the values of the buffers, without a device synchronisation
        self.register_load_state_dict_post_hook(_class_order_forget)

    def see(self, index: Tensor, labels: Tensor) -> None:
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
        """Draw samples of other classes, `[len(labels), count]`.

        While only one class has been seen, samples of unknown class are drawn.

        Args:
            labels: The class of each row, already passed to `see`.
            count: The number of samples per row.
        """
        known = self._number("known")
        if not self.has_classes():
            return self.order[
                torch.randint(known, len(self.order), (len(labels), count)).to(labels)
            ]
        start = torch.searchsorted(self.ranked, labels)
        size = torch.searchsorted(self.ranked, labels, right=True) - start
        # One of 2^62 integers, so that the modulo bias is below 2^-40.
        drawn = torch.randint(2**62, (len(labels), count), device=labels.device)
        place = drawn % (known - size).unsqueeze(1)
        place += (place >= start.unsqueeze(1)) * size.unsqueeze(1)  # skips the class
        return self.order[place]

    def _sort(self, passed: int) -> None:
        self.ranked, self.order = self.classes.sort(stable=True)
        self._numbers.clear()
        known, distinct = self._number("known"), self._number("distinct")
        complete = known == len(self.order)
        if complete and distinct < 2:
            allowed = "samples of at least two classes, for negatives of another class"
            raise InputError(Problem("labels", "one class", allowed, "Leave the labels out."))
        # With a single class there is nothing to draw from: sort again at every batch.
        soon = 2 * passed if distinct > 1 else passed + 1
        self._set("passed", passed)
        self._set("due", 0 if complete else soon)

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            seen = self.ranked[self.ranked != _UNSEEN]
            self._numbers |= {
                "passed": int(self.passed),
                "due": int(self.due),
                "known": len(seen),
                "distinct": len(seen.unique_consecutive()),
            }
        return self._numbers[name]

    def _set(self, name: str, value: int) -> None:
        getattr(self, name).fill_(value)
        self._numbers[name] = value


def _class_order_forget(order: ClassOrder, keys: object) -> None:
    order._numbers.clear()
