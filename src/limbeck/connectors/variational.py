"""The connector of `variational_information` (VID): mean and variance of the teacher's features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.connectors.features import channels, check_pair, mix, one_size
from limbeck.connectors.joints import ConnectorOutput, PairConnector

_FIRST_VARIANCE = 5.0
_LEAST = 1e-5  # a variance of 0 makes the loss infinite


class Variational(PairConnector):
    """A normal distribution over the teacher's features, predicted from the student's.

    The mean is computed by three 1×1 convolutions (linear layers for vectors and sequences) with
    ReLUs between them; the variance is one parameter per channel, softplus(a) + 1e-5, independent
    of the input. The larger of two maps is average-pooled to the size of the smaller.

    Args:
        ours: The number of the student's channels.
        theirs: The number of the teacher's channels.
        maps: Whether features are maps.

    Attributes:
        regress: The layers that predict the mean.
        scale: a, `[channels of the teacher]`; the initial variance is 5.
    """

    def __init__(self, ours: int, theirs: int, *, maps: bool) -> None:
        super().__init__()
        self.regress = nn.Sequential(
            mix(ours, theirs, maps=maps, bias=False),
            nn.ReLU(),
            mix(theirs, theirs, maps=maps, bias=False),
            nn.ReLU(),
            mix(theirs, theirs, maps=maps, bias=False),
        )
        start = math.log(math.expm1(_FIRST_VARIANCE - _LEAST))
        self.scale = nn.Parameter(torch.full((theirs,), start))

    @property
    def variance(self) -> Tensor:
        """Return the variance, `[channels of the teacher]`."""
        return F.softplus(self.scale) + _LEAST

    def forward(
        self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor]
    ) -> ConnectorOutput:
        """Return the predicted mean, the teacher's features, and the variance as an argument."""
        features, teacher = one_size(student.to(self.scale.dtype), teacher)
        return ConnectorOutput(self.regress(features), teacher, {"variance": self.variance})


def build(student: Any, teacher: Any, *, samples: int | None = None) -> PairConnector:
    """Build the connector from example features, with weights from torch's generator.

    Args:
        student: The student's feature: `[n, channels, height, width]`, `[n, tokens, d]` or
            `[n, d]`.
        teacher: The teacher's feature, of the same layout.
        samples: The number of training samples; unused.

    Raises:
        InputError: The features cannot be connected; the message has the reason.

    Example:
        >>> parts = build(torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4))
        >>> joined = parts(torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4), {})
        >>> joined.student.shape, joined.arguments["variance"].shape
        (torch.Size([2, 16, 4, 4]), torch.Size([16]))

    Source: Ahn et al. 2019 (VID); layers of Tian, Krishnan and Isola 2020.
    """
    check_pair(student, teacher, where="variational")
    parts = Variational(channels(student), channels(teacher), maps=student.ndim == 4)
    return parts.to(student.device)
