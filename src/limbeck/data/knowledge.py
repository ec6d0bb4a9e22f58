"""A frozen teacher's answers, recorded once and looked up by row and view.

A store is a folder: `logits.bin`, numbers alone, `[views * rows, classes]`; `progress.json` while
it is being written; and `manifest.json`, with the key and a hash, which is written last. A folder
without a manifest is not a store yet: writing goes on where it was broken off, or begins anew if
that was under another key or with other batches.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import torch

from limbeck import atomic, fingerprint
from limbeck.errors import InputError, LimbeckError, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.data.load import Data
    from limbeck.data.split import Batch, Split

LOGITS, PROGRESS, MANIFEST, VERSION = "logits.bin", "progress.json", "manifest.json", 1
# Each note of the progress waits for the disk; so many rows may have to be answered again.
NOTED_EVERY = 8192


@dataclass(frozen=True)
class Shape:
    """How many answers there are, and of which type."""

    rows: int
    views: int
    classes: int
    dtype: Literal["float32", "float16"]

    @property
    def bytes_each(self) -> int:
        """How long one answer is."""
        return self.classes * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """How long the file of logits is."""
        return self.rows * self.views * self.bytes_each


def key_of(data: Data, *, teacher: str) -> dict[str, Any]:
    """Say what recorded answers depend on: a store made with another key is refused.

    Args:
        data: The data whose training rows are answered; the seed of its augmentation is set.
        teacher: A hash of the teacher's weights and architecture.

    Raises:
        InputError: Augmentation makes new pictures in every epoch: no answer could be used twice.
    """
    augment = data.train.augment
    if data.train.views is None:
        allowed = "a number of views, or no augmentation, when answers are recorded"
        fix = "Set data.augment.views, say to 4: epochs then go round four variants."
        raise InputError(Problem("data.augment.views", None, allowed, fix))
    return {
        "teacher": teacher,
        "data": data.facts.fingerprint,
        "preprocessing": data.preprocess.fingerprint,
        "augmentation": augment.model_dump() if augment else None,
        "seed": data.train.seed if augment else None,
    }


class KnowledgeStore:
    """Recorded logits in a folder.

    Args:
        folder: Where the store is or will be.
        key: What the answers depend on, as plain data; see `key_of`.
        rows: How many rows the split has.
        views: How many variants of each row.
        classes: How many logits an answer has.
        dtype: How they are kept; `float16` halves the file, at three digits.

    Raises:
        InputError: The folder holds answers under another key, or the file of logits is cut short
            or has been changed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: dict[str, Any],
        rows: int,
        views: int,
        classes: int,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> None:
        self.folder = folder
        self.shape = Shape(rows, views, classes, dtype)
        # Through JSON and back, as it will be read: tuples become lists.
        self._key = json.loads(json.dumps({**key, **asdict(self.shape), "version": VERSION}))
        self._logits: np.ndarray[Any, Any] | None = None
        self._open()

    @property
    def complete(self) -> bool:
        """Whether every answer is there; another process may have recorded them meanwhile."""
        if self._logits is None:
            self._open()
        return self._logits is not None

    def lookup(self, index: Tensor, view: Tensor) -> Tensor:
        """Give the logits of some rows, float32 `[n, classes]`.

        Args:
            index: The rows, int64 `[n]`.
            view: Which variant of each, int64 `[n]`.

        Raises:
            LimbeckError: The store is not complete, or holds no such row or view.
        """
        if self._logits is None:
            self._open()
        if self._logits is None:
            raise LimbeckError(f"{self.folder}: no answers are recorded yet; call record first.")
        rows, views = index.numpy(), view.numpy()
        inside = (rows >= 0) & (rows < self.shape.rows) & (views >= 0) & (views < self.shape.views)
        if not inside.all():
            wrong = int(np.flatnonzero(~inside)[0])
            raise LimbeckError(
                f"{self.folder}: no answer for row {rows[wrong]} in view {views[wrong]}; recorded "
                f"are {self.shape.rows} rows in {self.shape.views} views."
            )
        found = self._logits[views * self.shape.rows + rows]
        return torch.from_numpy(found.astype(np.float32, copy=False))

    def record(
        self,
        answer: Callable[[Batch], Tensor],
        split: Split,
        *,
        batch_size: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Ask for every answer that is not there yet, and keep it.

        A process killed at any moment leaves what it noted; the next one goes on from there, with
        the same batches. A store that is complete is left alone.

        Args:
            answer: The teacher: from a batch to its logits `[n, classes]`.
            split: The rows, with their augmentation.
            batch_size: How many rows the teacher is asked at a time.
            progress: Called with the answers done so far and their total.

        Raises:
            InputError: The split has other rows or views than the store, or an answer has another
                shape or numbers that are not finite.
            WriteError: The disk is full, or the folder cannot be written to.
        """
        if self.complete:
            return
        self._check(split)
        before = split.epoch
        try:
            self._write(answer, split, batch_size, progress)
        finally:
            split.set_epoch(before)
        path = self.folder / LOGITS
        manifest = {"key": self._key, "sha256": fingerprint.of_file(path)}
        atomic.write_json(self.folder / MANIFEST, manifest)
        (self.folder / PROGRESS).unlink(missing_ok=True)
        self._map()

    def _check(self, split: Split) -> None:
        given = (len(split), split.views)
        if given != (self.shape.rows, self.shape.views):
            allowed = f"{self.shape.rows} rows in {self.shape.views} views"
            raise InputError(Problem("split", f"{given[0]} rows in {given[1]} views", allowed))

    def _write(
        self,
        answer: Callable[[Batch], Tensor],
        split: Split,
        batch_size: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        rows, total = self.shape.rows, self.shape.rows * self.shape.views
        done = noted = self._done(batch_size)
        with self._file(done) as file:
            while done < total:
                view, start = divmod(done, rows)
                split.set_epoch(view)
                batch = split.__getitems__(torch.arange(start, min(start + batch_size, rows)))
                self._put(file, self._checked(answer(batch), batch).tobytes())
                done += len(batch["index"])
                if done - noted >= NOTED_EVERY or done == total:
                    self._put(file, b"", flush=True)
                    content = {"key": self._key, "done": done, "batch_size": batch_size}
                    atomic.write_json(self.folder / PROGRESS, content)
                    noted = done
                if progress is not None:
                    progress(done, total)

    def _file(self, done: int) -> BinaryIO:
        """Open the file of logits behind the answers that are kept."""
        path = self.folder / LOGITS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("r+b" if done else "wb")
            file.truncate(done * self.shape.bytes_each)
            file.seek(0, os.SEEK_END)
        except OSError as error:
            raise self._not_written(error) from error
        return file

    def _put(self, file: BinaryIO, content: bytes, *, flush: bool = False) -> None:
        try:
            file.write(content)
            if flush:
                # What the note of the progress counts has to be on the disk before it.
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> atomic.WriteError:
        path = self.folder / LOGITS
        return atomic.WriteError(
            f"{path}: could not be written ({error.strerror or error}). It needs "
            f"{self.shape.bytes / 2**20:.0f} MiB; make room and run again: it goes on from there."
        )

    def _done(self, batch_size: int) -> int:
        """Say how many answers can be kept: those asked in the same batches, under the same key."""
        noted, path = self._read(PROGRESS), self.folder / LOGITS
        if noted is None or not path.is_file():
            return 0
        done = int(noted["done"])
        same = noted["key"] == self._key and noted["batch_size"] == batch_size
        return done if same and path.stat().st_size >= done * self.shape.bytes_each else 0

    def _checked(self, logits: Tensor, batch: Batch) -> np.ndarray[Any, Any]:
        wanted = (len(batch["index"]), self.shape.classes)
        if tuple(logits.shape) != wanted:
            given = f"an answer of shape {tuple(logits.shape)}"
            raise InputError(Problem("teacher", given, f"shape {wanted}"))
        # Numbers too large for float16 become infinite, and are found out below.
        with np.errstate(over="ignore"):
            kept = logits.detach().cpu().to(torch.float32).numpy().astype(self.shape.dtype)
        if not np.isfinite(kept).all():
            first = int(np.flatnonzero(~np.isfinite(kept).all(axis=1))[0])
            given = f"NaN or infinity for row {int(batch['index'][first])}"
            raise InputError(Problem("teacher", given, f"numbers that {self.shape.dtype} holds"))
        return kept

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        if not path.is_file():
            return None
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def _open(self) -> None:
        """Check and map the answers, if there is a manifest."""
        manifest = self._read(MANIFEST)
        if manifest is None:
            return
        self._refuse_other_key(manifest["key"])
        path = self.folder / LOGITS
        size = path.stat().st_size if path.is_file() else 0
        fix = f"Delete {self.folder} to have the teacher asked again."
        if size != self.shape.bytes:
            problem = Problem(str(path), f"{size} bytes", f"{self.shape.bytes} bytes", fix)
            raise InputError(problem)
        if fingerprint.of_file(path) != manifest["sha256"]:
            raise InputError(
                Problem(str(path), "bytes that were changed", "what was recorded", fix)
            )
        self._map()

    def _refuse_other_key(self, recorded: dict[str, Any]) -> None:
        fix = f"Record to another folder, or delete {self.folder}."
        problems = [
            Problem(f"{self.folder} ({name})", self._key.get(name), f"{recorded.get(name)!r}", fix)
            for name in sorted({*recorded, *self._key})
            if recorded.get(name) != self._key.get(name)
        ]
        if problems:
            raise InputError(*problems)

    def _map(self) -> None:
        shape = (self.shape.rows * self.shape.views, self.shape.classes)
        path = self.folder / LOGITS
        # As a plain array over the mapping: indexing np.memmap itself costs ten times as much.
        self._logits = np.asarray(np.memmap(path, dtype=self.shape.dtype, mode="r", shape=shape))
