"""Output of a run: `run.json`, the report page and the student folders."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.files import replacing_folder, write_json, write_text
from limbeck.passport import PASSPORT, build_passport, drop_signature_note
from limbeck.pipeline import run_folder as folders
from limbeck.pipeline.candidate import Candidate
from limbeck.pipeline.passport_inputs import passport_inputs
from limbeck.report.card import render_card
from limbeck.report.page import render_page
from limbeck.report.result import RunResult

if TYPE_CHECKING:
    from limbeck.data.load import Data
    from limbeck.tasks import Task


def publish(
    result: RunResult, *, out: Path, lineages: Sequence[Candidate], data: Data, task: Task
) -> None:
    """Write the report, and a student folder for every seed."""
    write_report(result, out=out)
    for seed, lineage in zip(result.seeds, lineages, strict=True):
        place = folders.seed_folder(out, result.seeds, seed) / folders.STUDENT
        export = next(
            (link for link in reversed(lineage.lineage) if link.record.stage == "export"), None
        )
        if export is None:
            shutil.rmtree(place, ignore_errors=True)  # remove files of an earlier recipe
            continue
        with replacing_folder(place) as copy:
            for name in export.record.files:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(export.folder / name, copy / name)
            if seed == result.seeds[0]:  # card and passport state the first seed's metrics
                write_text(copy / "README.md", render_card(result))
                facts = passport_inputs(result, folder=copy, lineage=lineage, data=data, task=task)
                write_json(copy / PASSPORT, build_passport(facts))
        drop_signature_note(place)  # the signature was of another student


def write_report(result: RunResult, *, out: Path) -> None:
    """Write `run.json` and the report page of a run."""
    write_json(out / "run.json", result.model_dump(mode="json"))
    write_text(out / "report.html", render_page(result))
