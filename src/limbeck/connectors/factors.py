"""The connector of `factor_transfer`: the teacher's paraphraser and the student's translator."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from pydantic import PositiveFloat
from torch import Tensor, nn

from limbeck.connectors.base import ConnectorOutput, PairConnector
from limbeck.connectors.features import Normalize, channels, check_pair, projection, single_pair
from limbeck.core.tensors import Features

_KERNEL = 3
_NEGATIVE_SLOPE = 0.1


class Factors(PairConnector):
    """The paraphraser of the teacher's features and the translator of the student's.

    The paraphraser is an autoencoder with three encoder and three decoder layers, without
    normalisation; it is trained only by its reconstruction of the teacher's features, so that the
    factors do not adapt to the student. The authors pretrain it for some epochs; here it is trained
    with the student, which saves a stage. The translator has the encoder's three layers, with
    normalisation.

    Attributes:
        translate: The translator, from the student's features to factors.
        paraphrase: The encoder, from the teacher's features to factors.
        restore: The decoder, from factors to the teacher's features.
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, *, maps: bool, rate: float
    ) -> None:
        super().__init__()
        student, teacher = student_channels, teacher_channels
        count = max(1, int(teacher * rate))
        self.translate = _layers([student, student, count, count], maps=maps, normalize=True)
        self.paraphrase = _layers([teacher, teacher, count, count], maps=maps)
        self.restore = _layers([count, count, teacher, teacher], maps=maps, transposed=True)

    def forward(
        self, student: Features, teacher: Features, inputs: Mapping[str, Tensor]
    ) -> ConnectorOutput:
        """Return both factors, the teacher's without gradient, and the reconstruction's MSE."""
        student, teacher = single_pair(student, teacher, where="factors")
        dtype = next(self.parameters()).dtype
        features = teacher.detach().to(dtype)
        factors = self.paraphrase(features)
        difference = self.restore(factors) - features
        error = difference.square().sum() / max(1, difference.numel())
        return ConnectorOutput(self.translate(student.to(dtype)), factors.detach(), aux_loss=error)


def _layers(
    counts: list[int], *, maps: bool, normalize: bool = False, transposed: bool = False
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(counts):
        layers.append(projection(inputs, outputs, maps=maps, size=_KERNEL, transposed=transposed))
        if normalize:
            layers.append(Normalize(outputs, maps=maps))
        layers.append(nn.LeakyReLU(_NEGATIVE_SLOPE))
    return nn.Sequential(*layers)


def build(student: Features, teacher: Features, *, rate: PositiveFloat = 0.5) -> PairConnector:
    """Build the connector from example features of one layout.

    For vectors, only the loss's form `factor` is meaningful. `rate`, above 0, is the number of
    factors divided by the number of the teacher's channels.

    Raises:
        InputError: The features cannot be connected; the message has the reason.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(2, 8, 4, 4), torch.zeros(2, 16, 4, 4)
        >>> output = build(student, teacher)(student, teacher, {})
        >>> output.student.shape, output.teacher.shape, output.aux_loss.shape
        (torch.Size([2, 8, 4, 4]), torch.Size([2, 8, 4, 4]), torch.Size([]))

    Source: Kim, Park and Kwak 2018 (FT); layers of Tian, Krishnan and Isola 2020.
    """
    student, teacher = check_pair(student, teacher, where="factors")
    connector = Factors(channels(student), channels(teacher), maps=student.ndim == 4, rate=rate)
    return connector.to(student.device)
