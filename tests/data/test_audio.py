"""Sound clips: one waveform of any file, draws that no batch changes, and hostile files refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from encoded_sounds import encoded, noise, tone
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.fft import rfft, rfftfreq

from limbeck.data.load import Data
from limbeck.data.modalities.audio import AudioAugmentSpec, _samples
from limbeck.data.modalities.audio._augment import AudioAugmentation, sounding
from limbeck.data.modalities.audio._clips import Clip, open_clip, resample
from limbeck.data.modalities.audio._preprocess import AudioPreprocess
from limbeck.data.preprocess import load as load_preprocess
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError

RATE, LENGTH, ROWS = 8000, 4000, 40
Read = Callable[..., Data]
ALL = {
    "speed": 0.1,
    "shift": 0.1,
    "gain": 6,
    "noise": 10,
    "time_masks": 2,
    "time_mask": 0.1,
    "frequency_masks": 2,
    "frequency_mask": 500,
}


@pytest.fixture
def clips(tmp_path: Path, read: Read) -> Callable[..., Data]:
    """Load clips of two classes, half a second at most, from cells of any kind."""

    def load(cells: list[Any] | None = None, *, test: list[Any] | None = None, **more: Any) -> Data:
        files = {}
        for split, content in (("train", cells), ("test", test)):
            if content is None and split == "test":
                continue
            content = content or [encoded(noise(row, 2000 + 50 * row)) for row in range(ROWS)]
            rows = {"audio": content, "label": [row % 2 for row in range(len(content))]}
            datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
            files[split] = f"{split}.parquet"
        own = {"rate": RATE, "seconds": LENGTH / RATE, **more.pop("audio", {})}
        return read(source="parquet", files=files, audio=own, **more)

    return load


def all_of(data: Data, split: str = "train") -> torch.Tensor:
    found = getattr(data, split)
    return found.for_evaluation().__getitems__(range(len(found)))["audio"]


def test_a_waveform_is_the_stored_samples_padded_with_zeros(clips: Callable[..., Data]) -> None:
    data = clips()
    assert data.facts.modality == "audio"
    assert (data.preprocess.rate, data.preprocess.length) == (RATE, LENGTH)
    found = {one.numpy().tobytes() for name in ("train", "test") for one in all_of(data, name)}
    for row in range(ROWS):
        samples = noise(row, 2000 + 50 * row) / 32768
        padded = np.pad(samples, (0, LENGTH - len(samples))).astype(np.float32)
        assert (padded.tobytes() in found) == (row in _rows_of(data, ("train", "test")))


def _rows_of(data: Data, names: tuple[str, ...]) -> set[int]:
    return {int(row) for n in names for row in getattr(data, n)._samples._encoded._rows}


@pytest.mark.parametrize("kind", ["bytes", "paths", "Audio", "arrays"])
def test_clips_of_every_kind_of_column_are_the_same(clips, tmp_path: Path, kind: str) -> None:
    content = [encoded(noise(row), kind="FLAC") for row in range(ROWS)]
    cells: list[Any] = content
    if kind == "paths":
        cells = [f"{row}.flac" for row in range(ROWS)]
        for path, one in zip(cells, content, strict=True):
            (tmp_path / path).write_bytes(one)
    if kind == "Audio":
        cells = [{"bytes": one, "path": None} for one in content]
    if kind == "arrays":
        cells = [(noise(row) / 32768).astype(np.float32) for row in range(ROWS)]
    data = clips(cells)
    assert np.array_equal(all_of(data), all_of(clips(content)))


def test_a_column_of_the_audio_feature_needs_no_decoder_of_datasets(tmp_path, read: Read) -> None:
    rows = {"sound": [{"bytes": encoded(noise(row)), "path": "a.wav"} for row in range(ROWS)]}
    rows["label"] = [0, 1] * (ROWS // 2)
    stored = datasets.Dataset.from_dict(rows).cast_column("sound", datasets.Audio())
    stored.to_parquet(tmp_path / "a.parquet")
    assert isinstance(
        datasets.Dataset.from_parquet(str(tmp_path / "a.parquet")).features["sound"], datasets.Audio
    )
    audio = {"column": "sound", "rate": RATE, "seconds": 0.25}
    data = read(source="parquet", files={"train": "a.parquet"}, audio=audio)
    assert data.train[0]["audio"].shape == (1, 2000)
    assert "40 of 40 clips are longer than 0.25 s, of which the centre is used" in data.facts.notes


def test_lossy_and_float_files_are_read_as_their_samples() -> None:
    wave = tone(440)
    for kind, subtype, error in (
        *(("WAV", "FLOAT", 1e-7), ("WAV", "PCM_24", 1e-6), ("WAV", "PCM_U8", 1e-2)),
        *(("FLAC", "PCM_16", 1e-4), ("OGG", "VORBIS", 3e-2), ("AIFF", "PCM_16", 1e-4)),
    ):
        clip = open_clip(encoded(wave, kind=kind, subtype=subtype), rate=1)
        assert (clip.rate, clip.channels, clip.samples.dtype) == (RATE, 1, np.float32)
        np.testing.assert_allclose(clip.samples, wave, atol=error)


def test_integers_are_scaled_by_their_range_as_in_a_file() -> None:
    samples = noise(0)
    expected = open_clip(encoded(samples), rate=RATE).samples
    assert np.array_equal(open_clip(samples, rate=RATE).samples, expected)
    assert np.array_equal(open_clip(torch.tensor(samples), rate=RATE).samples, expected)
    assert np.array_equal(open_clip(samples.astype(np.int32) * 65536, rate=RATE).samples, expected)
    unsigned = np.array([0, 128, 255], dtype=np.uint8)
    assert open_clip(unsigned, rate=RATE).samples.tolist() == [-1, 0, 127 / 128]


def test_two_channels_become_their_mean() -> None:
    samples = noise(1, channels=2)
    expected = (samples.astype(np.float64) / 32768).mean(axis=1)
    for cell in (encoded(samples), samples, samples.T, {"array": samples, "sampling_rate": RATE}):
        clip = open_clip(cell, rate=RATE)
        assert clip.channels == 2
        np.testing.assert_allclose(clip.samples, expected, atol=1e-7)


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000, 4000])
def test_a_resampled_tone_is_the_tone_at_the_other_rate(rate: int) -> None:
    clip = Clip(tone(700, rate=rate).astype(np.float32), rate)
    found = resample(clip, RATE)
    assert len(found) == RATE // 2
    middle = slice(200, -200)  # beyond its ends the filter sees zeros
    np.testing.assert_allclose(found[middle], tone(700)[middle], atol=2e-3)


def test_a_frequency_above_half_of_the_rate_is_removed() -> None:
    high = resample(Clip(tone(6000, rate=44100).astype(np.float32), 44100), RATE)
    assert np.abs(high[200:-200]).max() < 0.002


@pytest.mark.parametrize(("crop", "first"), [("start", 0), ("centre", 50)])
def test_a_longer_clip_is_cropped(crop: str, first: int) -> None:
    prepare = AudioPreprocess(rate=RATE, length=100, crop=crop)
    long = np.arange(201) / 256
    expected = long[first : first + 100].astype(np.float32)
    assert np.array_equal(prepare.read(long, where="input"), expected)


def test_clips_that_do_not_fit_in_memory_are_decoded_for_each_batch(clips, monkeypatch) -> None:
    held = clips(augment_audio=ALL)
    monkeypatch.setattr(_samples, "READY_UNDER", 1000)
    decoded = clips(augment_audio=ALL)
    assert decoded.train._samples._waveforms is None
    assert held.train._samples._waveforms is not None
    rows = [5, 0, 17]
    for one, other in zip(
        held.train.__getitems__(rows).items(), decoded.train.__getitems__(rows).items(), strict=True
    ):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    assert held.facts == decoded.facts


def test_only_training_is_augmented_and_the_fingerprint_stays(clips) -> None:
    plain, augmented = clips(), clips(augment_audio={**ALL, "views": 3})
    assert plain.facts.fingerprint == augmented.facts.fingerprint
    assert augmented.train.views == 3
    assert augmented.validation.views == augmented.test.views == 1
    assert torch.equal(augmented.test.__getitems__([0])["audio"], all_of(plain, "test")[:1])
    assert not torch.equal(augmented.train.__getitems__([0])["audio"], all_of(plain)[:1])


def augment(
    waves: torch.Tensor, rows: list[int], *, seed: int = 0, view: int = 0, **keys: Any
) -> np.ndarray:
    augmentation = AudioAugmentation(AudioAugmentSpec(**keys), RATE)
    index = torch.tensor(rows)
    batch = {"audio": waves[index], "labels": index}
    found = augmentation(batch, index, seed=seed, view=view, spatial=())
    assert torch.equal(batch["audio"], waves[index])
    assert torch.equal(found["labels"], index)
    return found["audio"].numpy()


WAVES = torch.from_numpy(
    np.stack([np.pad(noise(row, 2400) / 32768, (200, 1400)) for row in range(12)])
).float()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=6),
    st.integers(0, 2**62),
    st.integers(0, 10_000),
    st.fixed_dictionaries({}, optional={name: st.just(one) for name, one in ALL.items()}),
)
def test_a_draw_depends_on_seed_row_and_view_alone(rows, seed, view, keys) -> None:
    together = augment(WAVES, rows, seed=seed, view=view, **keys)
    for place, row in enumerate(rows):
        alone = augment(WAVES, [row], seed=seed, view=view, **keys)[0]
        assert np.array_equal(together[place], alone)
    assert np.isfinite(together).all()
    assert together.dtype == np.float32
    if not {"shift", "speed"} & set(keys):  # nothing is added to padding
        assert not together[:, :200].any()
        assert not together[:, 2600:].any()


def test_seeds_rows_and_views_draw_anew() -> None:
    same = WAVES[:1].repeat(12, 1)
    for name in ("speed", "shift", "gain", "noise", "time_masks", "frequency_masks"):
        keys = {name: ALL[name]}
        found = [augment(same, [0, 1], seed=seed, view=view, **keys) for seed, view in
                 ((0, 0), (0, 1), (1, 0))]  # fmt: skip
        distinct = {one.tobytes() for both in found for one in both}
        assert len(distinct) == 6, name


def test_a_shift_moves_and_a_gain_scales() -> None:
    for wave, moved in zip(WAVES.numpy(), augment(WAVES, list(range(12)), shift=0.02), strict=True):
        steps = sounding(moved).start - sounding(wave).start
        assert abs(steps) <= 160
        assert np.array_equal(np.roll(wave, steps), moved)
    ratio = augment(WAVES, list(range(12)), gain=6)[:, 500] / WAVES.numpy()[:, 500]
    decibels = 20 * np.log10(ratio)
    assert (np.abs(decibels) <= 6.001).all()
    assert np.ptp(decibels) > 3


def test_noise_has_the_stated_ratio() -> None:
    noisy = augment(WAVES, list(range(12)), noise=10) - WAVES.numpy()
    power = [one[200:2600].var() for one in WAVES.numpy()]
    ratios = 10 * np.log10(power / noisy[:, 200:2600].var(axis=1))
    assert ((ratios > 9.5) & (ratios < 30.5)).all()


def test_speed_changes_length_and_pitch() -> None:
    waves = torch.from_numpy(np.pad(tone(500, seconds=0.25), (0, 2000))).float().repeat(12, 1)
    changed = 0
    for one in augment(waves, list(range(12)), speed=0.2):
        length = sounding(one).stop
        factor = 2000 / length
        assert 0.79 < factor < 1.21
        loudest = rfftfreq(4000, 1 / RATE)[np.abs(rfft(one)).argmax()]
        assert loudest == pytest.approx(500 * factor, abs=5)
        changed += abs(factor - 1) > 0.05
    assert changed > 3


def test_masks_silence_a_span_or_a_band() -> None:
    masked = augment(WAVES, list(range(12)), time_masks=1, time_mask=0.1)
    for wave, one in zip(WAVES.numpy(), masked, strict=True):
        different = np.flatnonzero(wave != one)
        assert not one[different].any()
        assert len(different) <= 800
        if len(different):  # the only zeros of the clip beside those that were there
            inside = slice(different[0], different[-1] + 1)
            assert not one[inside].any()
    full = torch.from_numpy(np.stack([noise(row, 4000) / 32768 for row in range(12)])).float()
    banded = augment(full, list(range(12)), frequency_masks=1, frequency_mask=1000)
    removed = np.abs(rfft(banded.astype(np.float64))) < 1e-3
    widths = removed.sum(axis=1) * 2.0  # bins of 2 Hz
    assert (widths <= 1002).all()
    assert widths.max() > 300
    kept = np.abs(rfft(banded.astype(np.float64)) - rfft(full.numpy().astype(np.float64)))
    assert kept[~removed].max() < 1e-2


def cut(content: bytes, size: int) -> bytes:
    return content[:size]


def huge_flac() -> bytes:
    content = bytearray(encoded(noise(0), kind="FLAC"))
    content[21] |= 0x0F
    content[22:26] = b"\xff\xff\xff\xff"
    return bytes(content)


def claiming(samples: int) -> bytes:
    content = bytearray(encoded(noise(0)))
    place = content.find(b"data")
    content[place + 4 : place + 8] = struct.pack("<I", 2 * samples)
    return bytes(content)


def without_rate() -> bytes:
    content = bytearray(encoded(noise(0)))
    content[24:28] = bytes(4)
    return bytes(content)


HOSTILE = {
    "no bytes": (b"", "got '0 bytes'; allowed: a sound file"),
    "text": (b"RIFF nonsense", "allowed: a sound file that libsndfile can read"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(50), "Format not recognised"),
    "a header alone": (cut(encoded(noise(0), kind="FLAC"), 60), "flac"),
    "half a FLAC": (cut(encoded(noise(0), kind="FLAC"), 3000), "flac decoder lost sync"),
    "half a WAV": (cut(encoded(noise(0)), 3044), "a truncated file: .* of 6,000 bytes"),
    "half an OGG": (cut(encoded(tone(9), kind="OGG", subtype="VORBIS"), 2000), "sound file"),
    "a billion samples in WAV": (claiming(10**9), "truncated file: 6,000 of 2,000,000,000 bytes"),
    "a FLAC of 68 billion": (huge_flac(), "68,719,476,735 samples.*at most 67,108,864"),
    "a rate of 0": (without_rate(), "allowed: a sound file"),
    "a rate of 8": (encoded(noise(0), 8), "a rate of 8'; allowed: a rate of 1,000 to 384,000"),
    "no samples": (encoded(noise(0, 0)), "no samples"),
    "three channels": (encoded(noise(0, channels=3)), "3 channels'; allowed: mono or stereo"),
    "NaN": (encoded(np.array([0.1, np.nan]), subtype="FLOAT"), "NaN or infinity"),
    "integers as floats": (np.array([1.0, 20000.0]), "samples up to 20000'; allowed: -1 to 1"),
    "int64": (np.array([1, 2]), "values of int64'; allowed: at most 32 bits"),
    "texts in an array": (np.array(["a"]), "allowed: numbers"),
    "three axes": (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)'; allowed: one clip"),
    "ragged lists": ([[1.0], [1.0, 2.0]], "lists of one length"),
    "nothing": (None, "no clip"),
    "a mapping of nothing": ({"bytes": None, "path": None}, "no clip"),
    "no file": ("nowhere.wav", "no such file"),
    "a folder": (".", "no such file"),
    "no stated rate": ({"array": [0.0]}, "sampling_rate: got None"),
    "a rate as text": ({"array": [0.0], "sampling_rate": "8000"}, "a whole number"),
    "a rate of zero": ({"array": [0.0], "sampling_rate": 0}, "a rate of 0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_clip_is_refused_by_its_reason(name: str) -> None:
    cell, message = HOSTILE[name]
    with pytest.raises(InputError, match=message) as error:
        open_clip(cell, rate=RATE, where="input")
    assert str(error.value).startswith("input")


def test_every_problem_of_a_clip_is_named() -> None:
    with pytest.raises(InputError) as error:
        open_clip(np.full((3, 10), np.inf), rate=20, where="input")
    assert [one.given for one in error.value.problems] == [
        *("a rate of 20", "3 channels", "NaN or infinity"),
    ]


def test_a_stream_of_unknown_length_is_read() -> None:
    content = bytearray(encoded(noise(0)))
    content[40:44] = b"\xff\xff\xff\xff"
    assert len(open_clip(bytes(content), rate=RATE).samples) == 3000


def test_a_clip_that_resampling_would_make_too_long_is_refused() -> None:
    clip = Clip(np.zeros(2**20, dtype=np.float32), 1000)
    with pytest.raises(InputError, match="1,048,576 samples of rate 1,000"):
        resample(clip, 384_000)


def test_invalid_clips_of_every_split_are_listed_at_once(clips) -> None:
    train = [encoded(noise(row)) for row in range(ROWS)]
    train[3], train[9] = b"", encoded(noise(0, channels=4))
    with pytest.raises(InputError) as error:
        clips(train, test=[encoded(noise(90)), encoded(noise(91, 0))])
    found = str(error.value)
    for words in ("'audio' in train), row 3", "row 9: got '4 channels'", "'audio' in test), row 1"):
        assert words in found


def test_changed_clips_are_counted(clips) -> None:
    cells = [encoded(noise(row)) for row in range(ROWS)]
    cells[0] = encoded(noise(0, channels=2))
    cells[1] = encoded(noise(1, 9000), 16000)
    cells[2] = encoded(np.zeros(100, dtype=np.int16))
    notes = clips(cells).facts.notes
    for words in ("stereo, mixed to mono", "resampled to 8,000 Hz", "longer than 0.5 s", "silent"):
        assert any(one.startswith("1 of 40 clips are " + words) for one in notes), words


def test_the_preprocessing_is_loaded_and_reads_what_users_have(clips, tmp_path: Path) -> None:
    data = clips()
    data.preprocess.save(tmp_path)
    prepare = load_preprocess(tmp_path)
    assert prepare == data.preprocess
    row = int(data.train._samples._encoded._rows[0])
    samples, expected = noise(row, 2000 + 50 * row), all_of(data)[:1].numpy()
    (tmp_path / "clip.wav").write_bytes(encoded(samples))
    for value in (
        *(encoded(samples), tmp_path / "clip.wav", samples),
        {"array": (samples / 32768).tolist(), "sampling_rate": RATE},
    ):
        assert np.array_equal(prepare([prepare.read(value, where="input")])["audio"], expected)


def test_a_clip_is_shown_as_its_spectrogram(clips) -> None:
    cells = [encoded(tone(100 * (1 + row % 2) ** 4)) for row in range(ROWS)]
    data = clips(cells)
    for row in range(2):
        image = np.asarray(data.train.raw(row)["image"])
        hertz = 100 if data.train.labels[row] == 0 else 1600
        loudest = len(image) - 1 - image.mean(axis=1).argmax()
        assert loudest * RATE / 256 == pytest.approx(hertz, abs=32)


def test_folders_of_sounds_name_their_classes(tmp_path: Path, read: Read) -> None:
    for number, name in enumerate(("yes", "no")):
        (tmp_path / "words" / name).mkdir(parents=True)
        (tmp_path / "words" / name / "notes.txt").write_text("by hand")
        for row in range(10):
            path = tmp_path / "words" / name / f"{row}.flac"
            path.write_bytes(encoded(noise(10 * number + row), kind="FLAC"))
    audio = {"rate": RATE, "seconds": 0.5}
    data = read(source="audiofolder", files={"train": "words"}, audio=audio)
    assert data.classes == ("no", "yes")
    assert data.train[0]["audio"].shape == (1, LENGTH)
    assert "train: left out, as no sound files: no/notes.txt, yes/notes.txt" in data.facts.notes
    changed = tmp_path / "words/no/0.flac"
    changed.write_bytes(encoded(noise(99), kind="FLAC"))
    again = read(source="audiofolder", files={"train": "words"}, audio=audio)
    assert again.facts.fingerprint != data.facts.fingerprint
    (tmp_path / "empty/no").mkdir(parents=True)
    with pytest.raises(InputError, match="no sound file one folder deep"):
        read(source="audiofolder", files={"train": "empty"}, audio=audio)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"audio": {"rate": 0, "seconds": 1}}, "greater than or equal to 1000"),
        ({"audio": {"seconds": 1}}, "audio.rate\n  Field required"),
        ({"audio": {"rate": 8000}}, "audio.seconds\n  Field required"),
        ({"audio": {"rate": 8000, "seconds": 0}}, "greater than 0"),
        ({"audio": {"rate": 8000, "seconds": float("nan")}}, "audio.seconds"),
        ({"audio": {"rate": 8000, "seconds": 1e-6}}, "are 0 samples; allowed: 1 to 67,108,864"),
        ({"audio": {"rate": 384_000, "seconds": 600}}, "are 230,400,000 samples"),
        ({"augment_audio": {"shift": 0.5}}, "augment_audio.shift 0.5; allowed: less than 0.5 sec"),
        (
            {"augment_audio": {"time_masks": 1, "time_mask": 9, "frequency_masks": 1,
                               "frequency_mask": 4000}},
            "time_mask 9; .*; augment_audio.frequency_mask 4000; allowed: less than 4000 hertz",
        ),
        ({"augment": {"flip": True}}, "augment is given for audio data; allowed: for image data"),
        ({"image": {}}, "audio and image are given"),
        ({"augment_audio": {"pitch": 1}}, "Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_invalid_settings_are_refused(keys: dict[str, Any], message: str) -> None:
    own = {"rate": RATE, "seconds": LENGTH / RATE}
    content = {"source": "parquet", "files": {"train": "a.parquet"}, "audio": own, **keys}
    with pytest.raises(ValidationError, match=message):
        DataSpec.model_validate(content)


def test_a_missing_column_names_its_key(clips) -> None:
    with pytest.raises(InputError, match=r"data.audio.column .*got 'adio'.*did you mean .audio"):
        clips(audio={"column": "adio"})
