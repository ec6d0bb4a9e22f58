"""Distillation losses: pure functions of student and teacher outputs, or labels.

`__all__` lists the losses only: their names in recipes. The first argument of every loss is the
student, the second the teacher, targets or labels; all others are keyword-only. Losses return one
value per element, or one per batch (`BATCH_LOSSES`); only the `Objective` weights and averages.
No gradient reaches the teacher. Half precision is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from limbeck.core.registry import Catalogue
from limbeck.losses.attention_maps import (
    attention_kl,
    attention_mse,
    attention_transfer,
    factor_transfer,
    minilm_relation,
    neuron_selectivity,
)
from limbeck.losses.classification import (
    binary_kl,
    cross_entropy,
    label_smoothing,
    logit_mse,
    soft_target_kl,
)
from limbeck.losses.contrastive import crd, info_nce
from limbeck.losses.detection import giou, sigmoid_focal
from limbeck.losses.divergences import dist, divergence, dkd, mlkd, standardized_kl, ttm, wttm
from limbeck.losses.features import (
    activation_boundary,
    fitnet_hint,
    fsp,
    gram,
    overhaul,
    review_kd,
    spatial_correlation,
    variational_information,
)
from limbeck.losses.fused import fused_divergence
from limbeck.losses.ordinal import cumulative_cross_entropy
from limbeck.losses.quantiles import quantile_regression
from limbeck.losses.relations import (
    correlation_congruence,
    pkt,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from limbeck.losses.sampled import sampled_divergence as sampled_divergence
from limbeck.losses.transformers import embedding_mse, hidden_cosine, hidden_mse

__all__ = [
    "activation_boundary",
    "attention_kl",
    "attention_mse",
    "attention_transfer",
    "binary_kl",
    "correlation_congruence",
    "crd",
    "cross_entropy",
    "cumulative_cross_entropy",
    "dist",
    "divergence",
    "dkd",
    "embedding_mse",
    "factor_transfer",
    "fitnet_hint",
    "fsp",
    "fused_divergence",
    "giou",
    "gram",
    "hidden_cosine",
    "hidden_mse",
    "info_nce",
    "label_smoothing",
    "logit_mse",
    "minilm_relation",
    "mlkd",
    "neuron_selectivity",
    "overhaul",
    "pkt",
    "quantile_regression",
    "review_kd",
    "rkd_angle",
    "rkd_distance",
    "sigmoid_focal",
    "similarity_preserving",
    "soft_target_kl",
    "spatial_correlation",
    "standardized_kl",
    "ttm",
    "variational_information",
    "wttm",
]
OUTPUT_KINDS = {
    "binary_kl": "binary",
    "giou": "value",
    "quantile_regression": "quantiles",
    "sigmoid_focal": "binary",
    **dict.fromkeys(
        (
            *("cross_entropy", "label_smoothing", "soft_target_kl", "divergence", "dkd", "dist"),
            *("fused_divergence", "mlkd", "standardized_kl", "ttm", "wttm"),
            "cumulative_cross_entropy",
        ),
        "categorical",
    ),
}
"""The kind of output that a loss compares, of losses that are defined for one kind only."""

BATCH_LOSSES = frozenset(
    {
        "correlation_congruence",
        "crd",
        "dist",
        "fsp",
        "fused_divergence",
        "info_nce",
        "mlkd",
        "pkt",
        "rkd_angle",
        "rkd_distance",
        "similarity_preserving",
        "spatial_correlation",
    }
)
"""The losses that return one scalar per batch, not one value per element."""

LOSSES = Catalogue(__name__, kind="loss", group=__name__, own=True)
"""The losses by name: those of `__all__`, of plug-ins, and the user's own."""


def find(name: str, *, where: str = "loss") -> Callable[..., Tensor]:
    """Return the loss of that name; raise an error with similar names if it is unknown.

    Example:
        >>> find("soft_target_kl") is soft_target_kl
        True
        >>> find("soft_taget_kl")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: loss: got 'soft_taget_kl'; ... did you mean "soft_target_kl"...
    """
    loss: Callable[..., Tensor] = LOSSES.load(name, where=where)
    return loss
