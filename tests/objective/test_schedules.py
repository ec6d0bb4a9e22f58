import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.objective.schedules import KINDS, Constant, Cosine, Linear, Ramp, Step, dump, parse

EXAMPLES = {
    "constant": (Constant(0.9), {0: 0.9, 0.5: 0.9, 1: 0.9}),
    "linear": (Linear(10, 1), {0: 10, 0.5: 5.5, 1: 1}),
    "cosine": (Cosine(1, 0), {0: 1, 0.5: 0.5, 1: 0}),
    "step": (Step((3.0, 2.0, 1.0), (0.25, 0.75)), {0: 3, 0.25: 2, 0.5: 2, 0.75: 1, 1: 1}),
    "ramp": (Ramp(0, 1, 0.2), {0: 0, 0.1: 0.5, 0.2: 1, 1: 1}),
}


def test_every_kind_has_an_example():
    assert set(EXAMPLES) == set(KINDS)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_values(kind):
    schedule, expected = EXAMPLES[kind]
    assert {progress: schedule(progress) for progress in expected} == pytest.approx(expected)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_schedule_goes_to_a_recipe_and_back(kind):
    schedule, _ = EXAMPLES[kind]
    assert parse(dump(schedule)) == schedule
    assert parse(schedule) is schedule
    assert hash(parse(dump(schedule))) == hash(schedule)


numbers = st.floats(-100, 100)


@given(start=numbers, end=numbers, progress=st.floats(0, 1), until=st.floats(0.01, 1))
def test_values_stay_between_the_ends(start, end, progress, until):
    low, high = min(start, end) - 1e-9, max(start, end) + 1e-9
    for schedule in (Linear(start, end), Cosine(start, end), Ramp(start, end, until)):
        assert low <= schedule(progress) <= high


@pytest.mark.parametrize(
    ("spec", "where", "fix"),
    [
        ({"liner": {"start": 1, "end": 0}}, "weight", 'did you mean "linear"'),
        ({"linear": {"start": 1, "ned": 0}}, "weight.linear.ned", 'did you mean "end"'),
        ({"linear": {"start": 1}}, "weight.linear.end", ""),
        ({"linear": {"start": "1", "end": 0}}, "weight.linear.start", ""),
        ({"linear": {"start": float("nan"), "end": 0}}, "weight.linear.start", ""),
        ({"linear": 3}, "weight.linear", ""),
        ({"ramp": {"start": 0, "end": 1, "until": 0}}, "weight.ramp.until", ""),
        ({"ramp": {"start": 0, "end": 1, "until": 2}}, "weight.ramp.until", ""),
        ({"step": {"values": [1, 2], "at": [0.5, 0.7]}}, "weight.step.values", ""),
        ({"step": {"values": [1, 2, 3], "at": [0.7, 0.5]}}, "weight.step.at", ""),
        ({"step": {"values": 1, "at": [0.5]}}, "weight.step.values", ""),
        ({"step": {"values": [1, "2"], "at": [0.5]}}, "weight.step.values", ""),
        ({}, "weight", ""),
        ({"linear": {}, "cosine": {}}, "weight", ""),
        ("0.9", "weight", ""),
        (None, "weight", ""),
        (True, "weight", ""),
        (float("inf"), "weight", ""),
    ],
)
def test_invalid_schedules_are_refused(spec, where, fix):
    with pytest.raises(InputError) as caught:
        parse(spec, where="weight")
    problems = {problem.where: problem for problem in caught.value.problems}
    assert where in problems
    assert fix in problems[where].fix


def test_every_problem_is_listed_at_once():
    with pytest.raises(InputError) as caught:
        parse({"ramp": {"begin": 0, "end": "one"}})
    assert (
        len(caught.value.problems) == 4
    )  # begin is unknown, start and until are absent, end is no number
