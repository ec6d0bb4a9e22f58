from __future__ import annotations

import time

import numpy as np
import torch
from torch.utils.data import DataLoader

from limbeck.data.load import Data


def test_a_batch_has_the_requested_rows(digits: Data) -> None:
    batch = digits.train.__getitems__([5, 0, 5])
    assert sorted(batch) == ["image", "index", "labels", "view"]
    assert batch["index"].tolist() == [5, 0, 5]
    assert batch["labels"].tolist() == digits.train.labels[[5, 0, 5]].tolist()
    assert batch["view"].tolist() == [0, 0, 0]
    assert batch["image"].dtype == torch.float32
    assert batch["labels"].dtype == batch["index"].dtype == batch["view"].dtype == torch.int64
    assert torch.equal(batch["image"][0], batch["image"][2])


def test_batches_have_all_rows_once(digits: Data) -> None:
    batches = list(digits.test.batches(100))
    assert [len(batch["labels"]) for batch in batches] == [100, 100, 100, 59]
    assert torch.equal(torch.cat([batch["labels"] for batch in batches]), digits.test.labels)
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(359))


def test_a_loader_of_torch_takes_it_as_it_is(digits: Data) -> None:
    loader = DataLoader(digits.validation, batch_size=50, collate_fn=lambda batch: batch)  # type: ignore[arg-type, var-annotated]
    assert sum(len(batch["labels"]) for batch in loader) == len(digits.validation)


def test_a_batch_may_be_changed_without_changing_the_data(digits: Data) -> None:
    before = digits.train.__getitems__([0])["image"].clone()
    digits.train.__getitems__([0])["image"].zero_()
    assert torch.equal(digits.train[0]["image"], before)


def test_classes_keep_their_shares(digits: Data) -> None:
    whole = torch.cat([split.labels for split in (digits.train, digits.validation, digits.test)])
    for split in (digits.train, digits.validation, digits.test):
        expected = torch.bincount(whole) * len(split) / len(whole)
        assert (torch.bincount(split.labels) - expected).abs().max() <= 2


def test_raw_returns_the_image_of_the_row(digits: Data) -> None:
    stored = digits.test.raw(7)["image"]
    shown = torch.from_numpy(np.asarray(stored).copy()) / 255 * 16
    prepare = digits.preprocess
    image = digits.test[7]["image"][0, 0] * prepare.std[0] + prepare.mean[0]
    assert (shown.round() - (image * 16)).abs().max() < 0.01


def test_a_batch_takes_little_time(digits: Data) -> None:
    """A step of the digits student takes 1.5 ms; the data may take a few hundredths of it."""
    rows = list(range(64))
    best = min(_seconds(digits, rows) for _ in range(200))
    assert best < 0.5e-3


def _seconds(digits: Data, rows: list[int]) -> float:
    start = time.perf_counter()
    digits.train.__getitems__(rows)
    return time.perf_counter() - start
