"""Export parity: comparison of an exported file with its source on real rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from limbeck.data.spec import NOT_INPUTS
from limbeck.errors import InputError, Problem
from limbeck.evaluate.metrics import Parity, parity
from limbeck.export.invariance import check_invariance, compare
from limbeck.export.predictor import Predictions, Predictor, predict

if TYPE_CHECKING:
    from torch import nn

    from limbeck.data.split import Split

PARITY = 1e-3
"""Allowed difference of an export from its model, as a share of the spread of a sample's logits."""

ROWS, BATCH = 1_000, 128
"""Maximum number of compared rows, and their batch size, which differs from the measurement's."""

COMPANY = 16
"""Number of rows predicted alone, in other batches and in another order."""

BOUNDARY = 0.9
"""Required share of equal top classes where activations are rounded."""


def check_export(
    torch_model: Predictor,
    exported_model: Predictor,
    exported: Predictions,
    *,
    split: Split,
    where: str,
    model: nn.Module | None = None,
    tolerance: float = PARITY,
    rounded: bool = False,
) -> Parity:
    """Compare an exported file with its model on up to 1,000 rows; raise beyond the tolerance.

    The rows are spread over the split, including the longest and the shortest text, and the model
    predicts them in other batches than the file did. The file is then checked for batch invariance:
    one row at a time, in smaller batches and in another order.

    Args:
        torch_model: The model.
        exported_model: The file.
        exported: The file's predictions for the whole split, in order.
        split: The rows.
        where: The stage, for messages.
        model: The torch module, whose submodules are listed as likely causes.
        tolerance: The largest difference allowed, as a share of the spread of a sample's logits.
        rounded: Whether the model rounds activations: then half of the rows must agree within a
            wider tolerance, and nine in ten must have the same class.

    Returns:
        The comparison, for the record.

    Raises:
        InputError: The difference is larger, or a prediction depends on other rows.
    """
    company = split.__getitems__(split.spread(COMPANY))
    inputs = {name: company[name] for name in company if name not in NOT_INPUTS}
    for side in (torch_model, exported_model):
        check_invariance(side, inputs, where=where, model=model, rounded=rounded)
    rows = split.spread(ROWS)
    batches = (split.__getitems__(rows[at : at + BATCH]) for at in range(0, len(rows), BATCH))
    reference = predict(torch_model, batches)
    found = Predictions(exported.logits[rows], exported.labels[rows])
    [difference] = compare(
        {"logits": reference.logits}, {"logits": found.logits}, tolerance=tolerance, rounded=rounded
    )
    ranked = rounded and not is_real(reference)
    if not difference.within or (ranked and agreement(reference, found) < BOUNDARY):
        fix = (
            "Likely cause: an operator that ONNX Runtime computes otherwise, or a forward pass "
            "that branches on sizes, on values or on `self.training`."
        )
        allowed = f"a file that agrees with its model on {len(rows)} validation rows"
        raise InputError(Problem(where, f"an export whose {difference}", allowed, fix))
    return parity(reference, found, tolerance=difference.tolerance)


def check_compressed(
    reference: Predictions, compressed: Predictions, *, where: str, method: str, tolerance: float
) -> str:
    """Compare a compressed file with the float file; raise beyond the tolerance.

    The error is the root mean square of the difference of logits, divided by that of the float
    file's logits, both minus their mean over the classes; of real values minus the mean over the
    samples, the largest of all targets. The tolerance limits this error and the share of samples
    with another top class.

    Returns:
        A sentence with the figures, for the record.

    Raises:
        InputError: The difference is larger, or a logit is NaN.

    Example:
        >>> one = Predictions(np.array([[2.0, 0.0], [0.0, 2.0]], np.float32), np.array([0, 1]))
        >>> two = Predictions(np.array([[2.0, 0.1], [0.0, 2.1]], np.float32), np.array([0, 1]))
        >>> check_compressed(one, two, where="2-quantize", method="int8_static", tolerance=0.1)
        'differs from the float file by 5.0 % in logits, and in the top class on 0.0 % of 2 samples'
    """
    error, real = relative_error(reference, compressed), is_real(reference)
    changed = 0.0 if real else 1 - agreement(reference, compressed)
    text = f"differs from the float file by {100 * error:.1f} % in "
    text += "values" if real else "logits, and in the top class"
    text += f" on {'' if real else f'{100 * changed:.1f} % of '}{len(reference)} samples"
    if error <= tolerance and changed <= tolerance:
        return text
    fix = (
        "Likely causes: outliers among activations or weights, too few calibration samples, or an "
        "operator that loses much in few bits. Use a method with more bits, or activations in "
        "float (int8_dynamic, float16); to accept this, set the stage's `tolerance`."
    )
    allowed = f"at most {100 * tolerance:g} % each (tolerance: {tolerance:g})"
    raise InputError(Problem(where, f"a file by {method} that {text}", allowed, fix))


def relative_error(reference: Predictions, other: Predictions) -> float:
    """Compute the relative error of logits; infinity if one is NaN.

    Classes that both exclude with an infinite logit are ignored.
    """
    one, two = (side.logits.astype(np.float64) for side in (reference, other))
    left_out = np.isinf(one) & (one == two)
    one, two = (np.where(left_out, np.nan, side) for side in (one, two))
    if not (np.isfinite(one) == np.isfinite(two)).all() or np.isnan(two[~left_out]).any():
        return math.inf
    # Values have an offset per target, logits one per sample.
    axis = 0 if is_real(reference) else 1
    one, two = (side - np.nanmean(side, axis=axis, keepdims=True) for side in (one, two))
    # The largest error of a target, since one of small values would not count beside others.
    over = 0 if is_real(reference) else None
    size = np.maximum(np.nanmean(np.square(one), axis=over), 1e-30)
    return math.sqrt(float(np.max(np.nanmean(np.square(one - two), axis=over) / size)))


def is_real(predictions: Predictions) -> bool:
    """Return whether predictions are real values, not logits of classes."""
    return predictions.labels.dtype.kind == "f"


def agreement(reference: Predictions, other: Predictions) -> float:
    """Compute the share of samples with the same top class."""
    same = reference.logits.argmax(axis=1) == other.logits.argmax(axis=1)
    return float(same.mean())
