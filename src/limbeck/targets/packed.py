"""Soft targets of tokens as bytes: a record of its own length per sequence.

Class ids take as many bits as the vocabulary needs, counts of draws as many as the draws, and real
numbers 16 bits, logits 32; only elements with weight are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.targets.answer import Targets
from limbeck.targets.categorical import DenseTargets, SampledTargets, TopKTargets
from limbeck.targets.head import HeadTargets
from limbeck.targets.layout import Precision


def pack_bits(values: NDArray[np.int64], bits: int) -> bytes:
    """Write whole numbers with a fixed number of bits each, the lowest first.

    Args:
        values: Numbers from 0 to 2**bits - 1, `[n]`.
        bits: The number of bits, from 1 on.

    Example:
        >>> len(pack_bits(np.arange(8), 3))
        3
    """
    places = np.arange(bits, dtype=np.int64)
    each = ((values[:, None] >> places) & 1).astype(np.uint8)
    return np.packbits(each.ravel(), bitorder="little").tobytes()


def unpack_bits(content: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.int64]:
    """Read numbers that `pack_bits` wrote.

    Example:
        >>> unpack_bits(np.frombuffer(pack_bits(np.arange(8), 3), np.uint8), 8, 3).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7]
    """
    each = np.unpackbits(content, count=count * bits, bitorder="little").reshape(count, bits)
    return each.astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64))


def bits_for(numbers: int) -> int:
    """Return the bits that distinguish so many numbers.

    Example:
        >>> bits_for(512), bits_for(513)
        (9, 10)
    """
    return max(1, (numbers - 1).bit_length())


class _Reader:
    """A position in the bytes of a record."""

    def __init__(self, content: bytes | memoryview) -> None:
        self._content, self._at = np.frombuffer(content, np.uint8), 0

    def take(self, size: int) -> NDArray[np.uint8]:
        part = self._content[self._at : self._at + size]
        self._at += size
        return part

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        return self.take(count * np.dtype(dtype).itemsize).view(dtype)

    def bits(self, count: int, bits: int) -> NDArray[np.int64]:
        return unpack_bits(self.take(-(-count * bits // 8)), count, bits)


@dataclass(frozen=True)
class PackedOutput:
    """The storage of one output's targets.

    Attributes:
        form: The name of the class of the targets.
        classes: The teacher's number of classes.
        width: Classes per element of top-k targets, draws of sampled ones, features of a head.
        precision: The dtype of real numbers.
        settings: The attributes that are not tensors.
        constants: The tensors that are equal for all elements: the head.
    """

    form: str
    classes: int
    width: int
    precision: Precision
    settings: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    FORMS: ClassVar[tuple[type[Targets], ...]] = (
        *(DenseTargets, TopKTargets, SampledTargets, HeadTargets),
    )

    @classmethod
    def of(cls, name: str, targets: Targets, precision: Precision) -> PackedOutput:
        """Read how to store the targets of a batch.

        Raises:
            InputError: The targets are of another kind than classes.
        """
        settings: dict[str, Any]
        if isinstance(targets, DenseTargets):  # few classes: exact, as in memory
            return cls("DenseTargets", targets.classes, targets.classes, "float32")
        if isinstance(targets, TopKTargets):
            settings = {"tail": targets.tail, "log_tail": targets.log_tail is not None}
            width = targets.ids.shape[1]
            return cls("TopKTargets", targets.classes, width, precision, settings)
        if isinstance(targets, SampledTargets):
            draws = int(targets.counts[0].sum()) if len(targets.counts) else 1
            settings = {"temperature": targets.temperature, "exact": targets.exact}
            if targets.log_proposal is not None:
                settings["proposal"] = True
            return cls("SampledTargets", targets.classes or 0, draws, precision, settings)
        if isinstance(targets, HeadTargets):
            parts = {"weight": targets.weight, "bias": targets.bias}
            constants = {key: one.detach() for key, one in parts.items() if one is not None}
            settings = {"softcap": targets.softcap}
            features = targets.hidden.shape[1]
            return cls("HeadTargets", targets.classes, features, precision, settings, constants)
        allowed = "targets over classes, for sequences"
        raise InputError(Problem("teacher", f"{name}: {type(targets).__name__}", allowed))

    def plain(self) -> dict[str, Any]:
        """Return what defines the records, as plain data."""
        settings = {key: value for key, value in self.settings.items() if value is not None}
        return {"form": self.form, "classes": self.classes, "width": self.width, **settings}

    @property
    def _ids(self) -> int:
        return bits_for(self.classes)

    @property
    def _counts(self) -> int:
        return bits_for(self.width + 1)

    def pack(self, targets: Targets, rows: Tensor) -> bytes:
        """Write some elements of the targets of a batch.

        Raises:
            InputError: A number is not finite, or too large for the precision.
        """
        count = np.uint32(len(rows)).tobytes()
        if isinstance(targets, DenseTargets):
            return count + self._real(targets.logits[rows])
        if isinstance(targets, HeadTargets):
            return count + self._real(targets.hidden[rows])
        if isinstance(targets, TopKTargets):
            parts = [self._whole(targets.ids[rows], self._ids)]
            parts.append(self._real(targets.log_probabilities[rows], least=-np.inf))
            if targets.log_tail is not None:
                parts.append(self._real(targets.log_tail[rows], least=-np.inf))
            return count + b"".join(parts)
        assert isinstance(targets, SampledTargets)
        return count + self._pack_draws(targets.take(rows))

    def _pack_draws(self, targets: SampledTargets) -> bytes:
        drawn = targets.counts > 0
        distinct = drawn.sum(1)
        parts = [
            distinct.cpu().numpy().astype("<u2").tobytes(),
            self._whole(targets.ids[drawn], self._ids),
            self._whole(targets.counts[drawn], self._counts),
        ]
        if targets.exact:
            parts.append(self._real(targets.log_probabilities[drawn], least=-np.inf))
        else:
            parts.append(self._real(targets.log_probabilities[:, 0], least=-np.inf))
        if targets.log_proposal is not None:
            parts.append(self._real(targets.log_proposal[drawn], least=-np.inf))
        return b"".join(parts)

    def _whole(self, numbers: Tensor, bits: int) -> bytes:
        return pack_bits(numbers.detach().cpu().numpy().astype(np.int64).ravel(), bits)

    def _real(self, numbers: Tensor, *, least: float | None = None) -> bytes:
        given = numbers.detach().float().cpu().numpy()
        with np.errstate(over="ignore"):  # infinite numbers are refused below
            stored = given.astype(np.dtype(self.precision).newbyteorder("<"))
        bad = np.isnan(stored) | np.isposinf(stored)
        bad |= np.isneginf(stored) & (np.isfinite(given) if least is not None else True)
        if bad.any():
            allowed = f"finite numbers that {self.precision} holds"
            raise InputError(Problem("teacher", f"{given[bad].flat[0]}", allowed))
        return stored.tobytes()

    def unpack(self, records: Sequence[_Reader]) -> Targets:
        """Read the elements of several records, in order."""
        counts = [int(one.array("<u4", 1)[0]) for one in records]
        if self.form == "SampledTargets":
            return self._unpack_draws(records, counts)
        if self.form != "TopKTargets":
            found = torch.cat(
                [self._rows(one, n, self.width) for one, n in zip(records, counts, strict=True)]
            )
            if self.form == "DenseTargets":
                return DenseTargets(found)
            parts = {key: one.float() for key, one in self.constants.items()}
            weight, bias = parts["weight"], parts.get("bias")
            return HeadTargets(found, weight, bias, self.settings.get("softcap"))
        columns: list[list[Tensor]] = [[], [], []]
        for one, count in zip(records, counts, strict=True):
            ids = one.bits(count * self.width, self._ids).reshape(count, self.width)
            columns[0].append(torch.from_numpy(ids))
            columns[1].append(self._rows(one, count, self.width))
            if self.settings["log_tail"]:
                columns[2].append(self._rows(one, count, 1)[:, 0])
        tail = torch.cat(columns[2]) if columns[2] else None
        logs, how = torch.cat(columns[1]), self.settings["tail"]
        return TopKTargets(torch.cat(columns[0]), logs, self.classes, how, tail)

    def _rows(self, record: _Reader, count: int, width: int) -> Tensor:
        numbers = record.array(f"<f{np.dtype(self.precision).itemsize}", count * width)
        return torch.from_numpy(numbers.astype(np.float32).reshape(count, width))

    def _unpack_draws(self, records: Sequence[_Reader], counts: Sequence[int]) -> SampledTargets:
        read = [self._read_draws(one, n) for one, n in zip(records, counts, strict=True)]
        distinct = np.concatenate([one[0] for one in read])
        shape = (len(distinct), int(distinct.max(initial=1)))
        filled = torch.from_numpy(np.arange(shape[1]) < distinct[:, None])

        def placed(flat: list[NDArray[Any]], empty: Tensor) -> Tensor:
            return empty.masked_scatter(filled, torch.from_numpy(np.concatenate(flat)))

        ids = placed([one[1] for one in read], torch.zeros(shape, dtype=torch.int64))
        numbers = placed([one[2].astype(np.float32) for one in read], torch.zeros(shape))
        if self.settings["exact"]:
            logs = placed([one[3] for one in read], torch.zeros(shape))
        else:
            mean = torch.from_numpy(np.concatenate([one[3] for one in read]))
            logs = mean[:, None].expand(shape).contiguous()
        proposal = None
        if self.settings.get("proposal"):
            proposal = placed([one[4] for one in read], torch.zeros(shape))
        return SampledTargets(
            ids,
            numbers,
            logs,
            proposal,
            temperature=self.settings["temperature"],
            classes=self.classes or None,
            exact=self.settings["exact"],
        )

    def _read_draws(self, record: _Reader, count: int) -> list[NDArray[Any]]:
        distinct = record.array("<u2", count).astype(np.int64)
        total = int(distinct.sum())
        found = [distinct, record.bits(total, self._ids), record.bits(total, self._counts)]
        real = f"<f{np.dtype(self.precision).itemsize}"
        stored = total if self.settings["exact"] else count
        found.append(record.array(real, stored).astype(np.float32))
        if self.settings.get("proposal"):
            found.append(record.array(real, total).astype(np.float32))
        return found


@dataclass(frozen=True)
class PackedLayout:
    """The storage of the targets of sequences: one record of bytes per sequence.

    Attributes:
        outputs: The storage of each output, by name.

    Example:
        >>> targets = {"logits": TopKTargets.of(torch.randn(6, 512), 8)}
        >>> layout = PackedLayout.of(targets)
        >>> kept = {"logits": torch.tensor([True, True, False, True, True, True])}
        >>> records = layout.pack(targets, kept, samples=2)
        >>> [len(one) for one in records], layout.unpack(records)["logits"].elements
        ([58, 85], 5)
    """

    outputs: Mapping[str, PackedOutput]

    @classmethod
    def of(
        cls, targets: Mapping[str, Targets], *, precision: Precision = "float16"
    ) -> PackedLayout:
        """Read how to store the targets of a batch."""
        return cls({name: PackedOutput.of(name, one, precision) for name, one in targets.items()})

    @property
    def precision(self) -> Precision:
        """Return the dtype of real numbers."""
        return next(iter(self.outputs.values())).precision

    def plain(self) -> dict[str, Any]:
        """Return what defines the records, as plain data."""
        return {name: one.plain() for name, one in self.outputs.items()}

    def pack(
        self, targets: Mapping[str, Targets], kept: Mapping[str, Tensor], *, samples: int
    ) -> list[bytes]:
        """Write the targets of a batch, a record per sample.

        Args:
            targets: The targets by output, one row per element, equally many for each sample.
            kept: The elements that are stored, bool `[elements]`, by output.
            samples: The number of samples.

        Raises:
            InputError: Other targets than the layout's, or numbers that cannot be stored.
        """
        for name, expected in self.outputs.items():
            given = (
                None
                if name not in targets
                else PackedOutput.of(name, targets[name], expected.precision)
            )
            if given != expected:
                shown = f"outputs {', '.join(targets)}" if given is None else str(given.plain())
                allowed = f"{name}: {expected.plain()}, as in the first batch"
                raise InputError(Problem("teacher", shown, allowed))
        return [
            b"".join(
                one.pack(targets[name], _of_sample(kept[name], sample, samples))
                for name, one in self.outputs.items()
            )
            for sample in range(samples)
        ]

    def unpack(self, records: Sequence[bytes | memoryview]) -> dict[str, Targets]:
        """Read records: the stored elements of all samples, in order, in float32."""
        readers = [_Reader(one) for one in records]
        return {name: one.unpack(readers) for name, one in self.outputs.items()}

    def constants(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors that are stored once, by output and name."""
        for name, one in self.outputs.items():
            for key, tensor in one.constants.items():
                yield f"{name}.{key}", tensor


def _of_sample(kept: Tensor, sample: int, samples: int) -> Tensor:
    size = len(kept) // samples
    start = sample * size
    return start + kept[start : start + size].nonzero().flatten()


def expanded(targets: Targets, kept: Tensor) -> Targets:
    """Return targets of all elements from those of the kept ones.

    Elements that are not kept have no weight, and the targets of another element.

    Args:
        targets: The targets of the kept elements, in order.
        kept: Whether an element is kept, bool `[elements]`.

    Raises:
        InputError: The numbers of elements differ.
    """
    count = int(kept.sum())
    if targets.elements != count:
        allowed = f"{count} elements with weight, as the batch has"
        raise InputError(Problem("teacher", f"{targets.elements} elements", allowed))
    if count == len(kept):
        return targets
    if count == 0:
        raise InputError(Problem("batch", "no element with weight", "at least one"))
    return targets.select((kept.cumsum(0) - 1).clamp_min(0))
