"""What `variational_information` learns: the teacher's features, and how sure it is of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.connectors.blocks import channels, check_pair, mix, one_size
from limbeck.connectors.joint import Joined, Joint

_FIRST_VARIANCE = 5.0
_LEAST = 1e-5  # a variance of 0 would make the loss infinite


class Variational(Joint):
    """Predict a normal distribution over the teacher's features from the student's.

    The mean comes from three layers of 1×1 convolutions (linear ones for vectors and sequences)
    with a ReLU between them; the variance is one number a channel, softplus(a) + 1e-5, whatever the
    input. Of two maps, the larger is averaged down to the size of the smaller.

    Args:
        ours: The student's channels.
        theirs: The teacher's channels.
        maps: Whether features have a height and a width.

    Attributes:
        regress: Predicts the mean.
        scale: a, `[channels of the teacher]`; at first it stands for a variance of 5.
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
        """The variance, `[channels of the teacher]`."""
        return F.softplus(self.scale) + _LEAST

    def forward(self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor]) -> Joined:
        """Give the predicted mean, the teacher's features, and the variance as an argument."""
        features, teacher = one_size(student.to(self.scale.dtype), teacher)
        return Joined(self.regress(features), teacher, {"variance": self.variance})


def build(student: Any, teacher: Any, *, samples: int | None = None) -> Joint:
    """Build the parts from one probe, with weights from torch's generator, on its device.

    Args:
        student: The student's feature: `[n, channels, height, width]`, `[n, tokens, d]` or
            `[n, d]`.
        teacher: The teacher's feature, of the same kind.
        samples: How many samples there are to train on; makes no difference here.

    Raises:
        InputError: The two cannot be joined; the message says why.

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
