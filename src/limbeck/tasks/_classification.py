"""Classification: one class per sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from limbeck import losses
from limbeck.errors import InputError, Problem
from limbeck.tasks._base import PerSample
from limbeck.tasks._model_output import LOGITS
from limbeck.tasks.scores import ACCURACY, Score

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from limbeck.tasks.task import Kind, Response, TaskData

AUXILIARY_WEIGHT = 0.3
"""Weight of each auxiliary head in training (Szegedy et al. 2015, section 5)."""


class Classification(PerSample):
    """Classification with one label per sample; subclasses add the inputs.

    Args:
        classes: The names of the classes.
    """

    kinds: ClassVar[Mapping[str, Kind]] = {LOGITS: "categorical"}
    scores: tuple[Score, ...] = (ACCURACY,)
    reading: ClassVar[str] = """
(logits,) = session.run(["logits"], inputs)
print("classes", [classes[number] for number in logits.argmax(axis=-1)])
"""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes

    @classmethod
    def of(cls, data: TaskData) -> Self:
        """Build the task for a data set.

        Raises:
            InputError: The data have numeric targets.
        """
        if not data.classes:
            fix = f"Use a task of regression, or name the column of the classes ({cls.name})."
            given = f"numeric targets: {', '.join(one.name for one in data.targets)}"
            raise InputError(Problem("task", given, "labels that are classes", fix))
        return cls(data.classes)

    @property
    def _width(self) -> int:
        return len(self.classes)

    def loss(self, response: Response) -> dict[str, Tensor]:
        """Compute the cross-entropy with the labels, one value per sample.

        Each auxiliary head, active in training mode only, adds its cross-entropy times 0.3.

        Raises:
            InputError: The batch has no labels.

        Source: Szegedy et al. 2015, "Going deeper with convolutions", section 5.
        """
        logits, labels = self._with_labels(response)
        loss = losses.cross_entropy(logits, labels)
        for auxiliary in response.primary.auxiliary:
            loss = loss + AUXILIARY_WEIGHT * losses.cross_entropy(auxiliary, labels)
        return {LOGITS: loss}
