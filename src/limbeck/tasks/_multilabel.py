"""Multi-label classification: several independent labels per sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch.nn.functional as F

from limbeck.errors import InputError, Problem
from limbeck.tasks._base import PerSample
from limbeck.tasks._label_details import label_details
from limbeck.tasks._model_output import LOGITS
from limbeck.tasks.scores import EXACT_MATCH, LABEL_ACCURACY, MACRO_F1

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from limbeck.tasks.details import Details
    from limbeck.tasks.scores import Score
    from limbeck.tasks.task import Kind, Response, TaskData


class Multilabel(PerSample):
    """Independent labels of each sample, each 0 or 1; subclasses add the inputs.

    Args:
        labels: The names of the labels, in the order of the outputs.
    """

    kinds: ClassVar[Mapping[str, Kind]] = {LOGITS: "binary"}
    scores: tuple[Score, ...] = (MACRO_F1, LABEL_ACCURACY, EXACT_MATCH)
    classes: ClassVar[tuple[str, ...]] = ()
    reading: ClassVar[str] = """
(logits,) = session.run(["logits"], inputs)
print([dict(zip(classes, row.tolist())) for row in 1 / (1 + np.exp(-logits))])
"""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels

    @classmethod
    def of(cls, data: TaskData) -> Self:
        """Build the task for a data set.

        Raises:
            InputError: The data has no columns of labels, or one holds other numbers than 0 and 1.
        """
        if not data.targets:
            fix = f"Name one column of 0 and 1 per label in data.targets ({cls.name})."
            raise InputError(Problem.missing("data.targets", fix))
        other = [one.name for one in data.targets if not one.binary]
        if other:
            allowed = "columns of 0 and 1, one per label"
            raise InputError(Problem("data.targets", ", ".join(other), allowed))
        return cls(tuple(one.name for one in data.targets))

    @property
    def details(self) -> Details:
        """Return the F1 score of every label and the agreement of labels, for a report."""
        return label_details(self.labels)

    @property
    def _width(self) -> int:
        return len(self.labels)

    def loss(self, response: Response) -> dict[str, Tensor]:
        """Compute the binary cross-entropy, the mean over the labels of each sample.

        Raises:
            InputError: The batch has no labels.
        """
        logits, labels = self._with_labels(response)
        rows = self._label_rows(labels, logits)
        each = F.binary_cross_entropy_with_logits(logits, rows, reduction="none")
        return {LOGITS: each.mean(1)}
