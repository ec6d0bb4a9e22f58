"""Decision trees, forests and boosting of scikit-learn, as teachers of tables.

`{source: sklearn, name: HistGradientBoostingClassifier, max_iter: 300}` is fitted by
`train_teacher` on the training rows, as the preprocessing returns them, with their weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.errors import InputError, Problem, check_choice
from limbeck.models.arguments import check_names
from limbeck.models.source import Fit, Source
from limbeck.models.trees import TreeEnsemble, estimator_of

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec

TASKS = {"Classifier": "tabular_classification", "Regressor": "tabular_regression"}
KINDS = (
    *("DecisionTree", "ExtraTree", "ExtraTrees", "RandomForest"),
    *("GradientBoosting", "HistGradientBoosting"),
)
# Set by the run, without effect on the result, or of no use for rows that are numbers.
OWN = frozenset(
    {"random_state", "n_jobs", "verbose", "warm_start", "oob_score", "init", "categorical_features"}
)
# A positive target and its logarithm, or a logit of half the size.
LOSSES = frozenset({"poisson", "gamma", "exponential"})
UNUSED = ("path", "output", "loading", "class_names", "normalization", "output_type")


def names() -> list[str]:
    """Return the names of the estimators."""
    return sorted(f"{kind}{role}" for kind in KINDS for role in TASKS)


def check(spec: ModelSpec) -> None:
    """Check the name, and the arguments by scikit-learn's own constraints."""
    from sklearn.utils._param_validation import InvalidParameterError

    where = f"model ({spec.name})"
    check_choice(spec.name, names(), where="model.name")
    default = estimator_of(spec.name, {})
    known = set(default.get_params()) - OWN
    check_names(spec.arguments, known, where=where, fitted=())
    problems = [
        Problem(f"model.{key}", getattr(spec, key), "nothing, for trees that this run fits")
        for key in UNUSED
        if key in spec.model_fields_set
    ]
    problems += [
        Problem(
            f"{where}.{key}", spec.arguments[key], "a loss or criterion without a link function"
        )
        for key in ("loss", "criterion")
        if spec.arguments.get(key) in LOSSES
    ]
    try:
        default.set_params(**spec.arguments)._validate_params()
    except InvalidParameterError as error:
        problems.append(Problem(where, spec.arguments, "arguments of the estimator", str(error)))
    if problems:
        raise InputError(*problems)


def tasks(spec: ModelSpec) -> tuple[str, ...]:
    """Return the tasks that an estimator can be the teacher of."""
    return tuple(task for role, task in TASKS.items() if spec.name.endswith(role))


def build(spec: ModelSpec, fit: Fit) -> nn.Module:
    """Build the module, with one leaf until it is fitted or loaded."""
    check(spec)
    return TreeEnsemble(fit.classes, spec.name, spec.arguments)


def architecture(spec: ModelSpec, fit: Fit) -> str:
    """Raise an error: trees are not a student, whose source ships.

    Raises:
        InputError: Always.
    """
    allowed = "a model that is trained by gradient descent"
    raise InputError(Problem("student", spec.name, allowed))


source = Source(build=build, architecture=architecture, names=names, check=check, fitted_for=tasks)
