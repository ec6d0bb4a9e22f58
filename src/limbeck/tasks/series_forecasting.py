"""Probabilistic forecasting of time series: an element is a step of a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, Self, runtime_checkable

import torch

from limbeck.errors import InputError, Problem
from limbeck.tasks._base import BaseTask
from limbeck.tasks._forecast_details import forecast_details
from limbeck.tasks._model_output import run_values
from limbeck.tasks._quantile_scores import LEVELS, QUANTILES, scores_of
from limbeck.tasks.task import Output, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from limbeck.taps import Taps
    from limbeck.tasks.details import Details
    from limbeck.tasks.task import Axes, Batch, Kind, TaskData


@runtime_checkable
class Forecast(Protocol):
    """The horizon and the quantiles that the preprocessing of a series states."""

    @property
    def horizon(self) -> int:
        """Return the number of predicted steps."""
        ...

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Return the levels of the predicted quantiles, ascending, each between 0 and 1."""
        ...


def pinball_loss(predicted: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    r"""Compute the pinball loss (quantile loss), the mean over the quantiles of each element.

    $$\frac{1}{Q} \sum_q \max(\tau_q (y - \hat y_q), (\tau_q - 1)(y - \hat y_q))$$

    Args:
        predicted: The quantiles, `[elements, quantiles]`.
        target: The true values y, `[elements]`.
        levels: The levels τ of the quantiles, `[quantiles]`.

    Returns:
        One value per element in the target's units, `[elements]`, never negative.

    Example:
        >>> levels = torch.tensor([0.1, 0.9])
        >>> pinball_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1.0]), levels)
        tensor([0.5000])

    Source: Koenker and Bassett 1978, "Regression quantiles".
    """
    error = target.unsqueeze(-1) - predicted
    return torch.maximum(levels * error, (levels - 1) * error).mean(-1)


class SeriesForecasting(BaseTask):
    """Forecasting of the next steps of one or several targets, as quantiles.

    The model reads a window of standardised series, and returns the quantiles of the standardised
    targets, `[n, horizon * targets * quantiles]` or with these axes; they are sorted, so that they
    do not cross. An export returns them in the targets' units. Missing labels (NaN) have weight 0.

    Args:
        targets: The names of the targets.
        horizon: The number of predicted steps.
        quantiles: The levels of the quantiles, ascending.
        mean: The mean of each target over the training rows, `[targets]`; default 0.
        std: Its standard deviation, `[targets]`; default 1.

    Example:
        >>> from torch import nn
        >>> task = SeriesForecasting(("load",), horizon=4)
        >>> batch = {"series": torch.zeros(2, 8, 3), "labels": torch.zeros(2, 4, 1)}
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(24, 12))
        >>> task.outputs(model, batch)["quantiles"].shape
        torch.Size([2, 4, 1, 3])
        >>> task.respond(model, batch).primary.values.shape
        torch.Size([8, 3])

    Source: Chernozhukov et al. 2010, "Quantile and probability curves without crossing" (sorting).
    """

    name: ClassVar[str] = "series_forecasting"
    inputs: ClassVar[Mapping[str, Axes]] = {"series": ("batch",)}
    element: ClassVar[str] = "step"
    kinds: ClassVar[Mapping[str, Kind]] = {QUANTILES: "quantiles"}
    scores = scores_of(LEVELS)
    classes: ClassVar[tuple[str, ...]] = ()
    reading: ClassVar[str] = """
(quantiles,) = session.run(["quantiles"], inputs)
print(quantiles[0])  # [steps, targets, quantiles], with the levels prepare["quantiles"]
"""
    restoring: ClassVar[str] = """
import json

with open("preprocess.json") as file:
    prepare = json.load(file)
scale = torch.tensor([[one["mean"], one["std"]] for one in prepare["targets"]])
shape = (len(logits), prepare["horizon"], len(scale), len(prepare["quantiles"]))
outputs = logits.reshape(shape).sort(dim=-1).values * scale[:, 1:] + scale[:, :1]
"""

    def __init__(
        self,
        targets: tuple[str, ...],
        *,
        horizon: int,
        quantiles: tuple[float, ...] = LEVELS,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        self.targets, self.horizon, self.quantiles = targets, horizon, quantiles
        self._levels = torch.tensor(quantiles)
        self._mean = torch.zeros(len(targets)) if mean is None else mean
        self._std = torch.ones(len(targets)) if std is None else std
        self._deviations = tuple(self._std.tolist())
        self.scores = scores_of(quantiles, self._deviations)

    @classmethod
    def of(cls, data: TaskData) -> Self:
        """Build the task for a data set, with the scale of its training targets.

        Raises:
            InputError: The data is no series.
        """
        forecast = data.preprocess
        if not isinstance(forecast, Forecast) or not data.targets:
            fix = f"Describe the window and the horizon there ({cls.name})."
            raise InputError(Problem.missing("data.series", fix))
        scale = torch.tensor([[one.mean, one.std] for one in data.targets])
        mean, std = scale.T
        return cls(
            tuple(one.name for one in data.targets),
            horizon=forecast.horizon,
            quantiles=forecast.quantiles,
            mean=mean,
            std=std,
        )

    @property
    def details(self) -> Details:
        """Return the loss by step and target, coverage by quantile, and samples, for a report."""
        return forecast_details(self.targets, self.horizon, self.quantiles, self._deviations)

    def _run(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return standardised quantiles, `[n, horizon, targets, quantiles]`, in order."""
        shape = (self.horizon, len(self.targets), len(self.quantiles))
        width = shape[0] * shape[1] * shape[2]
        values = run_values(model, self._take(batch, *self.inputs), width=width)
        return values.unflatten(1, shape).sort(dim=-1).values

    def raw_outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model; return standardised quantiles, as `outputs` shapes them.

        Raises:
            InputError: As for `outputs`.
        """
        return {QUANTILES: self._run(model, batch)}

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model; return `quantiles [n, horizon, targets, quantiles]` in units.

        Raises:
            InputError: The batch lacks an input, or the model returns another number of values.
        """
        values = self._run(model, batch)
        mean, std = (one.to(values).unsqueeze(-1) for one in (self._mean, self._std))
        return {QUANTILES: values * std + mean}

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run the model on a batch; elements are the steps of each target, sample by sample.

        Values and labels are standardised.

        Raises:
            InputError: As for `outputs`, or the labels have another shape.
        """
        values = self._run(model, batch)
        labels = batch.get("labels")
        if labels is not None:
            if labels.shape != values.shape[:-1]:
                allowed = f"{list(values.shape[:-1])}, [n, horizon, targets]"
                raise InputError(Problem("batch.labels", list(labels.shape), allowed))
            labels = (labels.to(values) - self._mean.to(values)) / self._std.to(values)
            labels = labels.nan_to_num().flatten()
        per_sample = self.horizon * len(self.targets)
        output = Output(
            values.flatten(0, 2),
            weights=self.weights(batch)[QUANTILES],
            sample_of=torch.arange(len(values), device=values.device).repeat_interleave(per_sample),
            labels=labels,
        )
        found = {} if taps is None else taps.take()
        return Response({QUANTILES: output}, taps=found, index=batch.get("index"))

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weight of every step of every target: that of its sample; 0 without label."""
        series = self._take(batch, *self.inputs)["series"]
        shape = (series.shape[0], self.horizon, len(self.targets))
        weights = torch.ones(shape, device=series.device)
        if "labels" in batch:
            weights = torch.isfinite(batch["labels"]).float().expand(shape)
        if "weight" in batch:
            weights = weights * batch["weight"][:, None, None]
        return {QUANTILES: weights.flatten()}

    def loss(self, response: Response) -> dict[str, Tensor]:
        """Compute the pinball loss of the standardised targets, one value per step.

        Raises:
            InputError: The batch has no labels.
        """
        values, labels = self._with_labels(response)
        return {QUANTILES: pinball_loss(values, labels, self._levels.to(values))}
