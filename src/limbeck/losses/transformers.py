"""Losses over transformer hidden states and embeddings: one value per sample or element.

Values are means over tokens. A `mask` marks the tokens that are not padding; padding is excluded
from the mean, whatever its values.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.core.tensors import norm, precise
from limbeck.losses._inputs import check_axes, check_floating, check_mask, check_same_shape
from limbeck.losses._types import Mask, PerElement, States


def hidden_mse(student: States, teacher: States, *, mask: Mask | None = None) -> PerElement:
    r"""Compute the mean squared error of hidden states (TinyBERT).

    $$\frac1{n\,D} \sum_{i,k} (h^t_{ik} - h^s_{ik})^2$$

    The mean is over the D features and the n tokens, if there is a token dimension.

    Args:
        student: Hidden states `[samples, tokens, features]` or `[elements, features]`, mapped to
            the teacher's width by a connector.
        teacher: Hidden states of the same shape.
        mask: True for tokens that are not padding, `[samples, tokens]`: the mean is over these;
            without any it is 0. `[samples, features]` has no tokens to mask.

    Returns:
        One value per sample (or element), `[samples]`. Its published weight is 1.

    Raises:
        InputError: A wrong shape or dtype, or a mask of another shape.

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


def embedding_mse(student: States, teacher: States, *, mask: Mask | None = None) -> PerElement:
    r"""Compute the mean squared error of embeddings (TinyBERT), equal to `hidden_mse`.

    $$\frac1{n\,D} \sum_{i,k} (e^t_{ik} - e^s_{ik})^2$$

    Args:
        student: Embeddings, `[samples, tokens, features]` or `[elements, features]`, mapped to the
            the teacher's width by a connector.
        teacher: Embeddings of the same shape.
        mask: As in `hidden_mse`.

    Returns:
        One value per sample (or element), `[samples]`. Its published weight is 1.

    Raises:
        InputError: As `hidden_mse`.

    Example:
        >>> import torch
        >>> embedding_mse(torch.zeros(2, 3), torch.ones(2, 3))
        tensor([1., 1.])

    Source: Jiao et al. 2020 (TinyBERT).
    """
    return _mean_squares(student, teacher, mask, "embedding_mse")


def _mean_squares(student: Tensor, teacher: Tensor, mask: Tensor | None, where: str) -> Tensor:
    student, teacher = _states(student, teacher, mask, where)
    return mean_over_tokens((student - teacher).square().mean(-1), mask)


def hidden_cosine(student: States, teacher: States, *, mask: Mask | None = None) -> PerElement:
    r"""Compute the cosine distance of hidden states (DistilBERT).

    $$\frac1n \sum_i \Big(1 - \frac{h^s_i \cdot h^t_i}{\|h^s_i\|\,\|h^t_i\|}\Big)$$

    The mean is over the n tokens, if there is a token dimension. The cosine of a zero state counts
    as 0, without a gradient.

    Args:
        student: Hidden states `[samples, tokens, features]` or `[elements, features]`, mapped to
            the teacher's width by a connector.
        teacher: Hidden states of the same shape.
        mask: As in `hidden_mse`.

    Returns:
        One value per sample (or element) between 0 and 2, `[samples]`. DistilBERT's weight is 1,
        with 5 for the soft targets and 2 for the language model's own loss.

    Raises:
        InputError: As `hidden_mse`.

    Example:
        >>> import torch
        >>> hidden_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([1.])

    Source: Sanh et al. 2019 (DistilBERT).
    """
    states = _states(student, teacher, mask, "hidden_cosine")
    (student, zero), (teacher, teacher_zero) = map(_directions, states)
    # 1 − student·teacher, in a form that cannot round below 0 and is exact for equal vectors.
    value = (student - teacher).square().sum(-1) / 2
    return mean_over_tokens(value.masked_fill(zero | teacher_zero, 1), mask)


def _directions(states: Tensor) -> tuple[Tensor, Tensor]:
    """Normalise each state to length 1; zeros stay, without a gradient; return their mask."""
    length, zero = norm(states)
    return states.masked_fill(zero, 0) / length, zero.squeeze(-1)


def mask_padding(states: Tensor, mask: Tensor | None, *, rest: int, where: str) -> Tensor:
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
    """Average `[elements, tokens]` to `[elements]`, without padding; keep `[elements]`."""
    if values.ndim == 1:
        return values
    if mask is None:
        tokens = values.flatten(1)
        return tokens.sum(1) / max(tokens.shape[1], 1)
    return values.masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp_min(1)


def _states(
    student: Tensor, teacher: Tensor, mask: Tensor | None, where: str
) -> tuple[Tensor, Tensor]:
    """Check both sides, and return them in the computation's precision, without padding."""
    fewest, last = range(2, 99), slice(-1, None)
    allowed = "a tensor [samples, tokens, features] or [elements, features]"
    check_axes(student, fewest, where=f"{where}.student", allowed=allowed, nonempty=last)
    check_floating(teacher, where=f"{where}.teacher")
    check_same_shape(student, teacher, where=f"{where}.teacher")
    first, second = (
        mask_padding(precise(states), mask, rest=1, where=f"{where}.mask")
        for states in (student, teacher.detach())
    )
    return first, second
