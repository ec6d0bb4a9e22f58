"""Every source, read from files that the test writes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from limbeck.data.load import Data, load
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError

Read = Callable[..., Data]
Png = Callable[..., bytes]
ROWS = 40
SHARED = Path(os.environ["LIMBECK_DATA"]).resolve()


def _needs(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if not (SHARED / name).is_file()]
    reason = f"needs {', '.join(missing)} in {SHARED}: set LIMBECK_DATA to where the data is"
    return pytest.mark.skipif(bool(missing), reason=reason)


def _write_parquet(path: Path, png: Png, rows: int = ROWS, first: int = 0) -> None:
    images = [png(first + row) for row in range(rows)]
    labels = [row % 2 for row in range(rows)]
    datasets.Dataset.from_dict({"image": images, "label": labels}).to_parquet(path)


def _pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_sklearn_digits_are_those_of_the_package(digits: Data) -> None:
    from sklearn.datasets import load_digits

    images = load_digits().images
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1294, 144, 359)
    assert digits.classes == tuple("0123456789")
    prepare = digits.preprocess
    assert prepare.divide_by == 16
    back = next(digits.train.batches(5000))["image"] * prepare.std[0] + prepare.mean[0]
    original = {tuple(image.flatten().astype(int)) for image in images}
    assert {tuple(row) for row in (back * 16).round().int().flatten(1).tolist()} <= original


def test_parquet_images_come_back_pixel_by_pixel(tmp_path: Path, read: Read, png: Png) -> None:
    _write_parquet(tmp_path / "a.parquet", png)
    _write_parquet(tmp_path / "b.parquet", png, first=ROWS)
    data = read(
        source="parquet",
        files={"train": ["a.parquet", "b.parquet"], "test": "b.parquet"},
        image={"mean": [0, 0, 0], "std": [1, 1, 1]},
    )
    image = next(data.test.batches(ROWS))["image"]
    expected = np.stack([_pixels(png(ROWS + row)) for row in range(ROWS)]).transpose(0, 3, 1, 2)
    assert np.array_equal(image.numpy(), expected.astype(np.float32) / np.float32(255))
    assert data.test.labels.tolist() == [0, 1] * (ROWS // 2)
    assert len(data.train) + len(data.validation) == 2 * ROWS
    assert data.test.raw(0)["image"].size == (5, 6)


def test_a_star_stands_for_all_files_that_match(tmp_path: Path, read: Read, png: Png) -> None:
    for name in ("train_1", "train_2", "other"):
        _write_parquet(tmp_path / f"{name}.parquet", png)
    data = read(source="parquet", files={"train": "train_*.parquet"})
    assert sum(len(split) for split in (data.train, data.validation, data.test)) == 2 * ROWS


def test_nothing_is_written_beside_the_data(tmp_path: Path, read: Read, png: Png) -> None:
    _write_parquet(tmp_path / "a.parquet", png)
    before = sorted(tmp_path.rglob("*"))
    read(source="parquet", files={"train": "a.parquet"})
    assert sorted(tmp_path.rglob("*")) == before


def test_parquet_with_nested_lists(tmp_path: Path, read: Read) -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (ROWS, 3, 4))
    content = {"image": arrays.tolist(), "label": [0, 1] * (ROWS // 2)}
    datasets.Dataset.from_dict(content).to_parquet(tmp_path / "a.parquet")
    data = read(source="parquet", files={"train": "a.parquet"})
    assert next(data.train.batches(2))["image"].shape == (2, 1, 3, 4)
    assert data.preprocess.divide_by == 255


def test_csv_of_texts_with_named_classes(tmp_path: Path, read: Read) -> None:
    rows = [{"words": f"word{row} common", "kind": "ab"[row % 2]} for row in range(ROWS)]
    datasets.Dataset.from_list(rows).to_csv(tmp_path / "a.csv")
    data = read(
        source="csv",
        files={"train": "a.csv"},
        columns={"text": "words", "label": "kind"},
        classes=["b", "a"],
        text={"tokenizer": {"train": {"vocab_size": 60}}, "max_length": 8},
    )
    assert data.classes == ("b", "a")
    text, label = data.train.raw(0)["text"], int(data.train.labels[0])
    assert data.classes[label] == "ab"[int(text.split()[0].removeprefix("word")) % 2]


def test_csv_of_image_paths(tmp_path: Path, read: Read, png: Png) -> None:
    (tmp_path / "set" / "images").mkdir(parents=True)
    with (tmp_path / "set" / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"])
        for row in range(ROWS):
            (tmp_path / "set" / "images" / f"{row}.png").write_bytes(png(row))
            writer.writerow([f"images/{row}.png", row % 2])
    data = read(source="csv", files={"train": "set/a.csv"})
    assert next(data.train.batches(2))["image"].shape == (2, 3, 6, 5)
    assert data.facts.name == "set"


def test_imagefolder_takes_classes_from_all_splits(tmp_path: Path, read: Read, png: Png) -> None:
    for split, classes in (("train", ("cat", "dog", "owl")), ("test", ("dog", "owl"))):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            for row in range(10):
                (tmp_path / split / name / f"{row}.png").write_bytes(png(row))
    data = read(source="imagefolder", files={"train": "train", "test": "test"})
    assert data.classes == ("cat", "dog", "owl")
    assert sorted(set(data.test.labels.tolist())) == [1, 2]
    assert next(data.test.batches(3))["image"].shape == (3, 3, 6, 5)


def test_hub_reads_a_local_folder_laid_out_like_one(
    tmp_path: Path, read: Read, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "mine"
    folder.mkdir()
    _write_parquet(folder / "train.parquet", png)
    _write_parquet(folder / "test.parquet", png, rows=10)
    data = read(source="hub", name=str(folder))
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 10)
    swapped = read(source="hub", name=str(folder), files={"train": "test", "test": "train"})
    assert len(swapped.test) == ROWS
    with pytest.raises(InputError, match="did you mean"):
        read(source="hub", name=str(folder), files={"train": "train", "test": "tset"})


@pytest.mark.parametrize(
    ("shape", "dtype", "read_as"),
    [
        ((ROWS, 4, 5), "uint8", (1, 4, 5)),
        ((ROWS, 3, 4, 5), "float32", (3, 4, 5)),
        ((ROWS, 4, 5, 3), "float64", (3, 4, 5)),
    ],
)
def test_python_arrays(
    tmp_path: Path, read: Read, shape: tuple[int, ...], dtype: str, read_as: tuple[int, ...]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def make():\n"
        f"    images = np.random.default_rng(0).integers(0, 256, {shape}).astype({dtype!r})\n"
        f"    return images, np.arange({ROWS}) % 2\n"
    )
    data = read(source="python", name=f"{file}:make")
    assert tuple(next(data.train.batches(1))["image"].shape[1:]) == read_as
    assert data.preprocess.divide_by == (255 if dtype == "uint8" else 1)


def test_python_splits_of_a_module(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    images = np.zeros((10, 4, 4), dtype=np.uint8)
    train = datasets.Dataset.from_dict({"text": ["a", "b"] * 10, "label": [0, 1] * 10})
    module = types.ModuleType("a_module_of_mine")
    module.texts = lambda: {"train": train, "test": train}  # type: ignore[attr-defined]
    module.wrong = lambda: {"training": (images, range(10))}  # type: ignore[attr-defined]
    module.broken = lambda: 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_module_of_mine", module)
    assert len(read(source="python", name="a_module_of_mine:texts").test) == 20
    for name, message in (
        ("a_module_of_mine:wrong", "'training'"),
        ("a_module_of_mine:broken", "ZeroDivisionError"),
        ("a_module_of_mine:txts", 'did you mean "texts"'),
        ("no_such_module:f", "ModuleNotFoundError"),
        ("missing.py:f", "no such file"),
        ("texts", "package.module:function"),
    ):
        with pytest.raises(InputError, match=message):
            read(source="python", name=name)


def test_the_fingerprint_follows_the_content_not_the_place(
    tmp_path: Path, read: Read, png: Png
) -> None:
    for name, first in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        _write_parquet(tmp_path / name / "x.parquet", png, first=first)
    same, moved, other = (
        read(source="parquet", files={"train": f"{name}/x.parquet"}).facts for name in "abc"
    )
    seeded = read(source="parquet", files={"train": "a/x.parquet"}, split_seed=1).facts
    assert same.fingerprint == moved.fingerprint
    assert len({same.fingerprint, other.fingerprint, seeded.fingerprint}) == 3
    assert (same.name, moved.name) == ("a", "b")


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("Some data.\nLicence as stated: MIT (mirror). Citation: Me 2020.\n", "MIT (mirror)"),
        ("Source: x @ y. Licence: BSD-3.5. Citation: Me.", "BSD-3.5"),
        ("Licence: CC0\nmore", "CC0"),
        ("Nothing.", "not stated"),
    ],
)
def test_the_licence_is_read_from_source_txt(
    tmp_path: Path, read: Read, png: Png, text: str, licence: str
) -> None:
    _write_parquet(tmp_path / "a.parquet", png)
    (tmp_path / "SOURCE.txt").write_text(text)
    assert read(source="parquet", files={"train": "a.parquet"}).facts.licence == licence
    stated = read(source="parquet", files={"train": "a.parquet"}, licence="mine").facts
    assert stated.licence == "mine"


def test_a_dataset_with_its_own_image_type(tmp_path: Path, read: Read, png: Png) -> None:
    content = {"image": [png(row, channels=1) for row in range(ROWS)], "label": [0, 1] * 20}
    dataset = datasets.Dataset.from_dict(content).cast_column("image", datasets.Image())
    dataset.to_parquet(tmp_path / "a.parquet")
    data = read(source="parquet", files={"train": "a.parquet"}, image={"size": 8})
    assert next(data.train.batches(1))["image"].shape == (1, 1, 8, 8)
    assert torch.isfinite(next(data.train.batches(100))["image"]).all()


@_needs("fashion_mnist/train.parquet", "fashion_mnist/test.parquet")
def test_fashion_mnist(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_DATA", str(SHARED))
    files = {split: f"fashion_mnist/{split}.parquet" for split in ("train", "test")}
    limit = {"train": 500, "validation": 100, "test": 200}
    data = read(source="parquet", files=files, max_samples=limit)
    assert (len(data.train), len(data.validation), len(data.test)) == (500, 100, 200)
    assert torch.bincount(data.train.labels).tolist() == [50] * 10
    assert data.facts.licence == "MIT"
    assert next(data.test.batches(2))["image"].shape == (2, 1, 28, 28)
    # The published mean and deviation of all pixels are .2860 and .3530.
    assert data.preprocess.mean[0] == pytest.approx(0.286, abs=0.02)


@_needs("sst2/train.parquet", "sst2/dev.parquet", "sst2/test_labeled.parquet")
def test_sst2(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_DATA", str(SHARED))
    names = {"train": "train", "validation": "dev", "test": "test_labeled"}
    data = read(
        source="parquet",
        files={split: f"sst2/{name}.parquet" for split, name in names.items()},
        columns={"text": "sentence"},
        max_samples={"train": 1000},
        text={"tokenizer": {"train": {"vocab_size": 2000}}, "max_length": 32},
    )
    assert (len(data.train), len(data.validation), len(data.test)) == (1000, 872, 1821)
    batch = data.train.__getitems__(list(range(64)))
    assert batch["input_ids"].shape[1] <= 32
    assert int(batch["input_ids"].max()) < data.preprocess.vocab_size <= 2000


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["1.png", "2.png"], "images outside of any class's folder"),
        (["cat/2020/1.png", "dog/2021/2.png"], "images two folders deep: cat/2020, dog/2021"),
        (["cat/notes.txt"], "no image one folder deep"),
        (["metadata.csv", "cat/1.png"], "source: csv"),
    ],
)
def test_images_of_an_ambiguous_class(
    tmp_path: Path, read: Read, png: Png, paths: list[str], message: str
) -> None:
    for path in paths:
        (tmp_path / "set" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / path).write_bytes(png(0))
    with pytest.raises(InputError, match=message):
        read(source="imagefolder", files={"train": "set"})


def test_classes_of_linked_and_of_listed_folders(tmp_path: Path, read: Read, png: Png) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "far" / name).mkdir(parents=True)
        for row in range(10):
            (tmp_path / "far" / name / f"{row}.PNG").write_bytes(png(row + ord(name[0])))
    (tmp_path / "far" / "dog" / "Thumbs.db").touch()
    (tmp_path / "set").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "far" / name)
    linked = read(source="imagefolder", files={"train": "set"})
    listed = read(source="imagefolder", files={"train": "far/*"})
    assert linked.classes == listed.classes == ("cat", "dog")
    assert "train: left out, as no images: dog/Thumbs.db" in linked.facts.notes
    (tmp_path / "far" / "dog" / "0.PNG").write_bytes(png(7))
    changed = read(source="imagefolder", files={"train": "set"})
    assert changed.facts.fingerprint != linked.facts.fingerprint


def test_pipes_and_devices_are_no_data(tmp_path: Path, read: Read) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError) as caught:
        read(source="csv", files={"train": "pipe.csv", "test": "/dev/zero"})
    assert len(caught.value.problems) == 2
    with pytest.raises(InputError, match="a file that exists"):
        read(source="csv", files={"train": "a" * 5000, "test": "a\0b"})


def _declare(path: Path, label: dict[str, object]) -> None:
    """Write a Parquet file whose metadata declares the labels' type."""
    features = {"x": {"dtype": "int64", "_type": "Value"}, "label": label}
    table = pa.table({"x": range(10), "label": [0, 1] * 5})
    stated = json.dumps({"info": {"features": features}})
    parquet.write_table(table.replace_schema_metadata({"huggingface": stated}), path)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"num_classes": 10**12, "_type": "ClassLabel"}, "1 to 1,000,000 classes"),
        ({"names_file": "/dev/zero", "_type": "ClassLabel"}, "names_file"),
        ({"names": 3, "_type": "ClassLabel"}, "could not be read"),
        ({"_type": "NoSuchType"}, "could not be read"),
    ],
)
def test_hostile_metadata_of_a_parquet_file(
    tmp_path: Path, read: Read, label: dict[str, object], message: str
) -> None:
    _declare(tmp_path / "a.parquet", label)
    with pytest.raises(InputError) as caught:
        read(source="parquet", files={"train": "a.parquet"}, table={"numeric": ["x"]})
    assert message in str(caught.value)


def test_a_parquet_file_that_expands_too_much(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pa.array(["a" * 2**16] * 4000)
    parquet.write_table(pa.table({"text": texts, "label": [0, 1] * 2000}), tmp_path / "a.parquet")
    monkeypatch.setattr("limbeck.data.sources.parquet.ALWAYS", 16 * 2**20)
    monkeypatch.setattr("limbeck.data.sources.parquet.AT_ONCE", 2**20)
    with pytest.raises(InputError, match="expand to over"):
        read(source="parquet", files={"train": "a.parquet"}, text={})


def test_an_image_given_by_path_is_part_of_the_fingerprint(tmp_path):
    for number in range(20):
        Image.new("L", (4, 4), number * 10).save(tmp_path / f"{number}.png")
    rows = "\n".join(f"{number}.png,{number % 2}" for number in range(20))
    (tmp_path / "rows.csv").write_text(f"image,label\n{rows}\n")
    spec = DataSpec(source="csv", files={"train": str(tmp_path / "rows.csv")})
    before = load(spec, workdir=tmp_path).facts.fingerprint
    assert load(spec, workdir=tmp_path).facts.fingerprint == before
    Image.new("L", (4, 4), 255).save(tmp_path / "7.png")
    assert load(spec, workdir=tmp_path).facts.fingerprint != before


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"train": "pets/train"}, "pets"),
        ({"train": "pets/train", "test": "pets/test"}, "pets"),
        ({"train": "pets/train/*"}, "pets"),
        ({"train": "birds/Data/Training"}, "birds"),
        ({"train": "owls"}, "owls"),
    ],
)
def test_data_is_named_after_its_folder_and_not_after_a_split(
    tmp_path: Path, read: Read, png: Png, files: dict[str, str], name: str
) -> None:
    for folder in ("pets/train", "pets/test", "birds/Data/Training", "owls"):
        for label in ("a", "b"):
            (tmp_path / folder / label).mkdir(parents=True)
            for row in range(10):
                (tmp_path / folder / label / f"{row}.png").write_bytes(png(row))
    assert read(source="imagefolder", files=files).facts.name == name


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return [np.zeros((4, 4)), np.zeros((5, 5))], [0, 1]", "rows of one shape"),
        ("return np.zeros((4, 4, 4)), np.eye(4)", "labels of shape \\(4, 4\\)"),
        ("return 3.0, [0]", "inputs of shape \\(\\)"),
        ("return [['a', 'b']] * 4, [0, 1] * 2", "a column for each feature"),
        ("return ['a', 3, None], [0, 1, 0]", "texts or numbers of one type"),
        ("return np.zeros((2, 4, 4)), [{}, []]", "texts or numbers of one type|labels"),
        ("return {1: (np.zeros((2, 4, 4)), [0, 1])}", "train, and validation"),
        ("raise SystemError('mine')", "SystemError: mine"),
    ],
)
def test_invalid_results_of_a_function(tmp_path: Path, read: Read, code: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"import numpy as np\ndef make():\n    {code}\n")
    with pytest.raises(InputError, match=message):
        read(source="python", name=f"{file}:make")


def test_tensors_and_column_vectors_of_labels(tmp_path: Path, read: Read) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "def make():\n"
        "    images = torch.rand(40, 3, 4, 4, requires_grad=True)\n"
        "    return images, torch.arange(40)[:, None] % 2\n"
    )
    data = read(source="python", name=f"{file}:make")
    assert next(data.train.batches(2))["image"].shape == (2, 3, 4, 4)
    assert data.classes == ("0", "1")
    assert data.facts.name == "mine.py:make"
