"""The connector of `overhaul`: the student's projected pre-activations, and the margins."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limbeck.connectors.base import ConnectorOutput, PairConnector
from limbeck.connectors.features import (
    Normalize,
    channels,
    check_pair,
    pool_to_smaller,
    projection,
    single_pair,
)
from limbeck.core.tensors import Features

_MINIMUM_SHARE = 1e-3  # the published bound: a mean of fewer negative responses is unreliable


class Margins(PairConnector):
    """The projection of the student's pre-activations, and the teacher's margins.

    The larger of two maps is average-pooled to the size of the smaller.

    Attributes:
        project: A 1×1 convolution or a linear layer, with batch normalisation.
        margin: The given margin, a buffer.
    """

    margin: Tensor

    def __init__(self, student_channels: int, margin: Tensor, *, maps: bool) -> None:
        super().__init__()
        layer = projection(student_channels, len(margin), maps=maps, bias=False)
        self.project = nn.Sequential(layer, Normalize(len(margin), maps=maps))
        self.register_buffer("margin", margin)

    def forward(
        self, student: Features, teacher: Features, inputs: Mapping[str, Tensor]
    ) -> ConnectorOutput:
        """Return the student's and the teacher's responses, and the margin as an argument."""
        student, teacher = single_pair(student, teacher, where="margins")
        features, teacher = pool_to_smaller(student.to(self.margin.dtype), teacher)
        return ConnectorOutput(self.project(features), teacher, {"margin": self.margin})


def build(student: Features, teacher: Features) -> PairConnector:
    """Build the connector from example responses before the ReLU.

    The margins are the mean negative responses of the example batch, for any teacher; the authors
    estimate them from the teacher's batch normalisation
    (`limbeck.losses.features.batch_norm_margin`). A channel with less than 0.1 % negative
    responses has a margin of three standard deviations below 0, as published.

    Raises:
        InputError: The features cannot be connected; the message has the reason.

    Example:
        >>> student, teacher = torch.zeros(2, 1), torch.tensor([[-3.0, 1.0], [-1.0, 1.0]])
        >>> build(student, teacher)(student, teacher, {}).arguments["margin"]
        tensor([-2., -0.])

    Source: Heo et al. 2019b.
    """
    student, teacher = check_pair(student, teacher, where="margins")
    maps = teacher.ndim == 4
    responses = teacher.detach().float().movedim(1 if maps else -1, 0).flatten(1)
    negative = responses < 0
    mean = responses.clamp_max(0).sum(1) / negative.sum(1).clamp_min(1)
    reliable = negative.float().mean(1) > _MINIMUM_SHARE
    margin = torch.where(reliable, mean, -3 * responses.std(1, unbiased=False))
    return Margins(channels(student), margin, maps=maps).to(student.device)
