"""The typed result of a sweep: the schema of `sweep.json`, from which its page is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, get_args

from limbeck.core.measurement import Metric, Result, ScoreValue
from limbeck.display import format as fmt
from limbeck.display.blocks import Panel, tick_of
from limbeck.display.pareto import Point, pareto
from limbeck.evaluate.intervals import Summary
from limbeck.report import verdict
from limbeck.report.page import budget_line, environment_facts
from limbeck.report.result import BudgetCheck, Environment
from limbeck.report.template import render

Cost = Literal["size", "latency", "flops", "parameters", "memory", "energy"]
COSTS: tuple[Cost, ...] = get_args(Cost)


class Figures(Result):
    """The quality of one trial's student, and the cost of its exported file.

    Attributes:
        metric: The task's primary metric.
        score: The score on the validation samples, the mean over seeds.
        teacher_score: The teacher's; `None` without a teacher.
        size: Bytes of the file.
        latency: Median time per inference in milliseconds, at batch 1 on one thread.
        flops: Operations per inference; a multiply-add counts as two.
        parameters: Parameters of the network behind the file.
        memory: Peak memory of the runtime in bytes.
        energy: Estimated joules per inference; `None` if not measured.
    """

    metric: Metric
    score: float
    teacher_score: float | None
    size: int
    latency: float
    flops: int
    parameters: int
    memory: int
    energy: float | None

    @property
    def written(self) -> str:
        """Return the score as written."""
        return fmt.score(self.score, self.metric)

    @property
    def quality(self) -> float:
        """Return the score with its sign, so that higher is better."""
        return self.metric.gain(self.score, over=0.0)


class Trial(Result):
    """A choice of settings and its outcome.

    Attributes:
        number: Its folder in `trials/`.
        settings: The value at each path of the space.
        state: Whether it is done, failed, or not finished yet.
        seconds: Its duration; 0 until it ends.
        figures: The measurements, if it is done.
        reason: Why it failed.
        front: Whether no other trial is at least as good in every objective and better in one.
    """

    number: int
    settings: dict[str, Any]
    state: Literal["done", "failed", "running"]
    seconds: float = 0.0
    figures: Figures | None = None
    reason: str = ""
    front: bool = False


class View(Result):
    """Score against one cost: the trials on the front of these two, and its knee."""

    cost: Cost
    front: tuple[int, ...]
    knee: int | None


class Chosen(Result):
    """The trial that a budget selects, or the one nearest to meeting it.

    Attributes:
        number: The trial.
        fits: Whether it meets every line.
        checks: The lines of the budget, scores on the validation samples.
        test: Its score on the test samples, if it was chosen; no other trial is tested.
    """

    number: int
    fits: bool
    checks: tuple[BudgetCheck, ...]
    test: ScoreValue | None


class CrossValidation(Result):
    """The scores over the folds of `data.split`, for one choice of the other settings.

    Attributes:
        settings: The other settings that vary.
        folds: The number of folds.
        done: The folds that are measured, in the order of the values.
        validation: The score on the validation samples of each fold, and their mean.
        test: The score on the test samples, if nothing but the fold varies: nothing is then
            selected.
    """

    settings: dict[str, Any]
    folds: int
    done: tuple[int, ...]
    validation: Summary
    test: Summary | None


class SweepResult(Result):
    """The result of a sweep.

    Attributes:
        name: The recipe's name.
        task: The recipe's task.
        space: Each path with its choices, as written.
        costs: The minimised costs; the score is optimised.
        sampler: The sampler of the settings.
        trials: By number.
        views: The score against each cost.
        chosen: The trial that the budget selects; `None` without a budget.
        cross_validation: The scores over folds, if `data.split.fold` varies.
        environment: Hardware and software; the time is that of all trials together.
        notes: Notes that a reader needs to judge the figures.
    """

    schema_version: Literal[1] = 1
    name: str
    task: str
    space: dict[str, str]
    costs: tuple[Cost, ...]
    sampler: str
    trials: tuple[Trial, ...]
    views: tuple[View, ...]
    chosen: Chosen | None
    environment: Environment
    notes: tuple[str, ...] = ()
    cross_validation: tuple[CrossValidation, ...] = ()

    @property
    def metric(self) -> Metric:
        """Return the task's primary metric."""
        return _figures(self.done[0]).metric

    @property
    def done(self) -> tuple[Trial, ...]:
        """Return the finished trials."""
        return tuple(trial for trial in self.trials if trial.state == "done")

    @property
    def front(self) -> tuple[Trial, ...]:
        """Return the trials on the Pareto front."""
        return tuple(trial for trial in self.trials if trial.front)

    def trial(self, number: int) -> Trial:
        """Return a trial by its number."""
        return next(trial for trial in self.trials if trial.number == number)


@dataclass(frozen=True)
class _Shown:
    """The title and the format of a cost; the budget line that limits it, and that line's unit."""

    title: str
    write: Callable[[float], str]
    limit: str
    unit: float = 1.0


SHOWN_COSTS: dict[Cost, _Shown] = {
    "size": _Shown("size", fmt.size, "size_kb", 1e3),
    "latency": _Shown("latency", fmt.milliseconds, "latency_ms"),
    "flops": _Shown("operations", fmt.operations, "flops"),
    "parameters": _Shown("parameters", lambda count: fmt.integer(round(count)), "parameters"),
    "memory": _Shown("peak memory", fmt.size, "memory_mb", 1e6),
    "energy": _Shown("energy", fmt.joules, "energy_mj", 1e-3),
}
ALWAYS: tuple[Cost, ...] = ("size", "latency", "parameters", "flops")


@dataclass(frozen=True)
class Row:
    """A trial in the table: its standing, its settings and its figures, as written."""

    number: int
    kind: str
    standing: str
    cells: tuple[str, ...]


def render_sweep(result: SweepResult) -> str:
    """Draw the page of a sweep.

    The page needs no network, no font and no script; the same result always yields the same bytes.
    """
    return render(
        "sweep.html.jinja",
        result=result,
        sentence=sentence(result),
        numbers=numbers(result),
        budget=[budget_line(check) for check in result.chosen.checks] if result.chosen else [],
        panels=[_panel(result, view) for view in result.views],
        head=_head(result),
        rows=rows(result),
        folds=folds_lines(result),
        failed=[trial for trial in result.trials if trial.state == "failed"],
        space=list(result.space.items()),
        environment=environment_facts(
            result.environment,
            ("Finished", fmt.timestamp(result.environment.started)),
            ("Total duration of trials", fmt.duration(result.environment.seconds)),
            ("Sampler", result.sampler),
        ),
    )


def sentence(result: SweepResult) -> str:
    """Write the outcome of the sweep in one sentence."""
    chosen = result.chosen
    if chosen is None and [one.test for one in result.cross_validation if one.test]:
        return folds_lines(result)[0]
    if chosen is None:
        front, done = len(result.front), fmt.plural(len(result.done), "trial")
        return f"{front} of {done} {'is' if front == 1 else 'are'} on the Pareto front."
    if chosen.fits:
        written = _summary(result.trial(chosen.number), result.costs)
        return f"Trial {chosen.number} has the best score within the budget: {written}."
    missed = fmt.listing([_excess(check) for check in chosen.checks if not check.met])
    return f"No trial fits the budget; trial {chosen.number} comes nearest, and misses {missed}."


def folds_lines(result: SweepResult) -> list[str]:
    """Write the mean score over the folds of each choice of the other settings, one line each."""
    metric, lines = result.metric, []
    for one in result.cross_validation:
        found, where = (one.test, "test") if one.test else (one.validation, "validation")
        settings = ", ".join(f"{path} {plain(value)}" for path, value in one.settings.items())
        text = f"{metric.text} {fmt.score(found.mean, metric)} on the {where} samples"
        if found.interval is not None:
            text += f", 95 % interval {fmt.score_interval(found.interval, metric)}"
        folds = f"{one.folds}-fold cross-validation"
        if len(one.done) < one.folds:
            folds += f", {len(one.done)} of {one.folds} folds done"
        each = ", ".join(fmt.score(value, metric) for value in found.values)
        named = f"{folds}, {settings}" if settings else folds
        lines.append(f"{named}: {text} ({each}).")
    return lines


def numbers(result: SweepResult) -> tuple[verdict.Number, ...]:
    """Return the headline figures of the trial that the budget selects, else the knee or best."""
    trial, selection = _headline_trial(result)
    figures = _figures(trial)
    details = [f"trial {trial.number}, {selection}", "on the validation samples"]
    if result.chosen is not None and result.chosen.test is not None:
        test = result.chosen.test
        interval = fmt.score_interval(test.interval, test.metric)
        value = fmt.score(test.value, test.metric)
        details.append(f"on {test.samples:,} test samples {value}, 95 % interval {interval}")
    # Six tiles fill whole rows on wide screens and on phones.
    shown = list(dict.fromkeys([*result.costs, *ALWAYS]))[:4]
    return (
        verdict.Number(figures.metric.title, figures.written, tuple(details)),
        *(verdict.Number(SHOWN_COSTS[c].title.capitalize(), _cost(figures, c)) for c in shown),
        verdict.Number("Trials", str(len(result.trials)), (_counts(result),)),
    )


def _counts(result: SweepResult) -> str:
    states = [trial.state for trial in result.trials]
    counted = {
        "on the front": len(result.front),
        "dominated": states.count("done") - len(result.front),
        "failed": states.count("failed"),
        "not done yet": states.count("running"),
    }
    return fmt.listing([f"{count} {name}" for name, count in counted.items() if count])


def _head(result: SweepResult) -> list[str]:
    costs = (SHOWN_COSTS[cost].title for cost in _columns(result))
    return [result.metric.text, *costs, *result.space]


def rows(result: SweepResult) -> list[Row]:
    """Return the trials: the front by ascending cost, the others by score, then the rest."""

    def rank(trial: Trial) -> tuple[float, ...]:
        if trial.figures is None:
            return 2.0, float(trial.state == "running"), trial.number
        if trial.front:
            return 0.0, getattr(trial.figures, result.costs[0]), trial.number
        return 1.0, -trial.figures.quality, trial.number

    return [_row(result, trial) for trial in sorted(result.trials, key=rank)]


def standing(result: SweepResult, trial: Trial) -> str:
    """Write a trial's standing: chosen, a knee, on the front, dominated or failed."""
    if trial.state != "done":
        return "not done yet" if trial.state == "running" else "failed"
    knees = [SHOWN_COSTS[view.cost].title for view in result.views if view.knee == trial.number]
    parts = [f"knee for {fmt.listing(knees)}"] if knees else []
    if result.chosen is not None and result.chosen.number == trial.number:
        parts.insert(0, "chosen" if result.chosen.fits else "nearest to the budget")
    if not trial.front:
        parts.append("dominated")
    elif not knees:
        parts.append("front")
    return ", ".join(parts)


def plain(value: object) -> str:
    """Write a setting's value.

    Example:
        >>> plain("int8_static"), plain([1, 2]), plain(None)
        ('int8_static', '[1, 2]', 'null')
    """
    return value if isinstance(value, str) else json.dumps(value)


def _row(result: SweepResult, trial: Trial) -> Row:
    settings = (plain(trial.settings[path]) for path in result.space)
    figures = [fmt.MISSING] * (1 + len(_columns(result)))
    if trial.figures is not None:
        costs = [_cost(trial.figures, cost) for cost in _columns(result)]
        figures = [trial.figures.written, *costs]
    return Row(trial.number, _kind(result, trial), standing(result, trial), (*figures, *settings))


def _cost(figures: Figures, cost: Cost) -> str:
    return SHOWN_COSTS[cost].write(getattr(figures, cost))


def _kind(result: SweepResult, trial: Trial) -> str:
    if trial.state != "done" or not trial.front:
        return "dominated" if trial.state == "done" else trial.state
    return "knee" if any(view.knee == trial.number for view in result.views) else "front"


def _columns(result: SweepResult) -> list[Cost]:
    return [cost for cost in SHOWN_COSTS if cost in (*ALWAYS, *result.costs)]


def _panel(result: SweepResult, view: View) -> Panel:
    shown = SHOWN_COSTS[view.cost]
    metric = result.metric
    title = f"{metric.title} against {shown.title}"
    front = [_summary(result.trial(number), (view.cost,)) for number in view.front]
    knee = "no knee" if view.knee is None else f"the knee at trial {view.knee}"
    checks = result.chosen.checks if result.chosen else ()
    limit = next((c.allowed * shown.unit for c in checks if c.name == shown.limit), None)
    return Panel(
        title,
        f"{metric.title} on the validation samples; the cost on a logarithmic scale. The line is "
        f"the Pareto front, with {knee}.",
        pareto(
            [_point(result, trial, view) for trial in result.done],
            across=lambda value: fmt.trim(shown.write(value)),
            up=tick_of(metric),
            name=shown.title,
            title=title,
            description=f"The front: {'; '.join(front)}; with {knee}.",
            limit=limit,
        ),
    )


def _point(result: SweepResult, trial: Trial, view: View) -> Point:
    figures, chosen = _figures(trial), result.chosen
    is_chosen = chosen is not None and chosen.fits and chosen.number == trial.number
    is_knee = view.knee == trial.number
    words = [*(["chosen"] if is_chosen else []), *(["knee"] if is_knee else [])]
    settings = ", ".join(f"{path} {plain(value)}" for path, value in trial.settings.items())
    summary = _summary(trial, (view.cost,))
    return Point(
        cost=getattr(figures, view.cost),
        quality=figures.score,
        tip=f"trial {trial.number}: {summary}; {settings} ({standing(result, trial)})",
        front=trial.front,
        line=trial.number in view.front,
        knee=is_knee,
        chosen=is_chosen,
        name=f"{', '.join(words)} {trial.number}" if words else "",
    )


def _summary(trial: Trial, costs: Iterable[Cost]) -> str:
    figures = _figures(trial)
    written = fmt.listing([_cost(figures, cost) for cost in costs])
    return f"{figures.written} at {written}"


def _headline_trial(result: SweepResult) -> tuple[Trial, str]:
    if result.chosen is not None:
        fits = result.chosen.fits
        selection = "chosen by the budget" if fits else "the nearest to the budget"
        return result.trial(result.chosen.number), selection
    for view in result.views:
        if view.knee is not None:
            return result.trial(view.knee), f"the knee for {SHOWN_COSTS[view.cost].title}"
    best = max(result.done, key=lambda trial: _figures(trial).quality)
    return best, "the best score"


def _excess(check: BudgetCheck) -> str:
    excess = abs(check.measured - check.allowed)
    if check.metric is not None:
        written = fmt.gain(excess, check.metric).removeprefix("+")
        return f"{verdict.budget_name(check)} by {written}"
    return f"{verdict.budget_name(check)} by {verdict.amount(excess, check)}"


def _figures(trial: Trial) -> Figures:
    if trial.figures is None:
        raise ValueError(f"trial {trial.number} is not done")
    return trial.figures


def sweep_lines(result: SweepResult, *, page: str | PathLike[str]) -> list[str]:
    """Write a sweep as lines of plain text.

    Args:
        result: The result of the sweep.
        page: The path of the page; it becomes the last line.
    """
    shown = [row for row in rows(result) if row.kind in {"front", "knee"}]
    table = [
        ("trial", *_head(result), "standing"),
        *((str(row.number), *row.cells, row.standing) for row in shown),
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [sentence(result), "", "  Pareto front, by ascending cost:"]
    for cells in table:
        padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(f"  {'  '.join(padded)}".rstrip())
    folds = folds_lines(result)
    return [
        *lines,
        "",
        *(f"  {line}" for line in folds if line != lines[0]),
        f"  {fmt.plural(len(result.trials), 'trial')}: {_counts(result)}",
        f"  Page: {page}",
    ]
