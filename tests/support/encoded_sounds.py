"""Encoded sounds for tests."""

from __future__ import annotations

import io

import numpy as np
import soundfile


def tone(hertz: float, *, rate: int = 8000, seconds: float = 0.5, size: float = 0.3) -> np.ndarray:
    """Return a sine, float64 `[samples]`."""
    return size * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def noise(seed: int, samples: int = 3000, channels: int = 1) -> np.ndarray:
    """Return random samples of 16 bits, int16 `[samples]` or `[samples, channels]`."""
    shape = (samples,) if channels == 1 else (samples, channels)
    return np.random.default_rng(seed).integers(-9000, 9000, shape).astype(np.int16)


def encoded(samples: np.ndarray, rate: int = 8000, *, kind: str = "WAV", subtype: str = "PCM_16"):
    """Return the bytes of a sound file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()
