"""The net on log-mel spectrograms: its spectrogram, its padding, and the file that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import get_window
from torch import fx, nn
from transformers.audio_utils import mel_filter_bank

from limbeck.compress.quantizers.int8_static import quantize
from limbeck.errors import InputError
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor
from limbeck.models.build import build
from limbeck.models.nets.audio_cnn import FLOOR, LogMel, audio_cnn
from limbeck.models.spec import ModelSpec
from limbeck.tasks.audio_classification import AudioClassification
from limbeck.tasks.audio_multilabel import AudioMultilabel
from limbeck.testing import check_task

CLASSES = ("yes", "no", "maybe")
TASK = AudioClassification(CLASSES)


def log_mel(
    samples: NDArray[np.float64], rate: int, mels: int, window: float, hop: float
) -> NDArray[np.float64]:
    """Compute the spectrogram `[mels, frames]` in float64, frame by frame, by its definition."""
    width, step = round(rate * window), round(rate * hop)
    size = 2 ** int(np.ceil(np.log2(width)))
    frame = get_window("hann", width)  # periodic
    banks = mel_filter_bank(size // 2 + 1, mels, 20.0, rate / 2, rate, mel_scale="htk")
    rows = []
    for number in range((len(samples) - size) // step + 1):
        first = number * step + (size - width) // 2
        spectrum = np.fft.rfft(samples[first : first + width] * frame / frame.sum(), size)
        rows.append(np.log(np.maximum(np.abs(spectrum) ** 2 @ banks, FLOOR)))
    return np.array(rows).T


@pytest.mark.parametrize(
    ("rate", "mels", "window", "hop"),
    [(8000, 40, 0.025, 0.01), (16000, 64, 0.025, 0.01), (8000, 20, 0.032, 0.016)],
)
def test_the_spectrogram_is_that_of_its_definition(
    rate: int, mels: int, window: float, hop: float
) -> None:
    random = np.random.default_rng(0)
    samples = random.normal(size=rate // 2) * np.linspace(0, 0.3, rate // 2)
    samples += 0.5 * np.sin(np.arange(rate // 2) * 0.3)
    found, sounds = LogMel(rate, mels, window, hop)(torch.tensor(samples).float()[None])
    expected = log_mel(samples, rate, mels, window, hop)
    assert found.shape == (1, *expected.shape)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-3)
    assert sounds.all()


def test_full_scale_has_a_power_of_a_quarter() -> None:
    """A sine of size 1 has a quarter of its power at the positive frequency, spread over bins."""
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / 8000)[None]
    loudest = LogMel(8000, 40, 0.032, 0.01)(tone)[0][..., 10:-10].max().exp()
    assert 0.1 < loudest < 0.5


def net(**arguments: Any) -> nn.Module:
    torch.manual_seed(1)
    made = audio_cnn(3, rate=8000, length=4000, **arguments)
    for module in made.modules():  # as after training: the mean of silence is not that of sound
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.normal_(module.bias, std=0.5)
    return made.eval()


@pytest.mark.parametrize(
    "arguments", [{}, {"depth": 1, "width": 3}, {"depth": 4, "hop": 0.02, "per_band": True}]
)
def test_padding_weighs_nothing(arguments: dict[str, Any]) -> None:
    model = net(**arguments)
    clip = torch.randn(2, 3777) * 0.1
    expected = model(nn.functional.pad(clip, (0, 300)))
    for more in (301, 500, 1234, 6000):
        found = model(nn.functional.pad(clip, (0, more)))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_clip_is_independent_of_its_batch_and_its_level() -> None:
    model = net()
    clips = torch.randn(3, 4000) * 0.1
    clips[1, 1500:] = 0
    together = model(clips)
    for row in range(3):
        torch.testing.assert_close(model(clips[row : row + 1])[0], together[row])
    torch.testing.assert_close(model(clips * 0.5), together, rtol=1e-3, atol=1e-3)
    # A filter of 0.5 and 0.2 is a microphone: with a mean per band, it changes little.
    filtered = clips.clone()
    filtered[:, 1:] = 0.5 * clips[:, 1:] + 0.2 * clips[:, :-1]
    nets = (model, net(per_band=True))
    changes = [(one(filtered) - one(clips)).abs().max().item() for one in nets]
    assert changes[1] < changes[0] / 2
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_silence_has_finite_logits_and_gradients() -> None:
    model = net().train()
    clips = torch.zeros(2, 4000)
    clips[1, :100] = 1e-30
    clips.requires_grad_()
    logits = model(clips)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert clips.grad is not None
    assert torch.isfinite(clips.grad).all()
    assert all(torch.isfinite(one.grad).all() for one in model.parameters())


@pytest.mark.slow
def test_the_file_takes_the_waveform_and_computes_what_the_net_does(tmp_path: Path) -> None:
    model = net()
    clips = torch.randn(5, 4000) * torch.tensor([1, 0.3, 1e-3, 1e-5, 0.0])[:, None]
    clips[1, 900:] = 0
    path = tmp_path / "model.onnx"
    to_onnx(model, TASK, {"audio": clips[:2]}, path)
    found = OnnxPredictor(path, threads=1).predict({"audio": clips.numpy()})["logits"]
    np.testing.assert_allclose(found, model(clips).detach().numpy(), atol=1e-3)
    # The window and the filters, not a matrix of the Fourier transform of 200 x 258 numbers.
    assert path.stat().st_size < 130_000


@pytest.mark.slow
def test_int8_rounds_no_waveform_and_no_power(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, time = audio_cnn(3, 8000, 4000, width=4, hop=0.02), torch.arange(4000) / 8000
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(30):
        labels = torch.randint(3, (24, 1))
        hertz = 300 + 1000 * labels + 500 * torch.rand(24, 1)
        clips = torch.sin(2 * torch.pi * hertz * time) + 0.3 * torch.randn(24, 4000)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(clips), labels[:, 0]).backward()
        optimizer.step()
    model.eval()
    # With 8 bits for -1 to 1, a step is 0.008: such a waveform would be noise.
    batch = {"audio": torch.cat([clips, clips * 0.01]).numpy()}
    path = tmp_path / "model.onnx"
    to_onnx(model, TASK, {"audio": clips[:2]}, path)
    record = quantize(path, tmp_path / "int8.onnx", calibration=[batch])
    assert record.quantized["Conv"] == 3
    assert not {"MatMul", "Pad"} & set(record.quantized)
    expected, found = (
        OnnxPredictor(tmp_path / name, threads=1).predict(batch)["logits"]
        for name in ("model.onnx", "int8.onnx")
    )
    assert (expected[:24].argmax(1) == labels[:, 0].numpy()).mean() > 0.9
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)


@pytest.mark.parametrize("task", [TASK, AudioMultilabel(CLASSES)])
def test_tasks_of_sounds_meet_the_laws(task: AudioClassification | AudioMultilabel) -> None:
    labels = torch.tensor([0, 2, 1, 1])
    batch = {
        "audio": torch.randn(4, 4000),
        "labels": labels if task is TASK else torch.eye(3)[labels],
    }
    check_task(task, net(width=2, depth=2), batch)


def test_the_weights_have_no_copy_of_the_spectrogram() -> None:
    model = net()
    assert not [name for name in model.state_dict() if name.startswith("front")]
    assert sum(one.numel() for one in audio_cnn(10, 8000, 6400).parameters()) == 24_058
    assert isinstance(fx.symbolic_trace(model), fx.GraphModule)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0, "width": 0}, "width 0; allowed: 1 or more; depth 0; allowed: 1 to 8"),
        ({"mels": 65}, "mels 65; allowed: 1 to 64"),
        ({"hop": 0.03}, "hop 0.03; allowed: 0 to the window"),
        ({"hop": 0.0}, "hop 0.0; allowed"),
        ({"window": 2.0}, "window 2.0; allowed: 0 to 1 s; length 4000"),
        ({"window": 0.0}, "window 0.0; allowed"),
        ({"window": 0.9}, "length 4000; allowed: 8192 samples or more, a frame"),
        ({"rate": 4000}, "Remove it: it follows from the data"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    spec = ModelSpec(source="limbeck", name="audio_cnn", **arguments)
    with pytest.raises(InputError, match=message):
        build(spec, classes=3, rate=8000, length=4000)
