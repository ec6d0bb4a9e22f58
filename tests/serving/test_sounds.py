"""A served student of sounds gets the waveform of the training, from whatever a user has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from encoded_sounds import encoded, noise
from torch import Tensor, nn
from typer.testing import CliRunner

from limbeck import InputError, load_student
from limbeck.cli import _app
from limbeck.data.load import Data, load
from limbeck.data.spec import DataSpec
from limbeck.export.onnx import embed_classes, to_onnx
from limbeck.export.predictor import OnnxPredictor
from limbeck.report.usage import usage
from limbeck.tasks.audio_classification import AudioClassification

RATE, LENGTH, ROWS = 8000, 2000, 30
CLASSES = ["no", "maybe", "yes"]
# Shorter and longer than the input, of two rates, mono and stereo.
SOUNDS = [
    encoded(noise(row, 1000 + 100 * row, 1 + row % 2), (8000, 11025)[row % 3 == 0], kind="FLAC")
    for row in range(ROWS)
]


class Bands(nn.Module):
    """A linear layer on the energy of ten parts of a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 3)

    def forward(self, audio: Tensor) -> Tensor:
        return self.linear(audio.unflatten(1, (10, -1)).square().mean(2) * 200 - 2.4)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data]:
    folder = tmp_path_factory.mktemp("sounds") / "student"
    rows = {"audio": SOUNDS, "label": CLASSES * (ROWS // 3)}
    datasets.Dataset.from_dict(rows).to_parquet(folder.parent / "rows.parquet")
    spec = DataSpec(
        source="parquet",
        files={"train": str(folder.parent / "rows.parquet")},
        audio={"rate": RATE, "seconds": LENGTH / RATE},
        classes=CLASSES,
    )
    data = load(spec, workdir=folder)
    torch.manual_seed(0)
    batch = data.train.__getitems__([0, 1])
    to_onnx(Bands(), AudioClassification(data.classes), batch, folder / "model.onnx")
    embed_classes(folder / "model.onnx", CLASSES)
    data.preprocess.save(folder)
    return folder, data


def raw_of(data: Data) -> tuple[list[bytes], np.ndarray]:
    """Return the encoded training clips, and their waveforms in training."""
    rows = data.train._samples._encoded._rows
    return [SOUNDS[row] for row in rows], data.train.__getitems__(range(len(rows)))["audio"].numpy()


def test_inputs_are_those_of_the_training_bit_by_bit(shipped, tmp_path: Path) -> None:
    folder, data = shipped
    student, (raw, waveforms) = load_student(folder), raw_of(data)
    logits = OnnxPredictor(folder / "model.onnx").predict({"audio": waveforms})["logits"]
    expected = [CLASSES[number] for number in logits.argmax(axis=1)]
    paths = [tmp_path / f"{row}.flac" for row in range(len(raw))]
    for path, content in zip(paths, raw, strict=True):
        path.write_bytes(content)
    records = [{"array": one, "sampling_rate": RATE} for one in waveforms]
    for values in (raw, paths, [str(one) for one in paths], list(waveforms), records):
        read = [student.preprocess.read(one, where="input") for one in values]
        assert np.array_equal(student.preprocess(read)["audio"], waveforms)
        assert [one.label for one in student.predict(values, batch_size=7)] == expected
    assert len(set(expected)) > 1
    # One clip, and a batch as one array.
    for single in (raw[0], paths[0], waveforms[0], torch.tensor(waveforms[0]), records[0]):
        assert student.predict(single).label == expected[0]
    assert [one.label for one in student.predict(waveforms)] == expected


def test_every_invalid_clip_of_a_batch_is_named(shipped) -> None:
    student = load_student(shipped[0])
    with pytest.raises(InputError) as error:
        student.predict([SOUNDS[0], b"", "nowhere.wav", np.array([np.nan]), 3.5])
    found = str(error.value)
    for words in (
        *("inputs[1]: got '0 bytes'", "inputs[2] (nowhere.wav): got 'no such file'"),
        *("inputs[3]: got 'NaN or infinity'", "inputs[4]: got 'an array of shape ()'"),
    ):
        assert words in found


def test_predict_takes_files_folders_and_tables(shipped, tmp_path: Path) -> None:
    folder, _ = shipped
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/a.wav").write_bytes(SOUNDS[1])
    (tmp_path / "in/deep/b.flac").write_bytes(SOUNDS[2])
    (tmp_path / "in/notes.txt").write_text("none")
    (tmp_path / "in/rows.csv").write_text("audio\na.wav\ndeep/b.flac\n")
    given = [tmp_path / "in", tmp_path / "in/a.wav", tmp_path / "in/rows.csv"]
    ended = CliRunner().invoke(_app(), ["predict", str(folder), *map(str, given), "--json"])
    assert ended.exit_code == 0, ended.output
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    labels = [load_student(folder).predict(SOUNDS[row]).label for row in (1, 2)]
    assert [row["label"] for row in rows] == [*labels, labels[0], *labels]
    for wrong, words in (
        (tmp_path / "in/notes.wav", "no such file"),
        (tmp_path / "none", "a sound file"),
    ):
        ended = CliRunner().invoke(_app(), ["predict", str(folder), str(wrong)])
        assert ended.exit_code == 2
        assert words in ended.output


@pytest.mark.slow
def test_the_code_of_the_card_runs_in_a_bare_process(shipped, tmp_path: Path) -> None:
    folder, data = shipped
    code = usage("audio_classification", "audio").split("```python\n")[1].split("```")[0]
    show = (
        "\nnp.save('wave.npy', audio)\n"
        "import sys\nassert not {'torch', 'limbeck', 'datasets'} & set(sys.modules)\n"
    )
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data.preprocess.save(tmp_path)
    for row in (1, 3, 24):  # short stereo, resampled, longer than the input
        (tmp_path / "clip.wav").write_bytes(SOUNDS[row])
        ended = subprocess.run(
            [sys.executable, "-c", code + show],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"]},
        )
        assert ended.returncode == 0, ended.stderr
        student = load_student(folder)
        assert student.predict(SOUNDS[row]).label in ended.stdout
        wave = student.preprocess.read(SOUNDS[row], where="input")
        assert np.array_equal(np.load(tmp_path / "wave.npy")[0], wave)
