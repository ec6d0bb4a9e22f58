"""The pictures that scikit-learn brings along: `{source: sklearn, name: digits}`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.data.loaded import Loaded
from limbeck.data.sources._arrays import from_arrays
from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from limbeck.data.spec import DataSpec

NAMES = ("digits",)


def load(spec: DataSpec) -> Loaded:
    """Load 1,797 scanned digits, 8x8 pixels of 17 grey levels, from scikit-learn itself.

    Raises:
        InputError: The name is another one.
    """
    if spec.name not in NAMES:
        fix = did_you_mean(spec.name, NAMES)
        raise InputError(Problem("data.name", spec.name, ", ".join(NAMES), fix))
    from sklearn.datasets import load_digits

    digits = load_digits()
    names = [str(name) for name in digits.target_names]
    pictures = digits.images.astype("uint8")
    train = from_arrays(pictures, digits.target, names=names, where="data.name")
    licence = "CC-BY-4.0 (Alpaydin and Kaynak, UCI Machine Learning Repository)"
    return Loaded({"train": train}, divide_by=16, licence=licence)
