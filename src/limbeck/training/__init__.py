"""The training loop: any scheme, one process or many, with bit-exact resume."""

from limbeck.training.checkpoint import CheckpointError
from limbeck.training.groups import frozen
from limbeck.training.log import History
from limbeck.training.loop import NullProgressBar, ProgressBar, fit
from limbeck.training.settings import Training
from limbeck.training.stream import Stream

__all__ = [
    "CheckpointError",
    "History",
    "NullProgressBar",
    "ProgressBar",
    "Stream",
    "Training",
    "fit",
    "frozen",
]
