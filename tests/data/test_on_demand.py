"""Images decoded on demand: the same batches as from memory, in any number of workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from encoded_images import encode, random_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from limbeck.data.headers import read_header
from limbeck.data.images import channels_of, open_image, size_of, traits_of
from limbeck.data.load import Data
from limbeck.data.modalities.image import _samples, _scan
from limbeck.data.rows import Batch
from limbeck.data.split import Split
from limbeck.errors import InputError, LimbeckError
from limbeck.objective import Objective, Term
from limbeck.schemes import Offline
from limbeck.tasks.image_classification import ImageClassification
from limbeck.training import Training, data, fit

Read = Callable[..., Data]
ROWS, SIZE = 60, (7, 6)
TRUNCATED = 200


def _write(path: Path, cells: list[bytes], labels: list[int] | None = None) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = {
        "image": [{"bytes": cell} for cell in cells],
        "label": labels or [row % 2 for row in range(len(cells))],
    }
    datasets.Dataset.from_dict(rows, features).to_parquet(path)


@pytest.fixture
def images(tmp_path: Path, read: Read) -> Callable[..., Data]:
    """Return a function that loads a Parquet file of encoded images of different kinds."""
    cells = [random_image(row) for row in range(ROWS)]
    _write(tmp_path / "rows.parquet", cells)

    def load(decode: str | None = "on_demand", **settings: Any) -> Data:
        given = {"size": SIZE, "decode": decode, **settings.pop("image", {})}
        return read(source="parquet", files={"train": "rows.parquet"}, image=given, **settings)

    return load


def _equal(first: Batch, second: Batch) -> bool:
    return list(first) == list(second) and all(
        torch.equal(one, second[name]) for name, one in first.items()
    )


# -- the same as from memory ---------------------------------------------------------------------


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_header_states_what_decoding_finds(seed: int) -> None:
    content = random_image(seed)
    image, header = open_image(content), read_header(content)
    assert header.size == size_of(image)
    assert header.channels == channels_of(image)
    assert sorted(header.traits) == sorted(traits_of(image))
    assert read_header(content, verify=True).size == header.size


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_and_preprocessing_are_those_from_memory(
    images: Callable[..., Data], threads: int
) -> None:
    more = {"augment": {"flip": True, "shift": 1, "cutmix": 1.0}}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kept, decoded = images("memory", **more), images("on_demand", **more)
        assert not kept.train.decodes
        assert decoded.train.decodes
        assert kept.preprocess == decoded.preprocess
        for name in ("train", "validation", "test"):
            one, other = getattr(kept, name), getattr(decoded, name)
            assert _equal(one.__getitems__([2, 0, 3]), other.__getitems__([2, 0, 3]))
            for first, second in zip(one.batches(9), other.batches(9), strict=True):
                assert _equal(first, second)
    finally:
        torch.set_num_threads(before)
    own = {note for note in decoded.facts.notes if "on demand" in note}
    assert set(decoded.facts.notes) - own == set(kept.facts.notes)
    assert len(own) == 1


def test_boxes_follow_the_size_as_stored(tmp_path: Path, read: Read) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = encode(Image.new("RGB", (12, 6)), "JPEG", exif=exif)
    content = {
        "image": [{"bytes": wide}] * 10,
        "boxes": [[[0.0, 0.0, 6.0, 6.0]]] * 10,
        "labels": [["a"]] * 10,
    }
    features = {
        "image": datasets.Image(),
        "boxes": datasets.List(datasets.List(datasets.Value("float64"))),
        "labels": datasets.List(datasets.Value("string")),
    }
    rows = datasets.Dataset.from_dict(content, datasets.Features(features))
    rows.to_parquet(tmp_path / "rows.parquet")
    boxes = {"column": "boxes", "labels": "labels", "classes": ["a"]}
    found = [
        read(
            source="parquet",
            files={"train": "rows.parquet"},
            boxes=boxes,
            image={"size": (24, 12), "decode": decode},
        ).train.__getitems__([0])["boxes"]
        for decode in ("memory", "on_demand")
    ]
    assert found[1][0, 0].tolist() == [0, 0, 12, 12]
    assert torch.equal(*found)


def test_many_images_are_decoded_on_demand_without_a_setting(
    images: Callable[..., Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not images(None).train.decodes
    monkeypatch.setattr(_samples, "PIXELS_UNDER", 100)
    assert images(None).train.decodes
    assert not images("memory").train.decodes
    assert images("on_demand").preprocess == images(None).preprocess


def test_mean_and_deviation_of_many_images_are_those_of_some(
    images: Callable[..., Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_scan, "MEASURED", 20)
    data = images()
    assert "mean and deviation are those of 20 of 43 training images" in data.facts.notes
    rows = np.linspace(0, 42, 20).round().astype(int)
    pixels = data.train.for_evaluation().__getitems__(rows.tolist())["image"].double()
    std = torch.tensor(data.preprocess.std, dtype=torch.float64)  # type: ignore[attr-defined]
    assert (pixels.mean(dim=(0, 2, 3)) * std).abs().max() < 1e-5
    assert (pixels.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-4
    stated = images(image={"mean": [0.5], "std": [0.5], "channels": 1})
    assert not [note for note in stated.facts.notes if "mean" in note]


# -- fingerprint and overlap ---------------------------------------------------------------------


def test_the_fingerprint_follows_bytes_and_labels_and_not_the_place(
    tmp_path: Path, read: Read
) -> None:
    for name in ("one", "two"):
        for number in range(24):
            folder = tmp_path / name / "abc"[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.png").write_bytes(random_image(number))

    def found(name: str) -> str:
        own = {"size": SIZE, "decode": "on_demand"}
        return read(source="imagefolder", files={"train": name}, image=own).facts.fingerprint

    first = found("one")
    assert first == found("two")
    moved = tmp_path / "two" / "a" / "0.png"
    moved.rename(tmp_path / "two" / "b" / "0.png")
    assert found("two") != first
    (tmp_path / "two" / "b" / "0.png").rename(moved)
    assert found("two") == first
    moved.write_bytes(random_image(1000))
    assert found("two") != first


def test_rows_of_equal_bytes_in_two_splits_are_refused(tmp_path: Path, read: Read) -> None:
    cells = [random_image(row) for row in range(ROWS)]
    _write(tmp_path / "train.parquet", cells)
    _write(tmp_path / "test.parquet", cells[:10])
    files = {"train": "train.parquet", "test": "test.parquet"}
    own = {"size": SIZE, "decode": "on_demand"}
    with pytest.raises(InputError, match=r"data \(test\): got '\d of 10 rows .* equal a row of"):
        read(source="parquet", files=files, image=own, max_overlap=0.1)


# -- corrupt images ------------------------------------------------------------------------------


def _corrupt(tmp_path: Path, rows: list[int], length: int = TRUNCATED) -> list[Path]:
    """Write a folder of images of which some end too early; return these."""
    cut = []
    for number in range(40):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = encode(Image.effect_noise((40, 40), 50 + number).convert("RGB"))
        path.write_bytes(content[:length] if number in rows else content)
        cut += [path] if number in rows else []
        if number < 4:
            other = tmp_path / "other" / path.parent.name / path.name
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_bytes(content)
    return cut


def _folder(read: Read, **image: Any) -> Data:
    own = {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "decode": "on_demand", **image}
    files = {"train": "images", "validation": "other", "test": "other"}
    return read(source="imagefolder", files=files, image=own)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_corrupt_image_is_named_when_it_is_decoded(
    tmp_path: Path, read: Read, workers: int
) -> None:
    [path] = _corrupt(tmp_path, [17])
    split = _folder(read).train
    batches = iter([list(range(start, start + 7)) for start in range(0, 35, 7)])
    loaded = data.load(split, batches, workers=workers, device=torch.device("cpu"))
    with pytest.raises(InputError) as caught:
        list(loaded)
    message = str(caught.value)
    assert str(path) in message
    assert "row 28" in message  # the 9th of b, after the 20 of a
    for part in ("truncated", "Replace the file", "data.image.verify: true"):
        assert part in message
    assert "Traceback" not in message


def test_verify_lists_the_corrupt_images_before_training(tmp_path: Path, read: Read) -> None:
    paths = _corrupt(tmp_path, [3, 8, 30])
    with pytest.raises(InputError) as caught:
        _folder(read, verify=True)
    assert len(caught.value.problems) == 3
    assert all(str(path) in str(caught.value) for path in paths)


def test_an_unreadable_header_is_found_before_training(tmp_path: Path, read: Read) -> None:
    [path] = _corrupt(tmp_path, [5], length=10)
    with pytest.raises(InputError, match=path.name):
        _folder(read)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere.png")
    assert len(_folder(read).train) == 39
    path.unlink()
    os.mkfifo(path)
    assert len(_folder(read).train) == 39


def test_images_of_other_sizes_are_refused_by_their_headers(tmp_path: Path, read: Read) -> None:
    cells = [encode(Image.new("RGB", (6, 6), (row, 0, 0))) for row in range(20)]
    cells[13] = encode(Image.new("RGB", (6, 5)))
    _write(tmp_path / "rows.parquet", cells)
    with pytest.raises(InputError, match=r"row 13: got 'an image of 5x6'; allowed: 6x6"):
        read(source="parquet", files={"train": "rows.parquet"}, image={"decode": "on_demand"})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"verify": True}, r"data.image.verify: got True; allowed: with decode: on_demand"),
        ({"decode": "later"}, r"decode"),
    ],
)
def test_settings_that_do_nothing_are_refused(
    images: Callable[..., Data], image: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError if "decode" in image else InputError, match=message):
        images(decode=None, image=image)


def test_arrays_are_not_decoded(tmp_path: Path, read: Read) -> None:
    rows = {"image": [np.full((4, 4), row).tolist() for row in range(20)], "label": [0, 1] * 10}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"data.image.decode: got 'on_demand'"):
        read(source="parquet", files={"train": "rows.parquet"}, image={"decode": "on_demand"})


# -- workers -------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


class _KillAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, done: int, total: int, note: str, *, milestone: bool = False) -> None:
        if done == self.step:
            raise KilledError


def _train(
    split: Split, folder: Path, *, workers: int, kill: int | None = None
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE[0] * SIZE[1], 2))
    task, probe = ImageClassification(("a", "b")), split.__getitems__([0, 1])
    scheme = Offline(student, task, Objective.of([Term("task")]), probe=probe)
    bar = {} if kill is None else {"progress_bar": _KillAt(kill)}
    training = Training(epochs=2, batch_size=8, num_workers=workers, checkpoint_every=0)
    fit(
        scheme,
        train=split,
        validate=lambda _: {"accuracy": 0.0},
        settings=training,
        folder=folder,
        seed=3,
        accelerator=Accelerator(cpu=True),
        **bar,
    )
    return {name: value.clone() for name, value in student.state_dict().items()}


@pytest.mark.slow
def test_killed_with_workers_and_resumed_it_comes_to_the_bits_of_none(
    images: Callable[..., Data], tmp_path: Path
) -> None:
    split = images(augment={"flip": True, "shift": 2, "mixup": 1.0, "cutmix": 1.0}).train
    expected = _train(split, tmp_path / "none", workers=0)
    for kill in (2, 7):
        folder = tmp_path / str(kill)
        with pytest.raises(KilledError):
            _train(split, folder, workers=2, kill=kill)
        found = _train(split, folder, workers=2)
        assert all(torch.equal(one, found[name]) for name, one in expected.items())
        shutil.rmtree(folder)


def test_workers_are_automatic_for_images_on_demand(
    images: Callable[..., Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    kept, decoded = images("memory").train, images("on_demand").train
    automatic = Training(epochs=1)
    assert data.number_of_workers(kept, automatic) == 0
    assert data.number_of_workers(decoded, automatic) == 5
    assert data.number_of_workers(decoded, automatic, processes=2) == 2
    assert data.number_of_workers(decoded, automatic, processes=6) == 1
    assert data.number_of_workers(decoded, Training(epochs=1, num_workers=0)) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert data.number_of_workers(decoded, automatic) == 8


def test_a_killed_worker_is_explained() -> None:
    def killed() -> Iterator[Any]:
        yield {}
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    batches = data._of_workers(killed())  # type: ignore[arg-type]
    assert next(batches) == {}
    with pytest.raises(LimbeckError, match=r"pid 7.*num_workers"):
        next(batches)


def test_files_that_are_large_together_are_memory_mapped(
    images: Callable[..., Data], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from limbeck.data.sources import parquet

    _write(tmp_path / "more.parquet", [random_image(row + 100) for row in range(ROWS)])
    paths = [tmp_path / "rows.parquet", tmp_path / "more.parquet"]
    sizes = [path.stat().st_size for path in paths]
    monkeypatch.setattr(parquet, "IN_MEMORY", max(sizes) + 1)
    assert not isinstance(parquet.read(paths[0], total=sizes[0]), datasets.Dataset)
    mapped = parquet.read(paths[0], total=sum(sizes))
    assert mapped.cache_files
    assert len(mapped) == ROWS


# -- memory --------------------------------------------------------------------------------------

FEW, MANY, SIDE = 200, 3000, 128
MEMORY = rf"""
import json, re, sys
from pathlib import Path
from limbeck.data.load import load
from limbeck.data.spec import DataSpec

def peak(name, decode):
    image = {{"size": {SIDE}, "mean": [0.5] * 3, "std": [0.5] * 3, "decode": decode}}
    files = {{"train": f"{{sys.argv[1]}}/{{name}}"}}
    data = load(
        DataSpec(source="imagefolder", files=files, image=image, max_overlap=1), workdir=Path()
    )
    for start in range(0, 64, 16):
        data.train.__getitems__(list(range(start, start + 16)))
    # Not ru_maxrss, which is at least that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024

print(json.dumps([peak("few", "on_demand"), peak("many", "on_demand"), peak("many", "memory")]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_memory_does_not_grow_with_the_pixels(tmp_path: Path) -> None:
    """Measure the peak of one process: `benchmarks/image_memory.py` does so for a million."""
    content = encode(Image.effect_noise((16, 16), 50).convert("RGB"), "JPEG")
    for name, count in (("few", FEW), ("many", MANY)):
        for number in range(count):
            path = tmp_path / name / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    few, many, kept = json.loads(ended.stdout.splitlines()[-1])
    pixels = (MANY - FEW) * 3 * SIDE**2
    assert many - few < 2048 * (MANY - FEW) + 16 * 2**20
    assert kept - many > pixels / 2
