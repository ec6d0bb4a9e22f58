"""Batch invariance checks: a sample's prediction must depend on that sample only.

A model may be correct on evaluation batches and wrong on a single sample: features centred over the
batch, batch normalisation without running statistics, a recurrent layer that reads the batch as its
time axis, unmasked padding. The same check finds models that draw random numbers, keep state
between calls, or modify their input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.errors import InputError, Problem
from limbeck.export.predictor import Predictor

RELATIVE = 5e-3
"""Allowed difference of predictions, as a share of the spread of a sample's outputs."""

ROUNDED = 20.0
"""Tolerance factor for models that round activations: a sum near a rounding boundary may go either
way, and other batch sizes use other kernels.
"""

ALONE = 8
"""Number of samples predicted one at a time."""

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """The difference between two sets of predictions in one output.

    Attributes:
        output: The output's name.
        error: The largest absolute difference per sample, `[n]`; NaN or infinity where one of the
            two is not finite.
        tolerance: The allowed difference, in the output's unit.
        changed: The share of samples with another top class; None for a single output.
        rounded: Whether the model rounds activations; then only half of the samples must agree.
    """

    output: str
    error: NDArray[np.float64]
    tolerance: float
    changed: float | None
    rounded: bool = False

    @property
    def largest(self) -> float:
        """Return the largest difference over all samples; infinity if one is not finite."""
        return float(np.nan_to_num(self.error, nan=np.inf).max(initial=0.0))

    @property
    def within(self) -> bool:
        """Return whether the two agree within the tolerance."""
        error = np.nan_to_num(self.error, nan=np.inf)
        held = float(np.median(error)) if self.rounded and len(error) else self.largest
        return held <= self.tolerance

    def __str__(self) -> str:
        text = f'"{self.output}" differs by {self.largest:.3g}, tolerance {self.tolerance:.3g}'
        if self.changed is None:
            return text
        return f"{text}, {self.changed:.1%} of {len(self.error)} samples get another class"


def compare(
    expected: Mapping[str, NDArray[Any]],
    found: Mapping[str, NDArray[Any]],
    *,
    tolerance: float,
    rounded: bool = False,
) -> list[Difference]:
    """Compare two sets of predictions for the same samples, output by output.

    The tolerance of an output is `tolerance` times the median over samples of the spread (largest
    minus smallest finite value), plus 1e-5 of the largest magnitude for rounding in float32.
    Infinities of the same sign on both sides are equal.

    Args:
        expected: The reference, `[n, ...]` per output.
        found: The predictions to compare, in the same shapes.
        tolerance: The largest relative difference allowed.
        rounded: Whether the model rounds activations.

    Example:
        >>> one = {"logits": np.array([[2.0, 0.0], [0.0, 2.0]])}
        >>> two = {"logits": np.array([[2.0, 0.1], [0.0, 2.0]])}
        >>> [found] = compare(one, two, tolerance=0.01)
        >>> found.within, round(found.largest, 3)
        (False, 0.1)
    """
    return [
        _difference(name, expected[name], found[name], tolerance, rounded)
        for name in expected
        if len(expected[name])
    ]


def _difference(
    name: str, expected: NDArray[Any], found: NDArray[Any], relative: float, rounded: bool
) -> Difference:
    one = expected.reshape(len(expected), -1).astype(np.float64)
    other = found.reshape(len(found), -1).astype(np.float64)
    if one.shape != other.shape:
        return Difference(name, np.full(len(one), np.inf), 0.0, None)
    with np.errstate(invalid="ignore"):
        error = np.where(one == other, 0.0, np.abs(one - other)).max(axis=1, initial=0.0)
    finite = np.where(np.isfinite(one), one, np.nan)
    usable = finite[np.isfinite(finite).any(axis=1)]
    spread = magnitude = 0.0
    if usable.size:
        spread = float(np.median(np.nanmax(usable, axis=1) - np.nanmin(usable, axis=1)))
        magnitude = float(np.nanmax(np.abs(usable)))
    if one.shape[1] == 1:  # a single value per sample: use its spread over samples
        spread = float(np.ptp(usable)) if usable.size else 0.0
    allowed = relative * spread * (ROUNDED if rounded else 1.0) + 1e-5 * magnitude + 1e-7
    changed = (
        float((one.argmax(axis=1) != other.argmax(axis=1)).mean()) if one.shape[1] > 1 else None
    )
    return Difference(name, error, allowed, changed, rounded)


def check_invariance(
    predictor: Predictor,
    batch: Mapping[str, Any],
    *,
    where: str,
    model: nn.Module | None = None,
    tolerance: float = RELATIVE,
    rounded: bool = False,
) -> None:
    """Check that each sample gets the same prediction alone, in a batch, and in another order.

    The batch is predicted twice, in reverse order, in two halves, and sample by sample, with batch
    padding of texts removed. Predictions must be finite (minus infinity excludes a class, and is
    allowed), and the input must not be modified.

    Args:
        predictor: A torch model (`TorchPredictor`) or an exported file (`OnnxPredictor`).
        batch: At least two samples; texts should differ in length.
        where: The place in the recipe, or the stage, for messages.
        model: The torch model of the predictor, whose modules are listed as likely causes.
        tolerance: The largest difference allowed, as a share of the spread of a sample's outputs.
        rounded: Whether the model rounds activations.

    Raises:
        InputError: Predictions depend on other samples, on padding, on earlier calls or on random
            numbers, hold NaN, or the input is changed in place: every problem at once.

    Example:
        >>> from limbeck.export.predictor import TorchPredictor
        >>> from limbeck.tasks.tabular_classification import TabularClassification
        >>> class Centred(nn.Linear):
        ...     def forward(self, x):
        ...         return super().forward(x - x.mean(dim=0))
        >>> predictor = TorchPredictor(Centred(3, 2), TabularClassification(("a", "b")))
        >>> check_invariance(predictor, {"features": torch.randn(8, 3)}, where="student")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: student: got ... when predicted one at a time...
    """
    problems = list(_problems(predictor, batch, where, model, tolerance, rounded))
    if problems:
        raise InputError(*problems)


def _problems(
    predictor: Predictor,
    batch: Mapping[str, Any],
    where: str,
    model: nn.Module | None,
    tolerance: float,
    rounded: bool,
) -> Iterator[Problem]:
    inputs = {name: torch.as_tensor(value) for name, value in batch.items()}
    given = {name: tensor.clone() for name, tensor in inputs.items()}
    expected = predictor.predict(given)
    touched = [name for name in inputs if not _same(inputs[name], given[name])]
    if touched:
        fix = "Compute into a new tensor (x = x - mean, not x -= mean; nn.ReLU(inplace=False))."
        changed = f"a model that changes its input {', '.join(touched)} in place"
        yield Problem(where, changed, "a model that leaves its input as it is", fix)
    wrong = _not_finite(expected)
    if wrong:
        yield Problem(where, wrong, "finite outputs, or minus infinity for a class ruled out")
        return

    def differs(other: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> list[Difference]:
        reference = {name: value[rows] for name, value in expected.items()}
        found = compare(reference, other, tolerance=tolerance, rounded=rounded)
        return [one for one in found if not one.within]

    count = len(next(iter(inputs.values())))
    everything = np.arange(count)
    # The second and the last call are the same: state may need other samples in between.
    again = differs(predictor.predict(_copy(inputs)), everything)
    others = {}
    for how, groups in _groupings(count).items():
        try:
            others[how] = _together(predictor, inputs, groups)
        # The model is the user's code, and may raise anything.
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            failed = f"{type(error).__name__} when {how}: {first}"
            advice = _advice(model, inputs, raised=True)
            yield Problem(where, failed, "a prediction for any number of samples", advice)
            return
    again = again or differs(predictor.predict(_copy(inputs)), everything)
    if again:
        yield _unsteady(predictor, inputs, where, again[0])
        return
    for how, (found, rows) in others.items():
        deviations = differs(found, rows)
        if deviations:
            yield Problem(
                where,
                f"{deviations[0]} when {how}",
                "the same prediction for a sample whatever else is in the batch",
                _advice(model, inputs),
            )
            return


def _groupings(count: int) -> dict[str, list[NDArray[np.int64]]]:
    """Return groupings of the samples that differ from the whole batch."""
    everything = np.arange(count)
    alone = np.linspace(0, count - 1, min(count, ALONE)).astype(np.int64)
    return {
        "predicted one at a time": [alone[place : place + 1] for place in range(len(alone))],
        "predicted in reverse order": [everything[::-1].copy()],
        "predicted in smaller batches": [
            half for half in np.array_split(everything, 2) if len(half)
        ],
    }


def _together(
    predictor: Predictor, inputs: Mapping[str, Tensor], groups: list[NDArray[np.int64]]
) -> tuple[Outputs, NDArray[np.int64]]:
    """Predict group by group; return the predictions and the indices of their samples."""
    parts = [predictor.predict(_rows(inputs, rows)) for rows in groups]
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return together, np.concatenate(groups)


def _rows(inputs: Mapping[str, Tensor], rows: NDArray[np.int64]) -> dict[str, Tensor]:
    """Select some samples, and drop columns in which all of them are padding."""
    taken = {name: tensor[torch.from_numpy(rows)] for name, tensor in inputs.items()}
    mask = taken.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return taken
    used = mask.bool().any(dim=0)
    if not used.any():
        return taken
    return {
        name: tensor[:, used] if tensor.shape[:2] == mask.shape else tensor
        for name, tensor in taken.items()
    }


def _copy(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in inputs.items()}


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def _not_finite(outputs: Mapping[str, NDArray[Any]]) -> str:
    for name, value in outputs.items():
        rows = value.reshape(len(value), -1) if len(value) else value
        wrong = np.isnan(rows) | np.isposinf(rows)
        if wrong.any():
            count = int(wrong.reshape(len(rows), -1).any(axis=1).sum())
            return f'NaN or infinity in "{name}" for {count} of {len(rows)} samples'
    return ""


def _unsteady(
    predictor: Predictor, inputs: dict[str, Tensor], where: str, found: Difference
) -> Problem:
    """Distinguish random numbers from state, by two predictions with the same seed."""
    runs = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            torch.manual_seed(0)
            runs.append(predictor.predict(_copy(inputs)))
    [*same] = compare(runs[0], runs[1], tolerance=RELATIVE)
    if all(one.within for one in same):
        fix = "Draw no random numbers in evaluation mode (self.training, nn.Dropout)."
        cause = "the model draws random numbers"
    else:
        fix = "Keep no state between calls: reset buffers and attributes in forward."
        cause = "the model keeps state between calls"
    return Problem(
        where, f"{found} when the same batch is predicted again", "the same prediction", f"{fix} "
        f"Likely cause: {cause}.",
    )  # fmt: skip


def _advice(model: nn.Module | None, inputs: Mapping[str, Tensor], *, raised: bool = False) -> str:
    causes = [] if model is None else list(likely_causes(model))
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask.bool().all()):
        causes.append("padding that the model reads: mask it by attention_mask")
    if not causes and raised:
        causes = ["squeeze() without an axis removes a batch of one: state the axis, squeeze(-1)"]
    if not causes:
        causes = ["a mean, deviation, maximum or softmax over axis 0, which is the batch"]
    return f"Likely cause: {'; or '.join(causes)}."


def likely_causes(model: nn.Module) -> Iterator[str]:
    """Yield the modules that may make predictions depend on the batch.

    Example:
        >>> list(likely_causes(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))))
        ['0 (BatchNorm1d) normalises over the batch: set track_running_stats=True']
    """
    found: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        why = _cause(module)
        if why:
            found.setdefault(why, []).append(f"{path or 'the model'} ({type(module).__name__})")
    for why, places in found.items():
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        yield f"{', '.join(places[:3])}{more} {why}"


def _cause(module: nn.Module) -> str:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if module.running_mean is None:
            return "normalises over the batch: set track_running_stats=True"
        if module.training:
            return "stays in training mode, and normalises over the batch: do not override train()"
    if getattr(module, "batch_first", None) is False:
        return "takes the batch as its second axis: set batch_first=True"
    if isinstance(module, nn.Softmax | nn.LogSoftmax | nn.Softmin) and module.dim in {0, None}:
        return "normalises over axis 0, which is the batch: set dim=-1"
    return ""
