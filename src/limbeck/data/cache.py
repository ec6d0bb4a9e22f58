"""Teacher output cache: the soft targets of a frozen teacher, looked up by row and view.

A cache is a folder: `targets.bin`, one record of all outputs per row and view; `index.bin`, where
each record ends, if records differ in size, as those of token sequences do;
`constants.safetensors`, the head of a teacher whose hidden states are recorded; `progress.json`
during writing; and `manifest.json`, written last, with the key, the names of the files and their
hashes. A folder without a manifest is incomplete: writing resumes, or restarts if the key or the
batches differ.

Several processes may write at once. Each locks its own files, `targets.bin`, `targets.1.bin` and so
on, so that none waits for a paused one; the manifest names the files that were complete first, and
the others are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file

from limbeck.core import files, fingerprint
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.targets import Layout, PackedLayout, Targets

if TYPE_CHECKING:
    from io import BufferedReader

    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.load import Data
    from limbeck.data.rows import Batch
    from limbeck.data.split import Split


MANIFEST, VERSION = "manifest.json", 2
CONSTANTS = "constants.safetensors"
END = np.dtype("<i8")
"""The type of the position in the targets file where a record ends."""
WRITERS = 64
"""The largest number of processes that record into one cache at once."""

# Each progress write waits for the disk; a kill loses at most this many rows.
PROGRESS_EVERY = 8192
# Samples are ordered by length within blocks of this many batches, and at most so many bytes.
BATCHES, BLOCK = 16, 2**26
SEQUENCE_BATCHES = 4
"""Progress is written after so many batches of sequences."""


def key_of(data: Data, *, teacher: str) -> dict[str, Any]:
    """Return the cache key: everything that cached outputs depend on.

    Args:
        data: The data with the training rows; the seed of its augmentation is set.
        teacher: A hash of the teacher's weights and architecture.

    Raises:
        InputError: Augmentation creates new images in every epoch: no output could be reused.
    """
    augmentation = data.train.augmentation
    if data.stream is not None:
        allowed = "false, with cache_teacher: outputs are recorded by the index of a row"
        raise InputError(Problem("data.streaming", True, allowed, "Leave out cache_teacher."))
    if data.train.views is None:
        allowed = "a number of views, or no augmentation, with cache_teacher"
        fix = "Set data.augment.views, for instance to 4: epochs then cycle through four variants."
        raise InputError(Problem("data.augment.views", None, allowed, fix))
    return {
        "teacher": teacher,
        "data": data.facts.fingerprint,
        "preprocessing": data.preprocess.fingerprint,
        "augmentation": augmentation.identity() if augmentation else None,
        "seed": data.train.seed if augmentation else None,
    }


@dataclass(frozen=True)
class _Draft:
    """The files of one writing process: targets, their ends, and the number of records on disk."""

    targets: Path
    index: Path
    progress: Path
    lock: Path

    @classmethod
    def numbered(cls, folder: Path, number: int) -> _Draft:
        """Return the files of a writer; the first has no number in its names."""
        part = f".{number}" if number else ""
        names = (
            f"targets{part}.bin",
            f"index{part}.bin",
            f"progress{part}.json",
            f".lock{part}",
        )
        return cls(*(folder / name for name in names))

    def remove(self) -> None:
        self.targets.unlink(missing_ok=True)
        self.index.unlink(missing_ok=True)
        self.progress.unlink(missing_ok=True)


class TeacherCache:
    """A cache of a teacher's soft targets in a folder.

    Args:
        folder: The folder of the cache.
        key: The cache key, as plain data; see `key_of`.
        rows: The number of rows in the split.
        views: The number of variants per row.
        layout: The layout of the targets, read from those of any batch; of sequences a
            `PackedLayout`.
        kept: Returns which elements of a batch are stored, bool `[elements]` by output; required
            for a `PackedLayout`.

    Raises:
        InputError: The folder holds targets under another key or in another layout, or its file is
            truncated or modified.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: dict[str, Any],
        rows: int,
        views: int,
        layout: Layout | PackedLayout,
        kept: Callable[[Batch], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.folder = folder
        self.rows, self.views, self.layout = rows, views, layout
        self._kept = kept
        size = {"rows": rows, "views": views, "dtype": layout.precision, "targets": layout.plain()}
        # Through JSON and back, as it is read: tuples become lists.
        self._key = json.loads(json.dumps({**key, **size, "version": VERSION}))
        self._record_bytes = layout.dtype.itemsize if isinstance(layout, Layout) else None
        # Records of one size, or all bytes with the end of each record.
        self._records: NDArray[Any] | None = None
        self._ends: NDArray[np.int64] | None = None
        self._open()

    @property
    def complete(self) -> bool:
        """Return whether all targets are cached, by this or another process."""
        if self._records is None:
            self._open()
        return self._records is not None

    @property
    def packed(self) -> bool:
        """Return whether only elements with weight are stored."""
        return isinstance(self.layout, PackedLayout)

    @property
    def size(self) -> int:
        """Return the bytes of all records; 0 before the cache is complete."""
        return self._records.nbytes if self.complete and self._records is not None else 0

    def lookup(self, index: Tensor, view: Tensor) -> dict[str, Targets]:
        """Return the targets of some rows by output, float32.

        Args:
            index: The row indices, int64 `[n]`.
            view: The variant of each row, int64 `[n]`.

        Raises:
            LimbeckError: The cache is incomplete, or holds no such row or view.
        """
        if not self.complete or self._records is None:
            raise LimbeckError(f"{self.folder}: no targets are cached yet; call record first.")
        rows, views = index.numpy(), view.numpy()
        inside = (rows >= 0) & (rows < self.rows) & (views >= 0) & (views < self.views)
        if not inside.all():
            wrong = int(np.flatnonzero(~inside)[0])
            raise LimbeckError(
                f"{self.folder}: no targets for row {rows[wrong]} in view {views[wrong]}; cached "
                f"are {self.rows} rows in {self.views} views."
            )
        places = views * self.rows + rows
        if isinstance(self.layout, Layout):
            return self.layout.unpack(self._records[places])
        assert self._ends is not None
        ends = self._ends[places]
        starts = np.where(places > 0, self._ends[places - 1], 0)
        parts = [self._records[start:end] for start, end in zip(starts, ends, strict=True)]
        return self.layout.unpack([one.data for one in parts])

    def record(
        self,
        teacher: Callable[[Batch], Mapping[str, Targets]],
        split: Split,
        *,
        batch_size: int,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """Compute and store all targets that are not cached yet.

        Safe against a kill at any moment; the next process resumes with the same batches. A
        complete cache is unchanged.

        Args:
            teacher: Computes the targets of a batch, by output.
            split: The rows, with their augmentation.
            batch_size: The number of rows per teacher batch.
            progress: Called with the number of records done and their total.

        Raises:
            InputError: The numbers of rows or views of split and cache differ, or targets have
                another layout or non-finite values.
            WriteError: The disk is full, or the folder cannot be written to.
        """
        if self.complete:
            return
        if (len(split), split.views) != (self.rows, self.views):
            allowed = f"{self.rows} rows in {self.views} views"
            raise InputError(Problem("split", f"{len(split)} rows in {split.views} views", allowed))
        epoch = split.epoch
        with self._draft() as draft:
            if self.complete:  # another process was faster
                return
            done = self._done(draft, batch_size)
            with self._write_errors(draft):
                file = _Records(draft, done, self._record_bytes)
            try:
                with file:
                    self._write(teacher, split, batch_size, progress, draft, file, done)
                    self._publish(draft, file)
            finally:
                split.set_epoch(epoch)
        self._open()

    @contextmanager
    def _draft(self) -> Iterator[_Draft]:
        """Lock the first files that no living process writes; those of a dead one are resumed."""
        for number in range(WRITERS):
            draft = _Draft.numbered(self.folder, number)
            lock = FileLock(draft.lock, timeout=0, thread_local=False)
            with self._write_errors(draft):
                self.folder.mkdir(parents=True, exist_ok=True)
                try:
                    lock.acquire()
                except Timeout:
                    continue
            try:
                yield draft
            finally:
                with suppress(OSError):
                    draft.lock.unlink()
                lock.release()
            return
        raise LimbeckError(f"{self.folder}: {WRITERS} processes write to it; start fewer.")

    def _publish(self, draft: _Draft, file: _Records) -> None:
        """Write the manifest, unless another process was first; then use its outputs."""
        digests = file.digests()
        with self._write_errors(draft):
            path, opened = draft.targets, os.fstat(file.targets.fileno())
            if not (path.exists() and os.path.samestat(path.stat(), opened)):
                raise OSError(f"the folder was removed while process {os.getpid()} wrote to it")
        manifest = {"key": self._key, "sha256": digests[0], "file": draft.targets.name}
        if isinstance(self.layout, PackedLayout):
            manifest |= {"index": draft.index.name, "index_sha256": digests[1]}
            constants = {name: one.cpu().contiguous() for name, one in self.layout.constants()}
            if constants:
                save_file(constants, self.folder / CONSTANTS)
        if not _create_json(self.folder / MANIFEST, manifest):
            draft.remove()
            return
        draft.progress.unlink(missing_ok=True)
        for number in range(WRITERS):
            other = _Draft.numbered(self.folder, number)
            if other != draft and other.targets.exists():
                # Those of dead processes; a living one holds its lock and removes its own.
                with suppress(Timeout, OSError), FileLock(other.lock, timeout=0):
                    other.remove()
                    other.lock.unlink()

    def _write(
        self,
        teacher: Callable[[Batch], Mapping[str, Targets]],
        split: Split,
        batch_size: int,
        progress: Callable[[int, int], None],
        draft: _Draft,
        file: _Records,
        done: int,
    ) -> None:
        rows, total, saved = self.rows, self.rows * self.views, done
        lengths, block, every = split.lengths, batch_size, PROGRESS_EVERY
        if self._record_bytes is None:  # sequences take a teacher seconds each
            block, every = batch_size * SEQUENCE_BATCHES, 1
        elif lengths is not None:
            block *= max(1, min(BATCHES, BLOCK // (batch_size * self._record_bytes)))
        while done < total:
            view, start = divmod(done, rows)
            split.set_epoch(view)
            order = torch.arange(start, min(start + block, rows))
            if lengths is not None:  # batches of samples of similar length have little padding
                order = order[lengths[order].argsort(stable=True)]
            parts = []
            for batch in map(split.__getitems__, order.split(batch_size)):
                parts.append(self._packed(teacher(batch), batch))
                progress(done + sum(map(len, parts)), total)
            with self._write_errors(draft):
                file.append(parts, order.argsort().tolist())
            done += len(order)
            if done - saved >= every or done == total:
                with self._write_errors(draft):
                    # The counted outputs must be on disk before the progress file.
                    file.sync()
                noted = {"key": self._key, "done": done, "batch_size": batch_size}
                files.write_json(draft.progress, noted)
                saved = done

    @contextmanager
    def _write_errors(self, draft: _Draft) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason, size = error.strerror or error, self._bytes
            needed = f" It needs {size / 2**20:.0f} MiB;" if size is not None else ""
            raise files.WriteError(
                f"{draft.targets}: could not be written ({reason}).{needed or ' Free'} "
                f"{'free ' if needed else ''}some space and run again: the run resumes from there."
            ) from error

    def _done(self, draft: _Draft, batch_size: int) -> int:
        """Count the outputs to keep: those of the same batches, under the same key."""
        try:
            noted = json.loads(draft.progress.read_text(encoding="utf-8"))
            done = int(noted["done"])
            same = noted["key"] == self._key and noted["batch_size"] == batch_size
            end = _end_of(draft, done, self._record_bytes)
            whole = 0 <= end <= draft.targets.stat().st_size
        except (OSError, ValueError, TypeError, KeyError):
            return 0  # missing or corrupt
        return done if same and whole else 0

    @property
    def _bytes(self) -> int | None:
        """Return the bytes of all records; None if they differ in size."""
        if self._record_bytes is None:
            return None
        return self.rows * self.views * self._record_bytes

    def _packed(
        self, targets: Mapping[str, Targets], batch: Batch
    ) -> NDArray[np.void] | list[bytes]:
        samples = len(batch["index"])
        try:
            if isinstance(self.layout, Layout):
                return self.layout.pack(targets, samples=samples)
            if self._kept is None:
                raise ValueError("records of sequences without a choice of their elements")
            return self.layout.pack(targets, self._kept(batch), samples=samples)
        except InputError as error:
            first, last = int(batch["index"].min()), int(batch["index"].max())
            problems = [
                replace(one, where=f"{one.where} (rows {first} to {last})")
                for one in error.problems
            ]
            raise InputError(*problems) from error

    def _open(self) -> None:
        """Check and memory-map the targets, if there is a manifest."""
        path = self.folder / MANIFEST
        fix = f"Delete {self.folder} to compute the teacher's targets again."
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            key, digest = dict(manifest["key"]), manifest["sha256"]
            path = self.folder / Path(manifest.get("file", "targets.bin")).name
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            given = f"{type(error).__name__}: {error}"
            problem = Problem(str(path), given, "the manifest of a teacher cache", fix)
            raise InputError(problem) from error
        self._check_key(key)
        size, expected = path.stat().st_size if path.is_file() else 0, self._bytes
        if expected is None:
            self._ends = self._read_ends(manifest, fix)
            expected = int(self._ends[-1])
        if size != expected:
            raise InputError(Problem(str(path), f"{size} bytes", f"{expected} bytes", fix))
        if fingerprint.of_file(path) != digest:
            raise InputError(Problem(str(path), "modified bytes", "the bytes as written", fix))
        dtype = self.layout.dtype if isinstance(self.layout, Layout) else np.dtype(np.uint8)
        # A plain array over the mapping: indexing np.memmap itself costs ten times as much.
        self._records = np.asarray(np.memmap(path, dtype, mode="r")) if size else np.zeros(0, dtype)

    def _read_ends(self, manifest: dict[str, Any], fix: str) -> NDArray[np.int64]:
        """Read where each record ends, in a cache of records that differ in size."""
        path = self.folder / Path(str(manifest.get("index"))).name
        rows = self.rows * self.views
        size = path.stat().st_size if path.is_file() else 0
        if size != rows * END.itemsize:
            allowed = f"{rows * END.itemsize} bytes"
            raise InputError(Problem(str(path), f"{size} bytes", allowed, fix))
        if fingerprint.of_file(path) != manifest.get("index_sha256"):
            raise InputError(Problem(str(path), "modified bytes", "the bytes as written", fix))
        return np.fromfile(path, END).astype(np.int64)

    def _check_key(self, stored: dict[str, Any]) -> None:
        fix = f"Record to another folder, or delete {self.folder}."
        problems = [
            Problem(f"{self.folder} ({name})", self._key.get(name), f"{stored.get(name)!r}", fix)
            for name in sorted({*stored, *self._key})
            if stored.get(name) != self._key.get(name)
        ]
        if problems:
            raise InputError(*problems)


class _Records:
    """The files that a process writes, open: targets, and where each record ends.

    Args:
        draft: The files.
        done: The number of records that are kept.
        record_bytes: The size of a record; None if they differ.
    """

    def __init__(self, draft: _Draft, done: int, record_bytes: int | None) -> None:
        self._end = _end_of(draft, done, record_bytes)
        self.targets = _opened(draft.targets, self._end)
        self.index = None if record_bytes else _opened(draft.index, done * END.itemsize)

    def __enter__(self) -> _Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.targets.close()
        if self.index is not None:
            self.index.close()

    def append(self, parts: list[Any], order: list[int]) -> None:
        """Write the records of several batches in the given order."""
        if self.index is None:
            self.targets.write(np.concatenate(parts)[order].tobytes())
            return
        records = [one for part in parts for one in part]
        ordered = [records[place] for place in order]
        ends = self._end + np.cumsum([len(one) for one in ordered])
        self.targets.write(b"".join(ordered))
        self.index.write(ends.astype(END).tobytes())
        self._end = int(ends[-1])

    def sync(self) -> None:
        """Write all that is buffered to the disk."""
        for one in (self.targets, self.index):
            if one is not None:
                one.flush()
                os.fsync(one.fileno())

    def digests(self) -> list[str]:
        """Hash the open files: another process may write at their paths."""
        found = []
        for one in (self.targets, self.index):
            if one is not None:
                one.seek(0)
                found.append(hashlib.file_digest(cast("BufferedReader", one), "sha256").hexdigest())
        return found


def _end_of(draft: _Draft, done: int, record_bytes: int | None) -> int:
    """Return the position in the targets file after the first records."""
    if record_bytes is not None or done == 0:
        return done * (record_bytes or 0)
    with draft.index.open("rb") as stream:
        stream.seek((done - 1) * END.itemsize)
        return int(np.frombuffer(stream.read(END.itemsize), END)[0])


def _opened(path: Path, size: int) -> BinaryIO:
    """Open a file for more content after its first bytes."""
    file = path.open("r+b" if size else "w+b")
    file.truncate(size)
    file.seek(0, os.SEEK_END)
    return file


def _create_json(path: Path, content: dict[str, Any]) -> bool:
    """Write a file atomically if it does not exist; return whether it was written."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    files.write_json(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: the last of two equal files counts
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True
