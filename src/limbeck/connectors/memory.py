"""A memory bank of the training samples' embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.connectors.class_order import ClassOrder
from limbeck.errors import InputError, Problem
from limbeck.vectors import unit_length

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
