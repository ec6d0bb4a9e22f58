"""Tasks: the interpretation of a batch, one file per task.

A task runs a model on a batch, flattens its outputs to elements, and defines loss and metrics.
"""

from limbeck.core.registry import Registry, camel_case
from limbeck.tasks.details import Details, details_of
from limbeck.tasks.scores import Score, ScoreTable
from limbeck.tasks.task import (
    IGNORED,
    SAMPLE,
    Axes,
    Batch,
    Kind,
    Output,
    Response,
    Task,
    common_classes,
    element_rows,
    is_classifier,
    labels_of,
    mean_loss,
    primary_output,
    shares_inputs,
    total_weights,
)

TASKS = Registry(
    "limbeck.tasks",
    kind="task",
    attribute=camel_case,
    skip=("task", "checks", "scores", "details"),
    own=True,
)
__all__ = [
    "IGNORED",
    "SAMPLE",
    "TASKS",
    "Axes",
    "Batch",
    "Details",
    "Kind",
    "Output",
    "Response",
    "Score",
    "ScoreTable",
    "Task",
    "common_classes",
    "details_of",
    "element_rows",
    "is_classifier",
    "labels_of",
    "mean_loss",
    "primary_output",
    "shares_inputs",
    "total_weights",
]
