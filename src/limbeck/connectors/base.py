"""The interface of connectors for both student and teacher features."""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from limbeck.connectors.features import Connector, connect
from limbeck.core.annotations import validate_arguments
from limbeck.core.tensors import Features
from limbeck.errors import InputError, Problem
from limbeck.targets import Targets

_NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


class ConnectorOutput(NamedTuple):
    """The output of a connector: the arguments of a loss.

    Attributes:
        student: A tensor, or a tuple of tensors.
        teacher: The same for the teacher.
        arguments: Further arguments of the loss, such as a learned variance.
        aux_loss: A scalar loss of the connector itself, such as a reconstruction error.
    """

    student: Features
    teacher: Features | Targets
    arguments: Mapping[str, Any] = _NO_ARGUMENTS
    aux_loss: Tensor | None = None


class PairConnector(nn.Module, ABC):
    """A connector for both sides, trained with the student and not saved in its file."""

    @abstractmethod
    def forward(
        self, student: Features, teacher: Features, inputs: Mapping[str, Tensor]
    ) -> ConnectorOutput:
        """Apply the connector to both sides.

        Args:
            student: The student's feature, or a sequence of them.
            teacher: The same for the teacher.
            inputs: The batch's `labels`, `index` and `mask`, if present.
        """


BUILDERS: Mapping[str, str] = MappingProxyType(
    {
        "attention_kl": "limbeck.connectors.attention:build_probabilities",
        "attention_mse": "limbeck.connectors.attention:build_scores",
        "crd": "limbeck.connectors.contrastive:build",
        "factor_transfer": "limbeck.connectors.factors:build",
        "overhaul": "limbeck.connectors.margins:build",
        "review_kd": "limbeck.connectors.fusion:build",
        "variational_information": "limbeck.connectors.variational:build",
    }
)
"""The losses whose learned parts take both sides, and the function that builds these."""

LOSSES_WITHOUT_CONNECTOR = frozenset(
    {
        # They sum over channels, and average-pool the larger map to the size of the smaller.
        "attention_transfer",
        "neuron_selectivity",
        "spatial_correlation",
        # They compare samples with each other, so that widths may differ.
        "correlation_congruence",
        "pkt",
        "rkd_angle",
        "rkd_distance",
        "similarity_preserving",
        # They compare tokens with each other. A connector would learn the relations instead of the
        # student.
        "attention_kl",
        "attention_mse",
        "minilm_relation",
    }
)
"""The losses that accept features of different shapes without a connector."""

_ANY_SIZE = frozenset({"fsp", "gram"})  # maps of any size, but with equal numbers of channels


class StudentConnector(PairConnector):
    """A module applied to the student's features; the teacher's are unchanged.

    Each of several features has its own module.

    Args:
        module: A `Connector`, a user's module, or an `nn.ModuleList` of them.

    Example:
        >>> import torch
        >>> side = StudentConnector(nn.Linear(3, 5))
        >>> side(torch.zeros(2, 3), torch.zeros(2, 5), {}).student.shape
        torch.Size([2, 5])
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, student: Features, teacher: Features, inputs: Mapping[str, Tensor]
    ) -> ConnectorOutput:
        """Map the student's features to the teacher's shapes."""
        if not isinstance(self.module, nn.ModuleList):
            return ConnectorOutput(_apply(self.module, student, teacher), teacher)
        sides = zip(self.module, student, teacher, strict=True)
        return ConnectorOutput(tuple(_apply(*side) for side in sides), tuple(teacher))


def build_connector(
    loss_name: str,
    student: Features,
    teacher: Features,
    *,
    samples: int | None = None,
    **settings: Any,
) -> PairConnector:
    """Build the connector between a student's and a teacher's features for a loss.

    Args:
        loss_name: The loss. Unknown names, as of a user's own loss, have a `StudentConnector`.
        student: The student's feature for an example batch, or a sequence of features.
        teacher: The same for the teacher.
        samples: The number of training samples, for memory banks.
        **settings: Further settings of the loss's connector.

    Returns:
        The connector, trained with the student. For a loss in `LOSSES_WITHOUT_CONNECTOR` with one
        tensor per side, an identity.

    Raises:
        InputError: The features cannot be connected; the message has the reason.

    Example:
        >>> import torch
        >>> connector = build_connector("fitnet_hint", torch.zeros(2, 8), torch.zeros(2, 64))
        >>> connector(torch.zeros(5, 8), torch.zeros(5, 64), {}).student.shape
        torch.Size([5, 64])
    """
    identity = loss_name in LOSSES_WITHOUT_CONNECTOR
    builder = None if identity and isinstance(student, Tensor) else _builder_of(loss_name)
    settings = _validated(builder, settings, where="connector")
    if builder is not None:
        if "samples" in inspect.signature(builder).parameters:
            settings["samples"] = samples
        return builder(student, teacher, **settings)
    if identity:
        return StudentConnector(nn.Identity())
    size = loss_name not in _ANY_SIZE
    if isinstance(student, Tensor) and isinstance(teacher, Tensor):
        return StudentConnector(connect(student, teacher, size=size))
    several = not isinstance(student, Tensor) and not isinstance(teacher, Tensor)
    if not several or len(student) != len(teacher) or not len(student):
        given = f"student {_count(student)}, teacher {_count(teacher)}"
        raise InputError(Problem("connector", given, "equal numbers of features on both sides"))
    pairs = zip(student, teacher, strict=True)
    return StudentConnector(nn.ModuleList(connect(*pair, size=size) for pair in pairs))


def check_settings(loss_name: str, settings: Mapping[str, Any], *, where: str) -> None:
    """Check the settings of a loss's connector, before there are features.

    Raises:
        InputError: The message lists every problem.

    Example:
        >>> check_settings("crd", {"momentum": 2}, where="connector")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: connector.momentum: got 2; allowed: a finite number at least 0...
    """
    _validated(_builder_of(loss_name), settings, where=where)


def _builder_of(loss_name: str) -> Callable[..., PairConnector] | None:
    if loss_name not in BUILDERS:
        return None
    module, _, function = BUILDERS[loss_name].partition(":")
    builder = getattr(importlib.import_module(module), function)
    return cast("Callable[..., PairConnector]", builder)


def _validated(
    builder: Callable[..., PairConnector] | None, settings: Mapping[str, Any], *, where: str
) -> dict[str, Any]:
    if builder is not None:
        return validate_arguments(
            builder, settings, where=where, without=("student", "teacher", "samples")
        )
    if settings:
        key, value = next(iter(settings.items()))
        raise InputError(Problem(f"{where}.{key}", value, "no settings for this loss"))
    return {}


def as_pair_connector(module: nn.Module) -> PairConnector:
    """Wrap a user's module as a `StudentConnector`; return a `PairConnector` unchanged."""
    return module if isinstance(module, PairConnector) else StudentConnector(module)


def _apply(module: nn.Module, student: Features, teacher: Features) -> Tensor:
    arguments = {"like": teacher} if isinstance(module, Connector) else {}
    return cast("Tensor", module(student, **arguments))


def _count(features: Features) -> str:
    return "one feature" if isinstance(features, Tensor) else f"{len(features)} features"
