"""Life-cycle cost: training against inference, and an update against its alternatives."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from contexts import digits
from hypothesis import given
from hypothesis import strategies as st

from limbeck.core.imports import available
from limbeck.errors import InputError
from limbeck.evaluate.cost import Cost, evaluate, lifecycle
from limbeck.evaluate.evaluation import check
from limbeck.evaluate.evaluation import evaluate as run_evaluations
from limbeck.export.onnx import to_onnx

JOULES = st.floats(1e-6, 1e3)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Two models with files, whose trainings took ten seconds and a minute."""
    folder, context = tmp_path_factory.mktemp("files"), digits()
    batch = {"image": torch.from_numpy(next(iter(context.batches()))["image"])}
    sides = {}
    for (name, side), seconds in zip(context.models(), (10.0, 60.0), strict=True):
        path = folder / f"{name}.onnx"
        to_onnx(side.torch_model.model, side.torch_model.task, batch, path)
        sides[name] = replace(side, file=path, seconds=seconds)
    return replace(context, **sides)


@pytest.fixture(scope="module")
def found(context):
    return evaluate(context, seconds=0.05)


@given(st.floats(1, 1e6), JOULES, JOULES)
def test_at_the_break_even_point_both_models_have_used_the_same_energy(spent, before, after):
    count = lifecycle.break_even(spent, before, after)
    if after >= before:
        assert count is None
    else:
        assert spent + count * after == pytest.approx(count * before, rel=1e-6)


def test_units_agree_with_their_definitions():
    assert lifecycle.grams(1000 * 3600) == 475  # a kilowatt hour
    assert lifecycle.inferences_per_mwh(1e-3 * 3600 / 7) == pytest.approx(7)


@pytest.mark.slow
def test_training_energy_is_compared_with_inference(found):
    assert found.training == {"student": 100.0, "teacher": 600.0}
    assert found.grams["teacher"] == pytest.approx(600 / 3.6e6 * 475)
    if found.break_even["both trainings"] is not None:
        ratio = found.break_even["both trainings"] / found.break_even["the student's training"]
        assert ratio == pytest.approx(7)


def test_the_training_time_may_be_unknown(context):
    unknown = replace(context, teacher=replace(context.teacher, seconds=None))
    found = evaluate(unknown, seconds=0.01)
    assert set(found.break_even) == {"the student's training"}
    assert found.notes == ("The teacher's training time is unknown.",)


def test_an_update_is_the_file_or_soft_labels(context, found):
    content = context.student.file.read_bytes()
    assert found.update_sizes["student"] == len(content)
    assert found.update_sizes["student, zlib"] == len(zlib.compress(content, 9))
    assert (
        found.update_sizes["soft labels of 200 samples"] == np.zeros((200, 10), np.float16).nbytes
    )


@pytest.mark.skipif(not available("bsdiff4"), reason="bsdiff4 is not installed")
def test_an_update_by_difference_is_small_where_little_differs(context, tmp_path):
    import bsdiff4
    import onnx

    model = onnx.load(context.student.file)
    [weight] = [one for one in model.graph.initializer if len(one.dims) == 4][:1]
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[0] += 1
    weight.raw_data = values.tobytes()
    previous = tmp_path / "previous.onnx"
    onnx.save(model, previous)
    old, new = previous.read_bytes(), context.student.file.read_bytes()
    sent = run_evaluations(context, {"cost": {"seconds": 0.01, "previous": str(previous)}})
    size = sent.result_of(Cost).update_sizes["student, difference to the previous"]
    patch = bsdiff4.diff(old, new)
    assert size == len(patch) < len(new) / 10
    assert bsdiff4.patch(old, patch) == new


def test_a_missing_previous_file_is_refused_before_the_evaluation():
    with pytest.raises(InputError, match="previous"):
        check({"cost": {"previous": "no_such_file.onnx"}})


def test_a_student_without_a_file_is_noted():
    assert "no file" in evaluate(digits()).notes[0]


def test_an_energy_is_written_with_an_si_prefix(found):
    [line] = [one.summary for one in found.comparisons if one.name == "Energy of the training"]
    assert line == "Energy of the training: the student's is 100 J, the teacher's 600 J."
