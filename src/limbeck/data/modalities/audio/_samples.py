"""Splits of sound clips, held in memory if they fit, else decoded batch by batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from limbeck.data.modalities.audio._augment import AudioAugmentation
from limbeck.data.modalities.audio._clips import EncodedClips
from limbeck.data.modalities.audio._preprocess import AudioPreprocess
from limbeck.data.split import Division, Prepared, hash_of
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from limbeck.data.loaded import Loaded
    from limbeck.data.modalities.audio import AudioAugmentSpec, AudioSpec

MOST_PROBLEMS = 10
READY_UNDER = 1024 * 2**20
"""The most bytes of the waveforms of all splits that are held in memory."""

RANGE = 80.0
"""The decibels from black to white in the image of a spectrogram."""


def prepare(
    settings: AudioSpec,
    augment: AudioAugmentSpec | None,
    loaded: Loaded,
    division: Division,
) -> Prepared:
    """Build splits of clips; each is decoded once, so that a corrupt one raises here.

    Raises:
        InputError: A clip cannot be decoded, or is empty, too long or not finite; the message
            lists the problems of every split.
    """
    preprocess = AudioPreprocess(settings.rate, settings.length, settings.crop)
    rows = sum(len(numbers) for _, numbers in division.rows.values())
    keep = rows * settings.length * 4 <= READY_UNDER
    problems: list[Problem] = []
    encoded, scans = {}, dict[str, Scan]()
    for name, (source, numbers) in division.rows.items():
        files = loaded.files.get(source)
        encoded[name] = EncodedClips(
            loaded.splits[source],
            numbers,
            settings.column,
            rate=settings.rate,
            folder=files[0].parent if files else None,
            where=f"data.audio.column ({settings.column!r} in {source})",
        )
        with gathering(problems):
            scans[name] = scan(encoded[name], preprocess, keep=keep)
    if problems:
        raise InputError(*problems)
    augmentation = AudioAugmentation(augment, settings.rate) if augment else None
    splits = {
        name: division.split(
            name,
            Clips(one, preprocess, scans[name].waveforms),
            preprocess,
            augmentation=augmentation if name == "train" else None,
        )
        for name, one in encoded.items()
    }
    hashes = {name: one.hashes for name, one in scans.items()}
    counts = sum((one.traits for one in scans.values()), Counter[str]())
    notes = (f"{count:,} of {rows:,} clips are {trait}" for trait, count in counts.items())
    return Prepared(splits, preprocess, hashes, tuple(notes))


@dataclass(frozen=True)
class Scan:
    """The result of one pass over all clips of a split.

    Attributes:
        waveforms: All waveforms, float32 `[rows, length]`; None if they were not kept.
        hashes: A hash of each waveform, `[rows]`.
        traits: The number of clips that were changed, by what was done.
    """

    waveforms: Tensor | None
    hashes: NDArray[np.uint64]
    traits: Counter[str]


def scan(encoded: EncodedClips, prepare: AudioPreprocess, *, keep: bool) -> Scan:
    """Decode and check every clip of a split once.

    Args:
        encoded: The clips.
        prepare: The preprocessing, for rate and length.
        keep: Whether to keep the waveforms in memory.

    Raises:
        InputError: Clips are invalid; the message lists up to ten.
    """
    problems: list[Problem] = []
    hashes = np.zeros(len(encoded), dtype=np.uint64)
    waveforms = np.empty((len(encoded) if keep else 0, prepare.length), dtype=np.float32)
    seconds, traits = prepare.length / prepare.rate, Counter[str]()
    for row, cell in encoded.stored():
        with gathering(problems):
            clip = encoded.open(row, cell)
            waveform = prepare.waveform(clip, where=encoded.where(row))
            hashes[row] = hash_of(waveform)
            if keep:
                waveforms[row] = waveform
            found = {
                "stereo, mixed to mono": clip.channels > 1,
                f"resampled to {prepare.rate:,} Hz": clip.rate != prepare.rate,
                f"longer than {seconds:g} s, of which the {prepare.crop} is used": (
                    len(clip.samples) * prepare.rate > prepare.length * clip.rate
                ),
                "silent": not waveform.any(),
            }
            traits.update(trait for trait, present in found.items() if present)
        if len(problems) >= MOST_PROBLEMS:
            break
    if problems:
        raise InputError(*problems)
    return Scan(torch.from_numpy(waveforms) if keep else None, hashes, traits)


class Clips:
    """Clips: waveforms in memory if they fit, else decoded for each batch.

    Args:
        encoded: The clips.
        prepare: The preprocessing to waveforms.
        waveforms: The waveforms, `[rows, length]`; None to decode them for each batch.
    """

    def __init__(
        self, encoded: EncodedClips, prepare: AudioPreprocess, waveforms: Tensor | None
    ) -> None:
        self._encoded, self._prepare, self._waveforms = encoded, prepare, waveforms

    def __len__(self) -> int:
        return len(self._encoded)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return `audio`, float32 `[n, length]`."""
        if self._waveforms is not None:
            return {"audio": self._waveforms.index_select(0, index)}
        found = [
            self._prepare.waveform(self._encoded.open(row, cell), where=self._encoded.where(row))
            for row, cell in self._encoded.stored(index.tolist())
        ]
        return {"audio": torch.from_numpy(np.stack(found))}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `image`, that of the clip's spectrogram."""
        [waveform] = self.batch(torch.tensor([row]))["audio"].numpy()
        return {"image": spectrogram_image(waveform, self._prepare.rate)}


def spectrogram_image(waveform: NDArray[np.float32], rate: int) -> Image.Image:
    """Draw the power spectrogram of a waveform over 80 decibels, low frequencies at the bottom.

    Example:
        >>> tone = np.sin(np.arange(8000) * 0.5).astype(np.float32)
        >>> spectrogram_image(tone, 8000).size
        (97, 129)
    """
    from PIL import Image
    from scipy.signal import spectrogram

    size = min(2 ** round(np.log2(max(2, rate / 32))), len(waveform))
    step = max(1, rate // 100)
    _, _, power = spectrogram(waveform, rate, nperseg=size, noverlap=max(0, size - step))
    decibels = 10 * np.log10(np.maximum(power / max(float(power.max()), 1e-20), 1e-20))
    shade = np.clip(1 + decibels / RANGE, 0, 1) * 255
    return Image.fromarray(shade[::-1].astype(np.uint8))
