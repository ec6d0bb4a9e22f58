"""Validation of the inputs of losses.

The checks only read shapes and dtypes, so that none of them synchronises a device. Each function
`*_pair` checks both sides of a loss, and returns them in the computation's precision, the teacher
detached.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from limbeck.core.numbers import is_number, is_positive
from limbeck.core.tensors import precise_pair
from limbeck.errors import InputError, Problem
from limbeck.targets import DenseTargets, HeadTargets, SampledTargets, TopKTargets

_ANY_AXES = range(2, 99)
_ROUNDING = 0.02  # the rounding error of a sum of probabilities in half precision
_AXES = {
    2: "[samples, d]",
    3: "[samples, tokens, d]",
    4: "[samples, channels, height, width]",
}


def logit_pair(student: Tensor, teacher: Tensor, *, where: str) -> tuple[Tensor, Tensor]:
    """Check logits of the same elements and classes, `[elements, classes]`."""
    check_logits(student, where=f"{where}.student")
    check_logits(teacher, where=f"{where}.teacher")
    check_same_shape(student, teacher, where=f"{where}.teacher")
    return precise_pair(student, teacher)


def feature_pair(student: Tensor, teacher: Tensor, *, where: str) -> tuple[Tensor, Tensor]:
    """Check features `[samples, ...]` that are compared elementwise."""
    allowed = "a tensor [samples, ...] with at least one feature"
    check_axes(student, _ANY_AXES, where=f"{where}.student", allowed=allowed)
    check_floating(teacher, where=f"{where}.teacher")
    check_same_shape(student, teacher, where=f"{where}.teacher")
    return precise_pair(student, teacher)


def vector_pair(student: Tensor, teacher: Tensor, *, where: str) -> tuple[Tensor, Tensor]:
    """Check features of the same samples, and return one row per sample of each.

    The rows of student and teacher may differ in length.
    """
    allowed = "a tensor [samples, ...] with at least one feature"
    check_axes(student, _ANY_AXES, where=f"{where}.student", allowed=allowed)
    check_axes(teacher, _ANY_AXES, where=f"{where}.teacher", allowed=allowed)
    check_same_samples(student, teacher, where=f"{where}.teacher")
    student, teacher = precise_pair(student, teacher)
    return student.flatten(1), teacher.flatten(1)


def map_pair(
    student: Tensor,
    teacher: Tensor,
    *,
    where: str,
    channels: bool = False,
    axes: Sequence[int] = (3, 4),
) -> tuple[Tensor, Tensor]:
    """Check maps or sequences of the same samples; `channels` requires equal numbers of these."""
    check_maps(student, axes, where=f"{where}.student")
    check_maps(teacher, axes, where=f"{where}.teacher")
    given = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if student.ndim != teacher.ndim or len(student) != len(teacher):
        allowed = "features of one layout, of the same samples"
        raise InputError(Problem(f"{where}.teacher", given, allowed))
    axis = channel_axis(student)
    if channels and student.shape[axis] != teacher.shape[axis]:
        fix = "A connector maps features to other numbers of channels."
        raise InputError(Problem(f"{where}.teacher", given, "as many channels on both sides", fix))
    return precise_pair(student, teacher)


def check_maps(features: Tensor, axes: Sequence[int], *, where: str) -> None:
    """Raise an error unless features have one of some numbers of dimensions, from 2 to 4."""
    allowed = "a tensor " + " or ".join(_AXES[count] for count in axes)
    check_axes(features, axes, where=where, allowed=f"{allowed}, none but the samples' of size 0")


def channel_axis(features: Tensor) -> int:
    """Return the index of the channel dimension, as in connectors: the last one for sequences."""
    return 2 if features.ndim == 3 else 1


def check_axes(
    tensor: Tensor,
    axes: Container[int],
    *,
    where: str,
    allowed: str,
    nonempty: slice = slice(1, None),
    fix: str = "",
) -> None:
    """Raise an error for another number of dimensions, an empty dimension, or an integer dtype."""
    check_floating(tensor, where=where)
    if tensor.ndim not in axes or 0 in tensor.shape[nonempty]:
        raise InputError(Problem(where, tuple(tensor.shape), allowed, fix))


def check_floating(tensor: Tensor, *, where: str) -> None:
    """Raise an error unless logits or features are floating-point tensors."""
    _check_tensor(tensor, where=where)
    if not tensor.is_floating_point():
        fix = "Convert it with .float()."
        raise InputError(Problem(where, str(tensor.dtype), "a floating-point tensor", fix))


def check_logits(logits: Tensor, *, where: str) -> None:
    """Raise an error unless a tensor has one row of logits per element."""
    allowed = "a tensor [elements, classes] with at least one class"
    fix = "Flatten to one row per element: logits.flatten(0, -2)."
    check_axes(logits, (2,), where=where, allowed=allowed, fix=fix)


def check_same_shape(student: Tensor, teacher: Tensor, *, where: str) -> None:
    """Raise an error if the shapes of student and teacher differ."""
    if student.shape != teacher.shape:
        given = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        fix = "A connector maps features; logits must be of the same elements and classes."
        raise InputError(Problem(where, given, "two tensors of one shape", fix))


def check_same_samples(student: Tensor, teacher: Tensor, *, where: str) -> None:
    """Raise an error if the numbers of samples differ."""
    if len(student) != len(teacher):
        given = f"{len(teacher)} samples, and {len(student)} of the student"
        fix = "Use the same batch for both."
        raise InputError(Problem(where, given, "as many samples as the student has", fix))


def check_labels(labels: Tensor, logits: Tensor, *, where: str) -> None:
    """Raise an error unless labels have one integer per element."""
    _check_tensor(labels, where=where)
    if is_soft(labels):
        fix = "Leave out data.augment.mixup and cutmix, or this term."
        allowed = f"one class per element, shape {tuple(logits.shape[:1])}"
        raise InputError(Problem(where, f"probabilities {tuple(labels.shape)}", allowed, fix))
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        fix = "Convert them with .long()."
        raise InputError(Problem(where, str(labels.dtype), "whole numbers", fix))
    if labels.shape != logits.shape[:1]:
        allowed = f"one label per element, shape {tuple(logits.shape[:1])}"
        raise InputError(Problem(where, tuple(labels.shape), allowed))


def is_soft(labels: Tensor) -> bool:
    """Return whether labels are probabilities of classes, `[elements, classes]`."""
    return isinstance(labels, Tensor) and labels.is_floating_point() and labels.ndim == 2


def check_soft_labels(labels: Tensor, logits: Tensor, *, where: str) -> None:
    """Raise an error unless probabilities have the shape of the logits."""
    if labels.shape != logits.shape:
        allowed = f"probabilities of each class, shape {tuple(logits.shape)}"
        raise InputError(Problem(where, tuple(labels.shape), allowed))


def check_label_range(labels: Tensor, classes: int, *, where: str) -> None:
    """Raise an error for labels out of range, if no device synchronisation is required."""
    if invalid := out_of_range(labels, classes):
        fix = "For an element without a label use a weight of 0, with any label in range."
        raise InputError(Problem(where, invalid[0], f"labels from 0 to {classes - 1}", fix))


def out_of_range(ids: Tensor, count: int) -> list[int]:
    """Return an id that is not from 0 to count − 1, if there is one and values can be read.

    Reading values would synchronise a device other than a CPU, and break the graph in compiled
    code; under `torch.func.vmap` values cannot be read.
    """
    if ids.device.type != "cpu" or torch.compiler.is_compiling() or not ids.numel():
        return []
    try:
        low, high = (int(end) for end in ids.aminmax())
    except RuntimeError:
        return []
    return [end for end in (low, high) if not 0 <= end < count]


@contextmanager
def checked_lookup(labels: Tensor, logits: Tensor, *, where: str) -> Iterator[None]:
    """Convert an indexing error of the block to an error with the label.

    A CPU checks each label anyway, so that no check beforehand is required.
    """
    try:
        yield
    except (IndexError, RuntimeError):
        check_label_range(labels, logits.shape[1], where=where)
        raise


def check_targets(
    targets: object, elements: int, classes: int, kind: str, temperature: float, *, where: str
) -> None:
    """Raise an error for targets of another type, shape or sampling temperature.

    Class ids out of range or repeated, and probabilities that sum to more than 1, are checked on a
    CPU only: elsewhere the check would synchronise the device.
    """
    if not isinstance(targets, DenseTargets | TopKTargets | SampledTargets | HeadTargets):
        allowed = "DenseTargets, TopKTargets, SampledTargets or HeadTargets"
        fix = "Wrap logits: DenseTargets(logits)." if isinstance(targets, Tensor) else ""
        raise InputError(Problem(where, type(targets).__name__, allowed, fix))
    if isinstance(targets, DenseTargets):
        check_logits(targets.logits, where=where)
    if targets.elements != elements:
        allowed = f"{elements} elements, as the student has"
        raise InputError(Problem(where, f"{targets.elements} elements", allowed))
    if isinstance(targets, SampledTargets) and not targets.exact and kind != "forward_kl":
        allowed = "forward_kl, with samples that have the mean of their log-probabilities only"
        fix = "Record each one: targets: {form: sampled, exact: true}."
        raise InputError(Problem(f"{where} ({kind})", "exact=False", allowed, fix))
    if isinstance(targets, SampledTargets) and targets.temperature != temperature:
        allowed = f"{temperature}, the temperature of the divergence"
        fix = f"Use the same for sampling: SampledTargets.draw(..., temperature={temperature})."
        raise InputError(Problem(f"{where}.temperature", targets.temperature, allowed, fix))
    if isinstance(targets, SampledTargets | TopKTargets):
        count = targets.classes or classes
        if invalid := out_of_range(targets.ids, count):
            allowed = f"classes from 0 to {count - 1}"
            raise InputError(Problem(f"{where}.ids", invalid[0], allowed))
    if isinstance(targets, TopKTargets):
        _check_top_k(targets, where=where)


def _check_top_k(targets: TopKTargets, *, where: str) -> None:
    ids, logs = targets.ids, targets.log_probabilities.detach()
    if ids.device.type != "cpu" or torch.compiler.is_compiling() or not ids.numel():
        return
    ordered = ids.sort(-1).values
    try:
        repeated = bool((ordered[:, 1:] == ordered[:, :-1]).any())
        total = float(logs.float().logsumexp(-1).max().exp())
    except RuntimeError:  # under `torch.func.vmap` values cannot be read
        return
    if repeated:
        given = "a class twice in one element"
        raise InputError(Problem(f"{where}.ids", given, "each class once"))
    if total > 1 + _ROUNDING:
        given = f"probabilities that sum to {total:.3g}"
        fix = "Take logarithms of probabilities at a temperature of 1, not logits."
        allowed = "at most 1 per element"
        raise InputError(Problem(f"{where}.log_probabilities", given, allowed, fix))


def check_temperature(temperature: object, *, where: str) -> None:
    """Raise an error unless a temperature is a positive finite number."""
    if not is_positive(temperature):
        raise InputError(Problem(where, temperature, "a finite number above 0", "Try 4.0."))


def check_weights(where: str, **weights: object) -> None:
    """Raise an error if a weight inside a loss is negative, infinite or not a number."""
    for name, weight in weights.items():
        if not (is_number(weight) and weight >= 0):
            raise InputError(Problem(f"{where}.{name}", weight, "a finite number, at least 0"))


def check_mask(mask: Tensor, shape: tuple[int, ...], *, where: str) -> None:
    """Raise an error unless a mask has one boolean per token."""
    if mask.dtype != torch.bool:
        allowed = "a boolean mask, true for tokens that are not padding"
        raise InputError(Problem(where, str(mask.dtype), allowed, "Convert it with .bool()."))
    if mask.shape != shape:
        allowed = f"a mask [samples, tokens], here {shape}"
        raise InputError(Problem(where, tuple(mask.shape), allowed))


def _check_tensor(value: object, *, where: str) -> None:
    if not isinstance(value, Tensor):
        fix = "Convert it with torch.as_tensor." if value is not None else ""
        raise InputError(Problem(where, type(value).__name__, "a tensor", fix))
