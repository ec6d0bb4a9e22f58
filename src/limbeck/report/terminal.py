"""Terminal output of `limbeck run`: the verdict."""

from __future__ import annotations

from os import PathLike

from limbeck.evaluate.evaluation import Evaluation
from limbeck.report import verdict
from limbeck.report.result import RunResult


def verdict_lines(result: RunResult, *, report: str | PathLike[str] | None = None) -> list[str]:
    """Write the verdict as lines of plain text.

    Args:
        result: The result of the run.
        report: The path of the page, if it was written; it becomes the last line.
    """
    lines = [verdict.sentence(result), ""]
    shown = verdict.numbers(result)
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
        f"  {'Budget: ' + verdict.budget_name(check):<{width}}  "
        f"{'MISSED' if check.word == 'missed' else check.word}: "
        f"{verdict.amount(check.measured, check)} {verdict.asked(check)}"
        for check in result.budget
    ]


def _unfinished(evaluation: Evaluation) -> list[str]:
    """Return one line per failed evaluation, and one for those still to come."""
    lines = [f"  FAILED: evaluation {one.question}: {one.reason}" for one in evaluation.failed]
    if evaluation.pending:
        lines.append(f"  Not evaluated yet: {', '.join(evaluation.pending)}")
    return lines


SIGNS = {"improved": "+", "kept": "=", "lost": "-", "open": "?", "alone": " "}


def finding_lines(found: Evaluation) -> list[str]:
    """Write the comparisons of an evaluation as lines of plain text, each with a sign."""
    lines: list[str] = []
    for one in found.asked:
        lines += ["", one.question]
        lines += [f"  {SIGNS[finding.verdict]} {finding.words}" for finding in one.findings]
        lines += [f"    Note: {note}" for note in one.notes]
    unfinished = _unfinished(found)
    lines += ["", *unfinished] if unfinished else []
    meaning = "+ better than the teacher   = kept   - worse   ? too few samples to tell"
    return [*lines[1:], "", meaning]
