"""Data that is iterated: streams of samples or of batches, and batches of the scheme itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from limbeck.core.random import seed_all, seeded
from limbeck.errors import InputError, Problem
from limbeck.tasks import Batch
from limbeck.training.data import (
    DRAW,
    EPOCH,
    PASS,
    Examples,
    Loader,
    MapLoader,
    check_batch,
    move,
    set_epoch,
)
from limbeck.training.settings import Training

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.schemes.scheme import Scheme

Data = Examples | Iterable[Any]


@dataclass(frozen=True)
class Stream:
    """Training data that is iterated again and again: passes of unknown length.

    A pass may end within a micro-batch of samples, which the next pass fills. Before each pass
    `set_epoch(epoch)` is called, if the data has it.

    While the data is iterated, torch, numpy and Python draw from seeds of the training's seed and
    of the micro-batch's number, which are equal in all processes. So an iterable that draws from
    them is the same when it is iterated again, and a resumed training comes to the same bits.

    Attributes:
        data: The iterable. A one-shot iterator, such as a generator, must be at its beginning, also
            in a training that resumes, and must last for all steps.
        batched: Whether an item is a batch (`batch_size` does not apply) or one sample. By default
            samples for `torch.utils.data.IterableDataset` and `datasets.IterableDataset`, and
            batches for anything else, such as a `DataLoader`.
        collate: The function that stacks samples to a batch.
        resume: How a training resumes: `"state"` by `state_dict()` and `load_state_dict()`, if the
            data has them and `num_workers` is 0, or `"skip"` by skipping what was consumed. A
            state need not contain everything: that of `datasets` omits its shuffle buffer.

    Example:
        >>> samples = [{"x": torch.ones(2), "labels": 0}]
        >>> Stream(samples, batched=False).batched
        False
    """

    data: Iterable[Any]
    batched: bool | None = None
    collate: Callable[[list[Any]], Any] = default_collate
    resume: Literal["state", "skip"] = "state"

    @property
    def has_samples(self) -> bool:
        """Return whether an item is a sample."""
        if self.batched is not None:
            return not self.batched
        return isinstance(self.data, IterableDataset) or _of_datasets(self.data)


@runtime_checkable
class GeneratesBatches(Protocol):
    """A scheme that draws its own batches: data-free distillation, rollouts, rounds."""

    def batches(self, *, epoch: int, size: int) -> Iterable[Batch]:
        """Return the micro-batches of a pass, over all processes together, endless or not.

        Torch's random states are seeded, equally in all processes, while it is called and iterated.

        Args:
            epoch: The number of the pass, from 0.
            size: The number of samples of a micro-batch.
        """
        ...


def build_loader(
    train: Data | Stream | None,
    scheme: Scheme,
    settings: Training,
    *,
    seed: int,
    accelerator: Accelerator,
    begin_epoch: Callable[[int], None],
) -> Loader:
    """Build the loader of a training's data; of the scheme's own batches if there is none.

    Raises:
        InputError: The data is no data set and no iterable, or missing; it has no length and
            `steps` is missing; or there are fewer samples than processes.
    """
    parts = {"seed": seed, "accelerator": accelerator, "begin_epoch": begin_epoch}
    problems = _too_few({"batch_size": settings.batch_size}, accelerator)
    if train is None:
        if not isinstance(scheme, GeneratesBatches):
            allowed = f"training data, since {type(scheme).__name__} has no method `batches`"
            raise InputError(*problems, Problem("train", None, allowed))
        stream = Stream(_SchemeBatches(scheme, settings.batch_size), batched=True)
    elif isinstance(train, Stream):
        stream = train
    elif _is_indexed(train):
        examples = cast("Examples", train)
        problems += _too_few({"training samples": len(examples)}, accelerator)
        if problems:
            raise InputError(*problems)
        return MapLoader(examples, settings, **parts)
    elif isinstance(train, Iterable):
        stream = Stream(train)
    else:
        allowed = "a data set with __len__ and __getitems__, an iterable, a Stream, or None"
        raise InputError(*problems, Problem("train", type(train).__name__, allowed))
    if settings.steps is None:
        fix = "Give the number of optimiser steps: steps=1000."
        problems.append(Problem("epochs", settings.epochs, "`steps`, for data without length", fix))
    plain = not isinstance(stream.data, IterableDataset) and not _of_datasets(stream.data)
    if settings.num_workers and plain:
        fix = "A DataLoader has workers of its own."
        allowed = "0, for data that is no IterableDataset"
        problems.append(Problem("num_workers", settings.num_workers, allowed, fix))
    if problems:
        raise InputError(*problems)
    return StreamLoader(stream, settings, **parts)


def _is_indexed(train: object) -> bool:
    iterated = isinstance(train, IterableDataset | DataLoader)
    indexed = hasattr(train, "__getitem__") or hasattr(train, "__getitems__")
    return not iterated and indexed and hasattr(train, "__len__") and not isinstance(train, Mapping)


def _too_few(sizes: Mapping[str, int], accelerator: Accelerator) -> list[Problem]:
    processes = accelerator.num_processes
    wanted = f"at least {processes}, one for each process"
    return [Problem(name, size, wanted) for name, size in sizes.items() if size < processes]


def _of_datasets(data: object) -> bool:
    """Return whether the data is an iterable data set of Hugging Face, which need not be loaded."""
    kind = type(data)
    return kind.__name__ == "IterableDataset" and kind.__module__.startswith("datasets.")


class _SchemeBatches:
    """The batches of a scheme as data that is iterated."""

    def __init__(self, scheme: GeneratesBatches, size: int) -> None:
        self._scheme, self._size, self._epoch = scheme, size, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._scheme.batches(epoch=self._epoch, size=self._size))


class StreamLoader:
    """The micro-batches of data that is iterated.

    Several processes divide the data themselves if it can be divided: by
    `datasets.distributed.split_dataset_by_node`, or its method `shard(num_shards, index)`.
    Otherwise each process iterates all of it, and takes its share of each batch.

    Args:
        stream: The data.
        settings: The training settings.
        seed: The seed of random draws.
        accelerator: The device and the processes.
        begin_epoch: A function that is called with the number of each pass, before it begins; also
            if a training resumes within it.

    Raises:
        InputError: The data is empty, ends too early, or yields something else than batches.
    """

    samples: int | None = None
    steps_per_epoch: int | None = None

    def __init__(
        self,
        stream: Stream,
        settings: Training,
        *,
        seed: int,
        accelerator: Accelerator,
        begin_epoch: Callable[[int], None],
    ) -> None:
        self._stream, self._settings = stream, settings
        self._accelerator, self._begin_epoch = accelerator, begin_epoch
        self._rank, self._processes = accelerator.process_index, accelerator.num_processes
        self._data, self._divided = _divide(stream.data, self._rank, self._processes)
        # Divided data may draw for each sample, and should not draw alike in all processes.
        self._seed = (seed, self._rank if self._divided else 0)
        self._one_shot = isinstance(self._data, Iterator)
        self._place = _Place()
        self._iterator: Iterator[Any] | None = None
        self._restore: Mapping[str, Any] | None = None

    def next_step(self) -> list[Batch]:
        """Return the micro-batches of the next step."""
        count = self._settings.gradient_accumulation_steps
        return [move(self._draw(), device=self._accelerator.device) for _ in range(count)]

    def position(self) -> dict[str, Any]:
        """Return the position in the data, with the data's own state if that is used.

        Raises:
            InputError: The data's state is not plain data.
        """
        found: dict[str, Any] = vars(self._place).copy()
        if self._uses_state:
            found["data"] = cast("Any", self._data).state_dict()
            try:
                found = json.loads(json.dumps(found))
            except (TypeError, ValueError) as error:
                given, allowed = str(error), "numbers, texts, lists and mappings"
                fix = 'Use Stream(data, resume="skip").'
                raise InputError(Problem("train.state_dict", given, allowed, fix)) from error
        return found

    def seek(self, step: int, position: Mapping[str, Any]) -> None:
        """Move to a saved position."""
        self._restore, self._iterator = dict(position), None

    @property
    def _uses_state(self) -> bool:
        has = all(hasattr(self._data, name) for name in ("state_dict", "load_state_dict"))
        return has and self._stream.resume == "state" and not self._settings.num_workers

    # -- one micro-batch --------------------------------------------------------------------------

    def _draw(self) -> Batch:
        """Draw this process's part of the next micro-batch."""
        if self._restore is not None:
            self._resume(self._restore)
            self._restore = None
        place = self._place
        with seeded(*self._seed, DRAW, place.batch):
            items = self._items(self._count)
        place.batch += 1
        return self._share(items)

    @property
    def _count(self) -> int:
        """Return the number of items that this process reads for a micro-batch."""
        if not self._stream.has_samples:
            return 1
        whole = range(self._settings.batch_size)
        return len(whole[self._rank :: self._processes] if self._divided else whole)

    def _items(self, count: int) -> list[Any]:
        """Read items, and begin the next pass where one ends."""
        place, items = self._place, list[Any]()
        while len(items) < count:
            if self._iterator is None:
                place.begin(len(items))
                self._open(place.epoch)
            try:
                items.append(next(cast("Iterator[Any]", self._iterator)))
            except StopIteration:
                self._check_end()
                self._iterator = None
            else:
                place.items += 1
        return items

    def _check_end(self) -> None:
        if self._place.items == 0:
            raise InputError(Problem("train", "an iterable without items", "at least one"))
        if self._one_shot:
            given = f"an iterator that ended after {self._place.items} items"
            allowed = f"data for {self._settings.steps} steps, or that can be iterated again"
            raise InputError(Problem("train", given, allowed))

    def _open(self, epoch: int, state: object = None) -> None:
        """Begin a pass, or continue one from the data's own state."""
        with seeded(*self._seed, EPOCH, epoch):
            self._begin_epoch(epoch)
        seed_all(*self._seed, PASS, epoch)
        set_epoch(self._data, epoch)
        if state is not None:
            cast("Any", self._data).load_state_dict(state)
        data = self._data
        if self._settings.num_workers:
            data = DataLoader(
                cast("Any", data),
                batch_size=None,
                num_workers=self._settings.num_workers,
                collate_fn=_as_is,
                generator=torch.Generator().manual_seed(torch.initial_seed()),
            )
        self._iterator = iter(data)

    def _resume(self, position: Mapping[str, Any]) -> None:
        """Return to a saved position: by the data's own state, or by iterating the pass again."""
        saved = {name: position[name] for name in vars(self._place)}
        end = _Place(**saved)
        if end.items == 0:
            return
        if self._uses_state and "data" in position:
            with seeded(*self._seed, DRAW, end.batch):
                self._open(end.epoch, position["data"])
        else:
            # The seeds are those of the micro-batches in which the items were first drawn.
            self._place = _Place(end.epoch, 0, end.begun_at, end.begun_at, end.begun_after)
            with seeded(*self._seed, DRAW, end.begun_at):
                self._open(end.epoch)
                self._items(min(self._count - end.begun_after, end.items))
            while self._place.items < end.items:
                self._place.batch += 1
                with seeded(*self._seed, DRAW, self._place.batch):
                    self._items(min(self._count, end.items - self._place.items))
        self._place = end

    def _share(self, items: list[Any]) -> Batch:
        """Collate items to this process's batch."""
        alone = self._divided or self._processes == 1
        if self._stream.has_samples:
            own = items if alone else items[self._rank :: self._processes]
            return check_batch(self._stream.collate(own))
        [batch] = map(check_batch, items)
        if alone:
            return batch
        rows = min(len(tensor) for tensor in batch.values())
        if rows < self._processes:
            allowed = f"at least {self._processes}, one for each process"
            raise InputError(Problem("train", f"a batch of {rows} samples", allowed))
        return {name: tensor[self._rank :: self._processes] for name, tensor in batch.items()}


@dataclass
class _Place:
    """A position in data that is iterated.

    Attributes:
        epoch: The number of the pass, from 0; −1 before the first.
        items: The number of items of this pass that were read.
        batch: The number of micro-batches that were drawn.
        begun_at: The micro-batch in which this pass began.
        begun_after: The number of items of that micro-batch that are of the pass before.
    """

    epoch: int = -1
    items: int = 0
    batch: int = 0
    begun_at: int = 0
    begun_after: int = 0

    def begin(self, items: int) -> None:
        """Start the next pass, after some items of the current micro-batch."""
        self.epoch, self.items = self.epoch + 1, 0
        self.begun_at, self.begun_after = self.batch, items


def _as_is(item: Any) -> Any:
    return item


def _divide(data: Iterable[Any], rank: int, processes: int) -> tuple[Iterable[Any], bool]:
    """Return a process's own part of the data, and whether the data could be divided."""
    if processes == 1:
        return data, False
    if _of_datasets(data):
        from datasets.distributed import split_dataset_by_node

        return split_dataset_by_node(cast("Any", data), rank=rank, world_size=processes), True
    if callable(shard := getattr(data, "shard", None)):
        return shard(num_shards=processes, index=rank), True
    return data, False
