"""Data of the training loop: micro-batches of any data set, in a fixed order, on the device.

A loader yields the micro-batches of one optimiser step after the other, pass after pass. Its
position is a part of the checkpoint. `stream.py` has the loader of data that is iterated.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, cast, overload

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from limbeck.core.random import seeded
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.tasks import Batch
from limbeck.training.settings import Training

if TYPE_CHECKING:
    from accelerate import Accelerator

EPOCH, PASS, DRAW = range(1, 4)
"""Purposes of random numbers: the scheme's `begin_epoch`, a pass over a stream, a micro-batch."""
MOST_WORKERS = 8


class Examples(Protocol):
    """A data set indexed by sample; a batch is a mapping of tensors.

    A method `set_epoch(epoch)`, if there is one, is called before each epoch: augmentation may
    depend on it.
    """

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitems__(self, indices: list[int], /) -> Any:
        """Return some samples as a batch, or as a list of samples."""
        ...


class Loader(Protocol):
    """The micro-batches of a training, for one process."""

    @property
    def samples(self) -> int | None:
        """Return the number of samples of an epoch; None if the data has no length."""
        ...

    @property
    def steps_per_epoch(self) -> int | None:
        """Return the number of optimiser steps of an epoch; None if the data has no length."""
        ...

    def next_step(self) -> list[Batch]:
        """Return the micro-batches of the next optimiser step."""
        ...

    def position(self) -> dict[str, Any]:
        """Return the position after the last step, as plain data."""
        ...

    def seek(self, step: int, position: Mapping[str, Any]) -> None:
        """Move to a saved position, after `step` optimiser steps."""
        ...


class MapLoader:
    """The shuffled micro-batches of a data set that is indexed.

    Args:
        examples: The samples.
        settings: The training settings.
        seed: The seed of the order.
        accelerator: The device and the processes.
        begin_epoch: A function that is called with the number of each epoch, before its first
            sample is read; also if a training resumes within it.
    """

    def __init__(
        self,
        examples: Examples,
        settings: Training,
        *,
        seed: int,
        accelerator: Accelerator,
        begin_epoch: Callable[[int], None],
    ) -> None:
        self._examples, self._settings, self._seed = examples, settings, seed
        self._accelerator, self._begin_epoch = accelerator, begin_epoch
        self.samples = len(examples)
        count = number_of_batches(
            self.samples, size=settings.batch_size, processes=accelerator.num_processes
        )
        self.steps_per_epoch = -(-count // settings.gradient_accumulation_steps)
        self._step = 0
        self._batches: Iterator[Batch] | None = None

    def next_step(self) -> list[Batch]:
        """Return the micro-batches of the next step; the last one of an epoch may have fewer."""
        epoch, done = divmod(self._step, self.steps_per_epoch)
        if done == 0 or self._batches is None:
            self._batches = self._open(epoch, done)
        self._step += 1
        return list(islice(self._batches, self._settings.gradient_accumulation_steps))

    def position(self) -> dict[str, Any]:
        """Return nothing: the number of steps is the position."""
        return {}

    def seek(self, step: int, position: Mapping[str, Any]) -> None:
        """Move to the position after `step` optimiser steps."""
        self._step, self._batches = step, None

    def _open(self, epoch: int, done: int) -> Iterator[Batch]:
        """Begin an epoch after the first `done` of its steps."""
        set_epoch(self._examples, epoch)
        with seeded(self._seed, EPOCH, epoch):
            self._begin_epoch(epoch)
        rank, processes = self._accelerator.process_index, self._accelerator.num_processes
        order = batches(
            self.samples,
            size=self._settings.batch_size,
            seed=self._seed,
            epoch=epoch,
            processes=processes,
        )
        rest = range(done * self._settings.gradient_accumulation_steps, len(order))
        return load(
            self._examples,
            (share(order[number], rank=rank, processes=processes) for number in rest),
            workers=number_of_workers(self._examples, self._settings, processes),
            device=self._accelerator.device,
        )


def set_epoch(data: object, epoch: int) -> None:
    """Set the epoch of a data set that has one."""
    set_own = getattr(data, "set_epoch", None)
    if set_own is not None:
        set_own(epoch)


def load(
    examples: Examples, batches: Iterator[list[int]], *, workers: int, device: torch.device
) -> Iterator[Batch]:
    """Load batches one after the other.

    Args:
        examples: The samples.
        batches: The sample indices of each batch.
        workers: The number of prefetching processes; 0 loads in this process, on demand.
        device: The device of the batches.
    """
    return map(partial(move, device=device), _loaded(examples, batches, workers))


def move(batch: Batch, *, device: torch.device) -> Batch:
    """Move a batch to a device."""
    if device.type == "cpu":
        return batch
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _loaded(examples: Examples, batches: Iterator[list[int]], workers: int) -> Iterator[Batch]:
    if workers == 0:  # a DataLoader would only cost time here
        return (fetch(examples, batch) for batch in batches)
    return _of_workers(
        DataLoader(
            cast("Any", _Fetched(examples)),
            batch_sampler=cast("Any", batches),
            collate_fn=_as_is,
            num_workers=workers,
            # A separate generator: the loader draws a number at each start, and a resumed run
            # starts more often.
            generator=torch.Generator(),
        )
    )


def number_of_workers(examples: object, settings: Training, processes: int = 1) -> int:
    """Return the number of data loader processes of a training process.

    If it is not stated: one per processor but one, at most 8, for data that is decoded on demand
    (an attribute `decodes` that is true), and 0 for other data.
    """
    if settings.num_workers is not None:
        return settings.num_workers
    # A daemon, such as a worker of another program, may not start processes.
    if not getattr(examples, "decodes", False) or multiprocessing.current_process().daemon:
        return 0
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(MOST_WORKERS, (available or 1) // processes - 1))


@dataclass(frozen=True)
class _Failed:
    """An explained error of a worker process."""

    error: LimbeckError


def _of_workers(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Iterate over batches of worker processes; an error is raised as it was there.

    Raises:
        LimbeckError: A worker process failed, or was killed.
    """
    try:
        for batch in loader:
            if isinstance(batch, _Failed):
                raise batch.error
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LimbeckError(
            f"a data loader process was killed ({error}), most often since the memory was full. "
            "Set a smaller num_workers, and run again: the run resumes from its last checkpoint."
        ) from error


class _Fetched:
    """A data set whose `__getitems__` returns batches, in a worker process too."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __getitems__(self, indices: list[int], /) -> Batch | _Failed:
        try:
            return fetch(self._examples, indices)
        # The loader would raise it with a traceback as its message.
        except LimbeckError as error:
            return _Failed(error)


def _as_is(batch: Any) -> Any:
    return batch


def fetch(examples: Examples, indices: list[int]) -> Batch:
    """Return some samples as a batch: collated by torch, if the data set returns single ones.

    Raises:
        InputError: A sample is no mapping of numbers.

    Example:
        >>> rows = [{"x": torch.ones(2), "labels": 0}, {"x": torch.zeros(2), "labels": 1}]
        >>> fetch(rows, [1, 0])["labels"]
        tensor([1, 0])
    """
    several = getattr(examples, "__getitems__", None)
    if several is None:
        several = partial(_one_by_one, cast("Sequence[Any]", examples))
    found = several(indices)
    return check_batch(default_collate(found) if isinstance(found, list) else found)


def _one_by_one(examples: Sequence[Any], indices: list[int]) -> list[Any]:
    return [examples[index] for index in indices]


def check_batch(batch: object) -> Batch:
    """Return a batch.

    Raises:
        InputError: It is no mapping of tensors.
    """
    if not isinstance(batch, Mapping):
        given = type(batch).__name__
        raise InputError(Problem("train", given, "batches or samples as mappings of tensors"))
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            given = f"{type(value).__name__} in the field {name}"
            raise InputError(Problem("train", given, "batches or samples as mappings of tensors"))
    return cast("Batch", batch)


class Batches(Sequence[list[int]]):
    """The sample indices of the micro-batches of one epoch, converted to a list one by one."""

    def __init__(self, order: Tensor, size: int, count: int) -> None:
        self._order, self._size, self._count = order, size, count

    def __len__(self) -> int:
        """Return the number of micro-batches."""
        return self._count

    @overload
    def __getitem__(self, number: int, /) -> list[int]: ...

    @overload
    def __getitem__(self, number: slice, /) -> list[list[int]]: ...

    def __getitem__(self, number: int | slice, /) -> list[int] | list[list[int]]:
        """Return the sample indices of one micro-batch, or of several."""
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(self._count))]
        if not -self._count <= number < self._count:
            raise IndexError(number)
        number %= self._count
        end = None if number == self._count - 1 else (number + 1) * self._size
        indices: list[int] = self._order[number * self._size : end].tolist()
        return indices


def batches(samples: int, *, size: int, seed: int, epoch: int, processes: int = 1) -> Batches:
    """Shuffle the samples of one epoch into micro-batches, over all processes together.

    A last batch is merged with the one before it if it has fewer samples than processes, or a
    single sample, whose batch statistics are undefined. So two processes train on the same batches
    as one.

    Args:
        samples: The number of samples.
        size: The number of samples per micro-batch.
        seed: The run's seed.
        epoch: The epoch, from 0.
        processes: The number of processes that share a micro-batch.

    Example:
        >>> [len(batch) for batch in batches(9, size=4, seed=0, epoch=0)]
        [4, 5]
        >>> batches(9, size=4, seed=0, epoch=1)[0] == batches(9, size=4, seed=0, epoch=0)[0]
        False
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    # A tensor, since a list of all indices would be several times as large.
    order = torch.randperm(samples, generator=generator)
    return Batches(order, size, number_of_batches(samples, size=size, processes=processes))


def number_of_batches(samples: int, *, size: int, processes: int = 1) -> int:
    """Return the number of micro-batches of an epoch.

    Example:
        >>> number_of_batches(9, size=4), number_of_batches(10, size=4)
        (2, 3)
    """
    count = -(-samples // size)
    last = samples - (count - 1) * size
    return count - 1 if count > 1 and last < max(2, processes) else count


def share(batch: list[int], *, rank: int, processes: int) -> list[int]:
    """Return one process's part of a micro-batch; parts differ in size by at most one sample.

    Example:
        >>> [share([3, 1, 4, 1, 5], rank=rank, processes=2) for rank in (0, 1)]
        [[3, 4, 5], [1, 1]]
    """
    return batch[rank::processes]
