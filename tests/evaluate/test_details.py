"""Details of a task over a test split: estimates, their order, and the choice of samples."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.illustration import Illustration
from limbeck.evaluate.detail_results import TaskDetails
from limbeck.evaluate.details import Pair, Source, chosen, task_details
from limbeck.tasks.details import Details
from limbeck.tasks.image_segmentation import ImageSegmentation

CLASSES = ("sky", "street", "car")
TASK = ImageSegmentation(CLASSES)
COUNT = 14


def one_hot(labels: np.ndarray) -> dict[str, np.ndarray]:
    return {"logits": np.moveaxis(np.eye(3, dtype=np.float32)[labels], -1, 1)}


def source(*, teacher: bool = True, labels: int = 2) -> Source:
    """Return images of 4x4 pixels; the student confuses class 1, in image 9 above all."""
    random = np.random.default_rng(0)
    truth = random.integers(0, labels, (COUNT, 4, 4))
    student = np.where((truth == 1) & (random.random(truth.shape) < 0.5), 0, truth)
    student[9] = 1 - student[9].clip(0, 1)
    reference = truth.copy()
    reference[:, 0, 0] = 0

    def pair(rows) -> Pair:
        weights = {"logits": np.ones(16 * len(rows), np.float32)}
        other = one_hot(reference[rows]) if teacher else None
        return Pair({"labels": truth[rows]}, weights, one_hot(student[rows]), other)

    blocks = np.array_split(np.arange(COUNT), 3)
    return Source(
        batches=lambda: map(pair, blocks),
        rows=pair,
        raw=lambda row: {"text": f"row {row}"},
        samples=COUNT,
    )


def test_both_models_and_the_drop_have_intervals_and_the_largest_drop_is_first():
    found = task_details(TASK.details, source())
    [iou] = found.breakdowns
    assert [row.name for row in iou.rows] == ["sky", "street"]
    assert iou.absent == ("car",)
    for row in iou.rows:
        assert row.drop.value == pytest.approx(row.teacher.value - row.student.value)
        assert row.drop.interval.low <= row.drop.value <= row.drop.interval.high
        assert row.student.interval.low < row.student.value < row.student.interval.high
    assert [row.name for row in iou.by_drop] == ["street", "sky"]
    assert found.agreements[0].metric.name == "pixel_agreement"
    assert TaskDetails.model_validate_json(found.model_dump_json()) == found


def test_values_do_not_depend_on_batches():
    whole = source()
    single = replace(whole, batches=lambda: (whole.rows([row]) for row in range(COUNT)))
    assert task_details(TASK.details, single) == task_details(TASK.details, whole)


def test_samples_are_chosen_by_the_agreement():
    found = task_details(TASK.details, source())
    assert [one.reason for one in found.samples].count("different") == 3
    worst = min(found.samples, key=lambda one: one.agreement)
    assert (worst.index, worst.reason) == (9, "different")
    assert "From each third of the test split" in found.caption
    assert "lowest pixel agreement" in found.caption


def test_without_a_teacher_the_worst_class_is_first_and_nothing_is_compared():
    found = task_details(TASK.details, source(teacher=False))
    [iou] = found.breakdowns
    assert all(row.teacher is None and row.drop is None for row in iou.rows)
    assert [row.name for row in iou.by_drop] == ["street", "sky"]
    assert found.agreements == found.samples == found.overview == ()


def test_a_task_may_have_some_of_the_details_only():
    own = Details(breakdowns=TASK.details.breakdowns)
    found = task_details(own, source())
    assert len(found.breakdowns) == 1
    assert found.agreements == found.samples == ()
    assert task_details(Details(), source()) == TaskDetails()
    plain = replace(TASK.details, illustrate=lambda shown: Illustration(), breakdowns=())
    assert [len(one.illustration.rasters) for one in task_details(plain, source()).samples] == [
        0
    ] * 6


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, np.nan]), min_size=1, max_size=40))
def test_each_third_has_its_extreme_sample_and_a_typical_one(values):
    each = np.array(values)
    found = chosen(each)
    assert found == chosen(each)
    assert [index for index, _ in found] == sorted({index for index, _ in found})
    for rows in np.array_split(np.arange(len(each)), min(3, len(each))):
        own = [(index, reason) for index, reason in found if index in rows]
        assert [reason for _, reason in own].count("different") == 1
        [extreme] = [index for index, reason in own if reason == "different"]
        if np.isfinite(each[rows]).all():
            assert each[extreme] == each[rows].min()
        assert len(own) == min(2, len(rows))
    if np.isfinite(each).all():
        assert [i for i, r in chosen(-each, higher_is_better=False) if r == "different"] == [
            i for i, r in found if r == "different"
        ]
