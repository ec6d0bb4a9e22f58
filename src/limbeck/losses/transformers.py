"""Losses over transformer hidden states and embeddings: one value per sample or element.

Values are means over tokens. A `mask` marks the tokens that are not padding; padding is excluded
from the mean, whatever its values.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.core.tensors import norm, precise
from limbeck.errors import InputError, Problem
from limbeck.losses._inputs import check_floating, check_mask, check_same_shape


def hidden_mse(
    student: Float[Tensor, "units *tokens features"],
    teacher: Float[Tensor, "units *tokens features"],
    *,
    mask: Bool[Tensor, "samples tokens"] | None = None,
) -> Float[Tensor, " units"]:
    r"""Compute the mean squared error of hidden states (TinyBERT).

    $$\frac1{n\,D} \sum_{i,k} (h^t_{ik} - h^s_{ik})^2$$

    The mean is over the D features and the n tokens, if there is a token dimension.

    Args:
        student: Hidden states, `[samples, tokens, features]` or `[units, features]`, mapped to the
            teacher's width by a connector.
        teacher: Hidden states of the same shape. No gradient reaches them.
        mask: True for tokens that are not padding, `[samples, tokens]`: the mean is over these;
            without any it is 0. `[samples, features]` has no tokens to mask.

    Returns:
        One value per sample (or element), `[samples]`; float32 for half-precision states. Its
        published weight is 1.

    Raises:
        InputError: Different shapes, too few dimensions, integer dtypes, or a mask of another
            shape.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2, 3), torch.tensor([[[1.0], [5.0]]]).expand(1, 2, 3)
        >>> hidden_mse(student, teacher)
        tensor([13.])
        >>> hidden_mse(student, teacher, mask=torch.tensor([[True, False]]))
        tensor([1.])

    Source: Jiao et al. 2020 (TinyBERT).
    """
    return _mean_squares(student, teacher, mask, "hidden_mse")


def embedding_mse(
    student: Float[Tensor, "units *tokens features"],
    teacher: Float[Tensor, "units *tokens features"],
    *,
    mask: Bool[Tensor, "samples tokens"] | None = None,
) -> Float[Tensor, " units"]:
    r"""Compute the mean squared error of embeddings (TinyBERT), equal to `hidden_mse`.

    $$\frac1{n\,D} \sum_{i,k} (e^t_{ik} - e^s_{ik})^2$$

    Args:
        student: Embeddings, `[samples, tokens, features]` or `[units, features]`, mapped to the
            teacher's width by a connector.
        teacher: Embeddings of the same shape. No gradient reaches them.
        mask: As in `hidden_mse`.

    Returns:
        One value per sample (or element), `[samples]`; float32 for half-precision embeddings. Its
        published weight is 1.

    Raises:
        InputError: As `hidden_mse`.

    Example:
        >>> import torch
        >>> embedding_mse(torch.zeros(2, 3), torch.ones(2, 3))
        tensor([1., 1.])

    Source: Jiao et al. 2020 (TinyBERT).
    """
    return _mean_squares(student, teacher, mask, "embedding_mse")


def _mean_squares(student: Tensor, teacher: Tensor, mask: Tensor | None, name: str) -> Tensor:
    ours, theirs = _states(student, teacher, mask, name)
    return mean_over_tokens((ours - theirs).square().mean(-1), mask)


def hidden_cosine(
    student: Float[Tensor, "units *tokens features"],
    teacher: Float[Tensor, "units *tokens features"],
    *,
    mask: Bool[Tensor, "samples tokens"] | None = None,
) -> Float[Tensor, " units"]:
    r"""Compute the cosine distance of hidden states (DistilBERT).

    $$\frac1n \sum_i \Big(1 - \frac{h^s_i \cdot h^t_i}{\|h^s_i\|\,\|h^t_i\|}\Big)$$

    The mean is over the n tokens, if there is a token dimension. The cosine of a zero state counts
    as 0, without a gradient.

    Args:
        student: Hidden states, `[samples, tokens, features]` or `[units, features]`, mapped to the
            teacher's width by a connector.
        teacher: Hidden states of the same shape. No gradient reaches them.
        mask: As in `hidden_mse`.

    Returns:
        One value per sample (or element) between 0 and 2, `[samples]`; float32 for half-precision
        states. DistilBERT's weight is 1, with 5 for the soft targets and 2 for the language model's
        own loss.

    Raises:
        InputError: As `hidden_mse`.

    Example:
        >>> import torch
        >>> hidden_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([1.])

    Source: Sanh et al. 2019 (DistilBERT).
    """
    states = _states(student, teacher, mask, "hidden_cosine")
    (ours, nowhere), (theirs, nowhere_either) = map(_directions, states)
    # 1 − ours·theirs, in a form that cannot round below 0 and is exact for equal vectors.
    value = (ours - theirs).square().sum(-1) / 2
    return mean_over_tokens(value.masked_fill(nowhere | nowhere_either, 1), mask)


def _directions(states: Tensor) -> tuple[Tensor, Tensor]:
    """Normalise each state to length 1; zeros stay, without a gradient; return their mask."""
    length, zero = norm(states)
    return states.masked_fill(zero, 0) / length, zero.squeeze(-1)


def without_padding(states: Tensor, mask: Tensor | None, *, rest: int, where: str) -> Tensor:
    """Set padding tokens to zero, so that they have no effect on value or gradient.

    `rest` dimensions follow samples and tokens; without a token dimension, as after pooling,
    nothing is masked.

    Raises:
        InputError: The mask does not fit the tokens.
    """
    if mask is None:
        return states
    if states.ndim == rest + 1:
        check_mask(mask, (len(states), *mask.shape[1:]), where=where)
        return states
    check_mask(mask, tuple(states.shape[: states.ndim - rest]), where=where)
    return states.masked_fill(~mask.reshape(*mask.shape, *[1] * rest), 0)


def mean_over_tokens(values: Tensor, mask: Tensor | None) -> Tensor:
    """Average `[units, tokens]` to `[units]`, without padding; return `[units]` unchanged."""
    if values.ndim == 1:
        return values
    if mask is None:
        tokens = values.flatten(1)
        return tokens.sum(1) / max(tokens.shape[1], 1)
    return values.masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp_min(1)


def check_axes(tensor: Tensor, axes: int, *, where: str, allowed: str) -> None:
    """Raise an error for a tensor of too few dimensions, or of an integer dtype.

    Raises:
        InputError: The tensor is invalid.
    """
    check_floating(tensor, where=where)
    if tensor.ndim < axes or tensor.shape[-1] == 0:
        raise InputError(Problem(where, tuple(tensor.shape), f"a tensor {allowed}"))


def _states(
    student: Tensor, teacher: Tensor, mask: Tensor | None, name: str
) -> tuple[Tensor, Tensor]:
    """Check both sides, and return them in the computation's precision, without padding."""
    allowed = "[samples, tokens, features] or [units, features]"
    check_axes(student, 2, where=f"{name}.student", allowed=allowed)
    check_floating(teacher, where=f"{name}.teacher")
    check_same_shape(student, teacher, where=f"{name}.teacher")
    ours, theirs = (
        without_padding(precise(states), mask, rest=1, where=f"{name}.mask")
        for states in (student, teacher.detach())
    )
    return ours, theirs
