"""Details of independent labels for a report: F1 by label, and agreement of labels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from limbeck.core.measurement import Metric
from limbeck.tasks._model_output import LOGITS
from limbeck.tasks.details import Breakdown, Details, rows_of_sums
from limbeck.tasks.scores import EXACT_MATCH, LABEL_ACCURACY, f1_of_labels, label_counts

if TYPE_CHECKING:
    from limbeck.tasks.scores import Arrays


def label_details(labels: tuple[str, ...]) -> Details:
    """Return the details of independent labels."""
    agreements = (
        (LABEL_ACCURACY, "label_agreement", "Label agreement"),
        (EXACT_MATCH, "sample_agreement", "Agreement in all labels"),
    )
    return Details(
        breakdowns=(
            Breakdown(
                Metric(name="f1", title="F1"),
                labels,
                label_counts,
                rows_of_sums(f1_of_labels),
                by="label",
                note="F1 score at a probability of 0.5.",
            ),
        ),
        agreements=tuple(
            replace(score, metric=Metric(name=name, title=title))
            for score, name, title in agreements
        ),
        relabelled=_relabelled,
    )


def _relabelled(outputs: Arrays, batch: Arrays) -> Arrays:
    return {**batch, "labels": (outputs[LOGITS] > 0).astype(np.float32)}
