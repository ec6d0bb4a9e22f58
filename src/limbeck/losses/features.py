"""Feature losses of one or several layers; see also `attention_maps` and `transformers`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonPositiveFloat, PositiveFloat
from torch import Tensor

from limbeck.core.numbers import is_number, is_positive
from limbeck.core.tensors import precise, precise_pair, unit_length
from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses._inputs import (
    check_maps,
    check_same_samples,
    check_same_shape,
    feature_pair,
    map_pair,
)
from limbeck.losses._maps import (
    aligned,
    channels_second,
    mean_per_sample,
    per_channel,
    pooled,
    products,
)
from limbeck.losses._types import Features, Maps, PerSample, Scalar

Norm: TypeAlias = Literal["l2", "l1", "huber"]
GramScale: TypeAlias = Literal["gatys", "sum"]
# Torch's own functions pass over the features only once in each direction.
_ELEMENTWISE: dict[Norm, Callable[..., Tensor]] = {
    "l2": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.huber_loss,
}


def fitnet_hint(student: Features, teacher: Features, *, norm: Norm = "l2") -> PerSample:
    r"""Compute the FitNets hint loss: the mean difference of features (L2, L1 or Huber).

    With d = f − g over D features:

    $$
    \text{l2} = \frac1D \sum_i d_i^2 \qquad
    \text{l1} = \frac1D \sum_i |d_i| \qquad
    \text{huber} = \frac1D \sum_i \begin{cases} d_i^2/2 & |d_i| \le 1 \\ |d_i| - 1/2 \end{cases}
    $$

    Scale: the mean, not the sum, over the D features; the weight published with the CIFAR-100
    benchmark (100, for l2) applies unchanged.

    Args:
        student: Features f, `[samples, ...]`, mapped to the teacher's shape by a connector.
        teacher: Features g, `[samples, ...]`.
        norm: `l2` (squared error), `l1` (absolute error, for teachers with outliers) or `huber`
            (squared up to a difference of 1, absolute beyond).

    Returns:
        One value per sample, `[samples]`.

    Raises:
        InputError: Different shapes, no feature dimension, integer dtypes, or an unknown norm.

    Example:
        >>> fitnet_hint(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
        tensor([1., 1.])
        >>> fitnet_hint(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), norm="huber")
        tensor([1.5000])

    Source: Romero et al. 2015 (FitNets); scale of Tian, Krishnan and Isola 2020.
    """
    check_choice(norm, get_args(Norm), where="fitnet_hint.norm")
    student, teacher = feature_pair(student, teacher, where="fitnet_hint")
    return mean_per_sample(_ELEMENTWISE[norm](student, teacher, reduction="none"))


def gram(student: Features, teacher: Features, *, scale: GramScale = "gatys") -> PerSample:
    r"""Compute the squared difference of Gram matrices over channels (style loss).

    With F a map as `[C, M]` (C channels, M positions) and its Gram matrix G = F Fᵀ:

    $$
    \text{gatys} = \frac{1}{4 C^2 M^2} \sum_{ij} (G^S_{ij} - G^T_{ij})^2 \qquad
    \text{sum} = \sum_{ij} (G^S_{ij} - G^T_{ij})^2
    $$

    Scale: `gatys` is the paper's, and does not depend on the layer's size. There is no published
    weight for distillation.

    Args:
        student: Maps `[samples, channels, height, width]` or sequences `[samples, tokens, d]`.
        teacher: The same, with equal channels. A larger map is average-pooled to the smaller.
        scale: `gatys` or `sum`.

    Returns:
        One value per sample, `[samples]`.

    Raises:
        InputError: Unsupported shapes, different channels, integer dtypes, or an unknown scale.

    Example:
        >>> gram(torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3))
        tensor([0.2500])
        >>> gram(torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3), scale="sum")
        tensor([324.])

    Source: Gatys, Ecker and Bethge 2015; between layers of two models as in Yim et al. 2017.
    """
    check_choice(scale, get_args(GramScale), where="gram.scale")
    student, teacher = map_pair(student, teacher, where="gram", channels=True)
    student, teacher = (side.flatten(2) for side in aligned(student, teacher))
    if scale == "gatys":
        # Before the product, not after it, to keep the numbers small.
        factor = 1 / math.sqrt(2 * student.shape[1] * student.shape[2])
        student, teacher = student * factor, teacher * factor
    difference = products(student, student) - products(teacher, teacher)
    return difference.square().sum((1, 2))


def variational_information(
    student: Features, teacher: Features, *, variance: Float[Tensor, "*channels"] | PositiveFloat
) -> PerSample:
    r"""Compute the variational information distillation loss (VID): a Gaussian NLL.

    Up to a constant. Minimising it raises a lower bound of the mutual information of the student's
    and the teacher's layer:

    $$\frac1D \sum_i \frac12 \left[\frac{(t_i - \mu_i)^2}{\sigma^2_i} + \log \sigma^2_i\right]$$

    Scale: the mean over the D features; the weight published with the CIFAR-100 benchmark (1)
    applies unchanged. The value may be negative.

    Args:
        student: The predicted mean μ, `[samples, ...]`, of the teacher's shape.
        teacher: Features t, `[samples, ...]`.
        variance: σ², above 0: one number per channel, `[channels]`, or a tensor that broadcasts to
            the features. It has a gradient: `limbeck.connectors.variational` trains it together
            with the mean.

    Returns:
        One value per sample, `[samples]`.

    Raises:
        InputError: Different shapes, a variance that does not fit or is <= 0 (checked for a number,
            not for a tensor), or integer dtypes.

    Example:
        >>> mean, features = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
        >>> variational_information(mean, features, variance=torch.tensor([1.0, 1.0]))
        tensor([0.5000])

    Source: Ahn et al. 2019 (VID); scale of Tian, Krishnan and Isola 2020.
    """
    where = "variational_information"
    if not isinstance(variance, Tensor) and not is_positive(variance):
        raise InputError(Problem(f"{where}.variance", variance, "a finite number above 0"))
    mean, features = feature_pair(student, teacher, where=where)
    if not isinstance(variance, Tensor):
        variance = mean.new_tensor(variance)
    variance = per_channel(variance.to(mean.dtype), mean, where=f"{where}.variance")
    # The logarithm of the few variances, not of a tensor of the features' size.
    terms = (features - mean).square() / variance + variance.log()
    return 0.5 * mean_per_sample(terms)


BoundaryLoss: TypeAlias = Literal["hinge", "margin"]


def activation_boundary(
    student: Features,
    teacher: Features,
    *,
    margin: PositiveFloat = 1.0,
    variant: BoundaryLoss = "hinge",
) -> PerSample:
    r"""Compute the activation boundary loss (AB): a hinge loss on the teacher's activation signs.

    With y = 1 where the teacher's response t is above 0, else −1, and [x]₊ = max(x, 0):

    $$
    \text{hinge} = \sum_i [m - y_i s_i]_+^2 \qquad
    \text{margin} = \sum_i [-y_i s_i]_+^2 + \left([y_i s_i]_+ - |t_i|\right)^2
    $$

    `hinge` is the published loss, with a fixed margin m on the teacher's side of the boundary: it
    is not 0 at student = teacher if |t| < m. `margin` requires the same side and the same distance
    to the boundary: it is 0 only at student = teacher.

    Scale: the sum over features, as in the authors' code and in the CIFAR-100 benchmark, whose
    weight is 0.003 for the last layer, and half of it for every layer further from the output.

    Args:
        student: Responses s before the ReLU, `[samples, ...]`, of the teacher's shape.
        teacher: Responses t before the ReLU, `[samples, ...]`.
        margin: m of `hinge`, above 0; `margin` uses the teacher's own.
        variant: `hinge` or `margin`.

    Returns:
        One value per sample, `[samples]`.

    Raises:
        InputError: Different shapes, integer dtypes, a margin <= 0, an unknown variant.

    Example:
        >>> student, teacher = torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, -3.0]])
        >>> activation_boundary(student, teacher)
        tensor([2.5000])
        >>> activation_boundary(student, teacher, variant="margin")
        tensor([15.5000])

    Source: Heo et al. 2019 (AB); scale of Tian, Krishnan and Isola 2020.
    """
    where = "activation_boundary"
    check_choice(variant, get_args(BoundaryLoss), where=f"{where}.variant")
    if not is_positive(margin):
        raise InputError(Problem(f"{where}.margin", margin, "a finite number above 0", "Try 1.0."))
    student, teacher = feature_pair(student, teacher, where=where)
    signed = student * torch.where(teacher > 0, 1.0, -1.0)  # above 0 on the teacher's side
    if variant == "hinge":
        return (margin - signed).relu().square().flatten(1).sum(1)
    distance = teacher.abs()
    same_side = (signed - distance).square()
    other_side = signed.square() + distance.square()
    # A neuron on the boundary counts as on the same side, or it would have no gradient.
    return torch.where(signed < 0, other_side, same_side).flatten(1).sum(1)


def overhaul(
    student: Features, teacher: Features, *, margin: Float[Tensor, "*channels"] | NonPositiveFloat
) -> PerSample:
    r"""Compute the overhaul distillation loss (OFD): the partial L2 distance above a margin.

    Responses are compared before the ReLU. Where the teacher's ReLU is inactive, only larger
    student responses count; below the margin m all are equal:

    $$
    \sum_i \begin{cases} 0 & s_i \le \max(t_i, m) \text{ and } t_i \le 0 \\
    (s_i - \max(t_i, m))^2 & \text{otherwise} \end{cases}
    $$

    Scale: the sum over features, as published, with a weight of 0.001 for the last layer, and half
    of it for every layer further from the output.

    Args:
        student: Responses s before the ReLU, `[samples, ...]`, of the teacher's shape.
        teacher: Responses t before the ReLU, `[samples, ...]`.
        margin: m, at most 0: one number per channel, `[channels]`, a tensor that broadcasts to the
            features, or one number. `batch_norm_margin` computes the published ones.

    Returns:
        One value per sample, `[samples]`.

    Raises:
        InputError: Different shapes, integer dtypes, a margin that does not fit or is above 0
            (checked for a number, not for a tensor).

    Example:
        >>> student, teacher = torch.tensor([[0.0, -3.0, 1.0]]), torch.tensor([[2.0, -1.0, -5.0]])
        >>> overhaul(student, teacher, margin=-1.0)
        tensor([8.])

    Source: Heo et al. 2019b (A comprehensive overhaul of feature distillation).
    """
    if not isinstance(margin, Tensor) and not (is_number(margin) and margin <= 0):
        raise InputError(Problem("overhaul.margin", margin, "a finite number of at most 0"))
    student, teacher = feature_pair(student, teacher, where="overhaul")
    if not isinstance(margin, Tensor):
        margin = teacher.new_tensor(margin)
    margin = per_channel(margin.detach().to(teacher.dtype), teacher, where="overhaul.margin")
    target = torch.maximum(teacher, margin)
    compared = (teacher > 0) | (student > target)
    return (student - target).square().masked_fill(~compared, 0).flatten(1).sum(1)


_MINIMUM_SHARE = 1e-3  # below this share of negative values, their mean is unreliable


def batch_norm_margin(
    weight: Float[Tensor, " channels"], bias: Float[Tensor, " channels"]
) -> Float[Tensor, " channels"]:
    r"""Estimate each channel's mean negative response from the batch normalisation before a ReLU.

    The output is assumed normal with mean b and deviation |w|; φ and Φ are the standard normal
    density and distribution:

    $$m = E[x \mid x < 0] = b - |w|\,\frac{\varphi(b/|w|)}{\Phi(-b/|w|)}$$

    If the probability of a negative x is below 0.001, m = −3|w|, as published.

    Returns:
        The margin for `overhaul`, `[channels]`, never above 0, in the dtype of the weight w.

    Raises:
        InputError: Different shapes.

    Example:
        >>> norm = torch.nn.BatchNorm2d(2)
        >>> batch_norm_margin(norm.weight, norm.bias)
        tensor([-0.7979, -0.7979])

    Source: Heo et al. 2019b.
    """
    if weight.ndim != 1 or weight.shape != bias.shape:
        given = f"weight {tuple(weight.shape)}, bias {tuple(bias.shape)}"
        raise InputError(Problem("batch_norm_margin", given, "two tensors [channels]"))
    deviation, mean = weight.detach().double().abs(), bias.detach().double()
    ratio = (mean / deviation).nan_to_num(0, math.inf, -math.inf)  # 0 / 0: a constant channel of 0
    share = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    expected = mean - deviation * density / share.clamp_min(_MINIMUM_SHARE)
    return torch.where(share > _MINIMUM_SHARE, expected, -3 * deviation).to(weight.dtype)


def spatial_correlation(student: Maps, teacher: Maps, *, normalized: bool = False) -> Scalar:
    r"""Compute the squared difference of spatial correlation matrices between positions.

    With F the map of one sample as `[channels, places]`, and H·W positions:

    $$\frac1N \sum_n \left\| C^S_n - C^T_n \right\|^2_F, \quad C_n = F_n^\top F_n
    \quad [HW \times HW]$$

    Squares are summed over both dimensions of C, then averaged over samples. With `normalized` the
    channels at each position are normalised to length one, so that C are cosines, and the sum is
    divided by (HW)². It is within a sample; the paper's `correlation_congruence` is across the
    samples of a batch. There is no published weight. Memory grows with (HW)² per sample. Maps of
    different sizes are average-pooled to the smaller height and width.

    Args:
        student: Maps, `[samples, channels, height, width]`.
        teacher: Maps, `[samples, channels, height, width]`; channels may differ in number.
        normalized: Whether to compare cosines, by their mean.

    Returns:
        A scalar, at least 0; 0 for no samples.

    Raises:
        InputError: Features that are not maps, integer dtypes, or different numbers of samples.

    Example:
        >>> spatial_correlation(torch.zeros(2, 3, 2, 2), torch.ones(2, 5, 2, 2))
        tensor(400.)

    Source: after Peng et al. 2019.
    """
    where = "spatial_correlation"
    check_maps(student, (4,), where=f"{where}.student")
    check_maps(teacher, (4,), where=f"{where}.teacher")
    check_same_samples(student, teacher, where=f"{where}.teacher")
    student, teacher = precise_pair(student, teacher)
    if not len(student):
        return student.sum()
    places = [side.flatten(2).mT for side in aligned(student, teacher)]
    vectors = [unit_length(side) if normalized else side for side in places]
    first, second = (products(side, side) for side in vectors)
    squares = F.mse_loss(first, second, reduction="sum") / len(student)
    return squares / first[0].numel() if normalized else squares


def fsp(student: Sequence[Maps], teacher: Sequence[Maps]) -> Scalar:
    r"""Compute the FSP loss: squared difference of flow of solution procedure matrices.

    With A and B the maps of an earlier and a later layer, and H·W positions:

    $$\frac1{N C_A C_B} \sum_n \left\| G^S_n - G^T_n \right\|^2_F, \quad
    G_{ab} = \frac1{HW} \sum_{p} A_{ap} B_{bp} \quad [C_A \times C_B]$$

    If the two layers of a side differ in size, both are average-pooled to the smaller height and
    width. The mean over entries is the scale of the CIFAR-100 benchmark, and its weight (50)
    applies unchanged to one pair of layers.

    Args:
        student: Two maps, `[samples, channels, height, width]` each.
        teacher: Two maps with the student's numbers of channels; their sizes may differ.

    Returns:
        A scalar, at least 0; 0 for no samples.

    Raises:
        InputError: Not two layers per side, features that are not maps, integer dtypes, or
            different numbers of samples or channels.

    Example:
        >>> ones, small = torch.ones(2, 3, 4, 4), torch.ones(2, 5, 2, 2)
        >>> fsp([ones, small], [2 * ones, small])
        tensor(1.)

    Source: Yim et al. 2017 (FSP).
    """
    layers, targets = _layers(student, "fsp.student"), _layers(teacher, "fsp.teacher")
    for place, pair in enumerate(zip(layers, targets, strict=True)):
        shape, other = (tuple(side.shape[:2]) for side in pair)
        if shape != other:
            allowed = "as many samples and channels as the student has"
            fix = "A connector maps features to other numbers of channels."
            given = f"student {shape}, teacher {other}"
            raise InputError(Problem(f"fsp.teacher.{place}", given, allowed, fix))
    if not len(layers[0]):
        return layers[0].sum() + layers[1].sum()
    return F.mse_loss(_flow(*layers), _flow(*(maps.detach() for maps in targets)))


def _layers(maps: Any, where: str) -> list[Tensor]:
    if isinstance(maps, Tensor) or len(maps) != 2:
        given = "one tensor" if isinstance(maps, Tensor) else f"{len(maps)} layers"
        fix = "Select an earlier and a later one."
        raise InputError(Problem(where, given, "two layers", fix))
    for place, layer in enumerate(maps):
        check_maps(layer, (4,), where=f"{where}.{place}")
    check_same_samples(*maps, where=where)
    return [precise(layer) for layer in maps]


def _flow(early: Tensor, late: Tensor) -> Tensor:
    """Compute the flow of solution procedure matrix, `[samples, channels, channels]`."""
    early, late = (maps.flatten(2) for maps in aligned(early, late))
    return products(early, late) / early.shape[-1]


_SIZES = (4, 2, 1)


def review_kd(
    student: Features | Sequence[Features], teacher: Features | Sequence[Features]
) -> PerSample:
    r"""Compute the hierarchical context loss (HCL) of ReviewKD: MSE of maps at several sizes.

    The map itself, and its average-pooled 4×4, 2×2 and 1×1 maps, with weights 1, 1/2, 1/4, 1/8; a
    size that is not below the map's height is skipped, and the next one has its weight:

    $$\frac{\sum_l w_l \, \mathrm{mean}\left(P_l(f) - P_l(g)\right)^2}{\sum_l w_l}$$

    Several pairs of layers are summed.

    Scale: the mean over features, as published; the published weights apply unchanged (on
    CIFAR-100 0.6 to 8, per pair of models, ramped up over the first 20 epochs).

    Args:
        student: Maps f `[samples, channels, height, width]`, vectors `[samples, d]` (maps of 1×1),
            sequences `[samples, tokens, d]` (averaged along the tokens), or several of these, each
            of its teacher's shape. `limbeck.connectors.fusion` computes them by fusing deeper
            layers into shallower ones.
        teacher: The same number, in the same order.

    Returns:
        One value per sample, `[samples]`.

    Raises:
        InputError: Different shapes or numbers of layers, unsupported numbers of dimensions,
            integer dtypes.

    Example:
        >>> maps = torch.ones(2, 3, 8, 8), torch.ones(2, 6, 4, 4)
        >>> review_kd(maps[0], 0 * maps[0])
        tensor([1., 1.])
        >>> review_kd(maps, [0 * layer for layer in maps])
        tensor([2., 2.])

    Source: Chen et al. 2021 (ReviewKD, hierarchical context loss).
    """
    students = [student] if isinstance(student, Tensor) else list(student)
    teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
    if not students or len(students) != len(teachers):
        given = f"student {len(students)}, teacher {len(teachers)}"
        raise InputError(Problem("review_kd.teacher", given, "as many layers as the student"))
    pairs = list(zip(students, teachers, strict=True))
    for layer, target in pairs:
        check_maps(layer, (2, 3, 4), where="review_kd.student")
        check_maps(target, (2, 3, 4), where="review_kd.teacher")
        check_same_shape(layer, target, where="review_kd.teacher")
        if len(layer) != len(students[0]):
            given = f"{len(layer)} and {len(students[0])} samples"
            raise InputError(Problem("review_kd.student", given, "layers of the same samples"))
    values = [_hierarchical_context(*precise_pair(*pair)) for pair in pairs]
    return values[0] if len(values) == 1 else torch.stack(values).sum(0)


def _hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    # Pooling is linear: the difference is pooled once instead of both sides.
    difference = channels_second(student - teacher)
    value, weight, total = mean_per_sample(difference.square()), 1.0, 1.0
    for size in _SIZES:
        if size < difference.shape[2]:
            weight /= 2
            total += weight
            coarse = pooled(difference, [size] * (difference.ndim - 2))
            value = value + weight * mean_per_sample(coarse.square())
    return value / total
