"""`limbeck init` for the user's own data: the recipe is valid, and fits the data."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
from encoded_sounds import encoded, noise
from typer.testing import CliRunner

from limbeck.cli import _app
from limbeck.pipeline.load_recipe import resolve


def init(*argv: object, **more: object):
    return CliRunner().invoke(_app(), ["init", *map(str, argv)], **more)


def images(folder: Path, *, size: int = 8) -> Path:
    from PIL import Image

    chance = random.Random(0)
    for name, level in (("cat", 40), ("dog", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            colour = tuple(level + chance.randrange(-30, 30) for _ in range(3))
            Image.new("RGB", (size, size), colour).save(folder / name / f"{number}.png")
    return folder


def table(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def people(path: Path, *, target: bool = False) -> Path:
    chance = random.Random(0)
    rows = [
        [age, chance.choice(["rent", "own"]), age + chance.random() if target else int(age > 40)]
        for age in (chance.randrange(18, 80) for _ in range(200))
    ]
    return table(path, ["age", "housing", "price" if target else "label"], rows)


def reviews(path: Path) -> Path:
    words = {
        "good": "a fine and moving film of charm",
        "bad": "a dull film and a long evening",
    }
    rows = [[f"{text} number {n}", mood] for n in range(60) for mood, text in words.items()]
    return table(path, ["review", "mood"], rows)


def test_a_folder_of_images(tmp_path):
    data, path = images(tmp_path / "photos"), tmp_path / "r.yaml"
    ended = init(path, "--data", data, "--no-check")
    assert ended.exit_code == 0, ended.output
    assert f"limbeck run {path}" in ended.stdout
    recipe = resolve(str(path))
    assert (recipe.task, recipe.data.source) == ("image_classification", "imagefolder")
    assert recipe.data.files == {"train": str(data)}
    assert [name for name, _ in recipe.parsed_stages()] == [
        *("train_teacher", "distill", "quantize", "export")
    ]


def test_a_folder_of_sounds(tmp_path):
    for name, rate in (("yes", 16000), ("no", 16000), ("other", 8000)):
        for row in range(10):
            path = tmp_path / "words" / name / f"{row}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(noise(row, rate * (3 if row == 0 else 1) // 4), rate))
    (tmp_path / "words/yes/broken.wav").write_bytes(b"RIFF")
    ended = init(tmp_path / "r.yaml", "--data", tmp_path / "words", "--no-check")
    assert ended.exit_code == 0, ended.output
    recipe = resolve(str(tmp_path / "r.yaml"))
    assert (recipe.task, recipe.data.source) == ("audio_classification", "audiofolder")
    # Of 30 files, more than a twentieth are 0.75 s.
    assert (recipe.data.audio.rate, recipe.data.audio.seconds) == (16000, 0.8)
    for path in (tmp_path / "words").rglob("*.wav"):
        path.write_bytes(b"RIFF")
    ended = init(tmp_path / "s.yaml", "--data", tmp_path / "words", "--no-check")
    assert ended.exit_code == 2
    assert "sound files that libsndfile can read" in ended.output


def test_splits_of_a_folder_are_found_by_their_names(tmp_path):
    for split in ("train", "val", "test"):
        images(tmp_path / "photos" / split)
    init(tmp_path / "r.yaml", "--data", tmp_path / "photos", "--no-check")
    assert resolve(str(tmp_path / "r.yaml")).data.files == {
        "train": str(tmp_path / "photos/train"),
        "validation": str(tmp_path / "photos/val"),
        "test": str(tmp_path / "photos/test"),
    }


def test_a_table(tmp_path):
    init(tmp_path / "r.yaml", "--data", people(tmp_path / "people.csv"), "--no-check")
    recipe = resolve(str(tmp_path / "r.yaml"))
    assert recipe.task == "tabular_classification"
    assert recipe.data.table.numeric == ("age",)
    assert recipe.data.table.categorical == ("housing",)
    assert recipe.data.columns.label == "label"


def test_a_table_with_a_numeric_target(tmp_path):
    init(tmp_path / "r.yaml", "--data", people(tmp_path / "p.csv", target=True), "--no-check")
    recipe = resolve(str(tmp_path / "r.yaml"))
    assert (recipe.task, recipe.data.targets) == ("tabular_regression", ("price",))


def test_texts(tmp_path):
    init(tmp_path / "r.yaml", "--data", reviews(tmp_path / "r.csv"), "--no-check")
    recipe = resolve(str(tmp_path / "r.yaml"))
    assert recipe.task == "text_classification"
    assert (recipe.data.columns.text, recipe.data.columns.label) == ("review", "mood")
    assert recipe.data.classes == ("bad", "good")


def test_the_models_of_the_user(tmp_path):
    pytest.importorskip("torchvision")
    (tmp_path / "a.pth").write_bytes(b"")
    given = [
        "--teacher",
        f"torchvision:resnet18@{tmp_path / 'a.pth'}",
        "--student",
        "limbeck:resnet20",
    ]
    path = tmp_path / "r.yaml"
    ended = init(path, "--data", images(tmp_path / "photos"), "--no-check", *given)
    assert ended.exit_code == 0, ended.output
    recipe = resolve(str(path))
    assert recipe.teachers[0].checkpoint == str(tmp_path / "a.pth")
    assert recipe.student.name == "resnet20"
    assert recipe.parsed_stages()[0][0] == "distill"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--data", "nowhere"], ["--data: got 'nowhere'", "No such file"]),
        (["--data", "people.csv", "--label", "lable"], ["--label: got 'lable'", '"label"']),
        (["--data", "people.csv", "--teacher", "resnet"], ["--teacher", "source:name"]),
        (["--data", "people.csv", "--teacher", "tim:resnet"], ["--teacher", '"timm"']),
        (["--data", "photos", "--label", "x"], ["--label", "for a folder of images"]),
        (["--data", "empty.csv"], ["a header, and rows below it"]),
        (["--label", "x"], ["--label", "Give your data by --data"]),
        (["--data", "people.csv", "--from", "digits"], ["--from", "without --data"]),
    ],
)
def test_wrong_options_are_refused_and_write_nothing(tmp_path, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    people(tmp_path / "people.csv")
    images(tmp_path / "photos")
    (tmp_path / "empty.csv").write_text("a,b\n")
    ended = init("r.yaml", *argv)
    assert ended.exit_code == 2
    assert not (tmp_path / "r.yaml").exists()
    assert all(word in ended.output for word in words), ended.output


def test_at_a_terminal_it_requests_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.cli.init._at_a_terminal", lambda: True)
    data = people(tmp_path / "people.csv")
    ended = init(tmp_path / "r.yaml", "--no-check", input=f"{data}\nhousing\n")
    assert ended.exit_code == 0, ended.output
    assert resolve(str(tmp_path / "r.yaml")).data.columns.label == "housing"
    ended = init(tmp_path / "s.yaml", input="\n")
    assert "a copy of vision/digits" in ended.stdout


def test_the_recipe_is_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = init("r.yaml", "--data", people(tmp_path / "people.csv"))
    assert ended.exit_code == 0, ended.output
    assert "Checked: no problem found." in ended.stdout
    assert not (tmp_path / "runs").exists()
    rows = [[5 if n % 9 else n, n % 2] for n in range(200)]
    ended = init("s.yaml", "--data", table(tmp_path / "equal.csv", ["age", "label"], rows))
    assert ended.exit_code == 2
    assert "data.max_overlap" in ended.output
    assert (tmp_path / "s.yaml").exists()  # to correct it


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "texts"])
def test_recipes_of_images_and_texts_pass_their_check(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    data = images(tmp_path / "photos") if kind == "images" else reviews(tmp_path / "r.csv")
    ended = init("r.yaml", "--data", data)
    assert ended.exit_code == 0, ended.output
