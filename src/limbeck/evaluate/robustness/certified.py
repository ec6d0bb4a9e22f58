"""Certified accuracy and boundary distances of student and teacher, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from limbeck.evaluate.bootstrap import Resamples, shares
from limbeck.evaluate.comparison import MetricComparison, compare
from limbeck.evaluate.robustness.attack_report import compare_medians
from limbeck.evaluate.robustness.attacks import wrong_classes
from limbeck.evaluate.robustness.bound_functions import propagate, trace
from limbeck.evaluate.robustness.bounds import UNIT, Bounds, NoBoundsError
from limbeck.evaluate.robustness.images import AttackTarget, Images, Labels, by_batches
from limbeck.evaluate.robustness.rows import CertifiedRow, Distances, in_255ths

BATCH = 50
"""Batch size in images."""


def certified_margins(
    model: nn.Module,
    pixels: NDArray[np.float32],
    labels: Labels,
    *,
    eps: float,
    box: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.float64]:
    r"""Compute a lower bound of the label's margin over every other class, by interval arithmetic.

    $$\min_{\lVert x' - x \rVert_\infty \le \epsilon} \bigl(z_y(x') - \max_{j \ne y} z_j(x')\bigr)$$

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

    def margins(x: Tensor, y: Tensor) -> Tensor:
        return _margins(model, graph, x, y, around(x, eps, box))

    with torch.no_grad():
        return by_batches(margins, model, pixels, labels, batch=BATCH)


def around(pixels: Tensor, eps: float, box: tuple[float, float]) -> Bounds:
    """Compute the bounds of all perturbations of a size around inputs, within the box."""
    exact = pixels.double()
    return Bounds((exact - eps).clamp(min=box[0]), (exact + eps).clamp(max=box[1])).rounded(2)


def _margins(model: nn.Module, graph: fx.Graph, x: Tensor, labels: Tensor, ball: Bounds) -> Tensor:
    bounds = propagate(model, graph, ball)
    output = next(node for node in graph.nodes if node.op == "output")
    low, high, logits = bounds[output].low, bounds[output].high, model(x)
    if not ((low <= logits) & (logits <= high)).all():  # then a rule and a module disagree
        raise NoBoundsError("the bounds do not contain the model's own logits")
    last = output.args[0]
    if isinstance(last, fx.Node) and last.op == "call_module":
        module = model.get_submodule(str(last.target))
        if type(module) is nn.Linear:
            return _last_layer(module, bounds[last.all_input_nodes[0]], labels)
    rows = torch.arange(len(labels), device=labels.device)
    others = high.clone()
    others[rows, labels] = -torch.inf
    return low[rows, labels] - others.amax(dim=1)


def _last_layer(module: nn.Linear, x: Bounds, labels: Tensor) -> Tensor:
    """Compute the lower bound of `z_y - z_j` by the difference of weights, minimized over j."""
    weight = module.weight.double()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.double()
    middle = x.centre @ weight.T + bias
    slack = (weight.shape[1] + 3) * UNIT * (x.size @ weight.abs().T + bias.abs())
    smallest = torch.empty(len(labels), dtype=torch.float64, device=labels.device)
    for label in labels.unique():
        rows = labels == label
        width = x.radius[rows] @ (weight[label] - weight).abs().T
        margins = middle[rows][:, [label]] - middle[rows] - width
        margins -= slack[rows] + slack[rows][:, [label]]
        margins[:, label] = torch.inf
        smallest[rows] = margins.amin(dim=1)
    return smallest


Norm = Literal["l2", "linf"]
DUAL: dict[Norm, float] = {"l2": 2, "linf": 1}
"""The dual norm, of the gradient, for each norm of a perturbation."""


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

    def distances(x: Tensor, y: Tensor) -> Tensor:
        x.requires_grad_()
        logits = model(x)
        smallest = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        for other in wrong_classes(logits, y)[:, :candidates].T:
            margin = (logits.gather(1, y[:, None]) - logits.gather(1, other[:, None]))[:, 0]
            (gradient,) = torch.autograd.grad(margin.sum(), x, retain_graph=True)
            height = margin.detach().double()
            distance = height / gradient.double().flatten(1).norm(p=DUAL[norm], dim=1)
            smallest = smallest.minimum(torch.where(height > 0, distance, 0.0))
        return smallest

    return by_batches(distances, model, pixels, labels)


LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Quantiles of the distances that are recorded."""

CANDIDATES = 9
"""Number of the likeliest wrong classes considered for a distance."""


def compare_certified(
    targets: Mapping[str, AttackTarget],
    images: Images,
    *,
    epsilons: tuple[float, ...],
    margin: float,
) -> tuple[tuple[CertifiedRow, ...], list[MetricComparison], list[str]]:
    """Compute the certified accuracy of the models in torch at every size, by interval bounds.

    An image counts if it is certified and the exported file classifies it correctly.

    Returns:
        The values, the metric comparisons, and why a model has no certificate.
    """
    certified: dict[str, list[NDArray[np.float64]]] = {}
    notes = []
    for name, target in targets.items():
        if target.model is None:
            continue
        correct = target.correct(images.pixels, images.labels)
        try:
            margins = [
                certified_margins(target.model, images.pixels, images.labels, eps=eps)
                for eps in epsilons
            ]
        except NoBoundsError as error:
            notes.append(f"The {name} has no certified accuracy: {error}.")
        else:
            certified[name] = [(correct & (each > 0)).astype(np.float64) for each in margins]
    if "student" not in certified:
        return (), [], notes
    rows, comparisons = [], []
    for number, eps in enumerate(epsilons):
        teacher = certified["teacher"][number] if "teacher" in certified else None
        both = shares(certified["student"][number], teacher)
        rows.append(CertifiedRow(eps=eps, student=both.student, teacher=both.teacher))
        comparisons.append(
            compare(
                f"Certified accuracy (L∞, ε = {in_255ths(eps)})",
                unit="share",
                direction="higher",
                margin=margin,
                method=(
                    "Interval bounds of each PyTorch model, in exact arithmetic and in float32, "
                    "prove that no perturbation of this size changes the prediction, and the "
                    "exported file is correct; the bounds do not cover a quantised file."
                ),
                **dict(both),
            )
        )
    return tuple(rows), comparisons, notes


def compare_distances(
    targets: Mapping[str, AttackTarget], images: Images, *, resamples: Resamples
) -> tuple[Distances, MetricComparison]:
    """Compare the median distance to the decision boundary, by margin and gradient norm."""
    # No two images in the box are further apart than its diagonal.
    diagonal = images.pixels[0].size ** 0.5
    student, *teacher = (
        boundary_distances(target.model, images.pixels, images.labels, candidates=CANDIDATES).clip(
            max=diagonal
        )
        for target in targets.values()
        if target.model is not None
    )
    distances = Distances(
        levels=LEVELS,
        student=tuple(np.quantile(student, LEVELS).tolist()),
        teacher=tuple(np.quantile(teacher[0], LEVELS).tolist()) if teacher else None,
    )
    comparison = compare_medians(
        "Median distance to the decision boundary",
        student,
        teacher[0] if teacher else None,
        resamples=resamples,
        method="The logit margin divided by the L2 norm of its gradient, on each PyTorch model, in "
        "pixels from 0 to 1: exact where the model is linear around the image, and 0 where the "
        "prediction is wrong.",
    )
    return distances, comparison
