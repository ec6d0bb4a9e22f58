"""Data sets included in scikit-learn: `{source: sklearn, name: digits}`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from limbeck.data.loaded import Loaded
from limbeck.data.sources._arrays import from_arrays
from limbeck.errors import check_choice

if TYPE_CHECKING:
    import datasets

    from limbeck.data.spec import DataSpec

LICENCES = {
    "breast_cancer": "CC-BY-4.0 (Wolberg and others, UCI Machine Learning Repository)",
    "diabetes": "not stated (Efron, Hastie, Johnstone and Tibshirani, Annals of Statistics 2004)",
    "digits": "CC-BY-4.0 (Alpaydin and Kaynak, UCI Machine Learning Repository)",
    "iris": "CC-BY-4.0 (Fisher, UCI Machine Learning Repository)",
    "wine": "CC-BY-4.0 (Aeberhard and Forina, UCI Machine Learning Repository)",
}


def load(spec: DataSpec) -> Loaded:
    """Load a data set of scikit-learn: digit images, or a table of measurements.

    The digits are 1,797 scans, 8x8 pixels of 17 grey levels; a table's columns have scikit-learn's
    feature names, such as `mean radius`. `diabetes` has the numeric column `target`.

    Raises:
        InputError: The name is unknown.
    """
    check_choice(spec.name, tuple(LICENCES), where="data.name")
    bunch = getattr(importlib.import_module("sklearn.datasets"), f"load_{spec.name}")()
    licence = LICENCES[spec.name]
    if spec.name == "diabetes":
        return Loaded({"train": _table(bunch, None)}, licence=licence)
    names = [str(name) for name in bunch.target_names]
    if spec.name != "digits":
        return Loaded({"train": _table(bunch, names)}, licence=licence)
    images = bunch.images.astype("uint8")
    train = from_arrays(images, bunch.target, names=names, where="data.name")
    return Loaded({"train": train}, divide_by=16, licence=licence)


def _table(bunch: Any, names: list[str] | None) -> datasets.Dataset:
    import datasets

    columns = dict(zip(map(str, bunch.feature_names), bunch.data.T, strict=True))
    data = datasets.Dataset.from_dict(columns)
    if names is None:
        return data.add_column("target", bunch.target)
    return data.add_column("label", bunch.target, feature=datasets.ClassLabel(names=names))
