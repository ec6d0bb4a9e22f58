"""Ordinal classification: one class per sample, of classes in an order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from limbeck import losses
from limbeck.errors import InputError, Problem
from limbeck.tasks._classification import AUXILIARY_WEIGHT, Classification
from limbeck.tasks._model_output import LOGITS
from limbeck.tasks.scores import ACCURACY, QUADRATIC_KAPPA, RANK_ERROR, WITHIN_ONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from limbeck.tasks.scores import Score
    from limbeck.tasks.task import Response, TaskData

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Ordinal(Classification):
    """Classification whose classes have an order, such as grades; subclasses add the inputs.

    The model returns one logit per class, as any classifier: every loss, teacher, cache and
    ensemble of classification works, and the predicted class is the most probable one.

    Args:
        classes: The names of the classes, in their order.
    """

    scores: tuple[Score, ...] = (QUADRATIC_KAPPA, RANK_ERROR, WITHIN_ONE, ACCURACY)

    @classmethod
    def of(cls, data: TaskData) -> Self:
        """Build the task for a data set, and check the order of its classes.

        Raises:
            InputError: The data have numeric targets; labels are mixed; the order is not stated; or
                the names are numbers, which neither increase nor decrease.
        """
        task = super().of(data)
        if data.mixes_labels:
            allowed = f"one class per sample, for {task.name}"
            fix = "Leave out data.augment.mixup and cutmix, or use the task of unordered classes."
            raise InputError(Problem("data.augment", "labels mixed of two classes", allowed, fix))
        numbers = numbers_in(task.classes)
        listed = ", ".join(task.classes)
        if numbers is None and not data.order_stated:
            fix = f"List the classes from the lowest to the highest, of: {listed}."
            raise InputError(Problem.missing("data.classes", fix))
        if numbers is not None and numbers not in (sorted(numbers), sorted(numbers, reverse=True)):
            ordered = sorted(task.classes, key=lambda name: numbers[task.classes.index(name)])
            fix = f"Write data.classes: [{', '.join(ordered)}]"
            allowed = "classes in their order: numbers that increase or decrease"
            raise InputError(Problem("data.classes", listed, allowed, fix))
        return task

    def loss(self, response: Response) -> dict[str, Tensor]:
        """Compute the cross-entropy of the cumulative probabilities, one value per sample.

        Each auxiliary head, active in training mode only, adds its own times 0.3.

        Raises:
            InputError: The batch has no labels.

        Source: `limbeck.losses.cumulative_cross_entropy`.
        """
        logits, labels = self._with_labels(response)
        loss = losses.cumulative_cross_entropy(logits, labels)
        for auxiliary in response.primary.auxiliary:
            loss = loss + AUXILIARY_WEIGHT * losses.cumulative_cross_entropy(auxiliary, labels)
        return {LOGITS: loss}


def numbers_in(names: Sequence[str]) -> list[float] | None:
    """Return the number in each name, such as 2 of "2 stars"; None unless all have a different one.

    Example:
        >>> numbers_in(["1 star", "10 stars"]), numbers_in(["low", "high"])
        ([1.0, 10.0], None)
    """
    found = [NUMBER.findall(name) for name in names]
    if any(len(one) != 1 for one in found):
        return None
    numbers = [float(one) for (one,) in found]
    return numbers if len(set(numbers)) == len(numbers) else None
