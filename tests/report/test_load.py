import json
import os
from pathlib import Path
from random import Random

import pytest

from limbeck.errors import InputError
from limbeck.report.compare import render_comparison
from limbeck.report.load import load_run
from limbeck.report.page import render_page
from limbeck.report.result import RunResult


def test_a_result_survives_a_json_round_trip(result: RunResult, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(result.model_dump_json(), encoding="utf-8")
    assert load_run(file) == result
    assert load_run(tmp_path) == result


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json: got None; allowed: .*--resume"):
        load_run(tmp_path / "run.json")


def test_a_folder_without_a_run_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json"):
        load_run(tmp_path)


def test_a_truncated_file_has_line_and_column(digits: RunResult, tmp_path: Path) -> None:
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


def test_another_schema_version_is_refused(digits: RunResult, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    content = {**digits.model_dump(mode="json"), "schema_version": 99}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="written by another version"):
        load_run(file)


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"", b"[]", b"null"])
def test_other_content_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json"):
        load_run(file)


def places(content: object, path: tuple = ()) -> list[tuple]:
    below = content.items() if isinstance(content, dict) else enumerate(content[:3])
    return [
        path,
        *(
            place
            for key, value in below
            for place in (
                places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
            )
        ),
    ]


ODD = (
    None,
    -1,
    1e308,
    10**30,
    "",
    "<script>",
    [],
    {},
    [[1]] * 100,
    True,
    3.5,
    "\x1b[2J",
    "x" * 10**5,
)


def test_mutated_runs_are_drawn_or_refused(digits: RunResult, tmp_path: Path) -> None:
    """Mutations of a run's file: each is either refused as a whole or drawn as a whole."""
    whole = digits.model_dump(mode="json")
    spots = [spot for spot in places(whole) if spot]
    random = Random(0)
    read, problems = 0, [0]
    for _ in range(100):
        content = json.loads(json.dumps(whole))
        *path, last = random.choice(spots)
        holder = content
        for key in path:
            holder = holder[key]
        if random.random() < 0.2:
            del holder[last]
        else:
            holder[last] = random.choice(ODD)
        (tmp_path / "run.json").write_text(json.dumps(content))
        try:
            found = load_run(tmp_path)
        except InputError as error:
            problems.append(len(error.problems))
            continue
        read += 1
        render_page(found)
        render_comparison([found, found])
    assert 10 < read < 90
    assert max(problems) <= 50


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": Infinity}', '{"a": 1e999}', '{"a": NaN}'])
def test_infinite_numbers_and_deep_nesting_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json"):
        load_run(tmp_path)


def test_a_pipe_or_a_device_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    for path in (tmp_path, "/dev/zero"):
        with pytest.raises(InputError, match="not a regular file"):
            load_run(path)
