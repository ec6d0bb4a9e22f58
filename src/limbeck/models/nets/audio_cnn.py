"""A convolutional net on log-mel spectrograms, for waveforms; the file that ships takes the sound.

Silent frames, where all samples are exactly 0, are padding or masks over time: they weigh nothing,
so that the padding of a clip does not change its logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["audio_cnn"]

FLOOR = 1e-8
"""The power below which a mel band is silent: -80 dB, full scale is a power of 1."""


def mel_filters(rate: int, size: int, mels: int, low: float) -> Tensor:
    """Compute triangular filters on the HTK mel scale, `[size / 2 + 1, mels]`.

    Args:
        rate: The samples per second; the highest filter ends at half of it.
        size: The size of the Fourier transform.
        mels: The number of filters.
        low: The frequency at which the lowest filter begins, in hertz.

    Source: Young et al. 2006, "The HTK book", section 5.6.
    """
    ends = 2595 * torch.log10(1 + torch.tensor([low, rate / 2], dtype=torch.float64) / 700)
    steps = torch.linspace(0, 1, mels + 2, dtype=torch.float64) * (ends[1] - ends[0]) + ends[0]
    edges = 700 * (10 ** (steps / 2595) - 1)
    hertz = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def _power_of_two(least: int) -> int:
    return 1 << max(1, (least - 1).bit_length())


class LogMel(nn.Module):
    """Log-mel spectrogram: Hann window, power spectrum, mel filters, logarithm.

    Args:
        rate: The samples per second.
        mels: The number of mel bands.
        window: The length of a frame in seconds.
        hop: The step from frame to frame in seconds.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, rate: int, mels: int, window: float, hop: float) -> None:
        super().__init__()
        self.width, self.hop = round(rate * window), round(rate * hop)
        self.size = _power_of_two(self.width)
        # They follow from the arguments: weights have no copy of them.
        frame = torch.hann_window(self.width, dtype=torch.float64)
        self.register_buffer("window", (frame / frame.sum()).float(), persistent=False)
        # Of three axes: int8 quantisation leaves such products in float. Powers span over 80 dB.
        filters = mel_filters(rate, self.size, mels, low=20.0)[None]
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spectrogram `[n, mels, frames]`, and `[n, 1, frames]`: 1 where it sounds."""
        spectrum = torch.stft(
            audio,
            self.size,
            hop_length=self.hop,
            win_length=self.width,
            window=self.window,
            center=False,  # int8 quantisation would round a padded waveform
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(-1)
        mel = (power.transpose(1, 2) @ self.filters).transpose(1, 2)
        sounds = (power.sum(1, keepdim=True) > 0).to(mel.dtype)
        # Not a sum: the ONNX exporter takes so small a summand for 0.
        return mel.clamp(min=FLOOR).log(), sounds


def _block(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),  # not in place: a hook may capture its input
    )


class AudioCNN(nn.Module):
    """A log-mel spectrogram, standardised per clip; 3x3 convolutions with pooling; the mean.

    Args:
        classes: The number of logits.
        front: The spectrogram.
        width: The channels of the first convolution; each next one has twice as many.
        depth: The number of convolutions, each with a pooling by 2.
        dropout: The share of pooled features that training drops.
        per_band: Whether the mean over time is subtracted from each band, not from the whole clip.
    """

    def __init__(
        self,
        classes: int,
        front: LogMel,
        width: int,
        depth: int,
        dropout: float,
        per_band: bool,
    ) -> None:
        super().__init__()
        self.front, self.per_band = front, per_band
        widths = [1, *(width * 2**level for level in range(depth))]
        self.blocks = nn.ModuleList(
            _block(widths[level], widths[level + 1]) for level in range(depth)
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, audio: Tensor) -> Tensor:
        """Return the logits `[n, classes]` of waveforms `[n, length]`."""
        x, sounds = self.front(audio)
        # Standardised over what sounds, so that the level of a recording cancels.
        count = sounds.sum(2, keepdim=True).clamp(min=1.0)
        centred = x if self.per_band else x.mean(1, keepdim=True)
        mean = (centred * sounds).sum(2, keepdim=True) / count
        x = (x - mean) * sounds
        spread = (x.square().mean(1, keepdim=True)).sum(2, keepdim=True) / count
        x = (x / (spread + 1e-5).sqrt()).unsqueeze(1)
        sounds = sounds.unsqueeze(1)
        for block in self.blocks:
            # Silence after the clip is 0 as beyond its edge, and so adds nothing to a maximum.
            x = F.max_pool2d(block(x) * sounds, 2, ceil_mode=True)
            sounds = F.max_pool2d(sounds, (1, 2), ceil_mode=True)
        count = sounds.sum((2, 3)).clamp(min=1.0)
        return self.linear(self.dropout(x.mean(2).sum(2) / count))


def audio_cnn(
    classes: int,
    rate: int,
    length: int,
    *,
    width: int = 16,
    depth: int = 3,
    mels: int = 40,
    window: float = 0.025,
    hop: float = 0.01,
    dropout: float = 0.0,
    per_band: bool = False,
) -> nn.Module:
    """Build the net; with 10 classes and the defaults it has 24,058 parameters.

    Args:
        classes: The number of logits.
        rate: The samples per second.
        length: The number of samples of a clip; the net also takes others of a frame or more.
        width: The channels of the first convolution.
        depth: The number of convolutions; each next one has twice the channels.
        mels: The number of mel bands.
        window: The length of a frame of the spectrogram in seconds.
        hop: The step from frame to frame in seconds.
        dropout: The share of pooled features that training drops.
        per_band: Whether each band loses its mean over time, as in cepstral mean normalisation.

    The mean of a band is that of the microphone and of any constant sound: `per_band` fits speech.

    Raises:
        ValueError: A number is out of range, such as a hop above the window.

    Example:
        >>> net = audio_cnn(10, rate=8000, length=6400)
        >>> net(torch.zeros(2, 6400)).shape
        torch.Size([2, 10])

    Source: Sainath and Parada 2015, "Convolutional neural networks for small-footprint keyword
    spotting"; here with batch normalisation and a mean over time.
    """
    size = _power_of_two(round(rate * window))
    wrong = [
        f"{name} {value}; allowed: {allowed}"
        for name, value, allowed, good in (
            ("width", width, "1 or more", width >= 1),
            ("depth", depth, "1 to 8", 1 <= depth <= 8),
            ("mels", mels, f"1 to {size // 4}", 1 <= mels <= size // 4),
            ("window", window, "0 to 1 s", 2 <= round(rate * window) <= rate),
            ("hop", hop, "0 to the window", 1 <= round(rate * hop) <= round(rate * window)),
            ("length", length, f"{size} samples or more, a frame", length >= size),
        )
        if not good
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
    return AudioCNN(classes, LogMel(rate, mels, window, hop), width, depth, dropout, per_band)
