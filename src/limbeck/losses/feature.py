"""Losses over what a model holds inside: one value a sample.

Those over attention maps are in `attention_maps`, over the sign of activations in `activation`,
over pyramids of maps in `pyramid`.
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

# Torch's own functions go over the features only once each way.
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
    r"""Measure the mean difference of features.

    With d = f − g over D features:

    $$
    \text{l2} = \frac1D \sum_i d_i^2 \qquad
    \text{l1} = \frac1D \sum_i |d_i| \qquad
    \text{huber} = \frac1D \sum_i \begin{cases} d_i^2/2 & |d_i| \le 1 \\ |d_i| - 1/2 \end{cases}
    $$

    Scale: the mean, not the sum, over the D features. It does not grow with the layer's size, and
    the weight published with the CIFAR-100 benchmark (100, for l2) applies as it is. A squared
    length of the difference, as the formula is often written, is D times as much.

    Args:
        student: Features f, `[samples, ...]`, already brought to the teacher's shape by a
            connector.
        teacher: Features g, `[samples, ...]`. No gradient reaches them.
        norm: `l2` (squares), `l1` (lengths, for teachers with outliers) or `huber` (squares up to
            a difference of 1, lengths beyond).

    Returns:
        One value a sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Shapes that differ, features without an axis beside the samples', whole
            numbers, or an unknown norm.

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
    r"""Measure how differently the channels of two maps go together, wherever that is.

    With F a map written as `[C, M]` (C channels, M places) and its Gram matrix G = F Fᵀ:

    $$
    \text{gatys} = \frac{1}{4 C^2 M^2} \sum_{ij} (G^S_{ij} - G^T_{ij})^2 \qquad
    \text{sum} = \sum_{ij} (G^S_{ij} - G^T_{ij})^2
    $$

    Scale: `gatys` is the paper's, and does not grow with the layer's size; `sum` is the squared
    Frobenius norm ‖G_T − G_S‖² as distillation texts write it. There is no published weight for
    distillation.

    Args:
        student: Maps `[samples, channels, height, width]` or sequences `[samples, tokens, d]`.
        teacher: The same with as many channels. A larger map is averaged down to the smaller. No
            gradient reaches it.
        scale: Which of the two.

    Returns:
        One value a sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Other shapes, channels that differ, whole numbers, or an unknown scale.

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
        # Before the product, not after it: the numbers stay small.
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
    r"""Measure how unlikely the teacher's features are, given the student's prediction of them.

    The negative log-likelihood of a normal distribution, up to a constant; minimising it raises a
    lower bound of the information that the student's layer has about the teacher's:

    $$\frac1D \sum_i \frac12 \left[\frac{(t_i - \mu_i)^2}{\sigma^2_i} + \log \sigma^2_i\right]$$

    Scale: the mean over the D features; the weight published with the CIFAR-100 benchmark (1)
    applies as it is. The value may be negative.

    Args:
        student: The predicted mean μ, `[samples, ...]`, of the teacher's shape.
        teacher: Features t, `[samples, ...]`. No gradient reaches them.
        variance: σ², above 0: one number a channel, `[channels]`, or whatever broadcasts to the
            features. It gets a gradient: `limbeck.connectors.variational` learns it together with
            the mean.

    Returns:
        One value a sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Shapes that differ, a variance that does not fit or is not above 0 (seen on a
            number, not on a tensor), or whole numbers.

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
    # The logarithm of few numbers, not of as many as there are features.
    terms = (target - mean).square() / spread + spread.log()
    return 0.5 * mean_of_each(terms)
