"""Representations of a teacher's soft targets.

The teacher's distribution is stored as all logits, top-k classes, sampled classes, or hidden states
with the head. `limbeck.losses.divergence` and `fused_divergence` accept any of them.
"""

from typing import TypeAlias

from limbeck.targets.categorical import DenseTargets, Rows, SampledTargets, Tail, TopKTargets
from limbeck.targets.head import HeadTargets, head_problems, softcap_

Targets: TypeAlias = DenseTargets | TopKTargets | SampledTargets | HeadTargets
__all__ = [
    "DenseTargets",
    "HeadTargets",
    "Rows",
    "SampledTargets",
    "Tail",
    "Targets",
    "TopKTargets",
    "head_problems",
    "softcap_",
]
