import json
from pathlib import Path

import pytest

from limbeck.errors import InputError
from limbeck.report.load import load_run
from limbeck.report.result import RunResult


def test_a_result_is_the_same_after_a_trip_through_its_file(
    result: RunResult, tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    file.write_text(result.model_dump_json(), encoding="utf-8")
    assert load_run(file) == result
    assert load_run(tmp_path) == result


def test_a_missing_file_says_how_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json: got None; allowed: .*--resume"):
        load_run(tmp_path / "run.json")


def test_a_folder_without_a_run_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json"):
        load_run(tmp_path)


def test_a_file_cut_short_says_where(digits: RunResult, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(digits.model_dump(mode="json"), indent=1)[:3000], encoding="utf-8")
    with pytest.raises(InputError, match=r"run\.json, line \d+, column \d+"):
        load_run(file)


def test_every_wrong_field_is_named_at_once(digits: RunResult, tmp_path: Path) -> None:
    content = digits.model_dump(mode="json")
    content["chain"][1]["measured"][0]["cost"]["size_bytes"] = "small"
    content["surprise"] = 1
    del content["name"]
    file = tmp_path / "run.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_run(file)
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    for where in ("chain.1.measured.0.cost.size_bytes", ": surprise", ": name"):
        assert where in text


def test_another_version_says_so(digits: RunResult, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    content = {**digits.model_dump(mode="json"), "schema_version": 99}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="written by another version"):
        load_run(file)


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"", b"[]", b"null"])
def test_what_is_no_run_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json"):
        load_run(file)
