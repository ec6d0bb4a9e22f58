"""Training in steps, on data that is iterated, and on batches of the scheme itself."""

from __future__ import annotations

import random
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from limbeck.errors import InputError
from limbeck.schemes import Offline
from limbeck.training import Stream, Training
from limbeck.training.data import MapLoader
from limbeck.training.stream import StreamLoader

COUNT = 11


def sample(tiny, index):
    rows = tiny.Images(COUNT, noise=0).__getitems__([index])
    return {name: one[0] for name, one in rows.items()} | {"index": torch.tensor(index)}


class Samples(IterableDataset):
    """Samples in an order of their own in each pass, with noise of all three generators."""

    def __init__(self, tiny):
        self.tiny, self.epoch, self.passes = tiny, 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.passes.append(epoch)

    def __iter__(self):
        for index in torch.randperm(COUNT).tolist():
            one = sample(self.tiny, index)
            noise = torch.randn(1, 6, 6) + np.random.rand() + random.random() + self.epoch
            yield one | {"image": one["image"] + 0.1 * noise}


class Stateful(Samples):
    """Samples whose position is their own; the pass before it is never read again."""

    def __init__(self, tiny):
        super().__init__(tiny)
        self.at, self.read = 0, []

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]

    def __iter__(self):
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        for index in order[self.at % COUNT :]:
            self.at += 1
            self.read.append(index)
            yield sample(self.tiny, index)
        self.at = 0


class Batched:
    """Batches of changing sizes, read once after another."""

    def __init__(self, tiny):
        self.tiny = tiny

    def __iter__(self):
        images = self.tiny.Images(COUNT)
        for rows in (range(4), range(4, 9), range(9, 11)):
            batch = images.__getitems__(list(rows))
            yield batch | {"image": batch["image"] + torch.randn(len(rows), 1, 6, 6)}


class Rows:
    """Samples that a DataLoader shuffles."""

    def __init__(self, tiny):
        self.tiny = tiny

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        one = sample(self.tiny, index)
        return one | {"image": one["image"] + 0.1 * torch.randn(1, 6, 6)}


class OwnBatches(Offline):
    """A scheme that draws its batches."""

    def batches(self, *, epoch, size):
        for number in range(5):
            yield {
                "image": torch.randn(size, 1, 6, 6) + epoch,
                "labels": torch.randint(3, (size,)),
                "weight": torch.full((size,), 1.0 + number),
            }

    def begin_epoch(self, epoch):
        self.shift = torch.randn(1, 6, 6)  # drawn anew if the training resumes in this pass

    def step(self, batch, progress, total_weights=None, phase=""):
        return super().step(batch | {"image": batch["image"] + self.shift}, progress, total_weights)


def huggingface(tiny):
    import datasets

    columns = default_collate([sample(tiny, index) for index in range(COUNT)])
    columns = {name: one.tolist() for name, one in columns.items()}
    return datasets.Dataset.from_dict(columns).to_iterable_dataset(num_shards=2)


def own(tiny):
    subject = tiny.scheme()
    subject.__class__ = OwnBatches
    return subject


DATA = {
    "samples": Samples,
    "state": Stateful,
    "batches": Batched,
    "iterator": lambda tiny: (one for _ in range(4) for one in Batched(tiny)),
    "loader": lambda tiny: DataLoader(Rows(tiny), batch_size=4, shuffle=True),
    "huggingface": lambda tiny: huggingface(tiny).with_format("torch"),
    "own": lambda tiny: None,
    "map-style": lambda tiny: None,
}


def go(tiny, folder, name, accelerator, **settings):
    subject = own(tiny) if name == "own" else tiny.scheme()
    data = tiny.Images() if name == "map-style" else Stream(DATA[name](tiny))
    if name == "own":
        _, history = fit_own(tiny, folder, subject, accelerator, **settings)
    else:
        _, history = tiny.train(
            folder, subject=subject, train=data, accelerator=accelerator, **settings
        )
    state = [value.clone() for value in subject.state_dict().values()]
    rows = [{key: row[key] for key in row if key != "seconds"} for row in history.rows]
    return [*state, torch.get_rng_state()], rows


def fit_own(tiny, folder, subject, accelerator, *, progress_bar=None, **settings):
    from limbeck.training import fit

    more = {"batch_size": 4, "checkpoint_every": 0, "gradient_accumulation_steps": 2, **settings}
    history = fit(
        subject,
        train=None,
        validate=tiny.score,
        settings=Training(**more),
        folder=folder,
        seed=3,
        accelerator=accelerator,
        progress_bar=progress_bar,
    )
    return subject, history


@pytest.mark.parametrize("name", DATA)
def test_killed_and_resumed_it_comes_to_the_same_bits(tiny, tmp_path, accelerator, name):
    settings = {"steps": 6, "validate_every": 2, "log_every": 1}
    expected, rows = go(tiny, tmp_path / "whole", name, accelerator, **settings)
    assert [row["step"] for row in rows] == [2, 4, 6]
    for step in (2, 5):
        with pytest.raises(tiny.Killed):
            go(
                tiny,
                tmp_path / str(step),
                name,
                accelerator,
                progress_bar=tiny.KillAt(step),
                **settings,
            )
        got, got_rows = go(tiny, tmp_path / str(step), name, accelerator, **settings)
        assert all(map(torch.equal, got, expected)), step
        assert got_rows == rows


def test_steps_are_those_of_epochs(tiny, tmp_path, accelerator):
    by_epochs, rows = go(tiny, tmp_path / "epochs", "map-style", accelerator, epochs=3)
    by_steps, more = go(tiny, tmp_path / "steps", "map-style", accelerator, steps=9)
    assert all(map(torch.equal, by_epochs, by_steps))
    assert rows == more


def test_steps_are_validated_and_reported_as_steps(tiny, tmp_path, accelerator):
    notes = []
    reporter = SimpleNamespace(
        update=lambda done, total, note, milestone=False: notes.append((done, total, note))
    )
    _, history = tiny.train(tmp_path / "a", steps=8, progress_bar=reporter)
    assert [(row["step"], row["epoch"]) for row in history.rows] == [(3, 1), (6, 2), (8, 8 / 3)]
    assert {total for _, total, _ in notes} == {8}
    assert all(note.startswith(f"step {done}/8, loss ") for done, _, note in notes)
    _, history = tiny.train(tmp_path / "b", train=Batched(tiny), steps=20)
    assert [row["step"] for row in history.rows] == list(range(2, 21, 2))
    scores = iter([0.5, 0.4, 0.3, 0.9])
    _, history = tiny.train(
        tmp_path / "c",
        steps=8,
        validate_every=2,
        patience=2,
        validate=lambda model: {"score": next(scores)},
    )
    assert (history.steps, history.best_step, history.stopped_early) == (6, 2, True)


def test_epochs_may_be_validated_within(tiny, tmp_path, accelerator):
    _, history = tiny.train(tmp_path, epochs=2, validate_every=2)
    assert [row["step"] for row in history.rows] == [2, 4, 6]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "epochs: field required. Or `steps`"),
        ({"epochs": 2, "steps": 3}, r"steps: got 3; allowed: `epochs` or `steps`, not both"),
        ({"steps": 0}, "greater than or equal to 1"),
    ],
)
def test_a_training_has_epochs_or_steps(given, message):
    with pytest.raises(ValueError, match=message):
        Training(**given)


def loader(data, *, rank=0, processes=1, begin_epoch=lambda epoch: None, **settings):
    where = SimpleNamespace(process_index=rank, num_processes=processes, device=torch.device("cpu"))
    chosen = Training(**{"steps": 9, "batch_size": 4, **settings})
    return StreamLoader(data, chosen, seed=0, accelerator=where, begin_epoch=begin_epoch)


def drawn(reader, steps):
    return [batch["index"].tolist() for _ in range(steps) for batch in reader.next_step()]


def test_a_pass_ends_within_a_batch_that_the_next_one_fills(tiny):
    data, passes = Stateful(tiny), []
    reader = loader(Stream(data), begin_epoch=passes.append)
    found = drawn(reader, 6)
    assert [len(batch) for batch in found] == [4] * 6
    flat = [index for batch in found for index in batch]
    assert sorted(flat[:11]) == sorted(flat[11:22]) == list(range(COUNT))
    assert passes == data.passes == [0, 1, 2]


def test_a_saved_state_is_used_and_nothing_is_read_twice(tiny):
    first, second = Stateful(tiny), Stateful(tiny)
    reader = loader(Stream(first))
    drawn(reader, 4)
    position = reader.position()
    rest = drawn(reader, 3)
    again = loader(Stream(second))
    again.seek(4, position)
    assert drawn(again, 3) == rest
    assert len(second.read) == 12


@pytest.mark.parametrize("kind", ["samples", "batches", "huggingface"])
def test_processes_share_what_one_process_reads(tiny, kind):
    if kind == "batches":
        items = [{"index": torch.arange(start, start + 5)} for start in (0, 5)]
    else:
        items = [{"index": index} for index in range(12)]
    data = Stream(items, batched=kind == "batches")
    if kind == "huggingface":
        import datasets

        listed = datasets.Dataset.from_list(items).to_iterable_dataset(num_shards=2)
        data = Stream(listed.with_format("torch"))
    whole = drawn(loader(data), 2)
    parts = [drawn(loader(data, rank=rank, processes=2), 2) for rank in (0, 1)]
    for step in range(2):
        both = [*parts[0][step], *parts[1][step]]
        assert len(both) == len(whole[step])
        if kind == "huggingface":  # divides by shards
            assert parts[0][step][0] == 2 * step
            assert parts[1][step][0] == 6 + 2 * step
        else:
            assert sorted(both) == whole[step]
            assert parts[0][step] == whole[step][::2]


def test_workers_read_a_stream(tiny):
    data = Stateful(tiny)
    alone = drawn(loader(Stream(Stateful(tiny), resume="skip")), 3)
    reader = loader(Stream(data), num_workers=1)
    assert drawn(reader, 2) == alone[:2]
    assert data.read == []  # a worker process has its own copy
    again = loader(Stream(Stateful(tiny)), num_workers=1)
    again.seek(2, reader.position())
    assert drawn(again, 1) == alone[2:]


class Opaque(Samples):
    def state_dict(self):
        return {"at": object()}

    def load_state_dict(self, state):
        raise AssertionError


@pytest.mark.parametrize(
    ("train", "settings", "message"),
    [
        (lambda tiny: Batched(tiny), {"epochs": 2}, "epochs: got 2; allowed: `steps`, for data"),
        (
            lambda tiny: Batched(tiny),
            {"steps": 2, "num_workers": 2},
            "num_workers: got 2; allowed: 0, for data that is no IterableDataset. A DataLoader has",
        ),
        (lambda tiny: iter(()), {"steps": 2}, "'an iterable without items'; allowed: at least one"),
        (
            lambda tiny: iter([next(iter(Batched(tiny)))] * 3),
            {"steps": 2},
            "an iterator that ended after 3 items'; allowed: data for 2 steps",
        ),
        (lambda tiny: iter([(1, 2)]), {"steps": 2}, "train: got 'tuple'; allowed: batches or samp"),
        (lambda tiny: iter([{"x": ["a"]}]), {"steps": 2}, "train: got 'list in the field x'"),
        (lambda tiny: 3, {"steps": 2}, "train: got 'int'; allowed: a data set with __len__"),
        (lambda tiny: Opaque(tiny), {"steps": 2}, r'train.state_dict.*Stream\(data, resume="skip'),
    ],
)
def test_data_that_cannot_be_iterated_is_refused(
    tiny, tmp_path, accelerator, train, settings, message
):
    with pytest.raises(InputError, match=message):
        tiny.train(tmp_path, train=train(tiny), **settings)


def test_a_scheme_without_batches_needs_data(tiny, tmp_path, accelerator):
    with pytest.raises(InputError, match="train: got None; allowed: training data, since Offline"):
        fit_own(tiny, tmp_path, tiny.scheme(), accelerator, steps=2)


class Encoded:
    """A map-style data set of encoded images that are decoded when they are read."""

    def __init__(self, count):
        self.count, self.epoch = count, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": torch.full((1, 8, 8), float(index % 255)), "labels": index % 3}


def test_an_epoch_of_a_million_samples_holds_no_list_of_them():
    peaks = {}
    where = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    for count in (1_000, 1_000_000):
        settings, none = Training(epochs=1, batch_size=64), lambda epoch: None
        tracemalloc.start()
        reader = MapLoader(Encoded(count), settings, seed=0, accelerator=where, begin_epoch=none)
        [batch] = reader.next_step()
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert batch["image"].shape == (64, 1, 8, 8)
    assert peaks[1_000_000] < 2 * peaks[1_000]
