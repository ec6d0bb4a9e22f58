"""Representations of a teacher's soft targets.

The teacher's distribution is kept as all logits, top-k classes, sampled classes, or hidden states
with the head. `limbeck.losses.divergences` and `fused_divergence` accept any of them.
"""

from typing import TypeAlias

from limbeck.targets.categorical import DenseTargets, Rows, TopKTargets
from limbeck.targets.head import HeadTargets, capped, head_problems
from limbeck.targets.sampled import SampledTargets

Targets: TypeAlias = DenseTargets | TopKTargets | SampledTargets | HeadTargets
__all__ = [
    "DenseTargets",
    "HeadTargets",
    "Rows",
    "SampledTargets",
    "Targets",
    "TopKTargets",
    "capped",
    "head_problems",
]
