"""Distance to the decision boundary: the margin divided by its gradient norm."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Norm = Literal["l2", "linf"]
DUAL: dict[Norm, float] = {"l2": 2, "linf": 1}
"""The dual norm, of the gradient, for each norm of a perturbation."""
BATCH = 100
"""Batch size in images."""


def boundary_distances(
    model: nn.Module,
    pixels: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    norm: Norm = "l2",
    candidates: int | None = None,
) -> NDArray[np.float64]:
    r"""Compute the distance to the decision boundary: the minimum of margin over gradient norm.

    $$d(x) = \min_{j \ne y} \frac{z_y(x) - z_j(x)}
      {\lVert \nabla_x z_y(x) - \nabla_x z_j(x) \rVert_*}$$

    For a linear model this is the exact distance to the nearest input of another class, with the
    gradients `w_y` and `w_j` its weights. For a ReLU network it is exact as long as the nearest
    boundary lies within the linear region around the input; beyond, it is an estimate. Inputs are
    not confined to a box.

    Args:
        model: Maps `[n, ...]` to logits `[n, classes]`; in eval mode.
        pixels: Its inputs, `[n, ...]`.
        labels: `[n]`.
        norm: The norm of a perturbation; gradients are measured in the dual norm, L2 for L2 and L1
            for L-infinity.
        candidates: Number of the likeliest other classes considered; by default all.

    Returns:
        The distances, `[n]`: 0 where the prediction is wrong already, infinite where all gradients
        are zero.

    Example:
        >>> model = nn.Linear(2, 2, bias=False).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> one = np.array([[1.0, 0.0]], dtype=np.float32)
        >>> boundary_distances(model, one, np.array([0])).round(3)
        array([0.6])

    Source: Moosavi-Dezfooli et al., CVPR 2016 (arXiv:1511.04599), equation 6; Hein &
        Andriushchenko, NeurIPS 2017 (arXiv:1705.08475), for dual norms.
    """
    device = next(model.parameters(), torch.empty(0)).device
    parts = [
        _distances(
            model,
            torch.tensor(pixels[first : first + BATCH], device=device),
            torch.tensor(labels[first : first + BATCH], device=device),
            DUAL[norm],
            candidates,
        )
        for first in range(0, len(pixels), BATCH)
    ]
    return np.concatenate([part.cpu().numpy() for part in parts])


def _distances(
    model: nn.Module, x: Tensor, labels: Tensor, dual: float, candidates: int | None
) -> Tensor:
    x.requires_grad_()
    logits = model(x)
    with torch.no_grad():
        wrong = logits.scatter(1, labels[:, None], -torch.inf)
        ranked = wrong.argsort(dim=1, descending=True)[:, :-1][:, :candidates]
    least = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    for rank in range(ranked.shape[1]):
        margin = (logits.gather(1, labels[:, None]) - logits.gather(1, ranked[:, [rank]]))[:, 0]
        (slope,) = torch.autograd.grad(margin.sum(), x, retain_graph=True)
        height = margin.detach().double()
        distance = height / slope.double().flatten(1).norm(p=dual, dim=1)
        least = least.minimum(torch.where(height > 0, distance, 0.0))
    return least
