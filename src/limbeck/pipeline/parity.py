"""An exported file held against the model that it was written from, on real rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.errors import InputError, Problem
from limbeck.evaluate.fidelity import Parity, parity
from limbeck.export.invariance import check_invariance, compare
from limbeck.export.predictor import Answers, Predictor, answers

if TYPE_CHECKING:
    from torch import nn

    from limbeck.data.split import Split

PARITY = 1e-3
"""How far an export may differ from its model, as a share of the spread of a sample's logits."""

ROWS, BATCH = 1_000, 128
"""Rows that are compared at most, and in which batches: others than those of the measurement."""

COMPANY = 16
"""Rows whose predictions are taken alone, in other batches and in another order."""

BOUNDARY = 0.9
"""The share of equal top classes that is required where activations are rounded."""


def check_export(
    torch_model: Predictor,
    exported_model: Predictor,
    exported: Answers,
    *,
    split: Split,
    where: str,
    model: nn.Module | None = None,
    tolerance: float = PARITY,
    rounded: bool = False,
) -> Parity:
    """Compare an exported file with its model on up to 1,000 rows, and fail beyond the tolerance.

    The rows are spread over the split, the longest and the shortest text among them, and the model
    predicts them in other batches than the file did. The file is then checked for batch invariance:
    one row at a time, in smaller batches and in another order.

    Args:
        torch_model: The model.
        exported_model: The file.
        exported: What the file predicts for the whole split, in its order.
        split: The rows.
        where: The stage, for messages.
        model: The torch module, whose parts are named as likely causes.
        tolerance: The largest difference allowed, as a share of the spread of a sample's logits.
        rounded: Whether activations are rounded on the way: then half of the rows have to agree
            within a wider tolerance, and nine in ten have to get the same class.

    Returns:
        The comparison, for the record.

    Raises:
        InputError: The two differ by more, or a prediction depends on more than its row.
    """
    company = split.__getitems__(split.spread(COMPANY))
    inputs = {name: company[name] for name in company if name not in {"label", "index", "view"}}
    for side in (torch_model, exported_model):
        check_invariance(side, inputs, where=where, model=model, rounded=rounded)
    rows = split.spread(ROWS)
    batches = (split.__getitems__(rows[at : at + BATCH]) for at in range(0, len(rows), BATCH))
    reference = answers(torch_model, batches)
    found = Answers(exported.logits[rows], exported.labels[rows])
    [difference] = compare(
        {"logits": reference.logits}, {"logits": found.logits}, tolerance=tolerance, rounded=rounded
    )
    agreement = float((reference.logits.argmax(1) == found.logits.argmax(1)).mean())
    if not difference.within or (rounded and agreement < BOUNDARY):
        fix = (
            "Likely cause: an operator that ONNX Runtime computes otherwise, or a forward pass "
            "that branches on sizes, on values or on `self.training`."
        )
        allowed = f"a file that agrees with its model on {len(rows)} validation rows"
        raise InputError(Problem(where, f"an export whose {difference}", allowed, fix))
    return parity(reference, found, tolerance=difference.tolerance)
