"""Representations of a teacher's soft targets, and its answer for a batch.

A distribution over classes is stored as all logits, top-k classes, sampled classes, or hidden
states with the head; `limbeck.losses.divergence` and `fused_divergence` accept any of them. Values
and independent labels have their own forms.
"""

from limbeck.targets.answer import Answer, CategoricalTargets, Targets
from limbeck.targets.categorical import DenseTargets, Rows, SampledTargets, Tail, TopKTargets
from limbeck.targets.head import HeadTargets, head_problems, softcap_
from limbeck.targets.layout import Layout, Precision
from limbeck.targets.packed import PackedLayout, expanded
from limbeck.targets.values import BernoulliTargets, ValueTargets

__all__ = [
    "Answer",
    "BernoulliTargets",
    "CategoricalTargets",
    "DenseTargets",
    "HeadTargets",
    "Layout",
    "PackedLayout",
    "Precision",
    "Rows",
    "SampledTargets",
    "Tail",
    "Targets",
    "TopKTargets",
    "ValueTargets",
    "expanded",
    "head_problems",
    "softcap_",
]
