"""The training loop: any scheme, one process or many, with bit-exact resume."""

from limbeck.training.checkpoint import CheckpointError
from limbeck.training.loop import Silent, Ticker, fit
from limbeck.training.record import History
from limbeck.training.settings import Training

__all__ = ["CheckpointError", "History", "Silent", "Ticker", "Training", "fit"]
