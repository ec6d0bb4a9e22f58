"""The search space: parsed from options and files, validated, listed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.sweep.space import Choices, Range, grid, key, size, space_of


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("student.width=4,8,16", (4, 8, 16)),
        ("stages.quantize.method=int8_static, int8_dynamic", ("int8_static", "int8_dynamic")),
        ("stages.train_teacher.learning_rate=1e-3,0.1", (0.001, 0.1)),
        ("student.sizes=[1, 2],[3]", ([1, 2], [3])),
        ("student.bias=true,false,null", (True, False, None)),
        ("student.name='a,b',c", ("a,b", "c")),
    ],
)
def test_choices_are_yaml(text, values):
    (domain,) = space_of([text], None).values()
    assert domain == Choices(values)
    assert list(domain.listed()) == list(values)


@pytest.mark.parametrize(
    ("text", "low", "high", "step", "log", "listed"),
    [
        ("2..5", 2, 5, None, False, [2, 3, 4, 5]),
        ("4..17:4", 4, 17, 4, False, [4, 8, 12, 16]),
        ("-1..1", -1, 1, None, False, [-1, 0, 1]),
        ("0.1..0.5:0.2", 0.1, 0.5, 0.2, False, [0.1, 0.3, 0.5]),
        ("1..2:0.5", 1, 2, 0.5, False, [1.0, 1.5, 2.0]),
        ("1e-3..1e-1:log", 0.001, 0.1, None, True, None),
        ("8..64:log", 8, 64, None, True, list(range(8, 65))),
        (".5..1.", 0.5, 1.0, None, False, None),
    ],
)
def test_ranges_are_read(text, low, high, step, log, listed):
    (domain,) = space_of([f"a.b={text}"], None).values()
    assert domain == Range(low=low, high=high, step=step, log=log)
    found = domain.listed()
    assert (None if found is None else list(found)) == listed


@given(st.floats(-100, 100), st.floats(0.01, 10), st.integers(1, 40))
def test_a_range_with_a_step_holds_all_its_steps(low, step, count):
    found = Range(low=low, high=low + step * count, step=step).listed()
    assert len(found) == count + 1
    assert found == pytest.approx([low + index * step for index in range(count + 1)], abs=1e-9)


def test_a_file_and_options_give_the_same_space(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(
        "student.width: [4, 8]\n"
        "student.depth: {low: 1, high: 3}\n"
        "stages.distill.learning_rate: {low: 1e-3, high: 0.1, log: true}\n"
    )
    typed = [
        "student.width=4,8",
        "student.depth=1..3",
        "stages.distill.learning_rate=1e-3..0.1:log",
    ]
    assert space_of([], file) == space_of(typed, None)
    more = space_of(["stages.distill.epochs=1,2"], file)
    assert list(more)[:3] == list(space_of([], file))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("student.width", ("--vary student.width", "a,b,c")),
        ("student.width=4", ("two different choices", "--set")),
        ("student.width=4,4", ("two different choices",)),
        ("student.width=4,,8", ("--vary student.width", "YAML")),
        ("=4,8", ("a path such as",)),
        ("student..width=4,8", ("a path such as",)),
        ("a=5..3", ("--vary a.low", "below 3")),
        ("a=5..5", ("below 5",)),
        ("a=1..5:9", ("--vary a.step", "at most 4")),
        ("a=1..5:0", ("above 0",)),
        ("a=0..5:log", ("logarithmic",)),
        ("a=1..five", ("two different choices",)),
    ],
)
def test_invalid_choices_are_refused(text, words):
    with pytest.raises(InputError) as refused:
        space_of([text], None)
    for word in words:
        assert word in str(refused.value)


def test_all_problems_are_reported_together(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text("a: {low: 1, hihg: 3}\nb: 7\nc: [1, 2]\n")
    with pytest.raises(InputError) as refused:
        space_of(["c=1,2", "d=3..1"], file)
    text = str(refused.value)
    for word in ('did you mean "high"', "--space b", "each path once", "--vary d.low"):
        assert word in text


def test_an_empty_space_is_refused():
    with pytest.raises(InputError, match="--vary"):
        space_of([], None)


def test_a_grid_contains_every_setting_once():
    space = {"a": Choices((1, [2])), "b": Range(low=0, high=2)}
    found = list(grid(space))
    assert len(found) == size(space) == 6
    assert len({key(settings) for settings in found}) == 6
    assert {"a": [2], "b": 1} in found
    assert size({**space, "c": Range(low=0.0, high=1.0)}) is None


def test_contradictory_ranges_are_refused():
    both = "step.*nothing, on a logarithmic scale"
    with pytest.raises(ValueError, match=both):
        Range(low=1, high=9, step=2, log=True)
    with pytest.raises(ValueError, match="low"):
        Range(low=True, high=9)
