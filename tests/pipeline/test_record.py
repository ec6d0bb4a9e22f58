"""`limbeck record`: the answers that a run then reads, with their size and coverage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.data import cache
from limbeck.errors import InputError
from limbeck.pipeline.load_recipe import resolve
from limbeck.pipeline.record import record

SETTINGS = (
    "profile=smoke",
    "stages.train_teacher.epochs=1",
    "stages.distill.epochs=1",
    "stages.distill.cache_teacher=true",
)


@pytest.mark.slow
def test_a_run_reads_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from limbeck.pipeline.runner import run

    recipe = resolve("digits", list(SETTINGS))
    [one] = record(recipe, out=tmp_path / "run")
    assert one.stage == "distill"
    assert one.form == "Dense"
    assert one.bytes_per_element == 40  # ten float32 logits
    assert one.coverage == 1
    manifest = json.loads((Path(one.folder) / "manifest.json").read_text())
    assert manifest["key"]["rows"] == one.elements

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the teacher was run again")

    monkeypatch.setattr(cache.TeacherCache, "_write", refuse)
    [again] = record(recipe, out=tmp_path / "run")
    assert again.model_copy(update={"seconds": 0.0}) == one.model_copy(update={"seconds": 0.0})
    assert run(recipe, out=tmp_path / "run").chain


def test_a_recipe_without_a_recorded_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cache_teacher: true"):
        record(resolve("digits", ["stages.distill.cache_teacher=false"]), out=tmp_path / "run")
