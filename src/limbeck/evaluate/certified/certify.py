"""Certified accuracy by interval bound propagation (IBP)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from limbeck.evaluate.certified.bounds import UNIT, Bounds, NoBoundsError
from limbeck.evaluate.certified.propagate import propagate, trace

BATCH = 50
"""Batch size in images."""


def certified_margins(
    model: nn.Module,
    pixels: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    size: float,
    box: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.float64]:
    r"""Compute a lower bound of the label's margin over every other class, by interval arithmetic.

    $$\min_{\lVert x' - x \rVert_\infty \le \epsilon} \bigl(z_y(x') - \max_{j \ne y} z_j(x')\bigr)
      \;\ge\; \text{the number given}$$

    Where it is positive, no perturbation of that size changes the prediction. It holds for the
    model's weights in exact arithmetic and in float32, in any order of summation; not for a
    quantised copy. The bound is not tight: many robust images have none above zero. A last linear
    layer is bounded for differences of classes at once, which is tighter.

    Args:
        model: Maps `[n, ...]` to logits `[n, classes]`; in eval mode.
        pixels: Its inputs, `[n, ...]`.
        labels: `[n]`.
        size: The L-infinity perturbation size, ε.
        box: The range of the perturbed inputs.

    Returns:
        The bounds, `[n]`.

    Raises:
        NoBoundsError: A part of the model has no rule; it is named.

    Example:
        >>> model = nn.Linear(1, 2).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[1.0], [-1.0]])), model.bias.zero_()
        >>> one = np.full((1, 1), 0.5, dtype=np.float32)
        >>> certified_margins(model, one, np.array([0]), size=0.2).round(3)
        array([0.6])

    Source: Gowal et al. 2018 (arXiv:1810.12715).
    """
    if fx.Tracer().is_leaf_module(model, ""):  # otherwise it would be traced into
        model = nn.Sequential(model)
    graph = trace(model)
    device = next(model.parameters(), torch.empty(0)).device
    parts = []
    with torch.no_grad():
        for first in range(0, len(pixels), BATCH):
            part = torch.tensor(pixels[first : first + BATCH], device=device)
            right = torch.tensor(labels[first : first + BATCH], device=device)
            parts.append(_margins(model, graph, part, right, size, box).cpu().numpy())
    return np.concatenate(parts)


def around(pixels: Tensor, size: float, box: tuple[float, float]) -> Bounds:
    """Compute the bounds of all perturbations of a size around inputs, within the box."""
    exact = pixels.double()
    return Bounds((exact - size).clamp(min=box[0]), (exact + size).clamp(max=box[1])).rounded(2)


def _margins(
    model: nn.Module,
    graph: fx.Graph,
    pixels: Tensor,
    labels: Tensor,
    size: float,
    box: tuple[float, float],
) -> Tensor:
    known = propagate(model, graph, around(pixels, size, box))
    output = next(node for node in graph.nodes if node.op == "output")
    logits = known[output]
    _check(logits, model(pixels))
    last = output.args[0]
    if isinstance(last, fx.Node) and last.op == "call_module":
        module = model.get_submodule(str(last.target))
        if type(module) is nn.Linear:
            return _last_layer(module, known[last.all_input_nodes[0]], labels)
    rows = torch.arange(len(labels), device=labels.device)
    others = logits.high.clone()
    others[rows, labels] = -torch.inf
    return logits.low[rows, labels] - others.amax(dim=1)


def _check(bounds: Bounds, logits: Tensor) -> None:
    """Check that bounds contain the model's own logits: otherwise a rule and a module disagree."""
    if not ((bounds.low <= logits) & (logits <= bounds.high)).all():
        raise NoBoundsError("the bounds do not hold the model's own answers")


def _last_layer(module: nn.Linear, x: Bounds, labels: Tensor) -> Tensor:
    """Compute the lower bound of `z_y - z_j` by the difference of weights, minimized over j."""
    weight = module.weight.double()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.double()
    middle = x.centre @ weight.T + bias
    slack = (weight.shape[1] + 3) * UNIT * (x.size @ weight.abs().T + bias.abs())
    least = torch.empty(len(labels), dtype=torch.float64, device=labels.device)
    for label in labels.unique():
        rows = labels == label
        width = x.radius[rows] @ (weight[label] - weight).abs().T
        margins = middle[rows][:, [label]] - middle[rows] - width
        margins -= slack[rows] + slack[rows][:, [label]]
        margins[:, label] = torch.inf
        least[rows] = margins.amin(dim=1)
    return least
