"""Audio classification: an element is a clip."""

from __future__ import annotations

from limbeck.tasks._base import AUDIO_INPUTS
from limbeck.tasks._classification import Classification


class AudioClassification(Classification):
    """Classification of sound clips, from mono waveforms `[n, length]`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> task = AudioClassification(classes=("yes", "no"))
        >>> batch = {"audio": torch.zeros(3, 400), "labels": torch.tensor([0, 1, 1])}
        >>> task.loss(task.respond(nn.Linear(400, 2), batch))["logits"].shape
        torch.Size([3])
    """

    name = "audio_classification"
    inputs = AUDIO_INPUTS
