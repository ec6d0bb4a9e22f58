"""The model card: the `README.md` in the student folder."""

from __future__ import annotations

import yaml

from limbeck.display import format as fmt
from limbeck.display.format import bullets, code, plain, table
from limbeck.report import tables, verdict
from limbeck.report.page import budget_line, notes
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
    shipped, data = first(result.shipped), result.data
    names, kind = data.classes or data.targets, "Classes" if data.classes else "Targets"
    sections = [
        _front_matter(result, licence),
        f"# {plain(result.name)}\n\n{verdict.sentence(result)}\n\n{_description(result)}",
        f"## Usage\n\n{(usage or default_usage(result.task, result.data.modality)).strip()}\n\n"
        f"{kind} in the order of the outputs: {plain(', '.join(names))}.",
        f"## Results\n\n{_results(result)}",
        f"## Budget\n\n{_budget(result)}",
        f"## Quality, cost and export parity\n\n{_tables(result)}",
        f"## Limitations\n\n{bullets(_limitations(result))}",
        f"## Data and licence\n\n{bullets(_data(result, licence))}",
        f"## Provenance\n\n{_provenance(result, shipped.digest if shipped else None)}",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(result: RunResult, licence: str) -> str:
    """Write the YAML block: licence, tags, metrics and test scores as an evaluation result."""
    known = licence.lower() in _LICENCES
    task, data = result.task.replace("_", "-"), result.data.name
    metric, value = result.metric, round(result.shipped.score.mean, 6)
    evaluation = {
        "task": {"type": task},
        "dataset": {"name": data, "type": data, "split": "test"},
        "metrics": [{"type": metric.name, "value": value, "name": f"Test {metric.text}"}],
    }
    content = {
        "license": licence.lower() if known else "other",
        **({} if known or licence == "other" else {"license_name": licence}),
        "library_name": "onnx",
        "pipeline_tag": task,
        "tags": ["knowledge-distillation", "limbeck", "onnx"],
        "metrics": [metric.name],
        "model-index": [{"name": result.name, "results": [evaluation]}],
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---"


def _description(result: RunResult) -> str:
    task = result.task.replace("_", " ")
    classes, targets = len(result.data.classes), result.data.targets
    subject = f"{classes} classes" if classes else plain(fmt.listing(list(targets)))
    student = f"A student for {task} of {subject} on {plain(result.data.name)}"
    stages = " → ".join(plain(link.label) for link in result.chain)
    if result.teacher is None:
        return f"{student}, trained without a teacher. Stages: {stages}."
    teacher = f"{plain(result.teacher.label)} ({plain(result.teacher.what)})"
    return f"{student}, distilled from **{teacher}**. Stages: {stages}."


def _results(result: RunResult) -> str:
    rows = [(n.name, n.value, "; ".join(n.details)) for n in verdict.numbers(result)]
    return table(("", "value", "details"), rows, figures=False)


def _budget(result: RunResult) -> str:
    if not result.budget:
        return "No budget was set."
    lines = map(budget_line, result.budget)
    rows = [(line.name, line.measured, line.requirement, line.word) for line in lines]
    return table(("", "measured", "requirement", "outcome"), rows)


def _tables(result: RunResult) -> str:
    head = ("", *(f"{link.label} ({link.role})" for link in tables.links(result)))
    return "\n\n".join(
        f"### {one.title}\n\n{table(head, [(row.name, *row.cells) for row in one.rows])}\n\n"
        f"{plain(one.caption)}"
        for one in (tables.quality(result), tables.cost(result), tables.parity(result))
    )


def _limitations(result: RunResult) -> list[str]:
    limits = [
        f"Measured only on {fmt.integer(result.data.test)} test samples of {result.data.name}. On "
        "other data its scores may be worse, and its errors may differ from its teacher's."
    ]
    if figures(result).retained is not None and result.disagreement_count:
        count = fmt.integer(result.disagreement_count)
        limits.append(f"On {count} of these samples its prediction differs from its teacher's.")
    limits.append("It may inherit errors and biases of its teacher and of the data.")
    others = [one for one in notes(result) if one[1] not in result.data.notes]
    return [*limits, *(f"{subject}: {note}" for subject, note in others)]


def _data(result: RunResult, licence: str) -> list[str]:
    data = result.data
    return [
        f"Data: {data.name} from {data.source}; {data.train:,} training, {data.validation:,} "
        f"validation and {data.test:,} test samples.",
        f"Licence of the data: {data.licence or 'not stated'}.",
        f"Licence of the student: {licence if licence != 'other' else 'not stated'}.",
        *data.notes,
    ]


def _provenance(result: RunResult, digest: str | None) -> str:
    made = result.environment
    version = made.versions.get("limbeck", "")
    lines = [
        f"Created with limbeck {version}".rstrip() + f" by {code(made.command)}",
        f"Started {fmt.timestamp(made.started)}, took {fmt.duration(made.seconds)}; "
        f"seeds {', '.join(map(str, result.seeds))}",
        f"Measured on {plain(made.hardware.processor)}, {fmt.plural(made.hardware.cores, 'core')}, "
        f"{plain(made.hardware.system)}",
        f"Digest of the exported file: {f'`{digest}`' if digest else fmt.MISSING}",
        "Lineage, hashes and versions: `passport.json`",
    ]
    return "\n".join(f"- {line}" for line in lines)
