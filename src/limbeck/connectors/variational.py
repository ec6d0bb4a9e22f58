"""The connector of `variational_information` (VID): mean and variance of the teacher's features."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.connectors.base import ConnectorOutput, PairConnector
from limbeck.connectors.features import (
    channels,
    check_pair,
    pool_to_smaller,
    projection,
    single_pair,
)
from limbeck.core.tensors import Features

_INITIAL_VARIANCE = 5.0
_MINIMUM = 1e-5  # a variance of 0 makes the loss infinite


class Variational(PairConnector):
    """A normal distribution over the teacher's features, predicted from the student's.

    The mean is computed by three 1×1 convolutions (linear layers for vectors and sequences) with
    ReLUs between them; the variance is one parameter per channel, softplus(a) + 1e-5, independent
    of the input. The larger of two maps is average-pooled to the size of the smaller.

    Attributes:
        regress: The layers that predict the mean.
        scale: a, `[channels of the teacher]`; the initial variance is 5.
    """

    def __init__(self, student_channels: int, teacher_channels: int, *, maps: bool) -> None:
        super().__init__()
        self.regress = nn.Sequential(
            projection(student_channels, teacher_channels, maps=maps, bias=False),
            nn.ReLU(),
            projection(teacher_channels, teacher_channels, maps=maps, bias=False),
            nn.ReLU(),
            projection(teacher_channels, teacher_channels, maps=maps, bias=False),
        )
        initial = math.log(math.expm1(_INITIAL_VARIANCE - _MINIMUM))
        self.scale = nn.Parameter(torch.full((teacher_channels,), initial))

    @property
    def variance(self) -> Tensor:
        """Return the variance, `[channels of the teacher]`."""
        return F.softplus(self.scale) + _MINIMUM

    def forward(
        self, student: Features, teacher: Features, inputs: Mapping[str, Tensor]
    ) -> ConnectorOutput:
        """Return the predicted mean, the teacher's features, and the variance as an argument."""
        student, teacher = single_pair(student, teacher, where="variational")
        features, teacher = pool_to_smaller(student.to(self.scale.dtype), teacher)
        return ConnectorOutput(self.regress(features), teacher, {"variance": self.variance})


def build(student: Features, teacher: Features) -> PairConnector:
    """Build the connector from example features of one layout.

    Raises:
        InputError: The features cannot be connected; the message has the reason.

    Example:
        >>> connector = build(torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4))
        >>> output = connector(torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4), {})
        >>> output.student.shape, output.arguments["variance"].shape
        (torch.Size([2, 16, 4, 4]), torch.Size([16]))

    Source: Ahn et al. 2019 (VID); layers of Tian, Krishnan and Isola 2020.
    """
    student, teacher = check_pair(student, teacher, where="variational")
    connector = Variational(channels(student), channels(teacher), maps=student.ndim == 4)
    return connector.to(student.device)
