"""Training schemes: the computation of one training step, one file per scheme."""

from limbeck.schemes.offline import Offline
from limbeck.schemes.scheme import Phase, Scheme

__all__ = ["Offline", "Phase", "Scheme"]
