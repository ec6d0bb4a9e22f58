"""Contrastive losses between student and teacher embeddings: one scalar."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from pydantic import PositiveFloat
from torch import Tensor

from limbeck.core.tensors import length, precise, unit_length
from limbeck.errors import InputError, Problem
from limbeck.losses._inputs import check_labels, check_temperature, out_of_range, vector_pair
from limbeck.losses._maps import products
from limbeck.losses._types import Features, Scalar


def info_nce(
    student: Features,
    teacher: Features,
    *,
    temperature: PositiveFloat = 0.1,
    symmetric: bool = False,
    labels: Integer[Tensor, " samples"] | None = None,
) -> Scalar:
    r"""Compute the InfoNCE loss between student and teacher embeddings.

    With c the cosine of two embeddings, for N samples:

    $$-\frac1N \sum_i \log \frac{\exp(c(s_i, t_i)/\tau)}
    {\exp(c(s_i, t_i)/\tau) + \sum_{k \ne i} \exp(c(s_i, t_k)/\tau)}$$

    With `symmetric` it is the mean of this and of the same with s and t exchanged. With `labels`
    the sum excludes every k of the class of i. There is no T²: the temperature is part of the
    method.

    Args:
        student: Embeddings s, `[samples, ...]`.
        teacher: Embeddings t of the same length.
        temperature: τ, above 0.
        symmetric: Whether to use the teacher's embeddings as anchors, too.
        labels: Classes, `[samples]`; other samples of the same class are then not negatives.

    Returns:
        A scalar in nats, at least 0, log N for equal embeddings; 0 for no samples or one.

    Raises:
        InputError: Embeddings or labels of a wrong shape or dtype, or a temperature <= 0.

    Example:
        >>> info_nce(torch.eye(4), torch.ones(4, 4))
        tensor(1.3863)

    Source: van den Oord et al. 2018; other samples as negatives after Tian et al. 2020.
    """
    student, teacher = _directions(student, teacher, temperature, labels, where="info_nce")
    if not len(student):
        return student.sum()
    scores = products(student, teacher) / temperature
    if labels is not None:
        scores = scores.masked_fill(~(_negatives(student, labels) | _diagonal(scores)), -torch.inf)
    index = torch.arange(len(student), device=student.device)
    value = F.cross_entropy(scores, index)
    return (value + F.cross_entropy(scores.T, index)) / 2 if symmetric else value


def crd(
    student: Features,
    teacher: Features,
    *,
    temperature: PositiveFloat = 0.07,
    labels: Integer[Tensor, " samples"] | None = None,
    positives: Float[Tensor, "samples width"] | None = None,
    negatives: Float[Tensor, "*each negatives width"] | None = None,
    student_positives: Float[Tensor, "samples width"] | None = None,
    student_negatives: Float[Tensor, "*each_too others width"] | None = None,
    drawn: Integer[Tensor, "samples draws"] | None = None,
    first_cosines: Float[Tensor, "2 cosines"] | None = None,
    trained_teacher: Features | None = None,
) -> Scalar:
    r"""Compute the contrastive representation distillation loss (CRD) with NCE.

    With c the cosine of two embeddings, an anchor a is compared with one positive p and m
    negatives n₁ … nₘ, by noise-contrastive estimation:

    $$\ell(a) = -\log \frac{w(a, p)}{w(a, p) + m} - \sum_{k=1}^m \log \frac{m}{w(a, n_k) + m},
    \quad w(a, b) = \frac{\exp(c(a, b)/\tau)}{z}$$

    The value is the mean of ℓ over the student's embeddings as anchors, plus the mean over the
    teacher's. *In the batch* (no `negatives`) sample i's positive is the other side's i, its
    negatives are the other side's j ≠ i; with `labels`, only those of another class. *With a memory
    bank* (`negatives` and `student_negatives`) the student's anchors are compared with the bank's
    teacher embeddings, and the teacher's anchors with the bank's student embeddings; without given
    positives, those of this batch's other side are used, and `labels` are ignored.

    z is the mean of exp(c/τ) over a row of `first_cosines`, 1 without: row 0 for the student's
    anchors, row 1 for the teacher's. This is the published estimator, with uniform noise over N
    samples, and Z = N·z constant; N cancels. The published code's 1e-7 in each denominator is
    omitted. The weight published with the CIFAR-100 benchmark (0.8) applies unchanged to the memory
    bank of 16384.

    Args:
        student: Embeddings, `[samples, ...]`.
        teacher: Embeddings of the same length d.
        temperature: τ, above 0.
        labels: Classes, `[samples]`.
        positives: The bank's teacher embeddings of the same samples, `[samples, d]`. No gradient
            reaches this and the other bank arguments.
        negatives: The bank's teacher embeddings of other samples, `[samples, m, d]`, or `[m, d]`
            for all.
        student_positives: As `positives`, for the bank's students.
        student_negatives: As `negatives`, for the bank's students.
        drawn: `[samples, m]`, the indices of each sample's rows in `negatives` and
            `student_negatives`, `[rows, d]` each; all rows if not given.
        first_cosines: `[2, any number]`, see above; also without a bank.
        trained_teacher: The teacher's embeddings again, with gradient, to train the layer that
            computes them.

    Returns:
        A scalar in nats, above 0; 0 for no samples. A sample without negatives in its batch
        contributes 0.

    Raises:
        InputError: As `info_nce`; negatives of one side only, positives or draws without negatives,
            bank arguments of a wrong shape, or (checked on a CPU) draws out of range.

    Example:
        >>> crd(torch.eye(4), torch.ones(4, 4), temperature=0.5)
        tensor(5.3577)

    Source: Tian, Krishnan and Isola 2020.
    """
    student, teacher = _directions(student, teacher, temperature, labels, where="crd")
    if trained_teacher is not None:
        teacher = unit_length(precise(trained_teacher).flatten(1)).to(student.dtype)
    _check_bank(student, positives, negatives, "")
    _check_bank(student, student_positives, student_negatives, "student_")
    log_z = _log_normalisers(first_cosines, temperature, student)
    if (negatives is None) != (student_negatives is None):
        allowed = "both negatives and student_negatives, or neither"
        raise InputError(Problem("crd.negatives", "those of one side", allowed))
    _check_drawn(student, negatives, student_negatives, drawn)
    if not len(student):
        return student.sum()
    if negatives is None or student_negatives is None:
        scores, mask = products(student, teacher) / temperature, _negatives(student, labels)
        positive = scores.diagonal()
        first = _nce(positive - log_z[0], scores - log_z[0], mask)
        return first + _nce(positive - log_z[1], scores.T - log_z[1], mask)
    positives = _bank_positives(positives, teacher)
    student_positives = _bank_positives(student_positives, student)
    first = _with_bank(student, positives, negatives, drawn, temperature, log_z[0])
    return first + _with_bank(
        teacher, student_positives, student_negatives, drawn, temperature, log_z[1]
    )


def _bank_positives(positives: Tensor | None, others: Tensor) -> Tensor:
    return others if positives is None else unit_length(positives.detach().to(others.dtype))


def _with_bank(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    drawn: Tensor | None,
    temperature: float,
    log_z: Tensor,
) -> Tensor:
    positive = (anchors * positives).sum(-1) / temperature
    negative = _cosines(anchors, negatives.detach().to(anchors.dtype), drawn) / temperature
    return _nce(positive - log_z, negative - log_z)


def _cosines(anchors: Tensor, negatives: Tensor, drawn: Tensor | None) -> Tensor:
    """Compute the cosines of unit vectors with vectors of any length, `[samples, negatives]`."""
    lengths = length(negatives).squeeze(-1)
    if negatives.ndim == 3:
        return products(negatives, anchors.unsqueeze(1)).squeeze(-1) / lengths
    scores = products(anchors, negatives)
    if drawn is None:
        return scores / lengths
    drawn = drawn.long()
    return scores.gather(1, drawn) / lengths[drawn]


def _nce(positive: Tensor, negative: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the mean of ℓ, from log w of the positives and of the (masked) negatives."""
    if mask is None:
        log_m = math.log(negative.shape[1])
        return (F.softplus(log_m - positive) + F.softplus(negative - log_m).sum(1)).mean()
    log_counts = mask.sum(1, keepdim=True).to(negative.dtype).log()
    negatives = F.softplus(negative - log_counts).masked_fill(~mask, 0).sum(1)
    return (F.softplus(log_counts.squeeze(1) - positive) + negatives).mean()


def _directions(
    student: Tensor, teacher: Tensor, temperature: float, labels: Tensor | None, *, where: str
) -> tuple[Tensor, Tensor]:
    """Check the inputs of both losses, and normalise the embeddings of both sides."""
    student, teacher = vector_pair(student, teacher, where=where)
    if student.shape != teacher.shape:
        given = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        fix = "A connector maps features to another length."
        raise InputError(Problem(f"{where}.teacher", given, "embeddings of one length", fix))
    check_temperature(temperature, where=f"{where}.temperature")
    if labels is not None:
        check_labels(labels, student, where=f"{where}.labels")
    return unit_length(student), unit_length(teacher).to(student.dtype)


def _check_bank(
    student: Tensor, positives: Tensor | None, negatives: Tensor | None, side: str
) -> None:
    samples, width = student.shape
    if positives is not None and (negatives is None or positives.shape != student.shape):
        given = "no negatives" if negatives is None else tuple(positives.shape)
        allowed = f"a tensor {(samples, width)}, with negatives"
        raise InputError(Problem(f"crd.{side}positives", given, allowed))
    if negatives is None:
        return
    shape = tuple(negatives.shape)
    if shape[:-2] not in ((), (samples,)) or shape[-1:] != (width,) or 0 in shape[-2:-1]:
        allowed = f"a tensor [{samples}, negatives, {width}] or [negatives, {width}]"
        raise InputError(Problem(f"crd.{side}negatives", shape, allowed))


def _check_drawn(
    student: Tensor,
    negatives: Tensor | None,
    student_negatives: Tensor | None,
    drawn: Tensor | None,
) -> None:
    if drawn is None:
        return
    where, samples = "crd.drawn", len(student)
    sides = [side for side in (negatives, student_negatives) if side is not None]
    if not sides or any(side.ndim != 2 for side in sides):
        given = " and ".join(str(tuple(side.shape)) for side in sides) or "no negatives"
        raise InputError(Problem(where, given, "negatives [rows, d], to draw from, on both sides"))
    shape, dtype = tuple(drawn.shape), drawn.dtype
    integers = not (drawn.is_floating_point() or drawn.is_complex() or dtype == torch.bool)
    if len(shape) != 2 or shape[0] != samples or not shape[1] or not integers:
        allowed = f"whole numbers [{samples}, negatives]"
        raise InputError(Problem(where, f"{shape} of {dtype}", allowed))
    rows = min(len(side) for side in sides)
    if invalid := out_of_range(drawn, rows):
        raise InputError(Problem(where, invalid[0], f"rows from 0 to {rows - 1}"))


def _log_normalisers(first_cosines: Tensor | None, temperature: float, like: Tensor) -> Tensor:
    """Compute log z for the student's anchors and for the teacher's."""
    if first_cosines is None:
        return like.new_zeros(2)
    shape = tuple(first_cosines.shape)
    if len(shape) != 2 or shape[0] != 2 or not shape[1]:
        allowed = "a tensor [2, any number], of the student's anchors and of the teacher's"
        raise InputError(Problem("crd.first_cosines", shape, allowed))
    scores = first_cosines.detach().to(like.dtype) / temperature
    return scores.logsumexp(1) - math.log(shape[1])


def _negatives(rows: Tensor, labels: Tensor | None) -> Tensor:
    """Return the mask `[samples, samples]` of the others, with labels of those of other classes."""
    return ~_diagonal(rows) if labels is None else labels.unsqueeze(1) != labels.unsqueeze(0)


def _diagonal(rows: Tensor) -> Tensor:
    return torch.eye(len(rows), dtype=torch.bool, device=rows.device)
