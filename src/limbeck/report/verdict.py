"""The figures behind the verdict, the same for page, card and terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike

from limbeck.core.measurement import Interval
from limbeck.display import format as fmt
from limbeck.evaluate.costs import Latency, latency_ratio
from limbeck.evaluate.evaluation import Evaluation
from limbeck.evaluate.intervals import Summary, summarize
from limbeck.report.result import BudgetCheck, Link, Measured, RunResult


def first(link: Link | None) -> Measured | None:
    """Return the measurements of a stage's first seed: of the last stage, the exported file's."""
    return link.measured[0] if link is not None and link.measured else None


def one_thread(measured: Measured | None) -> Latency | None:
    """Return the latency at one thread, or `None` if it was not measured."""
    timed = measured.cost.latency if measured else ()
    return next((latency for latency in timed if latency.threads == 1), None)


def all_threads(measured: Measured | None) -> Latency | None:
    """Return the latency at the most threads above one, or `None` if it was not measured."""
    timed = [
        latency for latency in (measured.cost.latency if measured else ()) if latency.threads > 1
    ]
    return max(timed, key=lambda latency: latency.threads, default=None)


def p50(measured: Measured | None) -> float | None:
    """Return the median latency at one thread in milliseconds."""
    latency = one_thread(measured)
    return latency.p50 if latency else None


def quotient(above: float | None, below: float | None) -> float | None:
    """Compute a quotient; `None` where a part is missing or the divisor is zero.

    Example:
        >>> quotient(6, 3), quotient(6, None), quotient(6, 0)
        (2.0, None, None)
    """
    if above is None or not below:
        return None
    value = above / below
    return value if math.isfinite(value) else None


def majority_share(measured: Measured | None) -> float | None:
    """Compute the majority-class baseline: the share of the most frequent class."""
    rows = [sum(row) for row in measured.confusion] if measured else []
    return max(rows) / sum(rows) if sum(rows) else None


def _at_chance(measured: Measured | None, mean: float, majority: float | None) -> bool:
    """Return whether the model is not shown to beat the majority-class baseline."""
    if measured is None or majority is None:
        return False
    return mean <= majority or measured.accuracy.interval.low <= majority


def _above(mean: float, teacher: Summary | None, majority: float | None) -> float | None:
    """Compute the student / teacher ratio of the accuracies above the majority-class baseline."""
    if teacher is None or majority is None or teacher.mean <= majority:
        return None
    return max(0.0, mean - majority) / (teacher.mean - majority)


def _range(above: Latency | None, below: Latency | None) -> tuple[float, float] | None:
    return latency_ratio(above, below) if above and below else None


@dataclass(frozen=True)
class Figures:
    """The figures of the verdict; `None` where the run did not measure them.

    `compression`, `fewer_parameters` and `speedup` are teacher / student: above 1, the student is
    better; `speedup_range` is the range of the ratio over the blocks of the measurement. `retained`
    is the student's mean accuracy over seeds divided by the teacher's; `majority` is the share of
    the most frequent class among the test samples, the accuracy of a constant prediction;
    `retained_above_majority` is the ratio of the accuracies in excess of it.
    """

    size: int | None
    parameters: int | None
    latency: float | None
    accuracy: Summary
    shipped_interval: Interval | None
    shipped_accuracy: float | None
    test_samples: int | None
    teacher_size: int | None
    teacher_parameters: int | None
    teacher_latency: float | None
    teacher_accuracy: Summary | None
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
    missed: tuple[str, ...]


def figures(result: RunResult) -> Figures:
    """Compute the verdict's figures from a result."""
    shipped, taught = first(result.shipped), first(result.teacher)
    size, teacher_size = (m.cost.size_bytes if m else None for m in (shipped, taught))
    parameters, teacher_parameters = (m.cost.parameters if m else None for m in (shipped, taught))
    accuracy = result.shipped.accuracy
    teacher_accuracy = result.teacher.accuracy if result.teacher else None
    majority = majority_share(shipped)
    return Figures(
        size=size,
        parameters=parameters,
        latency=p50(shipped),
        accuracy=accuracy,
        shipped_interval=shipped.accuracy.interval if shipped else None,
        shipped_accuracy=shipped.accuracy.value if shipped else None,
        test_samples=shipped.accuracy.total if shipped else None,
        teacher_size=teacher_size,
        teacher_parameters=teacher_parameters,
        teacher_latency=p50(taught),
        teacher_accuracy=teacher_accuracy,
        compression=quotient(teacher_size, size),
        fewer_parameters=quotient(teacher_parameters, parameters),
        speedup=quotient(p50(taught), p50(shipped)),
        speedup_range=_range(one_thread(taught), one_thread(shipped)),
        latency_spread=one_thread(shipped),
        majority=majority,
        retained_above_majority=_above(accuracy.mean, teacher_accuracy, majority),
        student_at_chance=_at_chance(shipped, accuracy.mean, majority),
        teacher_at_chance=teacher_accuracy is not None
        and _at_chance(taught, teacher_accuracy.mean, majority),
        retained=quotient(accuracy.mean, teacher_accuracy.mean if teacher_accuracy else None),
        missed=tuple(check.name for check in result.budget if not check.met),
    )


_BUDGET_NAMES = {
    "size_kb": "size",
    "size_mb": "size",
    "latency_ms": "latency",
    "energy_mj": "energy",
    "accuracy_drop": "accuracy drop",
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
    return _BUDGET_NAMES.get(check.name, check.name.replace("_", " "))


def amount(value: float, check: BudgetCheck) -> str:
    """Write one side of a budget line in its own unit; shares have none and are written as such.

    Example:
        >>> check = BudgetCheck(name="accuracy_drop", allowed=0, measured=0.02, unit="", met=False)
        >>> amount(check.measured, check)
        '2 points'
    """
    if check.name == "accuracy_drop" and not check.unit:
        return f"{fmt.trim(fmt.number(100 * value))} points"
    if check.name == "accuracy" and not check.unit:
        return fmt.percent(value)
    if value == int(value) and not check.unit:
        return fmt.integer(int(value))
    return f"{fmt.trim(fmt.number(value))} {check.unit}".rstrip()


def asked(check: BudgetCheck) -> str:
    """Write the requirement of a budget line.

    Example:
        >>> asked(BudgetCheck(name="size_kb", allowed=40, measured=38, unit="kB", met=True))
        'of 40 kB allowed'
        >>> asked(BudgetCheck(name="accuracy", allowed=0.9, measured=0.95, unit="", met=True))
        'of at least 90.00 %'
    """
    written = amount(check.allowed, check)
    return f"of at least {written}" if check.name == "accuracy" else f"of {written} allowed"


def sentence(result: RunResult) -> str:
    """Write a summary sentence: the compression, the retained accuracy, and the budget."""
    found = figures(result)
    budget = _budget_clause(result)
    if found.compression is None and found.retained is None:
        size = f"takes {fmt.size(found.size)} and " if found.size else ""
        share = fmt.percent(found.accuracy.mean, 1)
        said = f"{size}answers {share} of the test samples correctly"
        return f"The student {said}; the run had no teacher to compare it with{budget}."
    smaller, doubt = _smaller(found), _doubt(found)
    if doubt:
        begun = f"The student {smaller}, but {doubt}" if smaller else doubt[:1].upper() + doubt[1:]
        return f"{begun}{budget}."
    kept = [part for part in (smaller, _kept(found)) if part]
    return f"The student {' and '.join(kept)}{budget}."


FAR_ABOVE = 0.05
"""The excess over the teacher's accuracy, as a share, above which it needs an explanation."""


def _doubt(found: Figures) -> str:
    """Write why retained accuracy is meaningless here; empty where it is meaningful."""
    if found.retained is None or found.teacher_accuracy is None:
        return ""
    constant = f"always answering the commonest class ({fmt.percent(found.majority, 1)})"
    own, taught = (fmt.percent(one.mean, 1) for one in (found.accuracy, found.teacher_accuracy))
    if found.teacher_at_chance:
        return f"its teacher, with {taught} accuracy, is no better than {constant}"
    if found.student_at_chance:
        return f"with {own} accuracy it is no better than {constant}"
    if found.accuracy.mean - found.teacher_accuracy.mean > FAR_ABOVE:
        return (
            f"it reaches {own} where its teacher reaches {taught}: a teacher that is wrong for "
            "these data (order of the labels, preprocessing, training) or test rows that are among "
            "the training rows would look like this"
        )
    return ""


def _smaller(found: Figures) -> str:
    """Write the comparison of the sizes."""
    if found.compression is None:
        return ""
    if found.compression < 1.05:
        return f"is no smaller than its teacher ({fmt.ratio(1 / found.compression)} its size)"
    times = found.compression
    written = fmt.trim(f"{times:.1f}") if times < 10 else f"{times:,.0f}"
    return f"is {written} times smaller than its teacher"


def _kept(found: Figures) -> str:
    """Write the share of the teacher's accuracy that is retained."""
    if found.retained is None:
        return ""
    share = fmt.percent(found.retained, 1)
    if found.retained < 1:
        return f"keeps {share} of its accuracy"
    verb = "exceeds" if _proven(found) else "keeps all of"
    return f"{verb} its accuracy ({share} of it)"


def _proven(found: Figures) -> bool:
    """Return whether the student is better seed by seed, by more than chance."""
    own, other = found.accuracy.values, found.teacher_accuracy
    if other is None or len(own) != len(other.values):
        return False
    pairs = zip(own, other.values, strict=True)
    interval = summarize([student - teacher for student, teacher in pairs]).interval
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
    return (
        _size(found),
        _compression(found),
        _accuracy(result, found),
        _retained(found),
        _latency(found),
        _labels_alone(result),
    )


def _size(found: Figures) -> Number:
    details = (f"teacher {fmt.size(found.teacher_size)}",) if found.teacher_size else ()
    return Number("Size on disk", fmt.size(found.size), details)


def _compression(found: Figures) -> Number:
    parameters = f"{fmt.integer(found.parameters)} parameters"
    if found.teacher_parameters:
        parameters += f", teacher {fmt.integer(found.teacher_parameters)}"
    fewer = f"{fmt.ratio(found.fewer_parameters)} fewer" if found.fewer_parameters else ""
    return Number(
        "Compression",
        fmt.ratio(found.compression),
        tuple(part for part in (parameters, fewer) if part),
    )


def _accuracy(result: RunResult, found: Figures) -> Number:
    """Return the mean over seeds with Student's interval, and the exported file's with Wilson's."""
    seeds = len(found.accuracy.values)
    details = []
    if found.accuracy.interval:
        interval = fmt.percent_interval(found.accuracy.interval)
        details.append(f"mean of {fmt.plural(seeds, 'seed')}, 95 % interval {interval}")
    if found.shipped_interval is not None and found.shipped_accuracy is not None:
        shipped = fmt.percent(found.shipped_accuracy)
        file = "the file that ships" if seeds > 1 else "95 % interval"
        value = f" {shipped}, 95 % interval" if seeds > 1 else ""
        interval = fmt.percent_interval(found.shipped_interval)
        details.append(
            f"{file}{value} {interval} on {fmt.integer(found.test_samples)} test samples"
        )
    return Number("Accuracy", fmt.percent(found.accuracy.mean), tuple(details))


def _retained(found: Figures) -> Number:
    taught = found.teacher_accuracy
    details = [f"of the teacher's {fmt.percent(taught.mean)}"] if taught else []
    if found.retained_above_majority is not None:
        share = fmt.percent(found.retained_above_majority, 1)
        details.append(
            f"{share} of what it has above the commonest class ({fmt.percent(found.majority, 1)})"
        )
    return Number("Retained accuracy", fmt.percent(found.retained, 1), tuple(details))


def _latency(found: Figures) -> Number:
    details = ["median at batch 1, one thread"] if found.latency is not None else []
    if found.teacher_latency is not None:
        faster = f", {fmt.ratio(found.speedup)} as fast" if found.speedup else ""
        details.append(f"teacher {fmt.milliseconds(found.teacher_latency)}{faster}")
    if found.speedup_range is not None:
        low, high = (fmt.ratio(end) for end in found.speedup_range)
        details.append(f"{low} to {high} from block to block of the measurement")
    spread = found.latency_spread
    if spread is not None and not spread.steady:
        times = fmt.ratio(spread.p90 / spread.p50)
        details.append(f"inconclusive: the 90th percentile is {times} the median")
    return Number("Latency", fmt.milliseconds(found.latency), tuple(details))


def _labels_alone(result: RunResult) -> Number:
    if result.comparison is None:
        return Number("Distillation gain", fmt.MISSING, ("no student was trained on labels alone",))
    difference = result.comparison.difference
    if difference.interval is None:
        detail = "one seed: no interval is possible"
    else:
        interval = fmt.points_interval(difference.interval)
        detail = f"mean of {fmt.plural(len(difference.values), 'seed')}, 95 % interval {interval}"
    return Number("Distillation gain", fmt.points(difference.mean), (detail,))


def verdict_lines(result: RunResult, *, report: str | PathLike[str] | None = None) -> list[str]:
    """Write the verdict as lines of plain text.

    Args:
        result: The result of the run.
        report: The path of the page, if it was written; it becomes the last line.
    """
    lines = [sentence(result), ""]
    shown = numbers(result)
    width = max(len(number.name) for number in shown)
    for number in shown:
        lines.append(f"  {number.name:<{width}}  {number.value}")
        lines += [f"  {'':<{width}}  {detail}" for detail in number.details]
    lines += ["", *_budget(result, width)]
    if result.evaluation is not None and (unfinished := _unfinished(result.evaluation)):
        lines += ["", *unfinished]
    # The data splits are on the page only; here they would hide the warnings.
    notes = [note for note in result.notes if note not in result.data.notes]
    if notes:
        lines += ["", *(f"  Note: {note}" for note in notes)]
    if report is not None:
        lines += ["", f"  {'Report':<{width}}  {report}"]
    return lines


def _budget(result: RunResult, width: int) -> list[str]:
    """Return one line per line of the budget, in words rather than colours."""
    if not result.budget:
        return [f"  {'Budget':<{width}}  none was set"]
    return [
        f"  {'Budget: ' + budget_name(check):<{width}}  "
        f"{'MISSED' if check.word == 'missed' else check.word}: "
        f"{amount(check.measured, check)} {asked(check)}"
        for check in result.budget
    ]


def _unfinished(evaluation: Evaluation) -> list[str]:
    """Return one line per failed evaluation, and one for those still to come."""
    lines = [f"  FAILED: evaluation {one.evaluation}: {one.reason}" for one in evaluation.failed]
    if evaluation.pending:
        lines.append(f"  Not evaluated yet: {', '.join(evaluation.pending)}")
    return lines


SIGNS = {"better": "+", "non-inferior": "=", "worse": "-", "inconclusive": "?", "no reference": " "}


def finding_lines(found: Evaluation) -> list[str]:
    """Write the comparisons of an evaluation as lines of plain text, each with a sign."""
    lines: list[str] = []
    for one in found.results:
        lines += ["", one.evaluation]
        lines += [f"  {SIGNS[finding.verdict]} {finding.summary}" for finding in one.comparisons]
        lines += [f"    Note: {note}" for note in one.notes]
    unfinished = _unfinished(found)
    lines += ["", *unfinished] if unfinished else []
    meaning = "+ better than the teacher   = kept   - worse   ? too few samples to tell"
    return [*lines[1:], "", meaning]
