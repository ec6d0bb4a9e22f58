"""Training schemes: the computation of one training step, one file per scheme."""

from limbeck.core.registry import Registry, camel_case
from limbeck.schemes._settings import SchemeInputs, SchemeSettings
from limbeck.schemes.offline import Offline
from limbeck.schemes.scheme import Phase, Scheme

SCHEMES = Registry(
    "limbeck.schemes",
    kind="scheme",
    attribute=lambda name: f"{camel_case(name)}Settings",
    skip=("scheme",),
    own=True,
)
"""The settings of each scheme, by its name in a recipe."""

__all__ = ["SCHEMES", "Offline", "Phase", "Scheme", "SchemeInputs", "SchemeSettings"]
