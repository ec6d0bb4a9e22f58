"""limbeck: knowledge distillation and model compression for PyTorch.

The public names below are loaded lazily, so that `import limbeck` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck import losses, methods, schedules, taps, targets
    from limbeck.errors import InputError, LimbeckError
    from limbeck.objective import Losses, Objective
    from limbeck.pipeline.recipe import Recipe
    from limbeck.pipeline.resolve import resolve
    from limbeck.pipeline.runner import run
    from limbeck.report.load import load_run
    from limbeck.schemes import Offline
    from limbeck.taps import Taps
    from limbeck.targets import DenseTargets
    from limbeck.teachers import EnsembleTeacher, FrozenTeacher, RecordedTeacher
    from limbeck.terms import Term
    from limbeck.training import Training, fit

_MODULES = ("losses", "methods", "schedules", "taps", "targets")
_PLACES = {
    "DenseTargets": "targets",
    "EnsembleTeacher": "teachers",
    "FrozenTeacher": "teachers",
    "InputError": "errors",
    "LimbeckError": "errors",
    "Losses": "objective",
    "Objective": "objective",
    "HeadTargets": "targets",
    "SampledTargets": "targets",
    "TopKTargets": "targets",
    "TrainingSet": "objective",
    "Offline": "schemes",
    "Recipe": "pipeline.recipe",
    "RecordedTeacher": "teachers",
    "Taps": "taps",
    "Term": "terms",
    "Training": "training",
    "fit": "training",
    "load_run": "report.load",
    "resolve": "pipeline.resolve",
    "run": "pipeline.runner",
}

__all__ = [
    "DenseTargets",
    "EnsembleTeacher",
    "FrozenTeacher",
    "InputError",
    "LimbeckError",
    "Losses",
    "Objective",
    "Offline",
    "Recipe",
    "RecordedTeacher",
    "Taps",
    "Term",
    "Training",
    "fit",
    "load_run",
    "losses",
    "methods",
    "resolve",
    "run",
    "schedules",
    "taps",
    "targets",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name in _MODULES:
        return importlib.import_module(f"limbeck.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    return getattr(importlib.import_module(f"limbeck.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
