"""What `factor_transfer` learns: a short form of the teacher's features, and a way to reach it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from limbeck.connectors.blocks import Normalize, channels, check_pair, mix
from limbeck.connectors.joint import Joined, Joint
from limbeck.errors import InputError, Problem
from limbeck.numbers import is_positive

_RATE = 0.5
_SIDE = 3
_LEAK = 0.1


class Factors(Joint):
    """Translate the student's features into the factors that a paraphraser finds in the teacher's.

    The paraphraser is an autoencoder of three layers and three back, without normalisation; it
    learns from its reconstruction of the teacher's features and from nothing else, so that the
    factors do not come to meet the student. The authors train it alone for some epochs first; here
    it learns beside the student, which needs one stage less. The translator has the paraphraser's
    three first layers, normalised.

    Args:
        ours: The student's channels.
        theirs: The teacher's channels.
        maps: Whether features have a height and a width: 3×3 convolutions, or linear layers.
        rate: How many factors there are, as a part of the teacher's channels.

    Attributes:
        translate: From the student's features to factors.
        paraphrase: From the teacher's features to factors.
        restore: From factors to the teacher's features.
    """

    def __init__(self, ours: int, theirs: int, *, maps: bool, rate: float) -> None:
        super().__init__()
        count = max(1, int(theirs * rate))
        self.translate = _layers([ours, ours, count, count], maps=maps, normalize=True)
        self.paraphrase = _layers([theirs, theirs, count, count], maps=maps)
        self.restore = _layers([count, count, theirs, theirs], maps=maps, back=True)

    def forward(self, student: Tensor, teacher: Tensor, inputs: Mapping[str, Tensor]) -> Joined:
        """Give the factors of both, the teacher's without gradient, and the reconstruction's error.

        The error is the mean squared difference over everything.
        """
        dtype = next(self.parameters()).dtype
        features = teacher.detach().to(dtype)
        factors = self.paraphrase(features)
        difference = self.restore(factors) - features
        own_loss = difference.square().sum() / max(1, difference.numel())
        return Joined(self.translate(student.to(dtype)), factors.detach(), own_loss=own_loss)


def _layers(
    counts: list[int], *, maps: bool, normalize: bool = False, back: bool = False
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for ours, theirs in pairwise(counts):
        layers.append(mix(ours, theirs, maps=maps, size=_SIDE, back=back))
        if normalize:
            layers.append(Normalize(theirs, maps=maps))
        layers.append(nn.LeakyReLU(_LEAK))
    return nn.Sequential(*layers)


def build(student: Any, teacher: Any, *, samples: int | None = None, rate: float = _RATE) -> Joint:
    """Build the parts from one probe, with weights from torch's generator, on its device.

    Args:
        student: The student's feature: `[n, channels, height, width]`, `[n, tokens, d]` or
            `[n, d]` (for which only the loss's form `factor` means anything).
        teacher: The teacher's feature, of the same kind.
        samples: How many samples there are to train on; makes no difference here.
        rate: How many factors there are, as a part of the teacher's channels; above 0.

    Raises:
        InputError: The two cannot be joined, which the message explains; or a rate not above 0.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(2, 8, 4, 4), torch.zeros(2, 16, 4, 4)
        >>> joined = build(student, teacher)(student, teacher, {})
        >>> joined.student.shape, joined.teacher.shape, joined.own_loss.shape
        (torch.Size([2, 8, 4, 4]), torch.Size([2, 8, 4, 4]), torch.Size([]))

    Source: Kim, Park and Kwak 2018 (FT); layers of Tian, Krishnan and Isola 2020.
    """
    check_pair(student, teacher, where="factors")
    if not is_positive(rate):
        raise InputError(Problem("factors.rate", rate, "a number above 0", "Try 0.5."))
    parts = Factors(channels(student), channels(teacher), maps=student.ndim == 4, rate=rate)
    return parts.to(student.device)
