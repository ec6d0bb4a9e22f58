"""Preprocessing of sound clips, and what preprocess.json states about it.

The file is enough to reproduce it with soundfile and scipy: decode to float32, full scale at -1 and
1; the mean of the channels; `scipy.signal.resample_poly` in float64 if the rate differs; then the
first `length` samples, or with `crop: centre` those from `(samples - length) // 2`; a shorter clip
is padded with zeros at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from limbeck.data.modalities.audio._clips import (
    HIGHEST_RATE,
    LOWEST_RATE,
    MOST_SAMPLES,
    SUFFIXES,
    Clip,
    open_clip,
    resample,
)
from limbeck.data.preprocess import Named, Preprocess, Target
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rate = Annotated[int, Field(ge=LOWEST_RATE, le=HIGHEST_RATE)]


@dataclass(frozen=True)
class AudioPreprocess(Preprocess):
    """Preprocessing of sound: from a clip to a mono waveform of fixed rate and length.

    Attributes:
        rate: The samples per second.
        length: The number of samples of a model's input.
        crop: The part of a longer clip that is used.
        classes: The class names, in the order of the model's outputs.
        targets: A regression's targets, in the order of the model's outputs.
    """

    rate: Rate
    length: Annotated[int, Field(gt=0, le=MOST_SAMPLES)]
    crop: Literal["start", "centre"] = "centre"
    kind: Literal["audio"] = "audio"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    sample_axes: ClassVar[tuple[int, ...]] = (0, 1)

    def model_inputs(self) -> dict[str, int]:
        """Return the rate and the number of samples."""
        return {"rate": self.rate, "length": self.length}

    def waveform(self, clip: Clip, *, where: str = "clip") -> NDArray[np.float32]:
        """Convert a clip to the model's rate, and crop it or pad it with zeros to its length.

        Raises:
            InputError: The clip becomes too long by resampling.

        Example:
            >>> prepare = AudioPreprocess(rate=8000, length=4, crop="start")
            >>> prepare.waveform(Clip(np.array([0.1, 0.2], dtype=np.float32), 8000))
            array([0.1, 0.2, 0. , 0. ], dtype=float32)
        """
        samples = resample(clip, self.rate, where=where)
        extra = len(samples) - self.length
        if extra > 0:
            start = 0 if self.crop == "start" else extra // 2
            return samples[start : start + self.length]
        return np.pad(samples, (0, -extra))

    def __call__(self, clips: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Stack waveforms that `read` returned: `{"audio": [n, length]}`."""
        return {"audio": np.stack(clips).astype(np.float32)}

    def read(self, value: object, *, where: str) -> NDArray[np.float32]:
        """Convert a clip as a user has it to a waveform `[length]`.

        Args:
            value: A path, encoded bytes, a mapping of an `array` and its `sampling_rate`, or an
                array of the model's rate.
            where: The name of the input in messages.

        Raises:
            InputError: The clip cannot be decoded, or is empty, too long or not finite.

        Example:
            >>> prepare = AudioPreprocess(rate=8000, length=3)
            >>> sound = {"array": [0.5, 0.5], "sampling_rate": 8000}
            >>> prepare.read(sound, where="input")
            array([0.5, 0.5, 0. ], dtype=float32)
        """
        return self.waveform(open_clip(value, rate=self.rate, where=where), where=where)

    def named(self, argument: str, *, row_files: Sequence[str]) -> list[Named]:
        """Return the clip of a path, or all clips of a folder and its subfolders."""
        path = Path(argument)
        if path.is_file():
            return [(str(path), str(path))]
        allowed = "a sound file, or a folder of sound files"
        if not path.is_dir():
            raise InputError(Problem(argument, "no such file", allowed))
        files = (one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES)
        found = sorted(one for one in files if one.is_file())
        if not found:
            raise InputError(Problem(argument, "no sound file in it", allowed))
        return [(str(one), str(one)) for one in found]

    def of_cell(self, cell: Any, folder: Path) -> Any:
        """Return a clip; a relative path starts at the folder of the file of rows."""
        return str(folder / cell) if isinstance(cell, str) else cell
