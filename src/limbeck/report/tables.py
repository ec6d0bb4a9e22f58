"""The tables of the page: one row per quantity, one column per stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from limbeck.display import format as fmt
from limbeck.display.blocks import Column, Row, Table
from limbeck.evaluate.costs import Latency
from limbeck.evaluate.metrics import Fidelity, Parity
from limbeck.report.result import Link, Measured, RunResult
from limbeck.report.verdict import all_threads, first, one_thread

_PERCENTILES: tuple[tuple[str, Callable[[Latency], float]], ...] = (
    ("p50", lambda latency: latency.p50),
    ("p90", lambda latency: latency.p90),
    ("p99", lambda latency: latency.p99),
)


def links(result: RunResult) -> tuple[Link, ...]:
    """Return the chain, followed by the baseline if there is one."""
    return (*result.chain, *((result.baseline,) if result.baseline else ()))


def _table(title: str, caption: str, shown: Sequence[Link], rows: Sequence[Row]) -> Table:
    return Table(
        title, caption, tuple(Column(link.label, link.role) for link in shown), tuple(rows)
    )


def _row(name: str, shown: Sequence[Link], cell: Callable[[Measured], str]) -> Row:
    """Return the row of one quantity of every stage's first seed."""
    found = (first(link) for link in shown)
    return Row(name, tuple(cell(measured) if measured else fmt.MISSING for measured in found))


def quality(result: RunResult) -> Table:
    """Return the table of the quality of each artefact of the first seed."""
    shown = links(result)
    rows = [
        _row("Test accuracy", shown, lambda m: fmt.percent(m.accuracy.value)),
        _row(
            "… 95 % interval (Wilson)", shown, lambda m: fmt.percent_interval(m.accuracy.interval)
        ),
        _row(
            "Correct predictions",
            shown,
            lambda m: f"{m.accuracy.correct:,} of {m.accuracy.total:,}",
        ),
        _row("Validation accuracy", shown, lambda m: fmt.percent(m.validation_accuracy)),
        _fidelity("Agreement with the teacher", shown, lambda f: fmt.percent(f.agreement)),
        _fidelity("… 95 % interval (Wilson)", shown, lambda f: fmt.percent_interval(f.interval)),
        _fidelity("KL(teacher ‖ it), nats", shown, lambda f: fmt.number(f.kl)),
        _row("Calibration error (ECE)", shown, lambda m: fmt.percent(m.calibration.ece)),
        _row("Negative log-likelihood", shown, lambda m: fmt.number(m.calibration.nll)),
    ]
    caption = f"Each artefact of seed {result.seeds[0]} as it was exported, on the test split."
    return _table("Quality of each artefact", caption, shown, rows)


def _fidelity(name: str, shown: Sequence[Link], cell: Callable[[Fidelity], str]) -> Row:
    return _row(name, shown, lambda m: cell(m.fidelity) if m.fidelity else fmt.MISSING)


def cost(result: RunResult) -> Table:
    """Return the table of the cost of each artefact of the first seed."""
    shown = links(result)
    rows = [
        _row("Size on disk", shown, lambda m: f"{fmt.size(m.cost.size_bytes)}"),
        _row("Bytes", shown, lambda m: fmt.integer(m.cost.size_bytes)),
        _row("Parameters", shown, lambda m: fmt.integer(m.cost.parameters)),
        _row("FLOPs per inference", shown, lambda m: fmt.operations(m.cost.flops)),
        *_latencies(shown),
        _row(_throughput_name(shown), shown, lambda m: fmt.significant(m.cost.throughput)),
        _row("Peak memory", shown, lambda m: fmt.size(m.cost.peak_memory_bytes)),
        _row(_energy_name(shown), shown, _energy),
        _row("CO₂ per inference, estimated", shown, _carbon),
    ]
    caption = (
        f"Each artefact of seed {result.seeds[0]} as it was exported; latencies at batch 1 after "
        "warm-up, the artefacts in turn so that a busy machine is unfair to none. A multiply-add "
        f"counts as two operations. {_energy_sources(shown)}"
    ).rstrip()
    return _table("Cost of each artefact", caption, shown, rows)


def _latencies(shown: Sequence[Link]) -> list[Row]:
    """Return the rows of p50, p90 and p99 at one thread and at all threads."""
    most = {found.threads for link in shown if (found := all_threads(first(link)))}
    every = f"{max(most)} threads" if most else "all threads"
    return [
        _row(f"Latency {share}, {where}", shown, _percentile(pick, value))
        for where, pick in (("1 thread", one_thread), (every, all_threads))
        for share, value in _PERCENTILES
    ]


def _percentile(
    pick: Callable[[Measured], Latency | None], value: Callable[[Latency], float]
) -> Callable[[Measured], str]:
    """Return a function that writes one percentile of the picked latency, if there is one."""
    return lambda measured: fmt.milliseconds(value(found) if (found := pick(measured)) else None)


def _throughput_name(shown: Sequence[Link]) -> str:
    """Write the name of the throughput, samples per second, with its batch size."""
    batches = sorted({m.cost.throughput_batch for link in shown if (m := first(link))})
    return f"Samples per second, batch {' or '.join(map(str, batches))}"


def _energy_name(shown: Sequence[Link]) -> str:
    """Write the name of the energy row: "measured" only if every figure is."""
    sources = [m.cost.energy.source for link in shown if (m := first(link)) and m.cost.energy]
    measured = bool(sources) and all(source.startswith("measured") for source in sources)
    return f"Energy per inference, {'measured' if measured else 'estimated'}"


def _energy_sources(shown: Sequence[Link]) -> str:
    """Write how the energy was measured or estimated, which decides its reliability."""
    found = (m.cost.energy for link in shown if (m := first(link)))
    sources = dict.fromkeys(energy.source for energy in found if energy)
    return f"Energy: {'; '.join(sources)}." if sources else ""


def _energy(measured: Measured) -> str:
    energy = measured.cost.energy
    return fmt.joules(energy.joules) if energy else fmt.MISSING


def _carbon(measured: Measured) -> str:
    energy = measured.cost.energy
    return fmt.grams(energy.grams_co2) if energy else fmt.MISSING


def parity(result: RunResult) -> Table:
    """Return the table of the differences between the outputs of ONNX Runtime and torch."""
    shown = links(result)
    rows = [
        _parity("Largest difference", shown, lambda p: fmt.number(p.max_abs_difference)),
        _parity("Mean difference", shown, lambda p: fmt.number(p.mean_abs_difference)),
        _parity("Tolerance", shown, lambda p: fmt.trim(fmt.number(p.tolerance))),
        _parity("Within the tolerance", shown, lambda p: "yes" if p.within else "NO"),
        _parity("Top-1 agreement", shown, lambda p: fmt.percent(p.agreement)),
        _parity("Samples", shown, lambda p: fmt.integer(p.samples)),
    ]
    caption = (
        "Outputs of the exported file in ONNX Runtime against the torch model that it was made "
        "from, on the same samples; differences are absolute, in logits."
    )
    return _table("torch against ONNX Runtime", caption, shown, rows)


def _parity(name: str, shown: Sequence[Link], cell: Callable[[Parity], str]) -> Row:
    return _row(name, shown, lambda m: cell(m.parity) if m.parity else fmt.MISSING)


def seeds(result: RunResult) -> Table:
    """Return the table of the test accuracy of every stage, seed by seed."""
    shown = links(result)
    rows = [
        Row(f"Seed {seed}", tuple(_nth(link.accuracy.values, index) for link in shown))
        for index, seed in enumerate(result.seeds)
    ]
    rows.append(Row("Mean", tuple(fmt.percent(link.accuracy.mean) for link in shown)))
    rows.append(Row("95 % interval", tuple(_over_seeds(link) for link in shown)))
    rows.append(Row("Time per seed", tuple(fmt.duration(link.seconds.mean) for link in shown)))
    caption = "Test accuracy of each exported artefact; the interval is Student's over seeds."
    return _table("Every seed", caption, shown, rows)


def _nth(values: Sequence[float], index: int) -> str:
    return fmt.percent(values[index]) if index < len(values) else fmt.MISSING


def _over_seeds(link: Link) -> str:
    if len(link.accuracy.values) < 2:
        return "none: one seed"
    return fmt.percent_interval(link.accuracy.interval)
