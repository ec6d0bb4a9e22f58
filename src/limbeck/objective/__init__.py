"""What a student is trained on: weighted terms, averaged over units in one place.

Losses answer with one value a unit and know no weights; only the `Objective` weights, masks and
averages.
"""

from limbeck.objective.checks import TermGradient
from limbeck.objective.objective import Objective
from limbeck.objective.result import Answers, Losses, Responds, TermLoss, TrainingSet
from limbeck.terms import Term

__all__ = [
    "Answers",
    "Losses",
    "Objective",
    "Responds",
    "Term",
    "TermGradient",
    "TermLoss",
    "TrainingSet",
]
