"""The forms that a teacher's soft answer takes.

A form says what was kept of the teacher's distribution: all logits, the likeliest classes, some
classes drawn by chance, or the hidden states that the logits are made of.
`limbeck.losses.divergence` and `fused_divergence` take any of them.
"""

from typing import TypeAlias

from limbeck.targets.dense import DenseTargets
from limbeck.targets.head import HeadTargets, capped, head_problems
from limbeck.targets.rows import Rows
from limbeck.targets.sampled import SampledTargets
from limbeck.targets.top_k import TopKTargets

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
