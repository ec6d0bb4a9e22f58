"""Numbers by element, against definitions in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from limbeck import losses
from limbeck.errors import InputError
from limbeck.objective import element_weights
from limbeck.objective.element_weights import (
    ClassBalanced,
    ElementContext,
    LogitStd,
    TeacherConfidence,
    TeacherCorrectness,
    TeacherEntropy,
)


@st.composite
def answers(draw):
    elements, classes = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(size=(elements, classes)) * draw(st.sampled_from([0.1, 1.0, 10.0]))
    return logits, rng.integers(classes, size=elements)


def values_of(number, logits, labels):
    return number(ElementContext(torch.tensor(logits), torch.tensor(labels))).numpy()


@settings(max_examples=50, deadline=None)
@given(answers())
def test_values_are_those_of_the_definitions(drawn):
    logits, labels = drawn
    p = special.softmax(logits, axis=1)
    entropy = special.entr(p).sum(1) / np.log(logits.shape[1])
    right = logits.argmax(1) == labels
    mean = (p * logits).sum(1, keepdims=True)
    for number, expected in (
        (LogitStd(scale=2.0), 2 * logits.std(1)),
        (LogitStd(weighted=True), np.sqrt((p * (logits - mean) ** 2).sum(1))),
        (TeacherEntropy(low=0.2, high=0.7), 0.2 + 0.5 * entropy),
        (TeacherConfidence(low=1.0, high=0.0), 1 - p.max(1)),
        (TeacherCorrectness(right=0.9, wrong=0.1), np.where(right, 0.9, 0.1)),
    ):
        np.testing.assert_allclose(
            values_of(number, logits, labels), expected, rtol=1e-9, atol=2e-6
        )


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_rare_classes_weigh_more_and_the_mean_stays_one(beta):
    counts = (900, 90, 10, 0)
    labels = torch.arange(4)
    weights = ClassBalanced(beta)(ElementContext(None, labels, counts)).double()
    expected = (1 - beta) / (1 - beta ** np.maximum(counts, 1))
    assert weights[:3].numpy() / weights[0].item() == pytest.approx(expected[:3] / expected[0])
    assert (weights * torch.tensor(counts)).sum().item() == pytest.approx(1000, rel=1e-6)
    if beta == 0:
        assert weights[:3].tolist() == pytest.approx([1, 1, 1])


def test_a_larger_range_of_logits_changes_nothing_at_a_temperature_of_their_spread():
    logits = torch.randn(7, 5, dtype=torch.float64)
    labels = torch.zeros(7, dtype=torch.long)
    student = torch.randn(7, 5, dtype=torch.float64)

    def at_spread(student, teacher):
        temperature = LogitStd()(ElementContext(teacher, labels)).unsqueeze(1)
        return losses.soft_target_kl(student / temperature, teacher / temperature, temperature=1.0)

    torch.testing.assert_close(at_spread(student, logits), at_spread(5 * student, 5 * logits))


def test_classes_that_the_teacher_rules_out_have_no_spread():
    logits = torch.tensor([[1.0, -1.0, -torch.inf]])
    for weighted in (False, True):
        without = LogitStd(weighted=weighted)(ElementContext(logits[:, :2], torch.tensor([0])))
        torch.testing.assert_close(
            LogitStd(weighted=weighted)(ElementContext(logits, torch.tensor([0]))), without
        )
    assert LogitStd()(ElementContext(torch.zeros(2, 3), torch.tensor([0, 0]))).min() > 0


def test_missing_inputs_are_refused():
    with pytest.raises(InputError, match="teacher_entropy: got 'no logits of a teacher'"):
        TeacherEntropy(0, 1)(ElementContext(None, torch.tensor([0])))
    with pytest.raises(InputError, match="class_balanced: got 'no counts'"):
        ClassBalanced()(ElementContext(None, torch.tensor([0])))


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"logit_spread": {"scale": 0}}, "w.logit_spread.scale"),
        ({"logit_spread": {"weighted": 1}}, "w.logit_spread.weighted"),
        ({"logit_spread": 3}, "w.logit_spread"),
        ({"teacher_entropy": {"low": "a", "high": 1}}, "w.teacher_entropy.low"),
        ({"teacher_entropy": {"low": 0}}, "w.teacher_entropy.high"),
        ({"class_balanced": {"beta": 1}}, "w.class_balanced.beta"),
        ({"class_balanced": {"bata": 0.9}}, "w.class_balanced.bata"),
    ],
)
def test_errors_name_the_key(spec, where):
    with pytest.raises(InputError) as caught:
        element_weights.parse(spec, where="w")
    assert where in [problem.where for problem in caught.value.problems]


def test_recipe_and_python_forms_are_equal():
    spec = {"teacher_correctness": {"right": 1, "wrong": 0}}
    assert element_weights.is_per_element(spec)
    assert element_weights.parse(spec, where="w") == TeacherCorrectness(1, 0)
    assert not element_weights.is_per_element({"linear": {"start": 0, "end": 1}})
