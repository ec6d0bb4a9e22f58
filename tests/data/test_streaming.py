"""Training rows of a stream: every row once an epoch, resumed to the same samples."""

from __future__ import annotations

import io
import json
import tarfile
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from encoded_images import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from limbeck.data.load import Data, load
from limbeck.data.spec import DataSpec
from limbeck.data.streaming import TrainingStream
from limbeck.errors import InputError
from limbeck.objective import Objective, Term
from limbeck.schemes import Offline
from limbeck.tasks.image_classification import ImageClassification
from limbeck.training import Stream, Training, fit

FILES, PER_FILE = 3, 20
TRAIN = FILES * PER_FILE


def _image(number: int) -> bytes:
    """Return an image whose pixels are its number."""
    return encode(Image.new("RGB", (6, 5), (number, number, number)))


def _parquet(path: Path, numbers: range) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    rows = {
        "image": [{"bytes": _image(number)} for number in numbers],
        "label": [number % 3 for number in numbers],
    }
    datasets.Dataset.from_dict(rows, features).to_parquet(path)


def _tar(path: Path, numbers: range) -> None:
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for end, content in (("png", _image(number)), ("cls", str(number % 3).encode())):
                member = tarfile.TarInfo(f"{number:05}.{end}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streams")
    for write, end in ((_parquet, "parquet"), (_tar, "tar")):
        for number in range(FILES):
            first = number * PER_FILE
            write(path / f"train{number}.{end}", range(first, first + PER_FILE))
        write(path / f"validation.{end}", range(100, 120))
        write(path / f"test.{end}", range(200, 230))
    return path


def _load(folder: Path, source: str = "parquet", **more: Any) -> Data:
    end = {"parquet": "parquet", "webdataset": "tar"}[source]
    columns = {} if source == "parquet" else {"columns": {"image": "png", "label": "cls"}}
    files = {name: str(folder / f"{name}*.{end}") for name in ("train", "validation", "test")}
    image = {"mean": [0.0] * 3, "std": [1.0] * 3}
    given = {
        "source": source,
        "files": files,
        "streaming": True,
        "image": image,
        **columns,
        "shuffle_buffer": 7,
        "max_overlap": 1,
        "max_samples": {"train": 9},
        **more,
    }
    return load(DataSpec(**given), workdir=folder)


def _stream(data: Data) -> TrainingStream:
    assert data.stream is not None
    return data.stream


def _numbers(samples: Any) -> list[int]:
    return [round(float(one["image"].mean()) * 255) for one in samples]


@pytest.mark.parametrize("source", ["parquet", "webdataset"])
def test_every_row_is_read_once_an_epoch_with_its_label(folder: Path, source: str) -> None:
    data = _load(folder, source)
    stream, orders = _stream(data), []
    for epoch in range(3):
        stream.set_epoch(epoch)
        samples = list(stream)
        orders.append(_numbers(samples))
        assert sorted(orders[-1]) == list(range(TRAIN))
        assert [int(one["labels"]) for one in samples] == [number % 3 for number in orders[-1]]
    assert len(set(map(tuple, orders))) == 3
    assert orders[0] != sorted(orders[0])
    assert len(data.train) == 9
    assert (len(data.validation), len(data.test)) == (20, 30)
    assert any("train is a stream: its first 9 rows" in note for note in data.facts.notes)


@settings(deadline=None, max_examples=8)
@given(
    taken=st.integers(0, TRAIN),
    epoch=st.integers(0, 3),
    buffer=st.sampled_from([1, 7, 20, 100]),
    source=st.sampled_from(["parquet", "webdataset"]),
)
def test_it_continues_at_any_place_with_the_same_bits(
    folder: Path, taken: int, epoch: int, buffer: int, source: str
) -> None:
    stream = _flipped(folder, source, buffer)
    stream.set_epoch(epoch)
    expected = list(stream)
    stream.set_epoch(epoch)
    found = list(islice(stream, taken))
    state = json.loads(json.dumps(stream.state_dict()))
    stream.set_epoch(epoch)
    stream.load_state_dict(state)
    found += stream
    assert len(found) == TRAIN
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(found, expected, strict=True))


@cache
def _flipped(folder: Path, source: str, buffer: int) -> TrainingStream:
    augment = {"flip": True, "shift": 1}
    stream = _stream(_load(folder, source, shuffle_buffer=buffer, augment=augment))
    stream.set_seed(5)
    return stream


def _train(data: Data, folder: Path, *, kill: int | None = None) -> dict[str, Tensor]:
    stream = _stream(data)
    stream.set_seed(1)
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(90, 3))
    probe = data.train.__getitems__([0, 1])
    task = ImageClassification(data.classes)
    scheme = Offline(student, task, Objective.of([Term("task")]), probe=probe)

    class KillAt:
        def update(self, done: int, total: int, note: str, *, milestone: bool = False) -> None:
            if done == kill:
                raise KeyboardInterrupt

    fit(
        scheme,
        train=Stream(stream, batched=False),
        validate=lambda _: {"accuracy": 0.0},
        settings=Training(steps=14, batch_size=8, checkpoint_every=0),
        folder=folder,
        seed=1,
        accelerator=Accelerator(cpu=True),
        progress_bar=KillAt(),
    )
    return {name: value.clone() for name, value in student.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["parquet", "webdataset"])
def test_a_training_resumes_to_the_same_bits(folder: Path, source: str, tmp_path: Path) -> None:
    data = _load(folder, source, augment={"flip": True})
    expected = _train(data, tmp_path / "whole")
    for kill in (3, 8, 11):  # the second epoch begins within step 8
        with pytest.raises(KeyboardInterrupt):
            _train(data, tmp_path / str(kill), kill=kill)
        found = _train(_load(folder, source, augment={"flip": True}), tmp_path / str(kill))
        assert all(torch.equal(one, found[name]) for name, one in expected.items())


def test_a_local_folder_of_the_hub_is_streamed(tmp_path: Path) -> None:
    for name, numbers in (("train", range(30)), ("validation", range(9)), ("test", range(9))):
        (tmp_path / name).mkdir()
        _parquet(tmp_path / f"{name}/{name}-0.parquet", numbers)
    spec = DataSpec(source="hub", name=str(tmp_path), streaming=True, max_overlap=1)
    data = load(spec, workdir=tmp_path)
    assert data.classes == ("a", "b", "c")
    assert len(list(_stream(data))) == 30


def test_a_position_is_not_that_of_the_next_epoch(tmp_path: Path) -> None:
    rows = {"image": [_image(number) for number in range(30)], "label": [0, 1, 2] * 10}
    for name in ("train", "validation", "test"):
        (tmp_path / name).mkdir()
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{name}/{name}-0.parquet")
    spec = DataSpec(
        source="hub", name=str(tmp_path), streaming=True, max_overlap=1, shuffle_buffer=4
    )
    stream = _stream(load(spec, workdir=tmp_path))
    stream.set_epoch(0)
    list(islice(stream, 11))
    stream.load_state_dict(stream.state_dict())
    assert len(list(stream)) == 19
    stream.set_epoch(1)
    assert len(list(stream)) == 30


def test_a_webdataset_is_read_whole_too(folder: Path) -> None:
    data = _load(folder, "webdataset", streaming=False, shuffle_buffer=None, max_samples={})
    assert data.stream is None
    assert len(data.train) == TRAIN
    assert data.train.class_counts(3) == [20, 20, 20]


def test_a_corrupt_image_is_named_by_its_row(folder: Path, tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    noise = encode(Image.effect_noise((40, 40), 50).convert("RGB"))
    cells = [{"bytes": noise[:500] if number == 17 else noise} for number in range(30)]
    rows = {"image": cells, "label": [number % 2 for number in range(30)]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "rows.parquet")
    whole = datasets.Dataset.from_dict(rows, features).select(range(10))
    whole.to_parquet(tmp_path / "whole.parquet")
    files = {
        "train": str(tmp_path / "rows.parquet"),
        "validation": str(tmp_path / "whole.parquet"),
        "test": str(tmp_path / "whole.parquet"),
    }
    data = _load(folder, files=files)
    with pytest.raises(InputError, match=r"'image' in the stream of train\), row 17: got '.*trunc"):
        list(_stream(data))


@pytest.mark.parametrize(
    ("label", "message"),
    [(7, r"row 17: got 7; allowed: .*0, 1"), (None, r"row 17: got None; allowed: a label in")],
)
def test_a_label_that_cannot_be_read_is_named_by_its_row(
    folder: Path, tmp_path: Path, label: int | None, message: str
) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    labels = [label if number == 17 else number % 2 for number in range(30)]
    files = {}
    for name, numbers in (("train", range(30)), ("validation", range(9)), ("test", range(9))):
        cells = [{"bytes": _image(number)} for number in numbers]
        rows = {"image": cells, "label": [labels[number] for number in numbers]}
        files[name] = str(tmp_path / f"{name}.parquet")
        datasets.Dataset.from_dict(rows, features).to_parquet(files[name])
    data = _load(folder, files=files)
    with pytest.raises(InputError, match=rf"'label' in the stream of train\), {message}") as found:
        list(_stream(data))
    assert len(found.value.problems) == 1


def test_the_fingerprint_is_of_the_files(folder: Path) -> None:
    first = _load(folder).facts.fingerprint
    assert _load(folder).facts.fingerprint == first
    files = {name: str(folder / f"{name}.parquet") for name in ("validation", "test")}
    files["train"] = str(folder / "train0.parquet")
    assert _load(folder, files=files).facts.fingerprint != first


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"source": "imagefolder"}, r"streaming: got True; allowed: with source: hub, parquet"),
        ({"files": {"train": "x"}}, r"files.validation: field required.*files.test"),
        ({"augment": {"mixup": 0.2}}, r"augment.mixup: got 0.2; allowed: nothing"),
        ({"augment": {"views": 2}}, r"augment.views"),
        ({"unlabelled": True}, r"unlabelled"),
        ({"labelled": 10}, r"labelled: got 10; allowed: nothing"),
        ({"class_weights": "balanced"}, r"class_weights: got 'balanced'; allowed: nothing"),
        ({"class_weights": {"a": 2.0}}, r"class_weights: got {'a': 2.0}; allowed: nothing"),
        ({"split": {"group": "x"}}, r"split: got {'group': 'x'}; allowed: nothing"),
        ({"columns": {"weight": "w"}}, r"columns.weight"),
        ({"text": {}, "image": None}, r"text: got 'a section'; allowed: images"),
        ({"streaming": False}, r"shuffle_buffer is given"),
    ],
)
def test_what_a_stream_does_not_allow_is_refused(more: dict[str, Any], message: str) -> None:
    files = {"train": "x", "validation": "x", "test": "x"}
    given = {"source": "parquet", "files": files, "streaming": True, "shuffle_buffer": 5, **more}
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        DataSpec(**given)


def test_texts_are_not_streamed(tmp_path: Path) -> None:
    rows = {"text": ["a b", "c d"] * 10, "label": [0, 1] * 10}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    files = dict.fromkeys(("train", "validation", "test"), str(tmp_path / "rows.parquet"))
    spec = DataSpec(source="parquet", files=files, streaming=True)
    with pytest.raises(InputError, match=r"data.streaming: got True; allowed: false, for a text"):
        load(spec, workdir=tmp_path)


def test_a_broken_file_is_refused_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"no parquet")
    files = dict.fromkeys(("train", "validation", "test"), str(tmp_path / "rows.parquet"))
    with pytest.raises(InputError, match=r"data.files.\w+: got"):
        load(DataSpec(source="parquet", files=files, streaming=True), workdir=tmp_path)


def test_the_block_is_read_again_and_not_the_stream(folder: Path) -> None:
    stream = _stream(_load(folder))
    stream.set_epoch(0)
    list(islice(stream, 40))
    state = stream.state_dict()
    assert state["block"] == 5
    assert state["first"] == 35
    assert state["taken"] == 5
    np.testing.assert_equal(sorted(state), ["block", "first", "rows", "taken"])
