"""The model card: the `README.md` in the student folder."""

from __future__ import annotations

from typing import Any

import yaml

from limbeck.display import format as fmt
from limbeck.display.format import bullets, code, plain, table
from limbeck.report import tables, verdict
from limbeck.report.page import notes
from limbeck.report.result import RunResult
from limbeck.report.usage import usage as default_usage
from limbeck.report.verdict import figures, first

_LICENCES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0"}


def render_card(result: RunResult, *, usage: str | None = None, licence: str = "other") -> str:
    """Write the student's model card as Markdown with Hugging Face front matter.

    Args:
        result: The result of the run.
        usage: How to use the student, as Markdown; by default two snippets for the task.
        licence: The student's licence as Hugging Face names it (`apache-2.0`, `mit`, `other` …).
    """
    shipped = first(result.shipped)
    sections = [
        _front_matter(result, licence),
        f"# {plain(result.name)}\n\n{verdict.sentence(result)}\n\n{_what(result)}",
        f"## How to use it\n\n{(usage or default_usage(result.task)).strip()}\n\n"
        f"Classes in the order of the outputs: {plain(', '.join(result.data.classes))}.",
        f"## Numbers\n\n{_numbers(result)}",
        f"## Budget\n\n{_budget(result)}",
        f"## Every artefact of the run\n\n{_links(result)}",
        f"## Limits\n\n{bullets(_limits(result))}",
        f"## Data and licence\n\n{bullets(_data(result, licence))}",
        f"## How it was made\n\n{_made(result, shipped.digest if shipped else None)}",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(result: RunResult, licence: str) -> str:
    """Write the YAML block: licence, tags, metrics and test accuracy as an evaluation result."""
    known = licence.lower()
    entry: dict[str, Any] = {"license": known if known in _LICENCES else "other"}
    if known not in _LICENCES and licence != "other":
        entry["license_name"] = licence
    entry["library_name"] = "onnx"
    entry["pipeline_tag"] = result.task.replace("_", "-")
    entry["tags"] = ["knowledge-distillation", "limbeck", "onnx"]
    entry["metrics"] = ["accuracy"]
    metric = {
        "type": "accuracy",
        "value": round(result.shipped.accuracy.mean, 6),
        "name": "Test accuracy",
    }
    task = {"type": result.task.replace("_", "-")}
    data = {"name": result.data.name, "type": result.data.name, "split": "test"}
    entry["model-index"] = [
        {"name": result.name, "results": [{"task": task, "dataset": data, "metrics": [metric]}]}
    ]
    return f"---\n{yaml.safe_dump(entry, sort_keys=False, allow_unicode=True)}---"


def _what(result: RunResult) -> str:
    """Write the description of the student and its teacher."""
    task = result.task.replace("_", " ")
    steps = " → ".join(plain(link.label) for link in result.chain)
    what = (
        f"A student for {task} of {len(result.data.classes)} classes on {plain(result.data.name)}"
    )
    if result.teacher is None:
        return f"{what}, trained without a teacher. Its stages: {steps}."
    taught = f"{plain(result.teacher.label)} ({plain(result.teacher.what)})"
    return f"{what}, distilled from **{taught}**. Its stages: {steps}."


def _numbers(result: RunResult) -> str:
    rows = [(n.name, n.value, "; ".join(n.details)) for n in verdict.numbers(result)]
    return table(("", "value", "beside it"), rows, figures=False)


def _budget(result: RunResult) -> str:
    if not result.budget:
        return "No budget was set."
    rows = [
        (
            verdict.budget_name(check),
            verdict.amount(check.measured, check),
            verdict.asked(check),
            check.word,
        )
        for check in result.budget
    ]
    return table(("", "measured", "asked for", ""), rows)


def _links(result: RunResult) -> str:
    """Write quality and cost per stage, and torch compared with ONNX Runtime, as on the page."""
    head = ("", *(f"{link.label} ({link.role})" for link in tables.links(result)))
    return "\n\n".join(
        f"### {one.title}\n\n{table(head, [(row.name, *row.cells) for row in one.rows])}\n\n"
        f"{plain(one.caption)}"
        for one in (tables.quality(result), tables.cost(result), tables.parity(result))
    )


def _limits(result: RunResult) -> list[str]:
    """Return the limitations of the figures."""
    found = figures(result)
    limits = [
        f"Measured on {fmt.integer(result.data.test)} test samples of {result.data.name} only; on "
        "other data the student may do worse than these numbers, and differently from its teacher."
    ]
    if len(result.seeds) == 1:
        limits.append("One seed: how much a training varies from seed to seed was not measured.")
    if found.retained is not None and result.disagreement_count:
        limits.append(
            f"On {fmt.integer(result.disagreement_count)} of them it answers unlike its teacher."
        )
    limits.append(
        "It inherits what its teacher and the data got wrong; no audit of fairness was made."
    )
    return [*limits, *(f"{of}: {note}" for of, note in notes(result))]


def _data(result: RunResult, licence: str) -> list[str]:
    data = result.data
    return [
        f"Data: {data.name} from {data.source}; {data.train:,} samples to train, "
        f"{data.validation:,} to choose, {data.test:,} to test, the last used once.",
        f"Licence of the data: {data.licence or 'not stated'}.",
        f"Licence of the student: {licence if licence != 'other' else 'not stated'}.",
        *(note for note in data.notes if note not in result.notes),
    ]


def _made(result: RunResult, digest: str | None) -> str:
    made = result.environment
    version = made.versions.get("limbeck", "")
    lines = [
        f"Made with limbeck {version}".rstrip() + f" by {code(made.command)}",
        f"Started {fmt.timestamp(made.started)}, took {fmt.duration(made.seconds)}; "
        f"seeds {', '.join(map(str, result.seeds))}",
        f"Measured on {plain(made.hardware.processor)}, {fmt.plural(made.hardware.cores, 'core')}, "
        f"{plain(made.hardware.system)}",
        f"Digest of what ships: `{digest}`" if digest else f"Digest of what ships: {fmt.MISSING}",
        "Lineage, hashes and versions of everything: `passport.json`",
    ]
    return "\n".join(f"- {line}" for line in lines)
