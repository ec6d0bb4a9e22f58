"""Which loss gets which parts between student and teacher."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from torch import Tensor, nn

from limbeck.connectors.joint import Joined, Joint
from limbeck.connectors.shapes import Connector, connect
from limbeck.errors import InputError, Problem

Builder: TypeAlias = Callable[..., Joint]

BUILDERS: Mapping[str, str] = MappingProxyType(
    {
        "attention_kl": "limbeck.connectors.attention:build_probabilities",
        "attention_mse": "limbeck.connectors.attention:build_scores",
        "crd": "limbeck.connectors.contrastive:build",
        "factor_transfer": "limbeck.connectors.factors:build",
        "overhaul": "limbeck.connectors.margins:build",
        "review": "limbeck.connectors.fusion:build",
        "variational_information": "limbeck.connectors.variational:build",
    }
)
"""The losses whose learned parts see both sides, and what builds them."""

UNJOINED = frozenset(
    {
        # They sum the channels up, and average the larger map down to the smaller.
        "attention_transfer",
        "neuron_selectivity",
        "spatial_correlation",
        # They compare samples with each other, so that features need no common width.
        "correlation_congruence",
        "probabilistic_transfer",
        "rkd_angle",
        "rkd_distance",
        "similarity_preserving",
        # They compare tokens with each other. A layer between would learn to relate tokens in the
        # student's place.
        "attention_kl",
        "attention_mse",
        "minilm_relation",
    }
)
"""The losses that take features of different shapes as they are."""

_ANY_SIZE = frozenset({"flow", "gram"})  # they take maps of other sizes, but of as many channels


class StudentSide(Joint):
    """Apply a module to the student's features, and leave the teacher's alone.

    Of several features each has a module of its own.

    Args:
        module: What is applied: a `Connector`, one of the user's, or a `nn.ModuleList` of them.

    Example:
        >>> import torch
        >>> side = StudentSide(nn.Linear(3, 5))
        >>> side(torch.zeros(2, 3), torch.zeros(2, 5), {}).student.shape
        torch.Size([2, 5])
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, student: Any, teacher: Any, inputs: Mapping[str, Tensor]) -> Joined:
        """Bring the student's features to the teacher's."""
        if not isinstance(self.module, nn.ModuleList):
            return Joined(_apply(self.module, student, teacher), teacher)
        sides = zip(self.module, student, teacher, strict=True)
        return Joined(tuple(_apply(*side) for side in sides), tuple(teacher))


def join(
    loss_name: str, student: Any, teacher: Any, *, samples: int | None = None, **settings: Any
) -> Joint:
    """Build what stands between a student's and a teacher's features for a loss.

    Args:
        loss_name: The loss. One that is not limbeck's own gets what `connect` builds.
        student: The student's feature for one probe batch, or a sequence of them.
        teacher: The same of the teacher.
        samples: How many samples there are to train on, for parts that remember them.
        **settings: What else the loss's builder takes.

    Returns:
        Parts that train with the student. For a loss in `UNJOINED` that is given one tensor a
        side, something that changes nothing.

    Raises:
        InputError: The features cannot be joined; the message says why.

    Example:
        >>> import torch
        >>> joint = join("fitnet_hint", torch.zeros(2, 8), torch.zeros(2, 64))
        >>> joint(torch.zeros(5, 8), torch.zeros(5, 64), {}).student.shape
        torch.Size([5, 64])
    """
    single = isinstance(student, Tensor)
    if loss_name in BUILDERS and not (single and loss_name in UNJOINED):
        return _builder(loss_name)(student, teacher, samples=samples, **settings)
    if settings:
        raise InputError(
            Problem(f"connector.{next(iter(settings))}", settings, "no settings for this loss")
        )
    if loss_name in UNJOINED:
        return StudentSide(nn.Identity())
    size = loss_name not in _ANY_SIZE
    if single and isinstance(teacher, Tensor):
        return StudentSide(connect(student, teacher, size=size))
    pairs = _paired(student, teacher)
    return StudentSide(nn.ModuleList(connect(*both, size=size) for both in pairs))


def as_joint(module: nn.Module) -> Joint:
    """Take a module of the user: parts for both sides as they are, others for the student's.

    Example:
        >>> as_joint(nn.Linear(3, 5))
        StudentSide(
          (module): Linear(in_features=3, out_features=5, bias=True)
        )
    """
    return module if isinstance(module, Joint) else StudentSide(module)


def _builder(loss_name: str) -> Builder:
    module, _, function = BUILDERS[loss_name].partition(":")
    return cast("Builder", getattr(importlib.import_module(module), function))


def _apply(module: nn.Module, student: Any, teacher: Any) -> Any:
    if isinstance(module, Connector):
        return module(student, like=teacher)
    return module(student)


def _paired(student: Any, teacher: Any) -> list[tuple[Tensor, Tensor]]:
    listed = isinstance(student, Sequence) and isinstance(teacher, Sequence)
    if listed and len(student) == len(teacher) > 0:
        return list(zip(student, teacher, strict=True))
    given = f"student {_counted(student)}, teacher {_counted(teacher)}"
    raise InputError(Problem("connector", given, "as many features on one side as on the other"))


def _counted(features: Any) -> str:
    return "one feature" if isinstance(features, Tensor) else f"{len(features)} features"
