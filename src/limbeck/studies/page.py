"""Pages of studies: Markdown with a figure for each, an index, and the list of published claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import yaml
from markupsafe import Markup
from pydantic import Field, TypeAdapter

from limbeck.core.files import write_text
from limbeck.core.measurement import Result
from limbeck.display import charts
from limbeck.display import format as fmt
from limbeck.display.blocks import ends
from limbeck.evaluate.intervals import Summary, summarize
from limbeck.studies.judge import Verdict
from limbeck.studies.run import Outcome, stored
from limbeck.studies.study import CATALOGUE, Study, load, shipped

CLAIMS = CATALOGUE.parent / "claims.yaml"
WORDS: Mapping[Verdict, str] = {
    "supported": "Supported",
    "refuted": "Refuted",
    "mixed": "Mixed: some expectations hold, others fail",
    "undecided": "Undecided: the interval has the bound inside",
}
COLOURS = (
    "svg{--paper:#fbfaf7;--ink:#1d1e20;--quiet:#5d6066;--line:#dedbd3;--grid:#ebe8e1;"
    "background:var(--paper);font-family:sans-serif}"
    ".role-teacher{color:#a5480c}.role-student{color:#0a5f9e}.role-baseline{color:#6a6d73}"
    ".t{font-size:12.5px;fill:var(--ink);paint-order:stroke;stroke:var(--paper);"
    "stroke-width:3.5px}.t.axis{font-size:11.5px;fill:var(--quiet)}.t.strong{font-weight:600}"
    ".rule,.grid,.zero,.pair{stroke:var(--line);fill:none}.grid{stroke:var(--grid)}"
    ".zero{stroke:var(--quiet)}.pair{stroke:var(--quiet);stroke-opacity:.45}"
    ".whisker,.mean{stroke:currentColor;stroke-width:1.75}.mean{stroke-width:3.5}"
    ".dot{fill:currentColor;fill-opacity:.55;stroke:currentColor}"
)
"""The style of a chart outside of a report, where no style sheet is around it."""


class Claim(Result):
    """A published figure, and where it is tested.

    Attributes:
        claim: The claim.
        figure: The published figure.
        source: The paper or the report.
        studies: The studies that test it at a small scale.
        where: Another place where it is tested, such as a recipe.
        note: Why it is not tested, or what differs.
    """

    claim: str
    figure: str
    source: str
    studies: tuple[str, ...] = ()
    where: str | None = None
    note: str | None = None


def claims() -> list[Claim]:
    """Load the published claims."""
    content = yaml.safe_load(CLAIMS.read_text(encoding="utf-8"))
    found: list[Claim] = TypeAdapter(Annotated[list[Claim], Field(min_length=1)]).validate_python(
        content
    )
    return found


def write_page(study: Study, outcome: Outcome, folder: Path) -> Path:
    """Write a study's page, `NAME.md`, and its figure, `NAME.svg`; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in page_files(study, outcome, folder).items():
        write_text(path, content)
    return folder / f"{study.name}.md"


def page_files(study: Study, outcome: Outcome, folder: Path) -> dict[Path, str]:
    """Return the content of a study's page and figure by path."""
    return {
        folder / f"{study.name}.md": page(study, outcome),
        folder / f"{study.name}.svg": figure(study, outcome),
    }


def page(study: Study, outcome: Outcome) -> str:
    """Return a study's page as Markdown."""
    checks = fmt.table(
        ["expected", "", "measured", "95 % interval", "verdict"],
        [[f.what, f.bound, *_measured(f.measured), f.verdict] for f in outcome.checks],
        figures=False,
    )
    shown = [*dict.fromkeys([*(one.value for one in study.expect), *study.show])]
    values = outcome.values(study)
    rows = [
        [arm, *(_cell(summarize([row[name] for row in rows])) for name in shown)]
        for arm, rows in ((arm, _having(rows, shown)) for arm, rows in values.items())
        if rows
    ]
    settings = yaml.safe_dump(
        study.model_dump(mode="json", include={"measure", "settings", "arms", "seeds"}),
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
    seeds = len({one.seed for one in outcome.records})
    count = "independent of the seed" if study.deterministic else fmt.plural(seeds, "seed")
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    smoke = "\n**The smoke form, which supports no conclusion.**\n" if outcome.smoke else ""
    parts = [
        f"# {study.title}",
        f"**{WORDS[outcome.verdict]}.**{smoke}",
        f"*Claim.* {study.claim}",
        f"*Source.* {study.source}",
        *([f"*Claimed figure.* {study.claimed}"] if study.claimed else []),
        checks,
        f"![{study.title}]({study.name}.svg)",
        f"*Method.* {study.method.strip()}",
        fmt.table(["", *shown], rows),
        f"Mean with its 95 % interval; {count}; {fmt.duration(outcome.seconds)} of CPU time; "
        f"{versions}.",
        *([f"*Note.* {study.note.strip()}"] if study.note else []),
        f"```yaml\n{settings}```",
    ]
    return "\n\n".join(parts) + "\n"


def _having(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[dict[str, float]]:
    nan = float("nan")
    return [{name: row.get(name, nan) for name in names} for row in rows]


def _measured(one: Summary) -> tuple[str, str]:
    interval = one.interval
    ends = "-" if interval is None else f"{_number(interval.low)} to {_number(interval.high)}"
    return _number(one.mean), ends


def _number(value: float) -> str:
    return "-" if value != value else fmt.number(value, 4)


def _cell(one: Summary) -> str:
    mean, ends = _measured(one)
    return mean if ends == "-" or mean == "-" else f"{mean} ({ends})"


def figure(study: Study, outcome: Outcome) -> str:
    """Return the chart of the first expectation's value as a standalone SVG image.

    A row of dots per arm, one dot per seed, with the mean and its interval.
    """
    name = study.expect[0].value
    compared = {study.expect[0].of, study.expect[0].minus or study.expect[0].over}
    groups = [
        charts.Group(
            label=arm,
            role="student" if arm in compared else "baseline",
            values=summary.values,
            mean=summary.mean,
            written=_number(summary.mean),
            interval=ends(summary.interval),
        )
        for arm, rows in outcome.values(study).items()
        if all(name in row for row in rows)
        for summary in [summarize([row[name] for row in rows])]
    ]
    image = charts.strip(
        groups,
        study.seeds,
        axis=lambda tick: f"{tick:.4g}",
        title=f"{study.title}: {name}",
        description=f"{name} of each arm, one dot per seed, with the mean and its interval",
    )
    return _standalone(image)


def _standalone(image: Markup) -> str:
    """Return an image with its namespace and style, for a file of its own."""
    head, rest = str(image).split(">", 1)
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{head}><style>{COLOURS}</style>{rest}\n"


def index_files(folder: Path) -> dict[Path, str]:
    """Return every page that is written from the stored outcomes of a folder, by path.

    These are the page and the figure of each measured study, `index.md`, and `claims.md` beside the
    folder.
    """
    outcomes = {
        name: (study, stored(study, folder))
        for name, study in ((name, load(name)) for name in shipped())
    }
    pages: dict[Path, str] = {}
    for study, found in outcomes.values():
        if found is not None:
            pages |= page_files(study, found, folder)
    return pages | {
        folder / "index.md": _index(outcomes),
        folder.parent / "claims.md": _claims({n: found for n, (_, found) in outcomes.items()}),
    }


def _index(outcomes: Mapping[str, tuple[Study, Outcome | None]]) -> str:
    themes: dict[str, list[list[str]]] = {}
    for name, path in shipped().items():
        study, found = outcomes[name]
        link = f"[{study.title}]({name}.md)" if found else study.title
        row = [link, study.claim, *_conclusion(found)]
        themes.setdefault(path.parent.name, []).append(row)
    counts = dict.fromkeys(WORDS, 0)
    for _, found in outcomes.values():
        if found is not None:
            counts[found.verdict] += 1
    total = ", ".join(f"{count} {word}" for word, count in counts.items())
    seconds = sum(found.seconds for _, found in outcomes.values() if found)
    parts = [
        "# Studies",
        "Published claims on distillation and compression, measured with limbeck. `limbeck study "
        "NAME` measures one again, `limbeck list studies` lists them, and each page has the claim, "
        "its source, the rule that decides, the figures and the settings.",
        f"{sum(counts.values())} measured: {total}; {fmt.duration(seconds)} of CPU time in all. "
        "A verdict is by a 95 % interval over seeds, without a correction for the number of "
        "studies. Most are small: a verdict holds for the data and the models on its page.",
    ]
    for theme, rows in sorted(themes.items()):
        lines = [f"| {' | '.join(row)} |" for row in sorted(rows)]
        head = ["| study | claim | measured | verdict |", "|-|-|-|-|"]
        parts += [f"## {theme.capitalize()}", "\n".join([*head, *lines])]
    return "\n\n".join(parts) + "\n"


def _conclusion(found: Outcome | None) -> tuple[str, str]:
    if found is None:
        return "-", "not yet measured"
    first = found.checks[0]
    return f"{first.what}: {_cell(first.measured)}", found.verdict


def _claims(outcomes: Mapping[str, Outcome | None]) -> str:
    lines = ["| claim | published figure | source | tested by | verdict |", "|-|-|-|-|-|"]
    for one in claims():
        lines.append(f"| {' | '.join(_claim_row(one, outcomes))} |")
    head = (
        "# Published figures\n\nQuantitative claims of the field, and what limbeck measured of "
        "them. Most are of large models; a study tests the same ratio or difference at a small "
        "scale, and its page says what differs.\n\n"
    )
    return head + "\n".join(lines) + "\n"


def _claim_row(one: Claim, outcomes: Mapping[str, Outcome | None]) -> Iterator[str]:
    yield from (one.claim, one.figure, one.source)
    links = [f"[{name}](studies/{name}.md)" if outcomes.get(name) else name for name in one.studies]
    yield ", ".join([*links, *([one.where] if one.where else [])]) or "-"
    verdicts = [found.verdict for name in one.studies if (found := outcomes.get(name))]
    words = ", ".join(dict.fromkeys(verdicts)) or ("see there" if one.where else "not yet")
    yield f"{words}. {one.note}" if one.note else words
