"""Feature losses: FitNets hint, Gram matrix, variational information; one value per sample.

See also `attention_maps`, `activation` (signs of activations) and `pyramid` (pyramids of maps).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.core.numbers import is_number, is_positive
from limbeck.core.tensors import precise, precise_pair, unit_length, without_autocast
from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses._inputs import check_floating, check_same_samples
from limbeck.losses._maps import (
    aligned,
    check_features,
    check_maps,
    mean_of_each,
    per_channel,
    pooled,
    products,
)

Norm: TypeAlias = Literal["l2", "l1", "huber"]
GramScale: TypeAlias = Literal["gatys", "sum"]
# Torch's own functions pass over the features only once in each direction.
_COMPARE: dict[Norm, Callable[..., Tensor]] = {
    "l2": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.huber_loss,
}


def fitnet_hint(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    norm: Norm = "l2",
) -> Float[Tensor, " samples"]:
    r"""Compute the FitNets hint loss: the mean difference of features (L2, L1 or Huber).

    With d = f − g over D features:

    $$
    \text{l2} = \frac1D \sum_i d_i^2 \qquad
    \text{l1} = \frac1D \sum_i |d_i| \qquad
    \text{huber} = \frac1D \sum_i \begin{cases} d_i^2/2 & |d_i| \le 1 \\ |d_i| - 1/2 \end{cases}
    $$

    Scale: the mean, not the sum, over the D features. It does not depend on the layer's size, and
    the weight published with the CIFAR-100 benchmark (100, for l2) applies as it is. The squared
    norm, as the formula is often written, is D times as much.

    Args:
        student: Features f, `[samples, ...]`, mapped to the teacher's shape by a connector.
        teacher: Features g, `[samples, ...]`. No gradient reaches them.
        norm: `l2` (squared error), `l1` (absolute error, for teachers with outliers) or `huber`
            (squared up to a difference of 1, absolute beyond).

    Returns:
        One value per sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Different shapes, features without a feature dimension, integer dtypes, or an
            unknown norm.

    Example:
        >>> import torch
        >>> fitnet_hint(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
        tensor([1., 1.])
        >>> fitnet_hint(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), norm="huber")
        tensor([1.5000])

    Source: Romero et al. 2015 (FitNets); scale of Tian, Krishnan and Isola 2020.
    """
    check_choice(norm, get_args(Norm), where="fitnet_hint.norm")
    check_features(student, teacher, where="fitnet_hint")
    ours, theirs = precise_pair(student, teacher)
    return mean_of_each(_COMPARE[norm](ours, theirs, reduction="none"))


def gram(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    scale: GramScale = "gatys",
) -> Float[Tensor, " samples"]:
    r"""Compute the squared difference of Gram matrices over channels (style loss).

    With F a map as `[C, M]` (C channels, M positions) and its Gram matrix G = F Fᵀ:

    $$
    \text{gatys} = \frac{1}{4 C^2 M^2} \sum_{ij} (G^S_{ij} - G^T_{ij})^2 \qquad
    \text{sum} = \sum_{ij} (G^S_{ij} - G^T_{ij})^2
    $$

    Scale: `gatys` is the paper's, and does not depend on the layer's size; `sum` is the squared
    Frobenius norm ‖G_T − G_S‖² as often written. There is no published weight for distillation.

    Args:
        student: Maps `[samples, channels, height, width]` or sequences `[samples, tokens, d]`.
        teacher: The same, with equal channels. A larger map is average-pooled to the smaller. No
            gradient reaches it.
        scale: `gatys` or `sum`.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Unsupported shapes, different channels, integer dtypes, or an unknown scale.

    Example:
        >>> import torch
        >>> gram(torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3))
        tensor([0.2500])
        >>> gram(torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3), scale="sum")
        tensor([324.])

    Source: Gatys, Ecker and Bethge 2015; between layers of two models as in Yim et al. 2017.
    """
    check_choice(scale, get_args(GramScale), where="gram.scale")
    check_maps(student, teacher, where="gram", alike="channels")
    ours, theirs = (side.flatten(2) for side in aligned(student, teacher))
    if scale == "gatys":
        # Before the product, not after it, to keep the numbers small.
        shrink = 1 / math.sqrt(2 * ours.shape[1] * ours.shape[2])
        ours, theirs = ours * shrink, theirs * shrink
    difference = products(ours, ours) - products(theirs, theirs)
    return difference.square().sum((1, 2))


def variational_information(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    variance: Float[Tensor, "*channels"] | float,
) -> Float[Tensor, " samples"]:
    r"""Compute the variational information distillation loss (VID): a Gaussian NLL.

    Up to a constant. Minimising it raises a lower bound of the mutual information of the student's
    and the teacher's layer:

    $$\frac1D \sum_i \frac12 \left[\frac{(t_i - \mu_i)^2}{\sigma^2_i} + \log \sigma^2_i\right]$$

    Scale: the mean over the D features; the weight published with the CIFAR-100 benchmark (1)
    applies as it is. The value may be negative.

    Args:
        student: The predicted mean μ, `[samples, ...]`, of the teacher's shape.
        teacher: Features t, `[samples, ...]`. No gradient reaches them.
        variance: σ², above 0: one number per channel, `[channels]`, or a tensor that broadcasts to
            the features. It has a gradient: `limbeck.connectors.variational` trains it together
            with the mean.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Different shapes, a variance that does not fit or is <= 0 (checked for a number,
            not for a tensor), or integer dtypes.

    Example:
        >>> import torch
        >>> mean, features = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
        >>> variational_information(mean, features, variance=torch.tensor([1.0, 1.0]))
        tensor([0.5000])

    Source: Ahn et al. 2019 (VID); scale of Tian, Krishnan and Isola 2020.
    """
    where = "variational_information"
    if not isinstance(variance, Tensor) and not is_positive(variance):
        raise InputError(Problem(f"{where}.variance", variance, "a finite number above 0"))
    check_features(student, teacher, where=where)
    mean, target = precise_pair(student, teacher)
    if not isinstance(variance, Tensor):
        variance = mean.new_tensor(variance)
    spread = per_channel(variance.to(mean.dtype), mean, where=f"{where}.variance")
    # The logarithm of the few variances, not of a tensor of the features' size.
    terms = (target - mean).square() / spread + spread.log()
    return 0.5 * mean_of_each(terms)


Reading: TypeAlias = Literal["hinge", "margin"]
_RARE = 1e-3  # below this share of negative values, their mean is unreliable


def activation_boundary(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    margin: float = 1.0,
    reading: Reading = "hinge",
) -> Float[Tensor, " samples"]:
    r"""Compute the activation boundary loss (AB): a hinge loss on the teacher's activation signs.

    With y = 1 where the teacher's response t is above 0, else −1, and [x]₊ = max(x, 0):

    $$
    \text{hinge} = \sum_i [m - y_i s_i]_+^2 \qquad
    \text{margin} = \sum_i [-y_i s_i]_+^2 + \left([y_i s_i]_+ - |t_i|\right)^2
    $$

    `hinge` is the published loss, with a fixed margin m on the teacher's side of the boundary: it
    is not 0 at student = teacher if |t| < m. `margin` requires the same side and a similar distance
    to the boundary; a neuron on the wrong side has distance 0 on the right one. It is 0 only at
    student = teacher.

    Scale: the sum over features, as in the authors' code and in the CIFAR-100 benchmark. Both
    multiply it by 3/1000, and by 1/2 for every layer further from the output; that product is the
    weight here (0.003 for the last layer, 0.0015 for the one before it).

    Args:
        student: Responses s before the ReLU, `[samples, ...]`, of the teacher's shape.
        teacher: Responses t before the ReLU, `[samples, ...]`. No gradient reaches them.
        margin: m of `hinge`, above 0; `margin` uses the teacher's own.
        reading: `hinge` or `margin`.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Different shapes, integer dtypes, a margin <= 0, an unknown reading.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, -3.0]])
        >>> activation_boundary(student, teacher)
        tensor([2.5000])
        >>> activation_boundary(student, teacher, reading="margin")
        tensor([15.5000])

    Source: Heo et al. 2019 (AB); scale of Tian, Krishnan and Isola 2020.
    """
    where = "activation_boundary"
    check_choice(reading, get_args(Reading), where=f"{where}.reading")
    if not is_positive(margin):
        raise InputError(Problem(f"{where}.margin", margin, "a finite number above 0", "Try 1.0."))
    check_features(student, teacher, where=where)
    ours, theirs = precise_pair(student, teacher)
    side = ours * torch.where(theirs > 0, 1.0, -1.0)  # the signed distance on the teacher's side
    if reading == "hinge":
        return (margin - side).relu().square().flatten(1).sum(1)
    distance = theirs.abs()
    there = (side - distance).square()
    across = side.square() + distance.square()
    # A neuron on the boundary counts as on the right side, or it would have no gradient.
    return torch.where(side < 0, across, there).flatten(1).sum(1)


def overhaul(
    student: Float[Tensor, "samples ..."],
    teacher: Float[Tensor, "samples ..."],
    *,
    margin: Float[Tensor, "*channels"] | float,
) -> Float[Tensor, " samples"]:
    r"""Compute the overhaul distillation loss (OFD): the partial L2 distance above a margin.

    Responses are compared before the ReLU. Where the teacher's ReLU is inactive, only larger
    student responses count; below the margin m all are equal:

    $$
    \sum_i \begin{cases} 0 & s_i \le \max(t_i, m) \text{ and } t_i \le 0 \\
    (s_i - \max(t_i, m))^2 & \text{otherwise} \end{cases}
    $$

    Scale: the sum over features, as published. The authors multiply it by 1/1000, and by 1/2 for
    every layer further from the output; that product is the weight here (0.001 for the last layer).

    Args:
        student: Responses s before the ReLU, `[samples, ...]`, of the teacher's shape.
        teacher: Responses t before the ReLU, `[samples, ...]`. No gradient reaches them.
        margin: m, at most 0: one number per channel, `[channels]`, a tensor that broadcasts to the
            features, or one number. `batch_norm_margin` computes the published ones.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Different shapes, integer dtypes, a margin that does not fit or is above 0
            (checked for a number, not for a tensor).

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, -3.0, 1.0]]), torch.tensor([[2.0, -1.0, -5.0]])
        >>> overhaul(student, teacher, margin=-1.0)
        tensor([8.])

    Source: Heo et al. 2019b (A comprehensive overhaul of feature distillation).
    """
    if not isinstance(margin, Tensor) and not (is_number(margin) and margin <= 0):
        raise InputError(Problem("overhaul.margin", margin, "a finite number of at most 0"))
    check_features(student, teacher, where="overhaul")
    ours, theirs = precise_pair(student, teacher)
    if not isinstance(margin, Tensor):
        margin = theirs.new_tensor(margin)
    lowest = per_channel(margin.detach().to(theirs.dtype), theirs, where="overhaul.margin")
    target = torch.maximum(theirs, lowest)
    counts = (theirs > 0) | (ours > target)
    return (ours - target).square().masked_fill(~counts, 0).flatten(1).sum(1)


def batch_norm_margin(
    weight: Float[Tensor, " channels"], bias: Float[Tensor, " channels"]
) -> Float[Tensor, " channels"]:
    r"""Estimate each channel's mean negative response from the batch normalisation before a ReLU.

    The output of the normalisation is assumed normal with mean b and deviation  |w|; φ and Φ are
    the standard normal density and distribution:

    $$m = E[x \mid x < 0] = b - |w|\,\frac{\varphi(b/|w|)}{\Phi(-b/|w|)}$$

    If the probability of a negative x is below 0.001, m = −3|w|, as published.

    Args:
        weight: The layer's weight w.
        bias: The layer's bias b.

    Returns:
        The margin for `overhaul`, `[channels]`, never above 0, in the dtype of the weight.

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
    often = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    expected = mean - deviation * density / often.clamp_min(_RARE)
    return torch.where(often > _RARE, expected, -3 * deviation).to(weight.dtype)


def spatial_correlation(
    student: Float[Tensor, "samples _ _ _"],
    teacher: Float[Tensor, "samples _ _ _"],
    *,
    normalized: bool = False,
) -> Float[Tensor, ""]:
    r"""Compute the squared difference of spatial correlation matrices between positions.

    With F the map of one sample as `[channels, places]`, and H·W positions:

    $$\frac1N \sum_n \left\| C^S_n - C^T_n \right\|^2_F, \quad C_n = F_n^\top F_n
    \quad [HW \times HW]$$

    Squares are summed over both dimensions of C, then averaged over samples. With `normalized` the
    channels at each position are normalised to length one, so that C are cosines, and the sum is
    divided by (HW)²: independent of channels and size. It is within a sample; the paper's
    `correlation_congruence` is across the samples of a batch. There is no published weight. It is
    cheaper than a Gram matrix of channels only if HW < C: memory grows with (HW)² per sample. Maps
    of different sizes are average-pooled to the smaller height and width.

    Args:
        student: Maps, `[samples, channels, height, width]`.
        teacher: Maps, `[samples, channels, height, width]`; channels may differ in number. No
            gradient reaches them.
        normalized: Whether to compare cosines, by their mean.

    Returns:
        A scalar, at least 0; float32 for half-precision features; 0 for no samples.

    Raises:
        InputError: Features that are not maps, integer dtypes, or different numbers of samples.

    Example:
        >>> import torch
        >>> spatial_correlation(torch.zeros(2, 3, 2, 2), torch.ones(2, 5, 2, 2))
        tensor(400.)

    Source: after Peng et al. 2019.
    """
    where = "spatial_correlation"
    ours, theirs = _maps(student, f"{where}.student"), _maps(teacher.detach(), f"{where}.teacher")
    check_same_samples(student, teacher, where=f"{where}.teacher")
    theirs = theirs.to(ours.dtype)
    if not len(ours):
        return ours.sum()
    mine, other = (_between_places(maps, normalized) for maps in _to_smaller(ours, theirs))
    squares = F.mse_loss(mine, other, reduction="sum") / len(ours)
    return squares / mine[0].numel() if normalized else squares


def _between_places(maps: Tensor, normalized: bool) -> Tensor:
    places = maps.flatten(2).mT
    with without_autocast(places):
        places = unit_length(places) if normalized else places
        return places @ places.mT


def fsp(
    student: Sequence[Float[Tensor, "samples _ _ _"]],
    teacher: Sequence[Float[Tensor, "samples _ _ _"]],
) -> Float[Tensor, ""]:
    r"""Compute the FSP loss: squared difference of flow of solution procedure matrices.

    With A and B the maps of an earlier and a later layer, and H·W positions:

    $$\frac1{N C_A C_B} \sum_n \left\| G^S_n - G^T_n \right\|^2_F, \quad
    G_{ab} = \frac1{HW} \sum_{p} A_{ap} B_{bp} \quad [C_A \times C_B]$$

    If the two layers of a side differ in size, both are average-pooled to the smaller height and
    width. The mean over entries is the scale of the CIFAR-100 benchmark, and its weight (50)
    applies as it is to one pair of layers.

    Args:
        student: Two maps, `[samples, channels, height, width]` each.
        teacher: Two maps with the student's numbers of channels; their sizes may differ. No
            gradient reaches them.

    Returns:
        A scalar, at least 0; float32 for half-precision features; 0 for no samples.

    Raises:
        InputError: Not two layers per side, features that are not maps, integer dtypes, or
            different numbers of samples or channels.

    Example:
        >>> import torch
        >>> ones, small = torch.ones(2, 3, 4, 4), torch.ones(2, 5, 2, 2)
        >>> fsp([ones, small], [2 * ones, small])
        tensor(1.)

    Source: Yim et al. 2017 (FSP).
    """
    ours, theirs = _layers(student, "fsp.student"), _layers(teacher, "fsp.teacher")
    for layer, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine.shape[:2] != other.shape[:2]:
            raise InputError(
                Problem(
                    f"fsp.teacher.{layer}",
                    f"student {tuple(mine.shape[:2])}, teacher {tuple(other.shape[:2])}",
                    "as many samples and channels as the student has",
                    "A connector joins features of different numbers of channels.",
                )
            )
    if not len(ours[0]):
        return ours[0].sum() + ours[1].sum()
    return F.mse_loss(_between_layers(*ours), _between_layers(*(maps.detach() for maps in theirs)))


def _layers(maps: Any, where: str) -> list[Tensor]:
    if isinstance(maps, Tensor) or len(maps) != 2:
        given = "one tensor" if isinstance(maps, Tensor) else f"{len(maps)} layers"
        fix = "Name an earlier and a later one."
        raise InputError(Problem(where, given, "two layers", fix))
    layers = [_maps(layer, f"{where}.{place}") for place, layer in enumerate(maps)]
    check_same_samples(*layers, where=where)
    return layers


def _between_layers(early: Tensor, late: Tensor) -> Tensor:
    early, late = (maps.flatten(2) for maps in _to_smaller(early, late))
    with without_autocast(early):
        return early @ late.mT / early.shape[-1]


def _to_smaller(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool maps to the smaller height and the smaller width of the two."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    small, also_small = (
        maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)
        for maps in (one, other)
    )
    return small, also_small


def _maps(features: Tensor, where: str) -> Tensor:
    check_floating(features, where=where)
    if features.ndim != 4 or 0 in features.shape[1:]:
        allowed = "a tensor [samples, channels, height, width]"
        raise InputError(Problem(where, tuple(features.shape), allowed))
    return precise(features)


_SIZES = (4, 2, 1)


def review_kd(
    student: Float[Tensor, "samples ..."] | Sequence[Float[Tensor, "samples ..."]],
    teacher: Float[Tensor, "samples ..."] | Sequence[Float[Tensor, "samples ..."]],
) -> Float[Tensor, " samples"]:
    r"""Compute the hierarchical context loss (HCL) of ReviewKD: MSE of maps at several sizes.

    The map itself, and its average-pooled 4×4, 2×2 and 1×1 maps, with weights 1, 1/2, 1/4, 1/8; a
    size that is not below the map's height is skipped, and the next one has its weight:

    $$\frac{\sum_l w_l \, \mathrm{mean}\left(P_l(f) - P_l(g)\right)^2}{\sum_l w_l}$$

    Several pairs of layers are summed.

    Scale: the mean over features, as published; the published weights apply as they are (on
    CIFAR-100 0.6 to 8, per pair of models, ramped up over the first 20 epochs).

    Args:
        student: Maps f `[samples, channels, height, width]`, vectors `[samples, d]` (maps of 1×1),
            sequences `[samples, tokens, d]` (averaged along the tokens), or several of these, each
            of its teacher's shape. `limbeck.connectors.fusion` computes them by fusing deeper
            layers into shallower ones.
        teacher: The same number, in the same order. No gradient reaches them.

    Returns:
        One value per sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Different shapes or numbers of layers, unsupported numbers of dimensions,
            integer dtypes.

    Example:
        >>> import torch
        >>> maps = torch.ones(2, 3, 8, 8), torch.ones(2, 6, 4, 4)
        >>> review_kd(maps[0], 0 * maps[0])
        tensor([1., 1.])
        >>> review_kd(maps, [0 * layer for layer in maps])
        tensor([2., 2.])

    Source: Chen et al. 2021 (ReviewKD, hierarchical context loss).
    """
    ours = [student] if isinstance(student, Tensor) else list(student)
    theirs = [teacher] if isinstance(teacher, Tensor) else list(teacher)
    if not ours or len(ours) != len(theirs):
        given = f"student {len(ours)}, teacher {len(theirs)}"
        raise InputError(Problem("review_kd.teacher", given, "as many layers as the student"))
    for f, g in zip(ours, theirs, strict=True):
        check_maps(f, g, where="review_kd", alike="shape", axes=(2, 3, 4))
        if len(f) != len(ours[0]):
            given = f"{len(f)} and {len(ours[0])} samples"
            raise InputError(Problem("review_kd.student", given, "layers of the same samples"))
    values = [_compare(f, g) for f, g in zip(ours, theirs, strict=True)]
    return values[0] if len(values) == 1 else torch.stack(values).sum(0)


def _compare(student: Tensor, teacher: Tensor) -> Tensor:
    # Pooling is linear: the difference is pooled once instead of both sides.
    ours, theirs = precise_pair(student, teacher)
    difference = _channels_second(ours - theirs)
    value, weight, total = mean_of_each(difference.square()), 1.0, 1.0
    for size in _SIZES:
        if size < difference.shape[2]:
            weight /= 2
            total += weight
            coarse = pooled(difference, [size] * (difference.ndim - 2))
            value = value + weight * mean_of_each(coarse.square())
    return value / total


def _channels_second(features: Tensor) -> Tensor:
    if features.ndim == 2:
        return features.unsqueeze(-1)
    return features.transpose(1, 2) if features.ndim == 3 else features
