"""Fused linear divergence: logits are computed from hidden states a few rows at a time.

The gradients of a block are computed with its logits, in the forward pass. Memory is of the size of
the hidden states and of the head, independent of elements times classes.
"""

from __future__ import annotations

from typing import Annotated, get_args

from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from limbeck.core.annotations import OnlyWith
from limbeck.core.numbers import is_whole
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.losses._fused import FusedArguments, Reduction, product_dtype
from limbeck.losses._fused_operation import fused
from limbeck.losses._inputs import check_labels, check_targets
from limbeck.losses._kinds import DivergenceConfig, Kind, Mixture
from limbeck.losses._types import Labels, Scalar
from limbeck.targets import CategoricalTargets, head_problems


def fused_divergence(
    hidden: Float[Tensor, "elements features"],
    weight: Float[Tensor, "classes features"],
    targets: CategoricalTargets,
    *,
    kind: Kind = "forward_kl",
    temperature: PositiveFloat,
    labels: Labels | None = None,
    label_weight: float = 1.0,
    bias: Float[Tensor, " classes"] | None = None,
    softcap: PositiveFloat | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    beta: Annotated[Mixture | None, OnlyWith("kind", "jsd")] = None,
    normalized: Annotated[bool, OnlyWith("kind", "jsd")] = False,
    block_bytes: PositiveInt | None = None,
) -> Scalar:
    r"""Compute the mean divergence from hidden states, without all logits in memory at once.

    With logits $z = h W^\top + b$, or $c \tanh(z/c)$ of them for a soft cap c, and weights w:

    $$\frac{\sum_i w_i \left[D(z_i, t_i) + \lambda\,\mathrm{CE}(z_i, y_i)\right]}{\sum_i w_i}$$

    D is `divergence`; value and gradients equal those of the dense form. Gradients are computed in
    the forward pass, so that double backward and forward mode raise an error. `torch.func.grad` and
    `vmap` work.

    Args:
        hidden: The student's last hidden states h, `[elements, features]`.
        weight: The student's head W, `[classes, features]`; may be tied to other weights.
        targets: The teacher's targets for the same elements, of any type.
        kind: As for `divergence`, and so are `temperature`, `beta` and `normalized`.
        temperature: T, above 0.
        labels: The labels y, `[elements]`, for cross-entropy at temperature 1.
        label_weight: λ; only with labels.
        bias: The head's b, `[classes]`.
        softcap: c, above 0.
        weights: The weight per element, `[elements]`, at least 0. Elements of weight 0 are excluded
            whatever their values, at no cost; if all weights are 0 the value is 0.
        reduction: `mean` as in the formula, or `sum`, its numerator.
        beta: The weight of the teacher in the mixture. Only for `jsd`.
        normalized: Whether to divide by β(1−β). Only for `jsd`.
        block_bytes: The memory limit of a block's logits, both sides together; by default the
            larger of 32 MiB and the head's size. Values do not depend on it.

    Returns:
        A scalar in nats. Gradients are summed up in float32, too.

    Raises:
        InputError: A wrong shape, dtype or setting; a second derivative, or forward mode.

    Example:
        >>> import torch
        >>> from limbeck.targets import DenseTargets
        >>> targets = DenseTargets(torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
        >>> hidden, weight = torch.zeros(2, 3), torch.ones(2, 3)
        >>> fused_divergence(hidden, weight, targets, temperature=1.0)
        tensor(0.1639)

    Source: the blocks as in Hsu et al. 2024 (Liger Kernel) and Wijmans et al. 2025 (Cut
    Cross-Entropy); the divergences as `divergence`.
    """
    where = "fused_divergence"
    config = DivergenceConfig.of(where, kind, temperature, beta, normalized)
    problems = head_problems(where, hidden, weight, bias, softcap)
    if hidden.is_floating_point() and product_dtype(hidden) != product_dtype(weight):
        fix = "Convert one of them, or use autocast."
        problems.append(Problem(f"{where}.weight", str(weight.dtype), str(hidden.dtype), fix))
    if block_bytes is not None and not is_whole(block_bytes, least=1):
        problems.append(Problem(f"{where}.block_bytes", block_bytes, "a whole number above 0"))
    if reduction not in (known := get_args(Reduction)):
        fix = did_you_mean(reduction, known)
        problems.append(Problem(f"{where}.reduction", reduction, ", ".join(known), fix))
    if problems:
        raise InputError(*problems)
    classes, place = len(weight), f"{where}.targets"
    check_targets(targets, len(hidden), classes, config.kind, config.temperature, where=place)
    if weights is not None and (weights.shape != hidden.shape[:1] or weights.is_complex()):
        given = f"{weights.dtype} {tuple(weights.shape)}"
        allowed = f"one weight per element, [{len(hidden)}]"
        raise InputError(Problem(f"{where}.weights", given, allowed))
    if labels is not None:
        check_labels(labels, hidden, where=f"{where}.labels")
    arguments = FusedArguments(
        targets, config, labels, float(label_weight), softcap, weights, reduction, block_bytes
    )
    return fused(hidden, weight, bias, arguments)
