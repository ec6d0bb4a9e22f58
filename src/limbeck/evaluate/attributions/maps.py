"""Maps of an input: how much each of its numbers had to do with an answer."""

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
"""Numbers that go through a model at once when gradients are integrated."""


def saliency(logits: Logits, inputs: Tensor, classes: Tensor) -> Array:
    r"""Give how steeply a class's logit changes with each number: `[n, ...]`, never below zero.

    $$a_i = \left|\frac{\partial f_c(x)}{\partial x_i}\right|$$

    Args:
        logits: Answers inputs with a way back to them, `[n, ...]` to `[n, classes]`.
        inputs: What is explained, `[n, ...]`.
        classes: Whose logit, `[n]`.

    Raises:
        InputError: captum is not installed.

    Source: Simonyan et al., 2013 (arXiv:1312.6034), as captum has it.
    """
    captum = require("captum.attr", extra="evaluate")
    inputs = inputs.detach().clone().requires_grad_()
    return _array(captum.Saliency(logits).attribute(inputs, target=classes))


def integrated_gradients(
    logits: Logits, inputs: Tensor, baseline: Tensor, classes: Tensor, *, steps: int
) -> tuple[Array, Array]:
    r"""Share a class's logit out among the numbers of an input, from a baseline on.

    $$a_i = (x_i - x'_i) \int_0^1 \frac{\partial f_c(x' + t(x - x'))}{\partial x_i}\, dt, \qquad
      \sum_i a_i = f_c(x) - f_c(x')$$

    Args:
        logits: Answers inputs with a way back to them, `[n, ...]` to `[n, classes]`.
        inputs: What is explained, `[n, ...]`.
        baseline: Where the path begins, `[1, ...]`.
        classes: Whose logit, `[n]`.
        steps: At how many points the integral is taken (Gauss and Legendre's).

    Returns:
        The attributions, `[n, ...]`, and what their sums miss of the difference, `[n]`.

    Raises:
        InputError: captum is not installed.

    Source: Sundararajan et al., ICML 2017 (arXiv:1703.01365), as captum has it.
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
    r"""Give how far a class's logit falls when a window of the input is covered: `[n, ...]`.

    $$a_i = f_c(x) - f_c(x \text{ with } x_W = x'_W), \qquad i \in W$$

    Windows lie side by side, a seventh of each side long, and cover all channels; the numbers of a
    row are covered one by one. It needs no gradients.

    Args:
        logits: Answers inputs, `[n, ...]` to `[n, classes]`.
        inputs: What is explained, `[n, ...]`.
        baseline: What covers it, `[1, ...]`.
        classes: Whose logit, `[n]`.

    Raises:
        InputError: captum is not installed.

    Source: Zeiler and Fergus, ECCV 2014 (arXiv:1311.2901), as captum has it.
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
    r"""Give inputs one small step towards any other class, to see whether their maps keep.

    $$x + s \cdot \mathrm{sign}\, \frac{\partial (-\log p_c(x))}{\partial x}$$

    Args:
        logits: Answers inputs with a way back to them, `[n, ...]` to `[n, classes]`.
        inputs: Where the step begins, `[n, ...]`.
        classes: Away from which, `[n]`.
        step: How far each number goes, broadcast to the inputs.

    Source: Goodfellow et al., ICLR 2015 (arXiv:1412.6572).
    """
    import torch

    inputs = inputs.detach().clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits(inputs), classes, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, inputs)
    return (inputs + step * gradient.sign()).detach()


def windows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Say how large a window is that covers a part of an input of a shape.

    Example:
        >>> windows((3, 28, 28)), windows((1, 5, 8)), windows((13,))
        ((3, 4, 4), (1, 1, 1), (1,))
    """
    channels, *sides = shape
    return (channels, *(max(1, side // 7) for side in sides)) if sides else (1,)


def flat(maps: Array, how: str) -> Array:
    """Make one number of a place's channels, `[n, channels, ...]` to `[n, ...]`.

    A row of numbers, `[n, numbers]`, has no channels and stays as it is.

    Args:
        maps: What one of the methods gave.
        how: Which: "saliency" takes the largest, "integrated_gradients" the sum, and "occlusion"
            the mean, since it covers all channels at once.
    """
    join: dict[str, Any] = {
        "saliency": np.max,
        "integrated_gradients": np.sum,
        "occlusion": np.mean,
    }
    return maps if maps.ndim < 3 else join[how](maps, axis=1)


def _array(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()
