"""Training schemes: the computation of one training step, one file per scheme."""

from limbeck.schemes.offline import Offline
from limbeck.schemes.scheme import Scheme

__all__ = ["Offline", "Scheme"]
