"""Attribution maps: saliency, integrated gradients, occlusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limbeck.optional import require

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]
Logits = Callable[["Tensor"], "Tensor"]
BLOCK = 2**21
"""Numbers per forward pass when gradients are integrated."""


def saliency(logits: Logits, inputs: Tensor, classes: Tensor) -> Array:
    r"""Compute saliency: the absolute gradient of a class's logit, `[n, ...]`.

    $$a_i = \left|\frac{\partial f_c(x)}{\partial x_i}\right|$$

    Args:
        logits: The model, differentiable in its inputs, `[n, ...]` to `[n, classes]`.
        inputs: The explained inputs, `[n, ...]`.
        classes: The class of the logit, `[n]`.

    Raises:
        InputError: captum is not installed.

    Source: Simonyan et al., 2013 (arXiv:1312.6034), as in captum.
    """
    captum = require("captum.attr", extra="evaluate")
    inputs = inputs.detach().clone().requires_grad_()
    return _array(captum.Saliency(logits).attribute(inputs, target=classes))


def integrated_gradients(
    logits: Logits, inputs: Tensor, baseline: Tensor, classes: Tensor, *, steps: int
) -> tuple[Array, Array]:
    r"""Compute integrated gradients of a class's logit along the path from a baseline.

    $$a_i = (x_i - x'_i) \int_0^1 \frac{\partial f_c(x' + t(x - x'))}{\partial x_i}\, dt, \qquad
      \sum_i a_i = f_c(x) - f_c(x')$$

    Args:
        logits: The model, differentiable in its inputs, `[n, ...]` to `[n, classes]`.
        inputs: The explained inputs, `[n, ...]`.
        baseline: The start of the path, `[1, ...]`.
        classes: The class of the logit, `[n]`.
        steps: Number of integration points (Gauss-Legendre).

    Returns:
        The attributions, `[n, ...]`, and their completeness errors, `[n]`.

    Raises:
        InputError: captum is not installed.

    Source: Sundararajan et al., ICML 2017 (arXiv:1703.01365), as in captum.
    """
    import torch

    captum = require("captum.attr", extra="evaluate")
    method = captum.IntegratedGradients(logits)
    rows = max(1, BLOCK // (steps * inputs[0].numel()))
    parts = [
        method.attribute(
            inputs[first : first + rows].detach().requires_grad_(),
            baseline.expand_as(inputs[first : first + rows]),
            target=classes[first : first + rows],
            n_steps=steps,
            return_convergence_delta=True,
        )
        for first in range(0, len(inputs), rows)
    ]
    attributed, missed = (torch.cat(part) for part in zip(*parts, strict=True))
    return _array(attributed), _array(missed)


def occlusion(logits: Logits, inputs: Tensor, baseline: Tensor, classes: Tensor) -> Array:
    r"""Compute the decrease of a class's logit when a window of the input is occluded: `[n, ...]`.

    $$a_i = f_c(x) - f_c(x \text{ with } x_W = x'_W), \qquad i \in W$$

    Windows do not overlap, are a seventh of each side long, and cover all channels; the numbers of
    a row are occluded one by one. No gradients are needed.

    Args:
        logits: The model, `[n, ...]` to `[n, classes]`.
        inputs: The explained inputs, `[n, ...]`.
        baseline: The values of the occluded part, `[1, ...]`.
        classes: The class of the logit, `[n]`.

    Raises:
        InputError: captum is not installed.

    Source: Zeiler and Fergus, ECCV 2014 (arXiv:1311.2901), as in captum.
    """
    import torch

    captum = require("captum.attr", extra="evaluate")
    window = windows(tuple(inputs.shape[1:]))
    with torch.no_grad():
        return _array(
            captum.Occlusion(logits).attribute(
                inputs,
                sliding_window_shapes=window,
                strides=window,
                baselines=baseline.expand_as(inputs),
                target=classes,
            )
        )


def nudged(logits: Logits, inputs: Tensor, classes: Tensor, step: Tensor) -> Tensor:
    r"""Return inputs after one small signed step against a class, to test their maps' stability.

    $$x + s \cdot \mathrm{sign}\, \frac{\partial (-\log p_c(x))}{\partial x}$$

    Args:
        logits: The model, differentiable in its inputs, `[n, ...]` to `[n, classes]`.
        inputs: The start of the step, `[n, ...]`.
        classes: The class whose probability the step lowers, `[n]`.
        step: The step of each number, broadcast to the inputs.

    Source: Goodfellow et al., ICLR 2015 (arXiv:1412.6572).
    """
    import torch

    inputs = inputs.detach().clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits(inputs), classes, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, inputs)
    return (inputs + step * gradient.sign()).detach()


def windows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of an occlusion window for an input of a shape.

    Example:
        >>> windows((3, 28, 28)), windows((1, 5, 8)), windows((13,))
        ((3, 4, 4), (1, 1, 1), (1,))
    """
    channels, *sides = shape
    return (channels, *(max(1, side // 7) for side in sides)) if sides else (1,)


def flat(maps: Array, how: str) -> Array:
    """Reduce a map over channels, `[n, channels, ...]` to `[n, ...]`.

    A row of numbers, `[n, numbers]`, has no channels and is returned unchanged.

    Args:
        maps: The maps of one method.
        how: The method: "saliency" takes the maximum, "integrated_gradients" the sum, and
            "occlusion" the mean, since it covers all channels at once.
    """
    join: dict[str, Any] = {
        "saliency": np.max,
        "integrated_gradients": np.sum,
        "occlusion": np.mean,
    }
    return maps if maps.ndim < 3 else join[how](maps, axis=1)


def _array(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()
