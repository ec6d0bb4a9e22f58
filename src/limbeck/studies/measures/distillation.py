"""Students under an objective: the measure of most studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from limbeck.objective import Objective
from limbeck.objective.objective import ObjectiveLike
from limbeck.studies.measures import bench
from limbeck.studies.measures.bench import Spec


def student(
    *,
    seed: int,
    data: str,
    student: Spec,
    teacher: Spec | None = None,
    objective: ObjectiveLike = "label_only",
    training: Mapping[str, Any],
    rows: int | None = None,
    labelled: int | None = None,
    test_rows: int | None = None,
    teacher_seed: int | None = None,
    teacher_scale: float = 1.0,
    input_noise: float = 0.0,
) -> dict[str, float]:
    """Train a student and evaluate it on the test samples.

    Args:
        seed: The seed of student, labelled rows and, unless `teacher_seed` is given, teacher.
        data: The data set; see `bench.data`.
        student: The student's net.
        teacher: The teacher's net, with `members` and the settings of its training.
        objective: Terms, or a method by name, as in a recipe.
        training: Settings of the student's training, as in a recipe.
        rows: Training samples; all if None.
        labelled: Of these, samples with a label; all if None.
        test_rows: Test samples; all if None.
        teacher_seed: The seed of the teacher, for one teacher of all students.
        teacher_scale: A factor on the teacher's logits.
        input_noise: The deviation of Gaussian noise on the test inputs, for `noisy_accuracy`.

    Returns:
        What `bench.describe` computes on the test samples, `train_accuracy`, `parameters`,
        `noisy_accuracy` with noise, and with a teacher its own values as `teacher_...`.
    """
    on = bench.data(data).with_rows(rows)
    test = on.test if test_rows is None else on.test.take(torch.arange(test_rows))
    net = bench.build(student, on, seed=seed)
    aim = Objective.of(objective)
    mask = None if labelled is None else bench.mask(on, labelled, seed=seed)
    values: dict[str, float] = {}
    given: Any = None
    teacher_test = None
    if teacher is not None:
        spec = {**teacher, **({} if labelled is None else {"labelled": labelled})}
        models = bench.teachers(
            spec, on, seed=seed if teacher_seed is None else teacher_seed, key=f"{data} {rows}"
        )
        teacher_test = (
            teacher_scale * bench.ensemble([bench.logits(one, test.inputs) for one in models])
            if len(models) > 1
            else teacher_scale * bench.logits(models[0], test.inputs)
        )
        found = bench.describe(teacher_test, test)
        values |= {f"teacher_{name}": value for name, value in found.items()}
        if aim.needs_teacher and aim.teacher_taps:
            given = models[0]
        elif aim.needs_teacher:
            rows_of = [bench.logits(one, on.train.inputs) for one in models]
            given = teacher_scale * (bench.ensemble(rows_of) if len(rows_of) > 1 else rows_of[0])
    bench.train(net, on, aim, seed=seed, teacher=given, labelled=mask, **training)
    answers = bench.logits(net, test.inputs)
    values = {**bench.describe(answers, test, teacher_test), **values}
    values["train_accuracy"] = bench.describe(bench.logits(net, on.train.inputs), on.train)[
        "accuracy"
    ]
    values["parameters"] = bench.parameters(net)
    if input_noise:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(test.inputs.shape, generator=generator)
        noisy = bench.logits(net, test.inputs + input_noise * noise)
        values["noisy_accuracy"] = bench.describe(noisy, test)["accuracy"]
    return values
