"""Contrastive losses against their definitions on drawn inputs."""

import importlib.util
import inspect
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck import losses
from limbeck.errors import InputError

few = settings(max_examples=25, deadline=None)


def load(name):
    path = Path(__file__).parent / "trials" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"references_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


references = load("contrastive")


@st.composite
def batches(draw):
    """Embeddings of both sides, a temperature, and perhaps labels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples, width = draw(st.integers(1, 6)), draw(st.integers(2, 5))
    student, teacher = rng.normal(size=(2, samples, width))
    temperature = draw(st.sampled_from([0.07, 0.5, 2.0]))
    form = {"temperature": temperature}
    if draw(st.booleans()):
        form["labels"] = rng.integers(3, size=samples)
    return rng, student, teacher, form


def bank(rng, samples, width, *, shared, positives, first):
    shape = (4, width) if shared else (samples, 4, width)
    form = {f"{side}negatives": rng.normal(size=shape) for side in ("", "student_")}
    if positives:
        form |= {f"{side}positives": rng.normal(size=(samples, width)) for side in ("", "student_")}
    return form | ({"first_cosines": rng.uniform(-1, 1, size=(2, 7))} if first else {})


def tensors(form):
    return {
        name: torch.from_numpy(given) if isinstance(given, np.ndarray) else given
        for name, given in form.items()
    }


def agree(name, student, teacher, form):
    reference = partial(getattr(references, name), **form)
    leaf = torch.tensor(student, requires_grad=True)
    value = losses.find(name)(leaf, torch.tensor(teacher), **tensors(form))
    assert value.shape == ()
    value.backward()
    assert value.item() == pytest.approx(reference(student, teacher), rel=1e-9, abs=1e-12)
    slopes = np.zeros_like(student)
    for place in np.ndindex(*student.shape):
        up, down = student.copy(), student.copy()
        up[place] += 1e-5
        down[place] -= 1e-5
        slopes[place] = (reference(up, teacher) - reference(down, teacher)) / 2e-5
    size = max(np.abs(slopes).max(), 1e-2)
    np.testing.assert_allclose(leaf.grad.numpy(), slopes, rtol=1e-6, atol=1e-6 * size)


@few
@given(batches(), st.booleans())
def test_info_nce(drawn, symmetric):
    _, student, teacher, form = drawn
    agree("info_nce", student, teacher, form | {"symmetric": symmetric})


@few
@given(batches())
def test_crd_in_the_batch(drawn):
    agree("crd", *drawn[1:])


@few
@given(batches(), st.booleans(), st.booleans(), st.booleans())
def test_crd_with_a_bank(drawn, shared, positives, first):
    rng, student, teacher, form = drawn
    held = bank(rng, *student.shape, shared=shared, positives=positives, first=first)
    agree("crd", student, teacher, form | held)


@few
@given(batches(), st.booleans(), st.booleans())
def test_crd_with_draws_from_a_bank(drawn, positives, first):
    rng, student, teacher, form = drawn
    held = bank(rng, *student.shape, shared=True, positives=positives, first=first)
    agree("crd", student, teacher, form | held | {"drawn": rng.integers(4, size=(len(student), 7))})


def test_crd_is_the_published_estimator():
    """With Z = N·z and Pn = 1/N, whatever N is, but for what stands in for rounding there."""
    rng = np.random.default_rng(0)
    student, teacher = (references.rows(side) for side in rng.normal(size=(2, 4, 8)))
    held = bank(rng, 4, 8, shared=False, positives=True, first=True)
    value = losses.crd(torch.tensor(student), torch.tensor(teacher), **tensors(held))
    count, expected = 1000, 0.0
    for anchors, side, row in ((student, "", 0), (teacher, "student_", 1)):
        near = references.normalized(held[f"{side}positives"])
        far = references.normalized(held[f"{side}negatives"])
        z = count * np.exp(held["first_cosines"][row] / 0.07).mean()
        positive = np.exp((anchors * near).sum(1) / 0.07) / z
        negative = np.exp(np.einsum("nd,nkd->nk", anchors, far) / 0.07) / z
        noise = far.shape[1] / count
        surprise = np.log(positive / (positive + noise)).sum()
        surprise += np.log(noise / (negative + noise)).sum()
        expected -= surprise / len(anchors)
    assert value.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["info_nce", "crd"])
def test_exchanging_the_sides_changes_only_asymmetric_losses(name):
    torch.manual_seed(0)
    one, other = torch.randn(2, 5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 2, 0])
    form = {"symmetric": True} if name == "info_nce" else {}
    loss = partial(losses.find(name), labels=labels, **form)
    torch.testing.assert_close(loss(one, other), loss(other, one))


@pytest.mark.parametrize("name", ["info_nce", "crd"])
def test_samples_of_one_class_are_not_negatives(name):
    student = torch.randn(4, 3, requires_grad=True)
    value = losses.find(name)(student, torch.randn(4, 3), labels=torch.zeros(4, dtype=torch.long))
    value.backward()
    assert value == 0
    assert not student.grad.any()


@pytest.mark.parametrize("name", ["info_nce", "crd"])
@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 1e3])
def test_any_temperature_is_finite(name, temperature):
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    value = losses.find(name)(student, teacher, temperature=temperature)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_the_trained_teacher_has_a_gradient():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 4, dtype=torch.float64)
    anchors, positives = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    value = losses.crd(anchors, positives.detach(), trained_teacher=positives)
    value.backward()
    torch.testing.assert_close(value, losses.crd(student, teacher))
    # In the batch both sides are alike, so that the other's gradient is that of the exchange.
    leaf = teacher.clone().requires_grad_()
    losses.crd(leaf, student).backward()
    torch.testing.assert_close(positives.grad, leaf.grad)
    leaf = student.clone().requires_grad_()
    losses.crd(leaf, teacher).backward()
    torch.testing.assert_close(anchors.grad, leaf.grad)


def test_no_gradient_reaches_a_bank():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, requires_grad=True)
    held = {
        f"{side}{name}": torch.randn(shape, requires_grad=True)
        for side in ("", "student_")
        for name, shape in (("positives", (3, 4)), ("negatives", (3, 6, 4)))
    }
    held["first_cosines"] = torch.rand(2, 5, requires_grad=True)
    losses.crd(student, teacher.detach(), **held).backward()
    assert all(part.grad is None for part in held.values())


def test_info_nce_is_between_zero_and_the_log_of_the_samples():
    far = 100 * torch.eye(8)
    assert losses.info_nce(far, far, temperature=0.01) < 1e-6
    alike = torch.ones(8, 3)
    torch.testing.assert_close(losses.info_nce(alike, alike), torch.tensor(8.0).log())


def test_the_students_dtype_determines_the_results():
    teacher = torch.randn(3, 4, dtype=torch.float64)
    for name in ("info_nce", "crd"):
        assert losses.find(name)(torch.randn(3, 4), teacher).dtype == torch.float32


def call(name, *args, **kwargs):
    """Call the function itself, below the shape checks that the test session puts around it."""
    return inspect.unwrap(losses.find(name))(*args, **kwargs)


ROWS, LABELS = torch.zeros(2, 3), torch.tensor([0, 1])
NEGATIVES = {"negatives": torch.zeros(2, 5, 3), "student_negatives": torch.zeros(2, 5, 3)}
SHARED = {name: rows[0] for name, rows in NEGATIVES.items()}
DRAWN = torch.zeros(2, 4, dtype=torch.long)
WRONG = [
    *(
        (name, *wrong)
        for name in ("info_nce", "crd")
        for wrong in (
            (ROWS, torch.zeros(2, 4), {}, "teacher", "one length"),
            (ROWS, torch.zeros(3, 3), {}, "teacher", "as many samples"),
            (ROWS.long(), ROWS, {}, "student", "floating-point"),
            (ROWS, ROWS, {"temperature": 0.0}, "temperature", "above 0"),
            (ROWS, ROWS, {"labels": LABELS.float()}, "labels", "whole numbers"),
            (ROWS, ROWS, {"labels": LABELS[:1]}, "labels", "one label"),
        )
    ),
    ("crd", ROWS, ROWS, {"negatives": NEGATIVES["negatives"]}, "negatives", "or neither"),
    ("crd", ROWS, ROWS, {"positives": ROWS}, "positives", "with negatives"),
    ("crd", ROWS, ROWS, NEGATIVES | {"positives": ROWS[:1]}, "positives", "(2, 3)"),
    ("crd", ROWS, ROWS, NEGATIVES | {"negatives": ROWS[:, :2]}, "negatives", "negatives, 3"),
    (
        "crd",
        ROWS,
        ROWS,
        NEGATIVES | {"student_negatives": torch.zeros(3, 5, 3)},
        "student_negatives",
        "[2, negatives, 3]",
    ),
    ("crd", ROWS, ROWS, NEGATIVES | {"negatives": torch.zeros(0, 3)}, "negatives", "[2, neg"),
    ("crd", ROWS, ROWS, {"drawn": DRAWN}, "drawn", "negatives [rows, d]"),
    ("crd", ROWS, ROWS, NEGATIVES | {"drawn": DRAWN}, "drawn", "negatives [rows, d]"),
    ("crd", ROWS, ROWS, SHARED | {"drawn": DRAWN[:1]}, "drawn", "[2, negatives]"),
    ("crd", ROWS, ROWS, SHARED | {"drawn": DRAWN[:, :0]}, "drawn", "[2, negatives]"),
    ("crd", ROWS, ROWS, SHARED | {"drawn": DRAWN.float()}, "drawn", "whole numbers"),
    ("crd", ROWS, ROWS, SHARED | {"drawn": DRAWN + 5}, "drawn", "from 0 to 4"),
    ("crd", ROWS, ROWS, SHARED | {"drawn": DRAWN - 1}, "drawn", "from 0 to 4"),
    ("crd", ROWS, ROWS, {"first_cosines": torch.zeros(3)}, "first_cosines", "[2, any"),
]


@pytest.mark.parametrize(("name", "student", "teacher", "form", "place", "allowed"), WRONG)
def test_invalid_input_raises(name, student, teacher, form, place, allowed):
    with pytest.raises(InputError) as caught:
        call(name, student, teacher, **form)
    [problem] = caught.value.problems
    assert problem.where == f"{name}.{place}"
    assert allowed in problem.allowed
