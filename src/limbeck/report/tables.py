"""The tables of the page: one row per quantity, one column per stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from limbeck.display import format as fmt
from limbeck.display.blocks import Column, Row, Table
from limbeck.evaluate.calibration.metrics import Calibration
from limbeck.evaluate.costs import Latency
from limbeck.evaluate.metrics import Fidelity, Parity
from limbeck.report.result import Link, Measured, RunResult
from limbeck.report.verdict import first, one_thread


def links(result: RunResult) -> tuple[Link, ...]:
    """Return the chain, followed by the baseline if there is one."""
    return (*result.chain, *((result.baseline,) if result.baseline else ()))


def _table(title: str, caption: str, shown: Sequence[Link], rows: Sequence[Row]) -> Table:
    columns = tuple(Column(link.label, link.role) for link in shown)
    return Table(title, caption, columns, tuple(rows))


def _row(name: str, shown: Sequence[Link], cell: Callable[[Measured], str]) -> Row:
    """Return the row of one quantity of every stage's first seed."""
    found = (first(link) for link in shown)
    return Row(name, tuple(cell(measured) if measured else fmt.MISSING for measured in found))


def quality(result: RunResult) -> Table:
    """Return the table of the quality of each artefact of the first seed."""
    shown = links(result)

    measured = first(result.shipped)
    scores = measured.scores if measured else ()

    def fidelity(name: str, cell: Callable[[Fidelity], str]) -> Row:
        return _row(name, shown, lambda m: cell(m.fidelity) if m.fidelity else fmt.MISSING)

    def calibration(name: str, cell: Callable[[Calibration], str]) -> Row:
        return _row(name, shown, lambda m: cell(m.calibration) if m.calibration else fmt.MISSING)

    interval, metric = "… 95 % interval", result.metric
    rows = [
        *(row for number in range(len(scores)) for row in _score_rows(shown, number)),
        _row(
            f"Validation {metric.text}",
            shown,
            lambda m: fmt.score(m.validation_score, metric),
        ),
    ]
    if result.data.classes:
        rows += [
            fidelity("Agreement with the teacher", lambda f: fmt.percent(f.agreement)),
            fidelity(interval, lambda f: fmt.percent_interval(f.interval)),
            fidelity("KL(teacher ‖ artefact), nats", lambda f: fmt.number(f.kl)),
            calibration("Expected calibration error", lambda c: fmt.percent(c.ece)),
            calibration("Negative log-likelihood", lambda c: fmt.number(c.nll)),
        ]
    caption = f"Each artefact of seed {result.seeds[0]} as it was exported, on the test split."
    return _table("Quality of each artefact", caption, shown, rows)


def _score_rows(shown: Sequence[Link], number: int) -> Iterator[Row]:
    """Yield the rows of one of the scores: its value and its interval."""
    [measured, *_] = [found for link in shown if (found := first(link))]
    metric = measured.scores[number].metric

    def value(one: Measured) -> str:
        return fmt.score(one.scores[number].value, metric)

    def interval(one: Measured) -> str:
        return fmt.score_interval(one.scores[number].interval, metric)

    yield _row(f"Test {metric.text}", shown, value)
    bounds = measured.scores[number].interval
    yield _row(f"… 95 % interval{f' ({bounds.method})' if bounds else ''}", shown, interval)


def cost(result: RunResult) -> Table:
    """Return the table of the cost of each artefact of the first seed."""
    shown = links(result)
    measured = [m for link in shown if (m := first(link))]
    batches = sorted({m.cost.throughput_batch for m in measured})
    sources = list(dict.fromkeys(m.cost.energy.source for m in measured if m.cost.energy))
    is_measured = bool(sources) and all(source.startswith("measured") for source in sources)
    rows = [
        _row("Size on disk", shown, lambda m: fmt.size(m.cost.size_bytes)),
        _row("Bytes", shown, lambda m: fmt.integer(m.cost.size_bytes)),
        _row("Parameters", shown, lambda m: fmt.integer(m.cost.parameters)),
        _row("FLOPs per inference", shown, lambda m: fmt.operations(m.cost.flops)),
        *_latencies(shown),
        _row(
            f"Samples per second, batch {' or '.join(map(str, batches))}",
            shown,
            lambda m: fmt.significant(m.cost.throughput),
        ),
        _row("Peak memory", shown, lambda m: fmt.size(m.cost.peak_memory_bytes)),
        _row(
            f"Energy per inference, {'measured' if is_measured else 'estimated'}",
            shown,
            lambda m: fmt.joules(m.cost.energy.joules if m.cost.energy else None),
        ),
        _row(
            "CO₂ per inference, estimated",
            shown,
            lambda m: fmt.grams(m.cost.energy.grams_co2 if m.cost.energy else None),
        ),
    ]
    energy = f" Energy: {'; '.join(sources)}." if sources else ""
    caption = (
        f"Each artefact of seed {result.seeds[0]} as it was exported; latencies at batch 1 after "
        "warm-up, the artefacts in turn so that other load on the machine affects all alike. A "
        f"multiply-add counts as two operations.{energy}"
    )
    return _table("Cost of each artefact", caption, shown, rows)


def all_threads(measured: Measured) -> Latency | None:
    """Return the latency at the most threads above one, or `None` if it was not measured."""
    several = [latency for latency in measured.cost.latency if latency.threads > 1]
    return max(several, key=lambda latency: latency.threads, default=None)


def _latencies(shown: Sequence[Link]) -> list[Row]:
    several = [found.threads for link in shown if (m := first(link)) and (found := all_threads(m))]
    threads = f"{max(several)} threads" if several else "all threads"

    def row(name: str, percentile: Literal["p50", "p90", "p99"], *, single: bool) -> Row:
        def cell(measured: Measured) -> str:
            latency = one_thread(measured) if single else all_threads(measured)
            return fmt.milliseconds(getattr(latency, percentile) if latency else None)

        return _row(f"Latency {percentile}, {name}", shown, cell)

    return [
        row(name, percentile, single=single)
        for name, single in (("1 thread", True), (threads, False))
        for percentile in ("p50", "p90", "p99")
    ]


def parity(result: RunResult) -> Table:
    """Return the table of the differences between the outputs of ONNX Runtime and PyTorch."""
    shown = links(result)

    def row(name: str, cell: Callable[[Parity], str]) -> Row:
        return _row(name, shown, lambda m: cell(m.parity) if m.parity else fmt.MISSING)

    rows = [
        row("Maximum difference", lambda p: fmt.number(p.max_abs_difference)),
        row("Mean difference", lambda p: fmt.number(p.mean_abs_difference)),
        row("Tolerance", lambda p: fmt.trim(fmt.number(p.tolerance))),
        row("Within the tolerance", lambda p: "yes" if p.within else "NO"),
        row("Samples", lambda p: fmt.integer(p.samples)),
    ]
    caption = (
        "Outputs of the exported file in ONNX Runtime and of the PyTorch model that it was "
        "exported from, on the same samples; differences are absolute, in the units of the output."
    )
    if result.data.classes:
        rows.insert(-1, row("Top-1 agreement", lambda p: fmt.percent(p.agreement)))
    else:
        caption += " Of several targets, they are those of the one closest to its tolerance."
    return _table("ONNX Runtime and PyTorch", caption, shown, rows)


def seeds(result: RunResult) -> Table:
    """Return the table of the test score of every stage, seed by seed."""
    shown, metric = links(result), result.metric

    def interval(link: Link) -> str:
        several = len(link.score.values) > 1
        return fmt.score_interval(link.score.interval, metric) if several else "none: one seed"

    def score(link: Link, index: int) -> str:
        values = link.score.values
        return fmt.score(values[index], metric) if index < len(values) else fmt.MISSING

    rows = [
        *(
            Row(f"Seed {seed}", tuple(score(link, index) for link in shown))
            for index, seed in enumerate(result.seeds)
        ),
        Row("Mean", tuple(fmt.score(link.score.mean, metric) for link in shown)),
        Row("95 % interval", tuple(map(interval, shown))),
        Row("Time per seed", tuple(fmt.duration(link.seconds.mean) for link in shown)),
    ]
    title = metric.title
    caption = f"Test {metric.text} of each exported artefact; Student's t interval over seeds."
    return _table(f"{title} per seed", caption, shown, rows)
