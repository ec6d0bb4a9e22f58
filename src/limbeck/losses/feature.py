"""Feature losses: FitNets hint, Gram matrix, variational information; one value per sample.

See also `attention_maps`, `activation` (signs of activations) and `pyramid` (pyramids of maps).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses.maps import (
    aligned,
    check_features,
    check_maps,
    mean_of_each,
    per_channel,
    products,
)
from limbeck.numbers import is_positive
from limbeck.precision import precise_pair

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
