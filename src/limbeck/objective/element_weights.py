"""Per-element numbers: a temperature or a weight for each image, each token.

Like a schedule, such a number is data: it can be compared and printed, and is written in a recipe
as `{kind: {...}}` wherever a schedule is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeAlias

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from limbeck.core.annotations import validate_arguments
from limbeck.errors import InputError, Problem


class ElementContext(NamedTuple):
    """The inputs of a per-element number.

    Attributes:
        teacher: The teacher's logits, `[elements, classes]`; None without a teacher.
        labels: The labels, `[elements]`; None without labels.
        class_counts: The number of training samples per class; None if unknown.
    """

    teacher: Tensor | None
    labels: Tensor | None
    class_counts: tuple[int, ...] | None = None

    def logits(self, kind: str) -> Tensor:
        """Return the teacher's logits in float32 or better.

        Raises:
            InputError: There is no teacher, or it does not return all of its logits.
        """
        if self.teacher is None:
            allowed = "a teacher that gives all of its logits"
            raise InputError(Problem(kind, "no logits of a teacher", allowed))
        return self.teacher.detach().to(torch.promote_types(self.teacher.dtype, torch.float32))

    def known_labels(self, kind: str) -> Tensor:
        """Return the labels.

        Raises:
            InputError: There are no labels, or probabilities of classes in their place.
        """
        if self.labels is None:
            raise InputError(Problem(kind, "a batch without labels", "labels, one per element"))
        if self.labels.is_floating_point():
            fix = "Leave out data.augment.mixup and cutmix, or this weight."
            given = f"probabilities {tuple(self.labels.shape)}"
            raise InputError(Problem(kind, given, "one class per element", fix))
        return self.labels


@dataclass(frozen=True)
class LogitStd:
    r"""A temperature proportional to the standard deviation of the teacher's logits.

    $$T_i = s \sqrt{\sum_c w_c (t_c - \bar t)^2}$$

    with equal weights w, or the teacher's probabilities. A teacher with five times larger logits
    gets five times the temperature, so that its softened distribution is equal.

    Attributes:
        scale: s, above 0.
        weighted: Whether to weight classes by the teacher's probability instead of equally.

    Example:
        >>> seen = ElementContext(torch.tensor([[1.0, -1.0], [5.0, -5.0]]), torch.tensor([0, 0]))
        >>> LogitStd(scale=2.0)(seen)
        tensor([ 2., 10.])

    Source: Sun et al. 2024.
    """

    scale: PositiveFloat = 1.0
    weighted: bool = False

    def __call__(self, seen: ElementContext) -> Tensor:
        """Compute one number per element."""
        logits = seen.logits("logit_spread")
        out = logits == -math.inf  # classes that the teacher rules out are excluded
        shares = logits.softmax(-1) if self.weighted else torch.ones_like(logits)
        shares, finite = shares.masked_fill(out, 0), logits.masked_fill(out, 0)
        shares = shares / shares.sum(-1, keepdim=True)
        mean = (shares * finite).sum(-1, keepdim=True)
        spread = (shares * (finite - mean).square()).sum(-1).sqrt()
        # Equal logits have no spread; a temperature of 0 cannot be a divisor.
        return self.scale * spread.clamp_min(1e-6)


@dataclass(frozen=True)
class TeacherEntropy:
    r"""A number from `low` for a certain teacher to `high` for a uniform one, by entropy.

    $$low + (high - low) \, H(p) / \log C$$

    As a weight of a distillation term it uses the teacher for ambiguous samples and the labels for
    clear ones; as a temperature it softens uncertain teacher outputs.

    Example:
        >>> seen = ElementContext(torch.tensor([[0.0, 0.0], [99.0, 0.0]]), torch.tensor([0, 0]))
        >>> TeacherEntropy(low=0.1, high=0.9)(seen)
        tensor([0.9000, 0.1000])

    Source: after Su, Tseng and Lee 2023 (EA-KD).
    """

    low: float
    high: float

    def __call__(self, seen: ElementContext) -> Tensor:
        """Compute one number per element."""
        logits = seen.logits("teacher_entropy")
        entropy = torch.special.entr(logits.softmax(-1)).sum(-1)
        share = entropy / math.log(max(2, logits.shape[-1]))
        return self.low + (self.high - self.low) * share


@dataclass(frozen=True)
class TeacherConfidence:
    r"""A number from `low` for a uniform teacher to `high` for a certain one, by confidence.

    $$low + (high - low) \, \max_c p_c$$

    Example:
        >>> seen = ElementContext(torch.tensor([[0.0, 0.0], [99.0, 0.0]]), torch.tensor([0, 0]))
        >>> TeacherConfidence(low=0.0, high=1.0)(seen)
        tensor([0.5000, 1.0000])

    Source: after Zhang, Chen and Wang 2022 (confidence-aware distillation).
    """

    low: float
    high: float

    def __call__(self, seen: ElementContext) -> Tensor:
        """Compute one number per element."""
        confidence = seen.logits("teacher_confidence").softmax(-1).amax(-1)
        return self.low + (self.high - self.low) * confidence


@dataclass(frozen=True)
class TeacherCorrectness:
    """One number if the teacher's prediction is the label, another if it is not.

    Example:
        >>> seen = ElementContext(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
        >>> TeacherCorrectness(right=1.0, wrong=0.0)(seen)
        tensor([1., 0.])

    Source: after Wen, Lai and Qian 2021 (knowledge adjustment).
    """

    right: float
    wrong: float

    def __call__(self, seen: ElementContext) -> Tensor:
        """Compute one number per element."""
        logits = seen.logits("teacher_correctness")
        values = logits.new_tensor([self.wrong, self.right])
        return values[(logits.argmax(-1) == seen.known_labels("teacher_correctness")).long()]


@dataclass(frozen=True)
class ClassBalanced:
    r"""Class-balanced weights by the effective number of samples: higher for rare classes.

    $$w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}$$

    scaled so that the mean over the training samples is 1; β = 0 is a uniform weight, and β → 1 is
    a weight of 1 / n.

    Attributes:
        beta: β, in [0, 1).

    Example:
        >>> seen = ElementContext(None, torch.tensor([0, 1]), class_counts=(90, 10))
        >>> ClassBalanced(beta=0.999)(seen)
        tensor([0.5666, 4.9008])

    Source: Cui et al. 2019.
    """

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.999

    def __call__(self, seen: ElementContext) -> Tensor:
        """Compute one number per element.

        Raises:
            InputError: The number of samples per class is unknown.
        """
        if seen.class_counts is None:
            allowed = "the training samples of each class"
            fix = "Give Offline a training_set; a recipe does so by itself."
            raise InputError(Problem("class_balanced", "no counts", allowed, fix))
        counts = torch.tensor(seen.class_counts, dtype=torch.float64)
        weights = (1 - self.beta) / (1 - self.beta ** counts.clamp_min(1))
        weights = weights * counts.sum() / (weights * counts).sum()
        labels = seen.known_labels("class_balanced")
        return weights.to(labels.device, torch.float32)[labels]


PerElement: TypeAlias = (
    LogitStd | TeacherEntropy | TeacherConfidence | TeacherCorrectness | ClassBalanced
)
KINDS: dict[str, type[PerElement]] = {
    "logit_spread": LogitStd,
    "teacher_entropy": TeacherEntropy,
    "teacher_confidence": TeacherConfidence,
    "teacher_correctness": TeacherCorrectness,
    "class_balanced": ClassBalanced,
}


def is_per_element(spec: object) -> bool:
    """Return whether a recipe's value is a per-element number.

    Example:
        >>> is_per_element({"teacher_entropy": {"low": 0, "high": 1}}), is_per_element(0.9)
        (True, False)
    """
    if isinstance(spec, Mapping):
        return len(spec) == 1 and next(iter(spec)) in KINDS
    return isinstance(spec, PerElement)


def parse(spec: Any, *, where: str) -> PerElement:
    """Build a per-element number from a recipe's value.

    Raises:
        InputError: A key is missing or unknown, or a value is invalid; the message lists all.

    Example:
        >>> parse({"class_balanced": {}}, where="weight")
        ClassBalanced(beta=0.999)
        >>> parse({"teacher_entropy": {"low": 0.1, "hihg": 1}}, where="weight")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: weight.teacher_entropy.hihg: got 1; ... did you mean "high"?
    """
    if isinstance(spec, PerElement):
        return spec
    ((kind, given),) = spec.items()
    make: Callable[..., PerElement] = KINDS[kind]
    return make(**validate_arguments(make, given, where=f"{where}.{kind}"))
