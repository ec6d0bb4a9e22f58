"""The figures behind the verdict, the same for page, card and terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike

from limbeck.core.measurement import Interval, Metric, ScoreValue
from limbeck.display import format as fmt
from limbeck.evaluate.comparison import Verdict
from limbeck.evaluate.costs import Latency, latency_ratio
from limbeck.evaluate.evaluation import Evaluation
from limbeck.evaluate.intervals import Summary, summarize
from limbeck.report.result import BudgetCheck, Link, Measured, RunResult


def first(link: Link | None) -> Measured | None:
    """Return the measurements of a stage's first seed: of the last stage, the exported file's."""
    return link.measured[0] if link is not None and link.measured else None


def one_thread(measured: Measured | None) -> Latency | None:
    """Return the latency at one thread, or `None` if it was not measured."""
    latencies = measured.cost.latency if measured else ()
    return next((latency for latency in latencies if latency.threads == 1), None)


def p50(measured: Measured | None) -> float | None:
    """Return the median latency at one thread in milliseconds."""
    latency = one_thread(measured)
    return latency.p50 if latency else None


def quotient(numerator: float | None, denominator: float | None) -> float | None:
    """Compute a quotient; `None` where a part is missing or the divisor is zero.

    Example:
        >>> quotient(6, 3), quotient(6, None), quotient(6, 0)
        (2.0, None, None)
    """
    if numerator is None or not denominator:
        return None
    value = numerator / denominator
    return value if math.isfinite(value) else None


def majority_share(measured: Measured | None) -> float | None:
    """Compute the majority-class baseline: the share of the most frequent class."""
    if measured is not None and measured.majority is not None:
        return measured.majority
    rows = [sum(row) for row in measured.confusion] if measured else []
    return max(rows) / sum(rows) if sum(rows) else None


def _at_chance(measured: Measured | None, mean: float, majority: float | None) -> bool:
    """Return whether the model is not shown to beat the majority-class baseline."""
    if measured is None or majority is None:
        return False
    interval = measured.score.interval
    return mean <= majority or (interval is not None and interval.low <= majority)


@dataclass(frozen=True)
class Figures:
    """The figures of the verdict; `None` where the run did not measure them.

    `compression`, `fewer_parameters` and `speedup` are teacher / student: above 1, the student is
    better; `speedup_range` is the range of the ratio over the blocks of the measurement. `retained`
    is the student's mean score over seeds divided by the teacher's, for shares of which higher is
    better; `majority` is the share of the most frequent class among the test samples, the accuracy
    of a constant prediction; `retained_above_majority` is the ratio of the scores in excess of it.
    """

    size: int | None
    parameters: int | None
    latency: float | None
    metric: Metric
    score: Summary
    shipped_score: ScoreValue | None
    teacher_size: int | None
    teacher_parameters: int | None
    teacher_latency: float | None
    teacher_score: Summary | None
    compression: float | None
    fewer_parameters: float | None
    speedup: float | None
    speedup_range: tuple[float, float] | None
    latency_spread: Latency | None
    retained: float | None
    majority: float | None
    retained_above_majority: float | None
    student_at_chance: bool
    teacher_at_chance: bool

    @property
    def interval(self) -> Interval | None:
        """Return the interval over seeds; with one seed, that over the test samples."""
        shipped = self.shipped_score
        return self.score.interval or (shipped.interval if shipped else None)


def figures(result: RunResult) -> Figures:
    """Compute the verdict's figures from a result."""
    shipped, teacher = first(result.shipped), first(result.teacher)
    size, teacher_size = (m.cost.size_bytes if m else None for m in (shipped, teacher))
    parameters, teacher_parameters = (m.cost.parameters if m else None for m in (shipped, teacher))
    latency, teacher_latency = one_thread(shipped), one_thread(teacher)
    score, metric = result.shipped.score, result.metric
    teacher_score = result.teacher.score if result.teacher else None
    majority = majority_share(shipped)
    above_majority = None
    if teacher_score and majority is not None and teacher_score.mean > majority:
        excess = max(0.0, score.mean - majority)
        above_majority = excess / (teacher_score.mean - majority)
    return Figures(
        size=size,
        parameters=parameters,
        latency=p50(shipped),
        metric=metric,
        score=score,
        shipped_score=shipped.score if shipped else None,
        teacher_size=teacher_size,
        teacher_parameters=teacher_parameters,
        teacher_latency=p50(teacher),
        teacher_score=teacher_score,
        compression=quotient(teacher_size, size),
        fewer_parameters=quotient(teacher_parameters, parameters),
        speedup=quotient(p50(teacher), p50(shipped)),
        speedup_range=latency_ratio(teacher_latency, latency)
        if teacher_latency and latency
        else None,
        latency_spread=latency,
        majority=majority,
        retained_above_majority=above_majority,
        student_at_chance=_at_chance(shipped, score.mean, majority),
        teacher_at_chance=teacher_score is not None
        and _at_chance(teacher, teacher_score.mean, majority),
        retained=quotient(score.mean, teacher_score.mean if teacher_score else None)
        if metric.unit == "share" and metric.higher_is_better
        else None,
    )


_BUDGET_NAMES = {
    "size_kb": "size",
    "size_mb": "size",
    "latency_ms": "latency",
    "energy_mj": "energy",
    "memory_mb": "peak memory",
    "flops": "operations",
}


@dataclass(frozen=True)
class Number:
    """A headline figure: its title, its value as written, and the lines of context below it."""

    name: str
    value: str
    details: tuple[str, ...] = ()

    @property
    def missing(self) -> bool:
        """Return whether the run did not measure it."""
        return self.value == fmt.MISSING


def budget_name(check: BudgetCheck) -> str:
    """Return the readable name of a budget line.

    Example:
        >>> budget_name(BudgetCheck(name="size_kb", allowed=40, measured=38, unit="kB", met=True))
        'size'
    """
    if check.metric is not None:
        return check.metric.text + (" drop" if check.name == "drop" else "")
    return _BUDGET_NAMES.get(check.name, check.name.replace("_", " "))


def budget_heading(check: BudgetCheck) -> str:
    """Return the name of a budget line as it begins a line: "Accuracy drop", but "mIoU drop"."""
    name = budget_name(check)
    if check.metric is not None:
        return name.replace(check.metric.text, check.metric.title, 1)
    return name[:1].upper() + name[1:]


def amount(value: float, check: BudgetCheck) -> str:
    """Write the measured or the allowed value of a budget line in its unit; shares have none.

    Example:
        >>> metric = Metric(name="accuracy", title="Accuracy")
        >>> check = BudgetCheck(
        ...     name="drop", allowed=0, measured=0.02, unit="", met=False, metric=metric
        ... )
        >>> amount(check.measured, check)
        '2 points'
    """
    if check.metric is not None and check.metric.unit == "share":
        if check.name == "score":
            return fmt.percent(value)
        points = fmt.trim(fmt.number(100 * value))
        return f"{points} point" if points == "1" else f"{points} points"
    if value == int(value) and not check.unit:
        return fmt.integer(int(value))
    return f"{fmt.trim(fmt.number(value))} {check.unit}".rstrip()


def requirement(check: BudgetCheck) -> str:
    """Write the requirement of a budget line.

    Example:
        >>> requirement(BudgetCheck(name="size_kb", allowed=40, measured=38, unit="kB", met=True))
        'of 40 kB allowed'
    """
    allowed = amount(check.allowed, check)
    return f"of at least {allowed}" if check.at_least else f"of {allowed} allowed"


def sentence(result: RunResult) -> str:
    """Write a summary sentence: the compression, the retained accuracy, and the budget."""
    found = figures(result)
    budget = _budget_clause(result)
    if found.compression is None and found.retained is None:
        size = f"takes {fmt.size(found.size)} and " if found.size else ""
        reached = f"reaches {_named(found.score, found.metric)} on the test samples"
        missing = "" if found.teacher_score else "; the run had no teacher to compare it with"
        return f"The student {size}{reached}{missing}{budget}."
    smaller, warning = _compared_size(found), _warning(found)
    if warning:
        warning = f"The student {smaller}, but {warning}" if smaller else warning
        return f"{warning[:1].upper()}{warning[1:]}{budget}."
    clauses = [clause for clause in (smaller, _retained_clause(found)) if clause]
    return f"The student {' and '.join(clauses)}{budget}."


FAR_ABOVE, FAR_RETAINED = 0.05, 1.1
"""The excess over the teacher's score, and the share of it, above which they need an explanation:
a share of a bad teacher's score would read as praise."""


def _warning(found: Figures) -> str:
    """Write why retained accuracy is meaningless here; empty where it is meaningful."""
    if found.teacher_score is None:
        return ""
    constant = f"always predicting the most frequent class ({fmt.percent(found.majority, 1)})"
    title, scores = found.metric.text, (found.score, found.teacher_score)
    student, teacher = (fmt.score(one.mean, found.metric, 1) for one in scores)
    if found.teacher_at_chance:
        return f"its teacher, with {teacher} {title}, is no better than {constant}"
    if found.student_at_chance:
        return f"with {student} {title} it is no better than {constant}"
    excess = found.score.mean - found.teacher_score.mean
    if found.retained and (excess > FAR_ABOVE or found.retained > FAR_RETAINED):
        return (
            f"it reaches {student} where its teacher reaches {teacher}; possible causes are a "
            "teacher that does not fit these data (order of the labels, preprocessing, training) "
            "and test rows among the training rows"
        )
    return ""


def _compared_size(found: Figures) -> str:
    if found.compression is None:
        return ""
    if found.compression < 1.05:
        return f"is no smaller than its teacher ({fmt.ratio(1 / found.compression)} its size)"
    times = found.compression
    written = fmt.trim(f"{times:.1f}") if times < 10 else f"{times:,.0f}"
    return f"is {written} times smaller than its teacher"


def _retained_clause(found: Figures) -> str:
    title = found.metric.text
    if found.retained is None:
        if found.teacher_score is None:
            return ""
        teacher = fmt.score(found.teacher_score.mean, found.metric)
        return f"has {_named(found.score, found.metric)} where its teacher has {teacher}"
    share = fmt.percent(found.retained, 1)
    if found.retained < 1:
        return f"keeps {share} of its {title}"
    verb = "exceeds" if _is_significantly_better(found) else "keeps all of"
    return f"{verb} its {title} ({share} of it)"


def _named(score: Summary, metric: Metric) -> str:
    """Write a score with its name: "97.8 % accuracy", "a mean absolute error of 0.51 °C"."""
    if metric.unit == "share":
        return f"{fmt.score(score.mean, metric, 1)} {metric.text}"
    return f"{metric.text} {fmt.score(score.mean, metric)}"


def _is_significantly_better(found: Figures) -> bool:
    """Return whether the student is better than the teacher in pairs of the same seed."""
    students, teacher = found.score.values, found.teacher_score
    if teacher is None or len(students) != len(teacher.values):
        return False
    pairs = zip(students, teacher.values, strict=True)
    gains = [found.metric.gain(after, over=before) for after, before in pairs]
    interval = summarize(gains).interval
    return interval is not None and interval.low > 0


def _budget_clause(result: RunResult) -> str:
    """Write the end of the sentence: the outcome of the budget; empty without a budget."""
    if not result.budget:
        return ""
    if result.within_budget:
        return ", within its budget"
    missed = dict.fromkeys(
        budget_name(check) for check in result.budget if not check.met and check.conclusive
    )
    if not missed:
        return ", within its budget except for latency, where the measurement is inconclusive"
    return f", but misses its budget for {fmt.listing(list(missed))}"


def numbers(result: RunResult) -> tuple[Number, ...]:
    """Return the headline figures of the verdict, in their order."""
    found = figures(result)
    teacher_size = (f"teacher {fmt.size(found.teacher_size)}",) if found.teacher_size else ()
    parameters = f"{fmt.integer(found.parameters)} parameters"
    if found.teacher_parameters:
        parameters += f", teacher {fmt.integer(found.teacher_parameters)}"
    fewer = (f"{fmt.ratio(found.fewer_parameters)} fewer",) if found.fewer_parameters else ()
    return (
        Number("Size on disk", fmt.size(found.size), teacher_size),
        Number("Compression", fmt.ratio(found.compression), (parameters, *fewer)),
        _score(found),
        _retained(found),
        _latency(found),
        _distillation_gain(result),
    )


def _score(found: Figures) -> Number:
    """Return the mean over seeds with Student's interval, and the exported file's with its own."""
    seeds, metric = len(found.score.values), found.metric
    details = []
    if found.score.interval:
        interval = fmt.score_interval(found.score.interval, metric)
        details.append(f"mean of {fmt.plural(seeds, 'seed')}, 95 % interval {interval}")
    if (shipped := found.shipped_score) is not None:
        value = f"exported file {fmt.score(shipped.value, metric)}, " if seeds > 1 else ""
        interval = fmt.score_interval(shipped.interval, metric)
        samples = fmt.integer(shipped.samples)
        details.append(f"{value}95 % interval {interval} on {samples} test samples")
    return Number(metric.title, fmt.score(found.score.mean, metric), tuple(details))


def _retained(found: Figures) -> Number:
    teacher = found.teacher_score
    if teacher is not None and found.retained is None:
        gain = found.metric.gain(found.score.mean, over=teacher.mean)
        details = [f"teacher {fmt.score(teacher.mean, found.metric)}"]
        return Number("Gain over the teacher", fmt.gain(gain, found.metric), tuple(details))
    details = [f"of the teacher's {fmt.percent(teacher.mean)}"] if teacher else []
    if found.retained_above_majority is not None:
        share = fmt.percent(found.retained_above_majority, 1)
        majority = fmt.percent(found.majority, 1)
        details.append(f"{share} of its margin over the majority-class baseline ({majority})")
    return Number(f"Retained {found.metric.text}", fmt.percent(found.retained, 1), tuple(details))


def _latency(found: Figures) -> Number:
    details = ["median at batch 1, one thread"] if found.latency is not None else []
    if found.teacher_latency is not None:
        speedup = f", speedup {fmt.ratio(found.speedup)}" if found.speedup else ""
        details.append(f"teacher {fmt.milliseconds(found.teacher_latency)}{speedup}")
    if found.speedup_range is not None:
        low, high = (fmt.ratio(end) for end in found.speedup_range)
        details.append(f"speedup {low} to {high} between blocks of the measurement")
    spread = found.latency_spread
    if spread is not None and not spread.steady:
        times = fmt.ratio(spread.p90 / spread.p50)
        details.append(f"inconclusive: the 90th percentile is {times} the median")
    return Number("Latency", fmt.milliseconds(found.latency), tuple(details))


def _distillation_gain(result: RunResult) -> Number:
    if result.comparison is None:
        return Number("Distillation gain", fmt.MISSING, ("no label-only baseline was trained",))
    difference, metric = result.comparison.difference, result.metric
    if difference.interval is None:
        detail = "one seed: no interval is possible"
    else:
        interval = fmt.gain_interval(difference.interval, metric)
        detail = f"mean of {fmt.plural(len(difference.values), 'seed')}, 95 % interval {interval}"
    return Number("Distillation gain", fmt.gain(difference.mean, metric), (detail,))


def verdict_lines(result: RunResult, *, report: str | PathLike[str] | None = None) -> list[str]:
    """Write the verdict as lines of plain text.

    Args:
        result: The result of the run.
        report: The path of the page, if it was written; it becomes the last line.
    """
    lines = [sentence(result), ""]
    shown, budget = numbers(result), _budget(result)
    width = max(len(name) for name in (*(n.name for n in shown), *(name for name, _ in budget)))
    for number in shown:
        lines.append(f"  {number.name:<{width}}  {number.value}")
        lines += [f"  {'':<{width}}  {detail}" for detail in number.details]
    lines += ["", *(f"  {name:<{width}}  {outcome}" for name, outcome in budget)]
    if result.evaluation is not None and (unfinished := _unfinished(result.evaluation)):
        lines += ["", *unfinished]
    # The data splits are on the page only; here they would hide the warnings.
    notes = [note for note in result.notes if note not in result.data.notes]
    if notes:
        lines += ["", *(f"  Note: {note}" for note in notes)]
    if report is not None:
        lines += ["", f"  {'Report':<{width}}  {report}"]
    return lines


def _budget(result: RunResult) -> list[tuple[str, str]]:
    if not result.budget:
        return [("Budget", "none was set")]
    return [
        (
            f"Budget: {budget_name(check)}",
            f"{'MISSED' if check.word == 'missed' else check.word}: "
            f"{amount(check.measured, check)} {requirement(check)}",
        )
        for check in result.budget
    ]


def _unfinished(evaluation: Evaluation) -> list[str]:
    lines = [f"  FAILED: evaluation {one.evaluation}: {one.reason}" for one in evaluation.failed]
    if evaluation.pending:
        lines.append(f"  Not evaluated yet: {', '.join(evaluation.pending)}")
    return lines


_SIGNS: dict[Verdict, str] = {
    "better": "+",
    "non-inferior": "=",
    "worse": "-",
    "inconclusive": "?",
    "no reference": " ",
}


def comparison_lines(evaluation: Evaluation) -> list[str]:
    """Write the comparisons of an evaluation as lines of plain text, each with a sign."""
    lines: list[str] = []
    for one in evaluation.results:
        lines += ["", one.evaluation, *([f"  {one.summary}"] if one.summary else [])]
        lines += [f"  {_SIGNS[metric.verdict]} {metric.summary}" for metric in one.comparisons]
        lines += [f"    Note: {note}" for note in one.notes]
    unfinished = _unfinished(evaluation)
    lines += ["", *unfinished] if unfinished else []
    legend = "+ better than the teacher   = non-inferior   - worse   ? inconclusive"
    return [*lines[1:], "", legend]
