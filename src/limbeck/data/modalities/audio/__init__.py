"""Sound clips: mono waveforms of a stated rate and length, augmented in time and frequency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from limbeck.data.images import referenced_files
from limbeck.data.modalities.audio._clips import MOST_SAMPLES, SUFFIXES
from limbeck.data.modalities.audio._preprocess import AudioPreprocess, Rate
from limbeck.data.modality import Modality, Usage
from limbeck.data.settings import Section, Settings

if TYPE_CHECKING:
    from typing import Self

    from limbeck.data.loaded import Loaded
    from limbeck.data.preprocess import Preprocess
    from limbeck.data.spec import DataSpec
    from limbeck.data.split import Division, Prepared

__all__ = ["SUFFIXES", "Audio", "AudioAugmentSpec", "AudioSpec", "modality"]

MOST_VIEWS = 10_000
LONGEST = 600.0
Seconds = Annotated[float, Field(gt=0, le=LONGEST)]
Span = Annotated[float, Field(ge=0, le=LONGEST)]
Masks = Annotated[int, Field(ge=0, le=20)]

CODE = """
clip, rate = soundfile.read("clip.wav", dtype="float32", always_2d=True)
clip, length = clip.mean(axis=1), prepare["length"]
if rate != prepare["rate"]:
    common = math.gcd(rate, prepare["rate"])
    wide = clip.astype(np.float64)
    clip = resample_poly(wide, prepare["rate"] // common, rate // common).astype(np.float32)
start = max(0, len(clip) - length) // 2 if prepare["crop"] == "centre" else 0
clip = clip[start : start + length]
audio = np.pad(clip, (0, length - len(clip)))[None]
"""


class AudioSpec(Section):
    """Settings of sound clips.

    Attributes:
        column: The column of clips: encoded bytes (WAV, FLAC, OGG, MP3, ...), paths, arrays of the
            stated rate, or `datasets.Audio`.
        rate: The samples per second of the model's input; clips of other rates are resampled.
        seconds: The length of the model's input: a longer clip is cropped, a shorter one padded
            with zeros at its end.
        crop: The part of a longer clip that is used: its start or its centre.
    """

    column: str = "audio"
    rate: Rate
    seconds: Seconds
    crop: Literal["start", "centre"] = "centre"

    @property
    def length(self) -> int:
        """Return the number of samples of the model's input."""
        return round(self.rate * self.seconds)

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if not 0 < self.length <= MOST_SAMPLES:
            raise ValueError(
                f"rate {self.rate} and seconds {self.seconds:g} are {self.length:,} samples; "
                f"allowed: 1 to {MOST_SAMPLES:,}"
            )
        return self


class AudioAugmentSpec(Settings):
    """Augmentation settings of training clips, each clip with its own random numbers.

    Attributes:
        speed: Play faster or slower by up to this share, which changes the pitch as well (Ko et
            al. 2015, "Audio augmentation for speech recognition": 0.1).
        shift: Move by up to this many seconds in either direction, filling with zeros.
        gain: Amplify or attenuate by up to this many decibels.
        noise: Add white noise at this signal-to-noise ratio in decibels, or a higher one by up to
            20; padding stays silent.
        time_masks: The number of masks over time (SpecAugment, Park et al. 2019).
        time_mask: The longest mask over time, in seconds.
        frequency_masks: The number of masks over frequency (SpecAugment).
        frequency_mask: The widest mask over frequency, in hertz.
        views: The number of variants per clip, the same for every seed, which epochs cycle
            through. Without it every epoch has new variants, and teacher outputs cannot be cached.
    """

    speed: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    shift: Span = 0.0
    gain: Annotated[float, Field(ge=0, le=60)] = 0.0
    noise: Annotated[float, Field(ge=-20, le=100)] | None = None
    time_masks: Masks = 0
    time_mask: Span = 0.1
    frequency_masks: Masks = 0
    frequency_mask: Annotated[float, Field(ge=0, le=192_000)] = 500.0
    views: Annotated[int, Field(gt=0, le=MOST_VIEWS)] | None = None


class AudioKeys(Settings):
    """The keys of sound clips.

    Attributes:
        audio: The rate and length of clips; if given, the rows are sound clips.
        augment_audio: The augmentation of training clips.
    """

    audio: AudioSpec | None = None
    augment_audio: AudioAugmentSpec | None = None


class Audio(Modality[AudioKeys]):
    """Sound clips, encoded or as arrays."""

    name: ClassVar[str] = "audio"
    keys: ClassVar[type[Settings]] = AudioKeys
    preprocess: ClassVar[type[Preprocess]] = AudioPreprocess
    training_only: ClassVar[frozenset[str]] = frozenset({"augment_audio"})
    usage: ClassVar[Usage] = Usage(
        argument="clip.wav",
        packages="numpy, scipy, soundfile",
        imports="import math\n\nimport soundfile\nfrom scipy.signal import resample_poly",
        code=CODE,
        inputs=("audio",),
    )
    hint: ClassVar[str] = "The column of clips is named in data.audio.column."

    def _settings(self, spec: DataSpec) -> AudioSpec:
        found = self.of(spec).audio
        if found is None:
            raise ValueError("clips without their settings")
        return found

    def check(self, spec: DataSpec) -> None:
        """Refuse an augmentation that moves or masks a whole clip."""
        own, settings = self.of(spec).augment_audio, self._settings(spec)
        if own is None:
            return
        limits = (
            ("shift", own.shift, settings.seconds, "seconds of the clip"),
            ("time_mask", own.time_mask, settings.seconds, "seconds of the clip"),
            ("frequency_mask", own.frequency_mask, settings.rate / 2, "hertz, half of the rate"),
        )
        used = {"shift": True, "time_mask": own.time_masks, "frequency_mask": own.frequency_masks}
        wrong = [
            f"augment_audio.{name} {value:g}; allowed: less than {most:g} {unit}"
            for name, value, most, unit in limits
            if used[name] and value >= most
        ]
        if wrong:
            raise ValueError("; ".join(wrong))

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the column of clips."""
        return {self._settings(spec).column: "data.audio.column"}

    def prepare(
        self, spec: DataSpec, loaded: Loaded, division: Division, *, workdir: Path
    ) -> Prepared:
        """Build splits of clips."""
        from limbeck.data.modalities.audio._samples import prepare

        return prepare(self._settings(spec), self.of(spec).augment_audio, loaded, division)

    def files(self, spec: DataSpec, loaded: Loaded) -> dict[str, str]:
        """Hash the sound files that rows reference by path."""
        return referenced_files(loaded, self._settings(spec).column)


modality = Audio()
