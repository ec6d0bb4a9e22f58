"""limbeck: knowledge distillation and model compression for PyTorch.

The public names below are loaded lazily, so that `import limbeck` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck import losses, taps, targets
    from limbeck.errors import InputError, LimbeckError
    from limbeck.export.module import export
    from limbeck.objective import Losses, Objective, TrainingSet, methods, schedules
    from limbeck.objective.terms import Term
    from limbeck.pipeline.functional import factorize, prune, quantize, quantize_onnx
    from limbeck.pipeline.load_recipe import resolve
    from limbeck.pipeline.recipe import Recipe
    from limbeck.pipeline.runner import run
    from limbeck.report.load import load_run
    from limbeck.schemes import Offline
    from limbeck.serving.predictions import Forecast, Prediction, Segmentation, Values
    from limbeck.serving.student import Student, load_student
    from limbeck.taps import Taps
    from limbeck.targets import DenseTargets, HeadTargets, SampledTargets, TopKTargets
    from limbeck.teachers import CachedTeacher, EnsembleTeacher, FrozenTeacher
    from limbeck.training import Training, fit

__all__ = [
    "CachedTeacher",
    "DenseTargets",
    "EnsembleTeacher",
    "Forecast",
    "FrozenTeacher",
    "HeadTargets",
    "InputError",
    "LimbeckError",
    "Losses",
    "Objective",
    "Offline",
    "Prediction",
    "Recipe",
    "SampledTargets",
    "Segmentation",
    "Student",
    "Taps",
    "Term",
    "TopKTargets",
    "Training",
    "TrainingSet",
    "Values",
    "distill",
    "export",
    "factorize",
    "fit",
    "load_run",
    "load_student",
    "losses",
    "methods",
    "prune",
    "quantize",
    "quantize_onnx",
    "resolve",
    "run",
    "schedules",
    "taps",
    "targets",
]
# The module of each public name; a name that is missing here is itself a module.
_MODULES = {
    "CachedTeacher": "teachers",
    "DenseTargets": "targets",
    "EnsembleTeacher": "teachers",
    "FrozenTeacher": "teachers",
    "HeadTargets": "targets",
    "InputError": "errors",
    "LimbeckError": "errors",
    "Losses": "objective",
    "Objective": "objective",
    "Offline": "schemes",
    "Forecast": "serving.predictions",
    "Prediction": "serving.predictions",
    "Segmentation": "serving.predictions",
    "Recipe": "pipeline.recipe",
    "SampledTargets": "targets",
    "Student": "serving.student",
    "Taps": "taps",
    "Term": "objective.terms",
    "TopKTargets": "targets",
    "Training": "training",
    "TrainingSet": "objective",
    "Values": "serving.predictions",
    "distill": "pipeline.distillation",
    "factorize": "pipeline.functional",
    "fit": "training",
    "load_run": "report.load",
    "load_student": "serving.student",
    "methods": "objective",
    "prune": "pipeline.functional",
    "quantize": "pipeline.functional",
    "quantize_onnx": "pipeline.functional",
    "resolve": "pipeline.load_recipe",
    "run": "pipeline.runner",
    "schedules": "objective",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in __all__:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    if name not in _MODULES:
        return importlib.import_module(f"limbeck.{name}")
    return getattr(importlib.import_module(f"limbeck.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
