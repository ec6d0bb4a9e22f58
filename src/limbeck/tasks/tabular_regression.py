"""Tabular regression: an element is a table row with one or several real targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.tasks._base import TABLE_INPUTS, VALUES, PerSample
from limbeck.tasks._value_details import value_details
from limbeck.tasks.scores import regression_scores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from limbeck.tasks.details import Details
    from limbeck.tasks.scores import Score
    from limbeck.tasks.task import Batch, Kind, Response, TaskData


class TabularRegression(PerSample):
    """Regression of one or several targets per table row.

    The model predicts standardised targets, `(target - mean) / std` by the training rows; an export
    returns them in their own units.

    Args:
        targets: The names of the targets.
        mean: The mean of each target, `[targets]`; default 0.
        std: The standard deviation of each target, `[targets]`; default 1.

    Example:
        >>> from torch import nn
        >>> task = TabularRegression(("price",), mean=torch.tensor([10.0]), std=torch.tensor([2.0]))
        >>> batch = {"features": torch.zeros(3, 4), "labels": torch.full((3, 1), 12.0)}
        >>> model = nn.Linear(4, 1, bias=False)
        >>> task.loss(task.respond(model, batch))["values"].tolist()
        [1.0, 1.0, 1.0]
        >>> task.outputs(model, batch)["values"].flatten().tolist()
        [10.0, 10.0, 10.0]
    """

    name: ClassVar[str] = "tabular_regression"
    inputs = TABLE_INPUTS
    kinds: ClassVar[Mapping[str, Kind]] = {VALUES: "value"}
    scores: tuple[Score, ...] = regression_scores((1.0,))
    classes: ClassVar[tuple[str, ...]] = ()
    reading: ClassVar[str] = """
(values,) = session.run(["values"], inputs)
print([dict(zip(classes, row.tolist())) for row in values])
"""
    restoring: ClassVar[str] = """
import json

with open("preprocess.json") as file:
    targets = json.load(file)["targets"]
scale = torch.tensor([[one["mean"], one["std"]] for one in targets])
outputs = logits * scale[:, 1] + scale[:, 0]  # in the targets' units
"""

    def __init__(
        self, targets: tuple[str, ...], mean: Tensor | None = None, std: Tensor | None = None
    ) -> None:
        self.targets = targets
        self._mean = torch.zeros(len(targets)) if mean is None else mean
        self._std = torch.ones(len(targets)) if std is None else std
        self.scores = regression_scores(tuple(self._std.tolist()))

    @classmethod
    def of(cls, data: TaskData) -> Self:
        """Build the task for a data set, with the scale of its training targets.

        Raises:
            InputError: The data have classes.
        """
        if not data.targets:
            fix = "Name the columns in data.targets, or use a task of classification."
            raise InputError(Problem("data.targets", None, "the columns of numeric targets", fix))
        names = tuple(one.name for one in data.targets)
        scale = torch.tensor([[one.mean, one.std] for one in data.targets])
        return cls(names, *scale.T)

    @property
    def details(self) -> Details:
        """Return scores of every target, and predictions against truth, for a report."""
        return value_details(self.targets, tuple(self._std.tolist()))

    @property
    def _width(self) -> int:
        return len(self.targets)

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model; return `values [n, targets]` in the targets' units.

        Raises:
            InputError: The batch lacks an input, or the model returns another shape.
        """
        values = self._run(model, batch)[0]
        return {VALUES: values * self._std.to(values) + self._mean.to(values)}

    def loss(self, response: Response) -> dict[str, Tensor]:
        """Compute the squared error of the standardised targets, the mean per row.

        Raises:
            InputError: The batch has no labels.
        """
        values, labels = self._with_labels(response)
        target = (self._label_rows(labels, values) - self._mean.to(values)) / self._std.to(values)
        return {VALUES: (values - target).square().mean(1)}
