"""The teacher cache of token sequences: records of unequal size, resumed after a kill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.data import cache
from limbeck.data.cache import TeacherCache
from limbeck.data.rows import Batch, DenseLabels
from limbeck.data.split import Split
from limbeck.errors import InputError
from limbeck.targets import HeadTargets, PackedLayout, SampledTargets, Targets

ROWS, LONGEST, CLASSES = 11, 6, 40


class Ragged:
    """Sequences of one to six tokens."""

    lengths = 1 + torch.arange(ROWS) % LONGEST

    def __len__(self) -> int:
        return ROWS

    def batch(self, index: torch.Tensor) -> Batch:
        places = torch.arange(int(self.lengths[index].max()))
        mask = places < self.lengths[index, None]
        return {"input_ids": (index[:, None] + places) * mask, "attention_mask": mask.long()}

    def raw(self, row: int) -> dict[str, object]:
        return {"text": str(row)}


@pytest.fixture
def split() -> Split:
    return Split(Ragged(), DenseLabels(torch.zeros(ROWS, dtype=torch.int64)))


def kept(batch: Batch) -> dict[str, torch.Tensor]:
    return {"logits": batch["attention_mask"].flatten() > 0}


def drawn(batch: Batch) -> dict[str, Targets]:
    """Return samples that depend on the token and the row only."""
    logits = torch.randn(99, CLASSES, generator=torch.Generator().manual_seed(0))
    rows = logits[batch["input_ids"].flatten()]
    uniform = torch.rand(99, 9, generator=torch.Generator().manual_seed(1))
    uniform = uniform[batch["input_ids"].flatten()]
    return {"logits": SampledTargets.draw(rows, draws=9, uniform=uniform.double())}


def hidden(batch: Batch) -> dict[str, Targets]:
    states = torch.randn(99, 4, generator=torch.Generator().manual_seed(2))
    weight = torch.randn(CLASSES, 4, generator=torch.Generator().manual_seed(3))
    return {"logits": HeadTargets(states[batch["input_ids"].flatten()], weight)}


def opened(folder: Path, split: Split, teacher: object = drawn) -> TeacherCache:
    layout = PackedLayout.of(teacher(split.__getitems__([0, 1])))
    key = {"teacher": teacher.__name__}
    return TeacherCache(folder, key=key, rows=ROWS, views=1, layout=layout, kept=kept)


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("targets.bin", "index.bin")]


@pytest.mark.parametrize("teacher", [drawn, hidden])
def test_every_record_is_that_of_its_row(tmp_path: Path, split: Split, teacher: object) -> None:
    store = opened(tmp_path, split, teacher)
    store.record(teacher, split, batch_size=2)
    index = torch.tensor([7, 0, 10])
    found = store.lookup(index, torch.zeros(3, dtype=torch.int64))["logits"]
    batch = split.__getitems__(index)
    expected = teacher(batch)["logits"].select(kept(batch)["logits"])
    assert found.elements == int(Ragged.lengths[index].sum())
    for name in ("ids", "counts", "hidden"):
        if hasattr(found, name):
            own, other = getattr(found, name), getattr(expected, name)
            width = max(own.shape[1], other.shape[1])
            own, other = (
                torch.nn.functional.pad(one, (0, width - one.shape[1])) for one in (own, other)
            )
            assert torch.allclose(own.float(), other.float(), atol=1e-3)
    assert store.size == (tmp_path / "targets.bin").stat().st_size


def test_a_killed_recording_resumes_to_the_same_bytes(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SEQUENCE_BATCHES", 1)
    opened(tmp_path / "whole", split).record(drawn, split, batch_size=2)
    calls = 0

    def dying(batch: Batch) -> Mapping[str, Targets]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return drawn(batch)

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "cut", split).record(dying, split, batch_size=2)
    # Records after the last noted progress, cut in the middle.
    with (tmp_path / "cut" / "targets.bin").open("ab") as stream:
        stream.write(b"half a record")
    calls = 100
    opened(tmp_path / "cut", split).record(dying, split, batch_size=2)
    assert calls == 103  # three batches of six were kept
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("name", ["targets.bin", "index.bin"])
def test_modified_files_are_refused(tmp_path: Path, split: Split, name: str) -> None:
    opened(tmp_path, split).record(drawn, split, batch_size=4)
    content = bytearray((tmp_path / name).read_bytes())
    for changed in (content[:-1], bytes([content[0] ^ 1]) + content[1:]):
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(InputError, match=name):
            opened(tmp_path, split)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name):
        opened(tmp_path, split)


def test_the_head_is_stored_once(tmp_path: Path, split: Split) -> None:
    from safetensors.torch import load_file

    store = opened(tmp_path, split, hidden)
    store.record(hidden, split, batch_size=4)
    [weight] = load_file(tmp_path / cache.CONSTANTS).values()
    assert weight.shape == (CLASSES, 4)
    positions = int(Ragged.lengths.sum())
    assert store.size == positions * 4 * 2 + ROWS * np.dtype(np.uint32).itemsize
