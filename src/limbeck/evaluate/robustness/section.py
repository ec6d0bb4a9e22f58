"""The section on robustness: adversarial attacks, corruptions and certified accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from limbeck.display import format as fmt
from limbeck.display.blocks import Panel, Row, Table, percent_tick
from limbeck.display.charts import lines
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.robustness import Robustness
from limbeck.evaluate.robustness.rows import in_255ths
from limbeck.evaluate.section import BOTH, Points, Sample, SectionContent, both, pair

NAMES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "transfer": "transfer",
    "gradients": "all with gradients",
    "strongest": "strongest",
}


def section(found: Robustness) -> SectionContent:
    """Draw accuracy by strength of attack and corruption, and certified accuracy."""
    panels = [panel for panel in (_attacks(found), _damage(found)) if panel]
    tables = [
        table for table in (_by_attack(found), _by_damage(found), _certain(found)) if table.rows
    ]
    return SectionContent(
        "Does it stand what its teacher stands?",
        _lead(found),
        panels=tuple(panels),
        tables=tuple(tables),
        samples=tuple(_samples(found)),
        warnings=found.warnings,
    )


def _lead(found: Robustness) -> str:
    said = f"{fmt.integer(found.samples)} test samples were worsened"
    if found.attack_samples:
        said += f", {fmt.integer(found.attack_samples)} of them attacked"
    return (
        f"{said}. Attacks are made with gradients of the model in torch and shown to the file that "
        "ships; the figure that counts is that of the strongest."
    )


def _points(pairs: Iterable[tuple[float, Estimate | None]]) -> Points:
    return tuple((across, one.value) for across, one in pairs if one is not None)


def _attacks(found: Robustness) -> Panel | None:
    rows = [row for row in found.attacks if row.attack == "strongest"]
    if not rows:
        return None
    title = "Robust accuracy (L∞)"
    said = "Accuracy under the strongest attack of each size."
    drawn = lines(
        both(
            _points((255 * row.eps, row.student) for row in rows),
            _points((255 * row.eps, row.teacher) for row in rows),
        ),
        axis=percent_tick,
        title=title,
        description=said,
        across="largest change of a pixel, in 255ths",
    )
    return Panel(title, f"{said} Each picture counts as broken if any attack broke it.", drawn)


def _damage(found: Robustness) -> Panel | None:
    if not found.corruptions:
        return None
    by: dict[int, list[tuple[Estimate, Estimate | None]]] = defaultdict(list)
    for row in found.corruptions:
        by[row.severity].append((row.student, row.teacher))
    title = "Accuracy on damaged samples"
    said = "Mean over the kinds of damage, by severity from 1 to 5."
    drawn = lines(
        both(
            _points((level, _mean([one for one, _ in pairs])) for level, pairs in by.items()),
            _points((level, _mean([two for _, two in pairs])) for level, pairs in by.items()),
        ),
        axis=percent_tick,
        title=title,
        description=said,
        across="severity",
    )
    return Panel(title, said, drawn)


def _mean(estimates: list[Estimate | None]) -> Estimate | None:
    known = [one.value for one in estimates if one is not None]
    return Estimate(value=sum(known) / len(known)) if known else None


def _by_attack(found: Robustness) -> Table:
    rows = tuple(
        Row(f"{NAMES[row.attack]}, {in_255ths(row.eps)}", pair(row.student, row.teacher))
        for row in found.attacks
    )
    caption = "Accuracy after each attack; transfer: made on the other of the two models."
    return Table("Every attack", caption, BOTH, rows)


def _by_damage(found: Robustness) -> Table:
    rows = tuple(
        Row(f"{row.kind.capitalize()}, severity {row.severity}", pair(row.student, row.teacher))
        for row in found.corruptions
    )
    return Table("Corruption robustness", "Accuracy on corrupted samples.", BOTH, rows)


def _certain(found: Robustness) -> Table:
    rows = tuple(
        Row(f"Within {in_255ths(row.eps)}", pair(row.student, row.teacher))
        for row in found.certified
    )
    caption = (
        "Share of pictures answered rightly whatever is done to them within the size, proven by "
        "interval bounds on the model in torch; the true share is no lower."
    )
    return Table("Certified accuracy", caption, BOTH, rows)


def _samples(found: Robustness) -> Iterator[Sample]:
    for one in found.examples:
        yield Sample(
            f"{one.label}, taken for {one.answer} after {in_255ths(one.eps)}",
            (("before", one.before), ("after", one.after)),
        )
