"""Training curves: the accuracy of all trainings in one chart, the losses in a chart each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from limbeck.report import format as fmt
from limbeck.report.charts.lines import Series, lines
from limbeck.report.charts.scale import finite
from limbeck.report.charts.svg import DASHES
from limbeck.report.panels.panel import Panel, percent_tick
from limbeck.report.result import Curve, Role, RunResult
from limbeck.report.tables import links

_ACCURACY = "validation/accuracy"
_TOTAL = "train/loss"
_TERM_DASHES = ("7 4", "2 4", "10 3 2 3", "4 2", "12 4", "1 3")
# Optimiser steps, not losses: their other units would compress the chart.
_NOT_LOSSES = ("rate", "norm", "lr", "accuracy", "temperature", "weight", "samples", "seconds")


def training(result: RunResult) -> list[Panel]:
    """Draw the accuracy of all trainings, then the losses of those of the first seed."""
    accuracy = _accuracy(result)
    return ([accuracy] if accuracy else []) + [
        panel for curve in _of_first_seed(result) if (panel := _losses(curve, _role(curve, result)))
    ]


def other_seeds(result: RunResult) -> list[Panel]:
    """Draw the losses of the other seeds' trainings."""
    first = _of_first_seed(result)
    return [
        panel
        for curve in result.curves
        if curve not in first and (panel := _losses(curve, _role(curve, result)))
    ]


def _of_first_seed(result: RunResult) -> list[Curve]:
    """Return the first seed's curves; curves without a seed count as its own."""
    return [curve for curve in result.curves if curve.seed in (None, result.seeds[0])]


def _points(curve: Curve, key: str) -> tuple[tuple[float, float], ...]:
    """Return one column of the rows, over the epoch (or the row's index where none is written)."""
    return tuple(
        (row.get("epoch", float(number)), row[key])
        for number, row in enumerate(curve.rows, start=1)
        if key in row
    )


def _role(curve: Curve, result: RunResult) -> Role:
    """Return the role of a curve: that of the stage with its name, else the curve's own."""
    return next((link.role for link in links(result) if link.label == curve.label), curve.role)


def _accuracy(result: RunResult) -> Panel | None:
    series, named = [], set[str]()
    for curve in result.curves:
        points = _points(curve, _ACCURACY)
        if finite(y for _, y in points):
            label = None if curve.label in named else curve.label
            role = _role(curve, result)
            dash = DASHES[role]
            series.append(Series(label, points, role, dash=dash, mark=True, faint=not label))
            named.add(curve.label)
    if not series:
        return None
    title = "Validation accuracy while training"
    others = " Faint lines are the other seeds." if any(one.faint for one in series) else ""
    return Panel(
        title,
        f"Share of right answers on the validation split after each epoch, in torch.{others}",
        lines(series, axis=percent_tick, title=title, description=_ends(series, fmt.percent)),
    )


def _losses(curve: Curve, role: Role) -> Panel | None:
    """Draw the total in the colour of the role, its terms in grey with a dash each."""
    keys = _loss_keys(curve)
    series = [
        Series(_TOTAL.removeprefix("train/"), _points(curve, _TOTAL), role)
        if key == _TOTAL
        else Series(
            key.removeprefix("train/").removesuffix("/weighted"),
            _points(curve, key),
            tone="ink",
            dash=_TERM_DASHES[number % len(_TERM_DASHES)],
        )
        for number, key in enumerate(keys)
    ]
    values = finite(y for one in series for _, y in one.points)
    if not values:
        return None
    seed = f", seed {curve.seed}" if curve.seed is not None else ""
    log = min(values) > 0 and max(values) / min(values) > 30
    scale = ", on a logarithmic scale" if log else ""
    terms = "; terms as weighted" if any("weighted" in key for key in keys) else ""
    title = f"Losses of {curve.label}{seed}"
    return Panel(
        title,
        f"Mean over each epoch of the training split{terms}{scale}.",
        lines(
            series,
            axis=lambda value: fmt.trim(fmt.number(value)),
            title=title,
            description=_ends(series, fmt.number),
            log=log,
        ),
    )


def _loss_keys(curve: Curve) -> list[str]:
    """Return the loss columns, the total first; of a term with two columns, the weighted one."""
    keys = list(dict.fromkeys(key for row in curve.rows for key in row if key.startswith("train/")))
    keys = [
        key for key in keys if not any(word in key for word in _NOT_LOSSES) or "weighted" in key
    ]
    if any(key.endswith("weighted") for key in keys):
        keys = [key for key in keys if not key.endswith("raw")]
    if len(keys) == 2 and _TOTAL in keys:
        return [_TOTAL]  # a single term equals the total
    return sorted(keys, key=lambda key: key != _TOTAL)


def _ends(series: Iterable[Series], written: Callable[[float], str]) -> str:
    """Write the final value of each named line."""
    return "; ".join(
        f"{one.label} ends at {written(one.points[-1][1])}"
        for one in series
        if one.label is not None and one.points
    )
