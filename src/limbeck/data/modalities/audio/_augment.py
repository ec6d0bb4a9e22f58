"""Augmentation of sound clips, with random numbers for each clip that do not depend on its batch.

Masks over time and frequency are those of SpecAugment, applied to the waveform: a masked span of
time is silent, a masked band is removed. So they hold for every model, whatever spectrogram it
computes; `audio_cnn` gives silent frames no weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import fft

from limbeck.core.random import random_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.label import Spatial
    from limbeck.data.modalities.audio import AudioAugmentSpec
    from limbeck.data.rows import Batch

# Indices of the draws: changing one would invalidate every cached teacher output.
SHIFT, GAIN, LEVEL, NOISE, SPEED, TIME, FREQUENCY = 1, 2, 3, 4, 5, 100, 200
SHIFTED, UNIT = np.uint64(11), 2.0**-53
"""The step from 64 random bits to numbers in [0, 1), without rounding to 1."""

NOISE_RANGE = 20.0
"""The decibels by which a drawn signal-to-noise ratio is above the stated one, at most."""


class AudioAugmentation:
    """Speed, shift, gain, noise and SpecAugment per clip, each with its own random numbers.

    Args:
        spec: The augmentation settings.
        rate: The samples per second.

    Source: Park et al. 2019, "SpecAugment: a simple data augmentation method for automatic speech
    recognition"; Ko et al. 2015, "Audio augmentation for speech recognition" (speed).
    """

    def __init__(self, spec: AudioAugmentSpec, rate: int) -> None:
        self.spec, self._rate = spec, rate

    @property
    def views(self) -> int | None:
        """Return the number of variants per clip; None if every epoch has new ones."""
        return self.spec.views

    def identity(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return self.spec.model_dump(mode="json")

    def __call__(
        self, batch: Batch, index: Tensor, *, seed: int, view: int, spatial: Sequence[Spatial]
    ) -> Batch:
        """Augment the clips of a batch.

        Args:
            batch: A batch with `audio`, `[n, length]`.
            index: The clips' rows in the split, `[n]`.
            seed: The run's seed.
            view: The variant.
            spatial: Unused: no label has a place in a clip.
        """
        spec, rate, rows = self.spec, self._rate, index.numpy()

        def drawn(draw: int) -> NDArray[np.float64]:
            """Draw a uniform number in [0, 1) per clip."""
            bits = random_bits(seed, view, draw, index=rows) >> SHIFTED
            return bits.astype(np.float64) * UNIT

        # Each clip by itself: its bits do not depend on the others in the batch.
        clips = list(batch["audio"].numpy().copy())
        length = batch["audio"].shape[1]
        if spec.speed:
            factors = 1 + spec.speed * (2 * drawn(SPEED) - 1)
            clips = [faster(one, factor) for one, factor in zip(clips, factors, strict=True)]
        if spec.frequency_mask:
            for one in range(spec.frequency_masks):
                widths = spec.frequency_mask * drawn(FREQUENCY + 2 * one)
                lows = drawn(FREQUENCY + 2 * one + 1) * (rate / 2 - widths)
                for clip, low, width in zip(clips, lows, widths, strict=True):
                    remove_band(clip, low, low + width, rate=rate)
        if spec.shift:
            steps = np.rint((2 * drawn(SHIFT) - 1) * spec.shift * rate).astype(np.int64).tolist()
            clips = [moved(one, step) for one, step in zip(clips, steps, strict=True)]
        if spec.noise is not None:
            ratios = spec.noise + NOISE_RANGE * drawn(LEVEL)
            keys = random_bits(seed, view, NOISE, index=rows).tolist()
            for clip, ratio, key in zip(clips, ratios, keys, strict=True):
                add_noise(clip, ratio, key)
        if spec.gain:
            for clip, place in zip(clips, 2 * drawn(GAIN) - 1, strict=True):
                clip *= np.float32(10 ** (place * spec.gain / 20))
        for one in range(spec.time_masks):
            widths = np.rint(spec.time_mask * rate * drawn(TIME + 2 * one)).astype(np.int64)
            starts = (drawn(TIME + 2 * one + 1) * (length - widths)).astype(np.int64)
            for clip, start, width in zip(clips, starts, widths, strict=True):
                clip[start : start + width] = 0
        return {**batch, "audio": torch.from_numpy(np.stack(clips))}


def sounding(clip: NDArray[np.float32]) -> slice:
    """Return the span from the first to the last sample that is not 0: the clip without padding.

    Example:
        >>> sounding(np.array([0, 1, 0, 2, 0], dtype=np.float32))
        slice(1, 4, None)
    """
    found = np.flatnonzero(clip)
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def faster(clip: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Shorten a clip by a factor, by linear interpolation; what is missing at its end is 0.

    Example:
        >>> faster(np.array([0, 1, 2, 3], dtype=np.float32), 2.0)
        array([0., 2., 0., 0.], dtype=float32)
    """
    places = np.arange(len(clip))
    return np.interp(places * factor, places, clip, right=0.0).astype(np.float32)


def moved(clip: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Move a clip by some samples, to the end if they are above 0; what is missing is 0.

    Example:
        >>> moved(np.array([1, 2, 3], dtype=np.float32), 1)
        array([0., 1., 2.], dtype=float32)
    """
    padded = np.pad(clip, (max(steps, 0), max(-steps, 0)))
    return padded[max(-steps, 0) :][: len(clip)]


def remove_band(clip: NDArray[np.float32], low: float, high: float, *, rate: int) -> None:
    """Remove the frequencies from `low` to `high`, in hertz, in place; padding stays 0."""
    span = sounding(clip)
    spectrum = fft.rfft(clip)
    hertz = fft.rfftfreq(len(clip), 1 / rate)
    spectrum[(hertz >= low) & (hertz < high)] = 0
    clip[span] = fft.irfft(spectrum, n=len(clip))[span]


def add_noise(clip: NDArray[np.float32], ratio: float, key: int) -> None:
    """Add white noise, uniform per sample, in place; padding stays 0.

    Args:
        clip: The clip.
        ratio: The signal-to-noise ratio in decibels.
        key: The key of the random numbers.
    """
    span = sounding(clip)
    sound = clip[span]
    bits = random_bits(key, index=np.arange(len(sound)))
    noise = (bits >> SHIFTED) * UNIT - 0.5
    size = np.sqrt(12 * np.mean(sound.astype(np.float64) ** 2)) if len(sound) else 0.0
    clip[span] += (noise * size * 10 ** (-ratio / 20)).astype(np.float32)
