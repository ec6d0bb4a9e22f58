"""Teachers and students of any kind: forests, boosted and single trees, networks."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from torch import Tensor

from limbeck.objective.objective import ObjectiveLike
from limbeck.studies.measures import bench
from limbeck.studies.measures.bench import Data, Spec

_FOREST: Mapping[str, Callable[..., ClassifierMixin]] = {
    "forest": RandomForestClassifier,
    "boosting": GradientBoostingClassifier,
}
SMALLEST = 1e-3
"""The least probability of a tree ensemble, whose leaves have zeros."""


def any_kind(
    *,
    seed: int,
    data: str,
    teacher: Spec,
    student: Spec,
    objective: ObjectiveLike,
    training: Mapping[str, Any],
    labelled: int,
) -> dict[str, float]:
    """Train a student of any kind on the labels, and another on soft targets of all rows.

    Args:
        seed: The seed.
        data: The data set.
        teacher: `forest` or `boosting` with arguments of scikit-learn's class, or a net.
        student: `tree` with arguments of scikit-learn's classes, or a net. A tree on soft targets
            is a regression tree of the probabilities.
        objective: The objective of a net with a teacher; its labels are the same.
        training: Settings of a net's training.
        labelled: The number of rows with a label.

    Returns:
        `accuracy`, `label_accuracy`, `gain` (their difference), `teacher_accuracy`, `agreement`,
        `shortfall` (the teacher's accuracy minus the student's), `bytes` and `teacher_bytes`,
        `size_ratio`, and `time_ratio`, of the CPU times of a prediction of all test rows at once
        (the least of 5).
    """
    on = bench.data(data)
    rows = bench.mask(on, labelled, seed=seed)
    soft, predict_teacher, teacher_bytes = _teacher(teacher, on, rows, seed)
    alone, taught, predict, size = _students(student, on, rows, soft, objective, training, seed)
    labels = on.test.labels.numpy()
    answer = predict_teacher().argmax(1)
    return {
        "accuracy": float((taught == labels).mean()),
        "label_accuracy": float((alone == labels).mean()),
        "gain": float((taught == labels).mean() - (alone == labels).mean()),
        "teacher_accuracy": float((answer == labels).mean()),
        "shortfall": float((answer == labels).mean() - (taught == labels).mean()),
        "agreement": float((taught == answer).mean()),
        "bytes": size,
        "teacher_bytes": teacher_bytes,
        "size_ratio": size / teacher_bytes,
        "time_ratio": _seconds(predict) / _seconds(predict_teacher),
    }


Predict = Callable[[], np.ndarray]


def _teacher(spec: Spec, on: Data, rows: Tensor, seed: int) -> tuple[Tensor, Predict, int]:
    """Return the logits of the training rows, the prediction of the test rows, and the size."""
    arguments = dict(spec)
    name = str(arguments.pop("name"))
    if name not in _FOREST:
        [model] = bench.teachers(
            {**spec, "labelled": int(rows.sum())}, on, seed=seed, key=f"{on.classes} any kind"
        )
        found = bench.logits(model, on.train.inputs)
        return found, lambda: bench.logits(model, on.test.inputs).numpy(), _size(model.state_dict())
    x, test = (one.inputs.flatten(1).numpy() for one in (on.train, on.test))
    trees = _FOREST[name](random_state=seed, **arguments).fit(x[rows], on.train.labels[rows])
    found = torch.from_numpy(trees.predict_proba(x)).float().clamp_min(SMALLEST).log()
    found = found - found.mean(1, keepdim=True)
    return found, lambda: trees.predict_proba(test), _size(trees)


def _students(
    spec: Spec,
    on: Data,
    rows: Tensor,
    soft: Tensor,
    objective: ObjectiveLike,
    training: Mapping[str, Any],
    seed: int,
) -> tuple[np.ndarray, np.ndarray, Predict, int]:
    """Return the predictions on the test rows: of labels alone, and of soft targets."""
    arguments = dict(spec)
    if arguments["name"] == "tree":
        del arguments["name"]
        x, test = (one.inputs.flatten(1).numpy() for one in (on.train, on.test))
        alone = DecisionTreeClassifier(random_state=seed, **arguments)
        alone.fit(x[rows], on.train.labels[rows])
        tree = DecisionTreeRegressor(random_state=seed, **arguments).fit(x, soft.softmax(1))
        taught = tree.predict(test).argmax(1)
        return alone.predict(test), taught, lambda: tree.predict(test), _size(tree)
    nets = [
        bench.train(
            bench.build(spec, on, seed=seed),
            on,
            aim,
            seed=seed,
            teacher=given,
            labelled=rows,
            **training,
        )
        for aim, given in (("label_only", None), (objective, soft))
    ]
    first, second = (bench.logits(net, on.test.inputs).argmax(1).numpy() for net in nets)
    net = nets[1]
    return (
        first,
        second,
        lambda: bench.logits(net, on.test.inputs).numpy(),
        _size(net.state_dict()),
    )


def _size(model: object) -> int:
    """Return the bytes of a model's file: joblib for trees, the weights for a network."""
    if isinstance(model, Mapping):
        return sum(one.numel() * one.element_size() for one in model.values())
    file = io.BytesIO()
    joblib.dump(model, file)
    return file.tell()


def _seconds(predict: Predict, *, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        predict()
        times.append(time.process_time() - begun)
    return max(min(times), 1e-6)
