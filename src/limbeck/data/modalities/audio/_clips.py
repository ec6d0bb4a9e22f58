"""Sound clips as a user or a data set has them: encoded bytes, files, or arrays with a rate."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core.imports import require
from limbeck.data.images import without_torch
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray

SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aiff",
    ".aif",
    ".aifc",
    ".au",
    ".w64",
    ".caf",
)
MOST_SAMPLES = 2**26
"""The most samples of a clip, over all channels: 23 minutes of mono at 48 kHz."""

LOWEST_RATE, HIGHEST_RATE = 1000, 384_000
MOST_CHANNELS = 2
LOUDEST = 16.0
"""The largest size of a float sample; integers that were stored as floats are far above it."""

STREAMED = 0x7FFFF000
"""A length in a header from here on means that it was unknown when a recorder wrote it."""

CHUNK = 100
ALLOWED = "a sound file that libsndfile can read, such as WAV, FLAC, OGG or MP3"
_SHORTENED = re.compile(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)


@dataclass(frozen=True)
class Clip:
    """A mono clip.

    Attributes:
        samples: The samples, float32 `[samples]`, full scale at -1 and 1.
        rate: The samples per second.
        channels: The number of channels as stored; the samples are their mean.
    """

    samples: NDArray[np.float32]
    rate: int
    channels: int = 1


def open_clip(cell: Any, *, rate: int, folder: Path = Path(), where: str = "clip") -> Clip:
    """Decode a clip, and mix two channels to one.

    Args:
        cell: Encoded bytes; a path; a mapping with `bytes` or `path`, or with an `array` and its
            `sampling_rate`, as `datasets` has them; or an array `[samples]`, `[channels, samples]`
            or `[samples, channels]` of the rate `rate`. Integers of 8 to 32 bits are scaled by
            their range; floats have their full scale at -1 and 1.
        rate: The rate of an array without one.
        folder: The folder of relative paths.
        where: The place of the clip in messages.

    Raises:
        InputError: The clip is missing, empty, truncated, too long, cannot be decoded, has more
            than two channels, or NaN or infinity; the message lists every problem.

    Example:
        >>> open_clip(np.array([[0, 16384, 0], [0, 0, 0]], dtype=np.int16), rate=8000).samples
        array([0.  , 0.25, 0.  ], dtype=float32)
    """
    where = _with_file(where, cell)
    if isinstance(cell, Mapping):
        if cell.get("array") is not None:
            rate, cell = _stated_rate(cell, where), cell["array"]
        else:
            cell = cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
    if cell is None:
        raise InputError(Problem(where, "no clip", "a clip in every row"))
    if isinstance(cell, bytes | bytearray | str | Path):
        samples, rate = _decode(cell, folder, where)
    else:
        samples = _array(cell, where)
    problems = []
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        allowed = f"a rate of {LOWEST_RATE:,} to {HIGHEST_RATE:,} samples per second"
        problems.append(Problem(where, f"a rate of {rate:,}", allowed))
    if not len(samples):
        problems.append(Problem(where, "no samples", "a clip that is not empty"))
    channels = samples.shape[1]
    if channels > MOST_CHANNELS:
        fix = "Select a channel, or mix them, before."
        problems.append(Problem(where, f"{channels} channels", "mono or stereo", fix))
    if not np.isfinite(samples).all():
        problems.append(Problem(where, "NaN or infinity", "finite samples"))
    elif samples.size and (loudest := float(np.abs(samples).max())) > LOUDEST:
        fix = "Divide the samples by their full scale, such as 32768."
        problems.append(Problem(where, f"samples up to {loudest:.6g}", "-1 to 1", fix))
    if problems:
        raise InputError(*problems)
    mono = samples[:, 0] if channels == 1 else samples.mean(axis=1)
    return Clip(np.ascontiguousarray(mono, dtype=np.float32), rate, channels)


def resample(clip: Clip, rate: int, *, where: str = "clip") -> NDArray[np.float32]:
    """Convert a clip to another rate by the polyphase filter of scipy, in float64.

    scipy is a dependency already, has no state or dither, and serving computes the same bits.

    Raises:
        InputError: The clip becomes too long.

    Example:
        >>> clip = Clip(np.ones(441, dtype=np.float32), 44100)
        >>> resample(clip, 8000).shape
        (80,)
    """
    if clip.rate == rate:
        return clip.samples
    if len(clip.samples) * rate > MOST_SAMPLES * clip.rate:
        given = f"{len(clip.samples):,} samples of rate {clip.rate:,}"
        allowed = f"at most {MOST_SAMPLES:,} samples of rate {rate:,}"
        raise InputError(Problem(where, given, allowed, "Cut the clip into parts."))
    from scipy.signal import resample_poly

    common = math.gcd(rate, clip.rate)
    wide = clip.samples.astype(np.float64)
    found: NDArray[np.float64] = resample_poly(wide, rate // common, clip.rate // common)
    return found.astype(np.float32)


def _with_file(where: str, cell: Any) -> str:
    path = cell.get("path") if isinstance(cell, Mapping) else cell
    named = isinstance(path, str | Path) and path and str(path) != where
    return f"{where} ({path})" if named else where


def _stated_rate(cell: Mapping[str, Any], where: str) -> int:
    rate = cell.get("sampling_rate")
    if not isinstance(rate, int | np.integer) or isinstance(rate, bool):
        allowed = "the samples per second of the array, a whole number"
        raise InputError(Problem(f"{where}.sampling_rate", rate, allowed))
    return int(rate)


def _decode(
    content: bytes | bytearray | str | Path, folder: Path, where: str
) -> tuple[NDArray[np.float32], int]:
    """Return the samples `[samples, channels]` of an encoded clip, and their rate."""
    soundfile = require("soundfile", extra="audio")
    source: io.BytesIO | str
    if isinstance(content, bytes | bytearray):
        source = io.BytesIO(content)
        if not content:
            raise InputError(Problem(where, "0 bytes", ALLOWED))
    else:
        source = str(folder / content)
        # Reading a device or a pipe may never end.
        if not Path(source).is_file():
            raise InputError(Problem(where, "no such file", ALLOWED))
    try:
        with soundfile.SoundFile(source) as file:
            # A header may state any length: it is checked before memory is taken for it.
            if file.frames * file.channels > MOST_SAMPLES:
                given = f"{file.frames:,} samples of {file.channels} channels"
                allowed = f"at most {MOST_SAMPLES:,} samples over all channels"
                raise InputError(Problem(where, given, allowed, "Cut the clip into parts."))
            samples: NDArray[np.float32] = file.read(dtype="float32", always_2d=True)
            stated, present = file.frames, len(samples)
            cut = _SHORTENED.search(file.extra_info)
            unit = "samples"
            if cut and int(cut[2]) < int(cut[1]) < STREAMED:
                stated, present, unit = int(cut[1]), int(cut[2]), "bytes of samples"
            rate = int(file.samplerate)
    except InputError:
        raise
    # libsndfile and its decoders raise errors of several types on invalid bytes.
    except Exception as error:
        cause = re.sub(r"^Error opening .*?>?: (?=[A-Z])", "", str(error)) or type(error).__name__
        raise InputError(Problem(where, cause.removeprefix("Error : "), ALLOWED)) from error
    if present < stated:
        given = f"a truncated file: {present:,} of {stated:,} {unit}"
        raise InputError(Problem(where, given, ALLOWED))
    return samples, rate


def _array(content: Any, where: str) -> NDArray[np.float32]:
    """Return the samples `[samples, channels]` of an array."""
    try:
        array = np.asarray(without_torch(content))
    # Lists of unequal lengths, or of tensors with a gradient.
    except (ValueError, TypeError, RuntimeError) as ragged:
        given, allowed = f"nested lists ({ragged})", "lists of one length"
        raise InputError(Problem(where, given, allowed)) from ragged
    if array.dtype.kind not in "iuf":
        raise InputError(Problem(where, f"values of {array.dtype}", "numbers"))
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        allowed = "one clip: [samples], [channels, samples] or [samples, channels]"
        raise InputError(Problem(where, f"an array of shape {array.shape}", allowed))
    if array.shape[0] < array.shape[1]:
        array = array.T
    if array.size > MOST_SAMPLES:
        given = f"{array.size:,} samples"
        raise InputError(Problem(where, given, f"at most {MOST_SAMPLES:,}", "Cut the clip."))
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.itemsize > 4:
        fix = "Convert it to int16 or to floats."
        raise InputError(Problem(where, f"values of {array.dtype}", "at most 32 bits", fix))
    half = 2.0 ** (8 * array.dtype.itemsize - 1)
    centre = half if array.dtype.kind == "u" else 0.0
    return ((array.astype(np.float64) - centre) / half).astype(np.float32)


class EncodedClips:
    """The clips of one split, decoded one by one.

    Args:
        dataset: One of the source's splits.
        rows: The row indices.
        column: The column of clips.
        rate: The rate of arrays that state none.
        folder: The folder of relative paths in the column.
        where: The key in the recipe, for messages.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        rows: NDArray[np.int64],
        column: str,
        *,
        rate: int,
        folder: Path | None = None,
        where: str = "data",
    ) -> None:
        import datasets

        if isinstance(dataset.features[column], datasets.Audio):
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
        self._dataset = dataset.select_columns([column]).with_format(None).select(rows)
        self._rows, self._column, self._rate = rows, column, rate
        self._folder, self._where = folder or Path(), where

    def __len__(self) -> int:
        return len(self._dataset)

    def stored(self, rows: Sequence[int] | None = None) -> Iterator[tuple[int, Any]]:
        """Read row indices and cells in chunks, without decoding the clips."""
        dataset = self._dataset if rows is None else self._dataset.select(rows)
        for start in range(0, len(dataset), CHUNK):
            for offset, cell in enumerate(dataset[start : start + CHUNK][self._column]):
                yield (start + offset if rows is None else rows[start + offset]), cell

    def where(self, row: int) -> str:
        """Return the place of a clip in messages."""
        return f"{self._where}, row {self._rows[row]}"

    def open(self, row: int, cell: Any) -> Clip:
        """Decode a cell read by `stored`.

        Raises:
            InputError: As for `open_clip`.
        """
        return open_clip(cell, rate=self._rate, folder=self._folder, where=self.where(row))
