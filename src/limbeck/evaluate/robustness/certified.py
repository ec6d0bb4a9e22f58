"""Certified accuracy and boundary distances of student and teacher, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from limbeck.evaluate.bootstrap import Resamples, shares
from limbeck.evaluate.comparison import MetricComparison, compare
from limbeck.evaluate.robustness.attack_report import median_of
from limbeck.evaluate.robustness.bound_functions import propagate, trace
from limbeck.evaluate.robustness.bounds import UNIT, Bounds, NoBoundsError
from limbeck.evaluate.robustness.rows import CertifiedRow, Distances, in_255ths

BATCH = 50
"""Batch size in images."""


def certified_margins(
    model: nn.Module,
    pixels: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    eps: float,
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
        eps: The L-infinity perturbation size, ε.
        box: The range of the perturbed inputs.

    Returns:
        The bounds, `[n]`.

    Raises:
        NoBoundsError: A part of the model has no rule; it is named.

    Example:
        >>> model = nn.Linear(1, 2).requires_grad_(False)
        >>> _ = model.weight.copy_(torch.tensor([[1.0], [-1.0]])), model.bias.zero_()
        >>> one = np.full((1, 1), 0.5, dtype=np.float32)
        >>> certified_margins(model, one, np.array([0]), eps=0.2).round(3)
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
            parts.append(_margins(model, graph, part, right, eps, box).cpu().numpy())
    return np.concatenate(parts)


def around(pixels: Tensor, eps: float, box: tuple[float, float]) -> Bounds:
    """Compute the bounds of all perturbations of a size around inputs, within the box."""
    exact = pixels.double()
    return Bounds((exact - eps).clamp(min=box[0]), (exact + eps).clamp(max=box[1])).rounded(2)


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


Norm = Literal["l2", "linf"]
DUAL: dict[Norm, float] = {"l2": 2, "linf": 1}
"""The dual norm, of the gradient, for each norm of a perturbation."""

DISTANCE_BATCH = 100
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
            torch.tensor(pixels[first : first + DISTANCE_BATCH], device=device),
            torch.tensor(labels[first : first + DISTANCE_BATCH], device=device),
            DUAL[norm],
            candidates,
        )
        for first in range(0, len(pixels), DISTANCE_BATCH)
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


LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Quantiles of the distances that are recorded."""

CANDIDATES = 9
"""Number of the likeliest wrong classes considered for a distance."""


@dataclass(frozen=True)
class Certifiable:
    """A model to certify.

    Attributes:
        model: The torch model of pixels.
        right: Whether the exported file classifies each image correctly, `[n]`.
    """

    model: nn.Module
    right: NDArray[np.bool_]


def compare_certified(
    sides: Mapping[str, Certifiable],
    pixels: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    epsilons: tuple[float, ...],
    margin: float,
) -> tuple[tuple[CertifiedRow, ...], list[MetricComparison], list[str]]:
    """Compute the certified accuracy of both models at every size, by interval bounds.

    Args:
        sides: `student`, and `teacher` if there is one.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        epsilons: L-infinity perturbation sizes.
        margin: The non-inferiority margin.

    Returns:
        The values, the metric comparisons, and why a model has no certificate.
    """
    certified: dict[str, list[NDArray[np.float64]]] = {}
    notes = []
    for name, side in sides.items():
        try:
            certified[name] = [
                (side.right & (certified_margins(side.model, pixels, labels, eps=size) > 0)).astype(
                    np.float64
                )
                for size in epsilons
            ]
        except NoBoundsError as error:
            notes.append(f"The {name} has no certified accuracy: {error}.")
    if "student" not in certified:
        return (), [], notes
    rows, findings = [], []
    for number, size in enumerate(epsilons):
        theirs = certified["teacher"][number] if "teacher" in certified else None
        beside = shares(certified["student"][number], theirs)
        rows.append(CertifiedRow(eps=size, student=beside.student, teacher=beside.teacher))
        findings.append(
            compare(
                f"Certified accuracy, any change up to {in_255ths(size)}",
                unit="share",
                direction="higher",
                margin=margin,
                method=(
                    "Interval bounds through each model's torch_model, in exact arithmetic and in "
                    "float32, show that no change of this size alters the answer, and what ships "
                    "answers the picture rightly; a quantised file is not covered by the bounds."
                ),
                **dict(beside),
            )
        )
    return tuple(rows), findings, notes


def compare_distances(
    sides: Mapping[str, Certifiable],
    pixels: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    resamples: Resamples,
) -> tuple[Distances, MetricComparison]:
    """Compare the median distance to the decision boundary, by margin and gradient norm.

    Args:
        sides: `student`, and `teacher` if there is one.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        resamples: The bootstrap resamples of the images.
    """
    # No two images in the box are further apart than its diagonal.
    diagonal = pixels[0].size ** 0.5
    found = {
        name: boundary_distances(side.model, pixels, labels, candidates=CANDIDATES).clip(
            max=diagonal
        )
        for name, side in sides.items()
    }
    ours, theirs = found["student"], found.get("teacher")
    beside = resamples.paired(median_of(ours), None if theirs is None else median_of(theirs))
    distances = Distances(
        levels=LEVELS,
        student=tuple(np.quantile(ours, LEVELS).tolist()),
        teacher=None if theirs is None else tuple(np.quantile(theirs, LEVELS).tolist()),
    )
    finding = compare(
        "Median distance to the decision boundary",
        unit="number",
        direction="higher",
        margin=0.05 * (beside.teacher or beside.student).value,
        method=(
            "The logit margin divided by the L2 norm of its gradient, on each PyTorch model, in "
            "pixels from 0 to 1: exact where the model is linear around the image, and 0 where "
            "the prediction is wrong."
        ),
        **dict(beside),
    )
    return distances, finding
