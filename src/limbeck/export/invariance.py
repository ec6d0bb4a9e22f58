"""Batch invariance checks: a sample's prediction must depend on that sample only.

A model may be correct on evaluation batches and wrong on a single sample: features centred over the
batch, batch normalisation without running statistics, a recurrent layer that reads the batch as its
time axis, unmasked padding. The same check finds models that draw random numbers, keep state
between calls, or modify their input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.core.samples import Axes, count_samples, select_samples
from limbeck.errors import InputError, Problem
from limbeck.export.predictor import Predictor

RELATIVE = 5e-3  # allowed difference of predictions, as a share of the spread of a sample's outputs
ROUNDED = 20.0
"""Tolerance factor for models that round activations: other batch sizes use other kernels, which
may round a sum near a boundary up or down.
"""

HALF, DECIDED = 0.5, 0.9
"""The shares of samples that must agree where activations are rounded, and in decisions."""

TARGETS = {"value": -1, "quantiles": -2}
"""The axis of targets in outputs of real values, by kind."""

ALONE = 8  # number of samples predicted one at a time
Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """The difference between two sets of predictions in one output.

    Attributes:
        output: The output's name.
        error: The largest absolute difference per sample, `[n]`; NaN or infinity where one of the
            two is not finite.
        tolerance: The allowed difference, in the output's unit.
        changed: The share of samples with another top class; None if a sample has no single one.
        share: The share of samples that must agree.
        target: The place of the target in an output of several real values; otherwise None.
    """

    output: str
    error: NDArray[np.float64]
    tolerance: float
    changed: float | None
    share: float = 1.0
    target: int | None = None

    @property
    def largest(self) -> float:
        """Return the largest difference over all samples; infinity if one is not finite."""
        return float(np.nan_to_num(self.error, nan=np.inf).max(initial=0.0))

    @property
    def within(self) -> bool:
        """Return whether the two agree within the tolerance."""
        if self.share == 1.0 or not len(self.error):
            return self.largest <= self.tolerance
        error = np.nan_to_num(self.error, nan=np.inf)
        return float(np.quantile(error, self.share, method="linear")) <= self.tolerance

    def __str__(self) -> str:
        which = "" if self.target is None else f" (target {self.target})"
        figures = f"differs by {self.largest:.3g}, tolerance {self.tolerance:.3g}"
        text = f'"{self.output}"{which} {figures}'
        if self.changed is None:
            return text
        return f"{text}, {self.changed:.1%} of {len(self.error)} samples have another class"


def compare(
    expected: Mapping[str, NDArray[Any]],
    found: Mapping[str, NDArray[Any]],
    *,
    tolerance: float,
    rounded: bool = False,
    kinds: Mapping[str, str] | None = None,
) -> list[Difference]:
    """Compare two sets of predictions for the same samples, output by output.

    The tolerance of an output is `tolerance` times the median over samples of the spread (largest
    minus smallest finite value), plus 1e-5 of the largest magnitude for rounding in float32. Each
    target of real values has its own: its spread over all samples, in its own unit. Infinities of
    the same sign on both sides are equal.

    Args:
        expected: The reference, `[n, ...]` per output.
        found: The predictions to compare, in the same shapes.
        tolerance: The largest relative difference allowed.
        rounded: Whether the model rounds activations; half of the samples must agree then.
        kinds: The kind of each output that must agree in every sample, such as `value`
            (`[n, ..., targets]`) or `quantiles` (`[n, ..., targets, levels]`); None for all. The
            others are decisions, such as which boxes are suppressed: a near tie may decide
            otherwise in another runtime, so that nine in ten samples must agree.

    Example:
        >>> one = {"logits": np.array([[2.0, 0.0], [0.0, 2.0]])}
        >>> two = {"logits": np.array([[2.0, 0.1], [0.0, 2.0]])}
        >>> [found] = compare(one, two, tolerance=0.01)
        >>> found.within, round(found.largest, 3)
        (False, 0.1)
    """
    relative = tolerance * (ROUNDED if rounded else 1.0)
    differences: list[Difference] = []
    for name, one in expected.items():
        if not len(one):
            continue
        other, kind = found[name], (kinds or {}).get(name, "")
        decision = kinds is not None and not kind
        share = HALF if rounded else DECIDED if decision else 1.0
        if kind not in TARGETS or one.ndim < 2 or one.shape != other.shape:
            whole = _difference(name, one, other, relative, ranked=not decision)
            differences.append(replace(whole, share=share))
            continue
        several = one.shape[TARGETS[kind]] > 1
        sides = (np.moveaxis(side, TARGETS[kind], 0) for side in (one, other))
        for place, (left, right) in enumerate(zip(*sides, strict=True)):
            single = _difference(name, left, right, relative, real=True)
            differences.append(replace(single, share=share, target=place if several else None))
    return differences


def _difference(
    name: str,
    expected: NDArray[Any],
    found: NDArray[Any],
    relative: float,
    *,
    real: bool = False,
    ranked: bool = False,
) -> Difference:
    left = expected.reshape(len(expected), -1).astype(np.float64)
    right = found.reshape(len(found), -1).astype(np.float64)
    if left.shape != right.shape:
        return Difference(name, np.full(len(left), np.inf), 0.0, None)
    with np.errstate(invalid="ignore"):
        error = np.where(left == right, 0.0, np.abs(left - right)).max(axis=1, initial=0.0)
    finite = np.where(np.isfinite(left), left, np.nan)
    usable = finite[np.isfinite(finite).any(axis=1)]
    spread = magnitude = 0.0
    if usable.size:
        ranges = np.nanmax(usable, axis=1) - np.nanmin(usable, axis=1)
        # Of a single value per sample, the spread is that over the samples.
        over_samples = real or left.shape[1] == 1
        spread = float(np.nanmax(usable) - np.nanmin(usable) if over_samples else np.median(ranges))
        magnitude = float(np.nanmax(np.abs(usable)))
    allowed = relative * spread + 1e-5 * magnitude + 1e-7
    changed = None
    if left.shape[1] > 1 and expected.ndim == 2 and ranked:
        changed = float((left.argmax(axis=1) != right.argmax(axis=1)).mean())
    return Difference(name, error, allowed, changed)


def check_invariance(
    predictor: Predictor,
    batch: Mapping[str, Any],
    *,
    where: str,
    model: nn.Module | None = None,
    tolerance: float = RELATIVE,
    rounded: bool = False,
    kinds: Mapping[str, str] | None = None,
    axes: Axes | None = None,
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
        kinds: The kind of each output that must agree in every sample; see `compare`.
        axes: The names of each input's axes, for inputs whose samples are not their first axis.

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
    same = partial(compare, tolerance=tolerance, rounded=rounded, kinds=kinds)
    problems = list(_problems(predictor, batch, where, model, same, axes or {}))
    if problems:
        raise InputError(*problems)


def _problems(
    predictor: Predictor,
    batch: Mapping[str, Any],
    where: str,
    model: nn.Module | None,
    compared: Callable[[Outputs, Outputs], list[Difference]],
    axes: Axes,
) -> Iterator[Problem]:
    inputs = {name: torch.as_tensor(value) for name, value in batch.items()}
    copy = {name: tensor.clone() for name, tensor in inputs.items()}
    expected = predictor.predict(copy)
    changed = [
        name
        for name, tensor in inputs.items()
        if not torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(copy[name]))
    ]
    if changed:
        fix = "Compute into a new tensor (x = x - mean, not x -= mean; nn.ReLU(inplace=False))."
        given = f"a model that changes its input {', '.join(changed)} in place"
        yield Problem(where, given, "a model that does not modify its input", fix)
    wrong = _not_finite(expected)
    if wrong:
        yield Problem(where, wrong, "finite outputs, or minus infinity for an excluded class")
        return

    def differences(found: Outputs, rows: NDArray[np.int64]) -> list[Difference]:
        reference = {name: value[rows] for name, value in expected.items()}
        return [one for one in compared(reference, found) if not one.within]

    count = count_samples(inputs, axes)
    everything = np.arange(count)
    # The second and the last call are the same: state may need other samples in between.
    repeated = differences(predictor.predict(_copy(inputs)), everything)
    alone = np.linspace(0, count - 1, min(count, ALONE)).astype(np.int64)
    groupings = {
        "predicted one at a time": [alone[place : place + 1] for place in range(len(alone))],
        "predicted in reverse order": [everything[::-1].copy()],
        "predicted in smaller batches": [
            half for half in np.array_split(everything, 2) if len(half)
        ],
    }
    regrouped: dict[str, list[Difference]] = {}
    for mode, groups in groupings.items():
        try:
            parts = [predictor.predict(_rows(inputs, axes, rows)) for rows in groups]
            joined = {
                name: np.concatenate([_as_long(part[name], expected[name]) for part in parts])
                for name in parts[0]
            }
        # The model is the user's code, and may raise anything.
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            failed = f"{type(error).__name__} when {mode}: {reason}"
            advice = _advice(model, inputs, raised=True)
            yield Problem(where, failed, "a prediction for any number of samples", advice)
            return
        regrouped[mode] = differences(joined, np.concatenate(groups))
    repeated = repeated or differences(predictor.predict(_copy(inputs)), everything)
    if repeated:
        given = f"{repeated[0]} when the same batch is predicted again"
        yield Problem(where, given, "the same prediction", _repetition_advice(predictor, inputs))
        return
    for mode, found in regrouped.items():
        if found:
            allowed = "the same prediction for a sample whatever else is in the batch"
            yield Problem(where, f"{found[0]} when {mode}", allowed, _advice(model, inputs))
            return


def _rows(inputs: Mapping[str, Tensor], axes: Axes, rows: NDArray[np.int64]) -> dict[str, Tensor]:
    """Select some samples, and drop columns in which all of them are padding."""
    taken = select_samples(inputs, axes, rows)
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


def _as_long(values: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
    """Append the padding that was dropped from sequences, whose outputs are 0 there."""
    if values.ndim != whole.ndim:
        return values
    missing = zip(whole.shape[1:], values.shape[1:], strict=True)
    return np.pad(values, [(0, 0), *((0, max(0, long - short)) for long, short in missing)])


def _copy(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in inputs.items()}


def _not_finite(outputs: Mapping[str, NDArray[Any]]) -> str:
    for name, value in outputs.items():
        rows = value.reshape(len(value), -1) if len(value) else value
        wrong = np.isnan(rows) | np.isposinf(rows)
        if wrong.any():
            count = int(wrong.reshape(len(rows), -1).any(axis=1).sum())
            return f'NaN or infinity in "{name}" for {count} of {len(rows)} samples'
    return ""


def _repetition_advice(predictor: Predictor, inputs: dict[str, Tensor]) -> str:
    """Distinguish random numbers from state, by two predictions with the same seed."""
    runs = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            torch.manual_seed(0)
            runs.append(predictor.predict(_copy(inputs)))
    if all(one.within for one in compare(runs[0], runs[1], tolerance=RELATIVE)):
        fix = "Draw no random numbers in evaluation mode (self.training, nn.Dropout)."
        return f"{fix} Likely cause: the model draws random numbers."
    fix = "Keep no state between calls: reset buffers and attributes in forward."
    return f"{fix} Likely cause: the model keeps state between calls."


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
        cause = _cause(module)
        if cause:
            found.setdefault(cause, []).append(f"{path or 'the model'} ({type(module).__name__})")
    for cause, modules in found.items():
        more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
        yield f"{', '.join(modules[:3])}{more} {cause}"


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
