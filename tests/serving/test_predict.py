"""`limbeck predict`: files, folders, texts and rows; invalid inputs do not stop the others."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from encoded_images import encode, random_image
from PIL import Image
from typer.testing import CliRunner

from limbeck import load_student
from limbeck.cli import _app


def predict(*argv: object, stdin: str | bytes | None = None) -> Any:
    return CliRunner().invoke(_app(), ["predict", *(str(one) for one in argv)], input=stdin)


def records(ended: Any) -> list[dict[str, Any]]:
    assert ended.exit_code == 0, ended.output
    return [json.loads(line) for line in ended.stdout.splitlines()]


def refused(ended: Any, *words: str) -> None:
    assert ended.exit_code == 2, ended.output
    assert "Traceback" not in ended.output
    for word in words:
        assert word in ended.stderr


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for row in range(5):
        path = tmp_path / "album" / f"{row % 2}" / f"{row}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random_image(7 * row))
    (tmp_path / "album" / "notes.md").write_text("not an image")
    return tmp_path / "album"


def test_a_folder_of_images_on_the_terminal_and_as_json(images, album):
    lines = predict(images.folder, album).stdout.splitlines()
    assert lines[0].split() == ["label", "probability", "input"]
    paths = sorted(str(path) for path in album.rglob("*.PNG"))
    assert [line.split()[2] for line in lines[1:]] == paths
    found = records(predict(images.folder, album, "--json", "--batch-size", 2))
    expected = load_student(images.folder).predict(paths)
    assert [one["input"] for one in found] == paths
    assert [one["label"] for one in found] == [one.label for one in expected]
    assert [line.split()[0] for line in lines[1:]] == [one["label"] for one in found]
    assert list(found[0]["probabilities"]) == ["cat", "dog", "cow"]
    assert records(predict(images.folder, "-", "--json", stdin="\n".join(paths))) == found


def test_an_image_that_cannot_be_decoded_is_named_and_the_others_predicted(images, album):
    for number in range(22):
        (album / f"bad {number}.png").write_bytes(b"nonsense")
    ended = predict(images.folder, album, "--json", "--output", album / "out.jsonl")
    refused(ended, "bad 0.png: got 'no known format'", "got '2 more invalid inputs'")
    assert json.loads(ended.stdout) == {
        "predictions": 5, "invalid": 22, "output": str(album / "out.jsonl"),
    }  # fmt: skip
    rows = [json.loads(line) for line in (album / "out.jsonl").read_text().splitlines()]
    assert sum("error" in row for row in rows) == 22
    assert all(0 < row["probability"] <= 1 for row in rows if "error" not in row)
    assert "(invalid)" in predict(images.folder, album).stdout


def test_images_of_a_parquet_file_and_paths_of_a_csv_file(images, album, tmp_path):
    content = [path.read_bytes() for path in sorted(album.rglob("*.PNG"))]
    datasets.Dataset.from_dict({"scan": content}).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("image\nalbum/0/0.PNG\nalbum/1/1.PNG\n")
    expected = records(predict(images.folder, album, "--json"))
    found = records(predict(images.folder, tmp_path / "rows.parquet", "--column=scan", "--json"))
    assert [one["probabilities"] for one in found] == [one["probabilities"] for one in expected]
    assert found[1]["input"].endswith("rows.parquet, row 1")
    found = records(predict(images.folder, tmp_path / "rows.csv", "--json"))
    assert found[0] == expected[0]


def test_texts_from_arguments_files_and_standard_input(texts, tmp_path):
    lines = ["good film", "bad plot 🙂", "-5 stars"]
    (tmp_path / "a.txt").write_text("\n\n".join(lines) + "\n")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in lines))
    (tmp_path / "a.csv").write_text('n,review\n1,good film\n2,bad plot 🙂\n3,"-5 stars"\n')
    expected = records(predict(texts.folder, "--json", "--", *lines))
    assert [one["input"] for one in expected] == lines
    for arguments, stdin in (
        ([tmp_path / "a.txt"], None),
        ([tmp_path / "a.jsonl"], None),
        ([tmp_path / "a.csv", "--column", "review"], None),
        (["-"], "\ufeff" + "\r\n".join(lines)),
        ([lines[0], tmp_path / "a.txt"], None),
    ):
        found = records(predict(texts.folder, *arguments, "--json", stdin=stdin))
        assert found[-3:] == expected


def test_rows_from_files_objects_and_standard_input(table, tmp_path):
    rows = [{"age": 41.5, "job": "cook", "zip": "01"}, {"age": None, "job": "new", "zip": "02"}]
    (tmp_path / "a.tsv").write_text("zip\tage\tjob\n01\t41.5\tcook\n02\t\tnew\n")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    expected = [one.probabilities for one in load_student(table.folder).predict(rows)]
    for arguments, stdin in (
        ([tmp_path / "a.tsv"], None),
        ([tmp_path / "a.jsonl"], None),
        ([tmp_path / "a.parquet"], None),
        ([json.dumps(row) for row in rows], None),
        (["-"], "\n".join(map(json.dumps, rows))),
    ):
        found = records(predict(table.folder, *arguments, "--json", stdin=stdin))
        assert [one["probabilities"] for one in found] == expected
    target = tmp_path / "out.csv"
    ended = predict(table.folder, tmp_path / "a.tsv", "--output", target)
    assert ended.stdout == f"2 predictions: {target}\n"
    written = list(csv.DictReader(target.open()))
    assert [float(row["probability"]) for row in written] == [max(p.values()) for p in expected]
    assert [*written[0]] == ["input", "label", "probability", "error"]


def test_a_missing_column_lists_the_columns_needed(table, texts, tmp_path):
    (tmp_path / "a.csv").write_text("age,jobs,zip\n1,cook,2\n")
    words = ("1 problem", "no column job", "the columns age, job, zip", 'did you mean "jobs"?')
    refused(predict(table.folder, tmp_path / "a.csv"), *words)
    refused(predict(texts.folder, tmp_path / "a.csv"), "no column text", "the columns text")
    refused(predict(table.folder, tmp_path / "a.csv", "--column=age"), "the columns are age, job")
    refused(predict(table.folder, '{"age": 1'), "got '{\"age\": 1'", "a JSON object")
    refused(predict(table.folder, '{"age": "x", "job": 1, "zip": 2}'), "row, age: got 'x'")


def test_wrong_arguments_are_refused_before_anything_is_written(images, table, texts, tmp_path):
    missing = predict(images.folder, "a.png", "b.csv", tmp_path, "--output", tmp_path / "o.csv")
    refused(missing, "3 problems", "a.png", "b.csv", "no image in it")
    refused(predict(tmp_path, "a.png"), "no preprocess.json")
    refused(predict(table.folder, "people"), "a row as a JSON object")
    refused(predict(texts.folder, "good", "--output", "out.xml"), "ends in .csv or .jsonl")
    refused(predict(texts.folder, "-", stdin=""), "no input")
    refused(predict(texts.folder, tmp_path), "a file or a folder", "ends in .txt")
    refused(predict(texts.folder, "-", stdin=b"\xff\n"), "standard input, line 1", "UTF-8")
    (tmp_path / "a.parquet").write_bytes(b"nonsense")
    ended = predict(texts.folder, tmp_path / "a.parquet", "--output", tmp_path / "o.jsonl")
    refused(ended, "a.parquet: got 'an invalid file'")
    (tmp_path / "a.csv").write_text("text\n")
    refused(predict(texts.folder, tmp_path / "a.csv"), "no rows")
    assert not [*tmp_path.glob("o.*")]


def test_progress_is_logged_without_a_terminal(texts, tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.cli._terminal.FIRST", 0.0)
    (tmp_path / "a.txt").write_text("good film\n" * 100)
    ended = predict(texts.folder, tmp_path / "a.txt")
    assert "predict: 0 invalid, 32/32 at" in ended.stderr
    assert not predict(texts.folder, tmp_path / "a.txt", "--quiet").stderr


def test_a_png_file_is_predicted_like_the_array_of_the_training(digits, tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 17
    (tmp_path / "a.png").write_bytes(
        encode(Image.fromarray((pixels * 15.9375).round().astype("u1")))
    )
    [found] = records(predict(digits.folder.parent, tmp_path / "a.png", "--json"))
    expected = load_student(digits.folder).predict(pixels)
    assert found["label"] == expected.label
    assert found["probability"] == pytest.approx(expected.probability, abs=0.05)
