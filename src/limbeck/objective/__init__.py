"""The training objective: weighted loss terms, averaged over elements in one place.

Losses return one unweighted value per element; only the `Objective` weights, masks and averages.
"""

from limbeck.objective.checks import TermGradient
from limbeck.objective.objective import Objective
from limbeck.objective.result import Losses, TermLoss, TrainingSet
from limbeck.objective.terms import Term

__all__ = [
    "Losses",
    "Objective",
    "Term",
    "TermGradient",
    "TermLoss",
    "TrainingSet",
]
