"""Export parity: comparison of an exported file with its source on real rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core.samples import BATCH as SAMPLES
from limbeck.data.spec import NOT_INPUTS
from limbeck.errors import InputError, Problem
from limbeck.evaluate.metrics import Parity, parity
from limbeck.export.invariance import check_invariance, compare
from limbeck.export.predictor import Predictor, bytes_per_sample
from limbeck.tasks import SAMPLE, element_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from limbeck.data.split import Split
    from limbeck.tasks import Kind, Task

PARITY = 1e-3
"""Allowed difference of an export from its model, as a share of the spread of a sample's logits."""

ROWS, BATCH = 1_000, 128
"""Maximum number of compared rows, and their batch size, which differs from the measurement's."""

LEAST, MOST_BYTES = 4, 64 * 2**20
"""The smallest number of compared rows, and the largest size of their outputs."""

COMPANY = 16
"""Number of rows predicted alone, in other batches and in another order."""

BOUNDARY = 0.9
"""Required share of equal top classes where activations are rounded."""


def check_export(
    torch_model: Predictor,
    exported_model: Predictor,
    task: Task,
    *,
    split: Split,
    where: str,
    model: nn.Module | None = None,
    tolerance: float = PARITY,
    rounded: bool = False,
) -> Parity:
    """Compare an exported file with its model on up to 1,000 rows; raise beyond the tolerance.

    The rows are spread over the split, including the longest and the shortest text, and the file
    predicts them in other batches than the model. The file is then checked for batch invariance:
    one row at a time, in smaller batches and in another order.

    Args:
        torch_model: The model.
        exported_model: The file.
        task: The task, which defines the outputs and their elements.
        split: The rows.
        where: The stage, for messages.
        model: The torch module, whose submodules are listed as likely causes.
        tolerance: The largest difference allowed, as a share of the spread of an element's logits,
            or of a target's values over all elements.
        rounded: Whether the model rounds activations: then half of the elements must agree within a
            wider tolerance, and nine in ten must have the same class.

    Returns:
        The comparison of the primary output, for the record.

    Raises:
        InputError: The difference is larger, or a prediction depends on other rows.
    """
    company = split.__getitems__(split.spread(COMPANY))
    inputs = {name: company[name] for name in company if name not in NOT_INPUTS}
    for side in (torch_model, exported_model):
        check_invariance(
            side,
            inputs,
            where=where,
            model=model,
            rounded=rounded,
            kinds=task.kinds,
            axes=task.inputs,
        )
    rows = compared_rows(exported_model, split)
    reference, found = (
        _outputs(side, task, split, rows, size)
        for side, size in ((torch_model, BATCH), (exported_model, BATCH // 2))
    )
    differences = compare(reference, found, tolerance=tolerance, rounded=rounded, kinds=task.kinds)
    first, kind = next(iter(task.kinds.items()))
    ranked = rounded and kind == "categorical"
    wrong = [one for one in differences if not one.within]
    if wrong or (ranked and agreement(reference[first], found[first]) < BOUNDARY):
        fix = (
            "Likely cause: an operator that ONNX Runtime computes otherwise, or a forward pass "
            "that branches on sizes, on values or on `self.training`."
        )
        allowed = f"a file that agrees with its model on {len(rows)} validation rows"
        given = f"an export whose {(wrong or differences)[0]}"
        raise InputError(Problem(where, given, allowed, fix))
    limits = np.array([one.tolerance for one in differences if one.output == first])
    if kind == "quantiles":
        limits = limits[:, None]
    return parity(reference[first], found[first], samples=len(rows), tolerance=limits)


def compared_rows(predictor: Predictor, split: Split) -> list[int]:
    """Return the rows on which two models are compared: up to 1,000, within 64 MB of outputs."""
    size = bytes_per_sample(predictor, split.__getitems__([0]))
    return split.spread(max(LEAST, min(ROWS, MOST_BYTES // max(1, size))))


def _outputs(
    predictor: Predictor, task: Task, split: Split, rows: list[int], size: int
) -> dict[str, NDArray[Any]]:
    """Predict some rows; return outputs as rows of elements, and decisions as rows of samples."""
    parts = []
    for start in range(0, len(rows), size):
        batch = split.__getitems__(rows[start : start + size])
        found = {
            name: _rows(value, task.kinds[name]) if name in task.kinds else value
            for name, value in predictor.predict(batch).items()
        }
        if _varies(task):  # padding depends on the batch
            weights = task.weights(batch)
            found |= {name: found[name][weights[name].numpy() > 0] for name in task.kinds}
        parts.append(found)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(values: NDArray[Any], kind: Kind) -> NDArray[Any]:
    """Return an output as rows of elements; quantiles as `[steps, targets, levels]`."""
    if kind == "quantiles":
        return values.reshape(-1, *values.shape[-2:])
    return element_rows(values, kind)


def _varies(task: Task) -> bool:
    """Return whether samples have several elements, whose number depends on the batch."""
    axes = {axis for names in task.inputs.values() for axis in names} - {None, SAMPLES}
    return bool(axes) and task.element != SAMPLE


def check_file(
    reference: Predictor, compressed: Predictor, task: Task, split: Split, **settings: Any
) -> str:
    """Compare a compressed file with the float file on some rows; see `check_compressed`."""
    rows = compared_rows(reference, split)
    first, kind = next(iter(task.kinds.items()))
    both = (_outputs(side, task, split, rows, BATCH)[first] for side in (reference, compressed))
    real = kind not in ("categorical", "binary")
    return check_compressed(*both, real=real, element=task.element, **settings)


def check_compressed(
    reference: NDArray[Any],
    compressed: NDArray[Any],
    *,
    where: str,
    method: str,
    tolerance: float,
    real: bool = False,
    element: str = SAMPLE,
) -> str:
    """Compare outputs of a compressed file with the float file's; raise beyond the tolerance.

    The error is the root mean square of the difference of logits, divided by that of the float
    file's logits, both minus their mean over the classes; of real values minus the mean over the
    elements, the largest of all targets. The tolerance limits this error and the share of elements
    with another top class.

    Args:
        reference: The float file's output, `[elements, width]`.
        compressed: The compressed file's output.
        where: The stage, for messages.
        method: The method of compression.
        tolerance: The largest error, and the largest share of changed top classes.
        real: Whether the output has real values, not logits.
        element: The name of an element in the sentence.

    Returns:
        A sentence with the figures, for the record.

    Raises:
        InputError: The difference is larger, or a logit is NaN.

    Example:
        >>> one, two = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([[2.0, 0.1], [0.0, 2.1]])
        >>> check_compressed(one, two, where="2-quantize", method="int8_static", tolerance=0.1)
        'differs from the float file by 5.0 % in logits, and in the top class on 0.0 % of 2 samples'
    """
    error = relative_error(reference, compressed, real=real)
    changed = 0.0 if real else 1 - agreement(reference, compressed)
    text = f"differs from the float file by {100 * error:.1f} % in "
    text += "values" if real else "logits, and in the top class"
    text += f" on {'' if real else f'{100 * changed:.1f} % of '}{len(reference)} {element}s"
    if error <= tolerance and changed <= tolerance:
        return text
    fix = (
        "Likely causes: outliers among activations or weights, too few calibration samples, or an "
        "operator that loses much in few bits. Use a method with more bits, or activations in "
        "float (int8_dynamic, float16); to accept this, set the stage's `tolerance`."
    )
    allowed = f"at most {100 * tolerance:g} % each (tolerance: {tolerance:g})"
    raise InputError(Problem(where, f"a file by {method} that {text}", allowed, fix))


def relative_error(reference: NDArray[Any], other: NDArray[Any], *, real: bool = False) -> float:
    """Compute the relative error of logits or real values; infinity if one is NaN.

    Classes that both exclude with an infinite logit are ignored.
    """
    one, two = (side.astype(np.float64) for side in (reference, other))
    left_out = np.isinf(one) & (one == two)
    one, two = (np.where(left_out, np.nan, side) for side in (one, two))
    if not (np.isfinite(one) == np.isfinite(two)).all() or np.isnan(two[~left_out]).any():
        return math.inf
    # Values have an offset per target, logits one per element.
    axis = 0 if real else 1
    one, two = (side - np.nanmean(side, axis=axis, keepdims=True) for side in (one, two))
    # The largest error of a target, since one of small values would not count beside others.
    over = 0 if real else None
    size = np.maximum(np.nanmean(np.square(one), axis=over), 1e-30)
    return math.sqrt(float(np.max(np.nanmean(np.square(one - two), axis=over) / size)))


def agreement(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Compute the share of elements with the same top class."""
    return float((reference.argmax(axis=1) == other.argmax(axis=1)).mean())
