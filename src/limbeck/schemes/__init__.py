"""What one training step is: one file a scheme."""

from limbeck.schemes.offline import Offline
from limbeck.schemes.scheme import Scheme

__all__ = ["Offline", "Scheme"]
