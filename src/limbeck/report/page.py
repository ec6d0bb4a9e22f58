"""The report page of a run: one self-contained HTML file with verdict, charts and all figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from limbeck.display import format as fmt
from limbeck.report import tables, verdict
from limbeck.report.details import details
from limbeck.report.missing_evidence import missing_evidence
from limbeck.report.panels import (
    calibration,
    chain,
    distillation_gain,
    gain_sentence,
    other_seeds,
    training,
)
from limbeck.report.result import BudgetCheck, Environment, RunResult
from limbeck.report.samples import confusion, samples, similar_classes, similarity
from limbeck.report.sections import sections
from limbeck.report.template import render


@dataclass(frozen=True)
class BudgetLine:
    """A line of the budget as written, and the percentage of the allowance used (at most 100)."""

    name: str
    measured: str
    requirement: str
    word: str
    used: float


def render_page(result: RunResult) -> str:
    """Draw the page of a run.

    The page needs no network, no font and no script; the same result always yields the same bytes.
    """
    return render(
        "page.html.jinja",
        result=result,
        classified=any(one.confusion for link in result.chain for one in link.measured),
        sentence=verdict.sentence(result),
        notes=notes(result),
        numbers=verdict.numbers(result),
        budget=[budget_line(check) for check in result.budget],
        chain=chain(result),
        gain=distillation_gain(result),
        gain_sentence=gain_sentence(result),
        training=training(result),
        other_seeds=other_seeds(result),
        calibration=calibration(result),
        confusion=confusion(result),
        similarity=similarity(result),
        similar_classes=similar_classes(result),
        samples=samples(result),
        details=details(result),
        sections=sections(result),
        missing_evidence=missing_evidence(result),
        tables={
            "quality": tables.quality(result),
            "cost": tables.cost(result),
            "parity": tables.parity(result),
            "seeds": tables.seeds(result),
        },
        facts=_data_facts(result),
        environment=environment_facts(
            result.environment,
            ("Started", fmt.timestamp(result.environment.started)),
            ("Duration", fmt.duration(result.environment.seconds)),
            ("Seeds", ", ".join(map(str, result.seeds))),
        ),
        recipe=recipe_text(result),
    )


def notes(result: RunResult) -> list[tuple[str, str]]:
    """Return the notes that a reader needs to judge the figures: the subject, and the note."""
    stages = [(link.label, note) for link in tables.links(result) for note in link.notes]
    # The models of one stage share its notes; stages under one teacher may have the same note.
    subjects = {note: subject for subject, note in reversed(stages)}
    once = [(subject, note) for note, subject in reversed(subjects.items())]
    whole = [("Data" if note in result.data.notes else "Run", note) for note in result.notes]
    return [*whole, *once, *_unfinished(result)]


def _unfinished(result: RunResult) -> Iterator[tuple[str, str]]:
    """Yield the evaluations that failed, with the error, and those still to come."""
    if result.evaluation is None:
        return
    for one in result.evaluation.failed:
        yield f"Evaluation {one.evaluation}", f"Failed: {one.reason}"
    for name in result.evaluation.pending:
        yield f"Evaluation {name}", "Not done yet: the run goes on, or was interrupted."


def recipe_text(result: RunResult) -> str:
    """Return the resolved recipe as YAML, in the order of its keys."""
    plain = result.model_dump(mode="json")["recipe"]
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=88))


def budget_line(check: BudgetCheck) -> BudgetLine:
    """Write a line of the budget: the allowed value, the measured value, and the share used."""
    share = check.measured / check.allowed if check.allowed > 0 else float(not check.met)
    return BudgetLine(
        verdict.budget_heading(check),
        verdict.amount(check.measured, check),
        verdict.requirement(check),
        check.word,
        100 * min(max(share, 0.0), 1.0),
    )


def _data_facts(result: RunResult) -> list[tuple[str, str]]:
    data = result.data
    names, kind = data.classes or data.targets, "Classes" if data.classes else "Targets"
    listed = ", ".join(names[:30]) + (" …" if len(names) > 30 else "")
    sizes = f"{data.train:,} / {data.validation:,} / {data.test:,} samples"
    return [
        ("Name", data.name),
        ("Source", data.source),
        ("Licence", data.licence or "not stated"),
        ("Train / validation / test", sizes),
        (kind, f"{len(names)}: {listed}"),
        ("Fingerprint", data.fingerprint),
        *(("Note", note) for note in data.notes if note not in result.notes),
    ]


def environment_facts(made: Environment, *times: tuple[str, str]) -> list[tuple[str, str]]:
    """Return hardware and software as names and values, with `times` after the command."""
    machine = made.hardware
    return [
        ("Command", made.command),
        *times,
        ("Processor", f"{machine.processor}, {fmt.plural(machine.cores, 'core')}"),
        ("Instruction sets", " ".join(machine.flags) or "none that affect inference"),
        ("Memory", fmt.size(machine.memory_bytes)),
        ("Accelerator", machine.accelerator or "none"),
        ("System", machine.system),
        ("Git commit", made.git_commit or "not in a git checkout"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
    ]
