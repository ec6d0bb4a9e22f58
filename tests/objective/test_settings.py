"""Settings of methods in a recipe: required keys and allowed values."""

from __future__ import annotations

import inspect

import pytest

from limbeck.cli.listing import _methods
from limbeck.errors import InputError
from limbeck.objective import Objective, methods

ODD = (
    -1,
    None,
    True,
    "",
    "word",
    [],
    [1],
    [None],
    {},
    {"a": 1},
    {"linear": {"start": "a", "end": 1}},
    float("nan"),
    1e308,
    10**30,
)
GIVEN = dict.fromkeys(("student_layers", "teacher_layers", "student_heads", "teacher_heads"), 2)


def settings(name):
    return inspect.signature(methods.find(name)).parameters


def required(name):
    return [key for key, one in settings(name).items() if one.default is one.empty]


@pytest.mark.parametrize("name", methods.__all__)
def test_each_required_setting_is_named_when_it_is_missing(name):
    if not (missing := required(name)):
        assert Objective.from_recipe({name: {}})
        return
    with pytest.raises(InputError) as error:
        Objective.from_recipe({name: {}}, where="stages.1.distill.objective")
    place = f"stages.1.distill.objective.{name}"
    assert str(error.value).splitlines() == [f"{place}.{key}: field required" for key in missing]


@pytest.mark.parametrize("name", methods.__all__)
def test_the_list_and_the_docstring_name_what_is_required(name):
    wanted = required(name)
    line = _methods()[name]
    assert (f"Requires {', '.join(wanted)}." in line) == bool(wanted)
    text = inspect.getdoc(methods.find(name))
    assert all(f"    {key}: " in text for key in settings(name))


@pytest.mark.parametrize("name", methods.__all__)
def test_odd_values_are_taken_or_refused_and_never_fail_otherwise(name):
    given = {key: GIVEN.get(key, "layer") for key in required(name)}
    refused = 0
    for key in settings(name):
        for value in ODD:
            try:
                Objective.from_recipe({name: {**given, key: value}})
            except InputError:
                refused += 1
    assert refused > 0 or not settings(name)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"at": {"student": 3, "teacher": "body"}},
            r"at\.student: got 3; allowed: the path of a module",
        ),
        ({"sp": {"student": ["a", None], "teacher": "b"}}, r"sp\.student: got \['a', None\]"),
        ({"rkd": {"student": "a", "teacher": "b", "weight": "high"}}, r"rkd\.weight: got 'high'"),
        ({"hinton": {"alpha": {"linear": {}}}}, r"hinton\.alpha: .*allowed: a finite number$"),
        ({"mlkd": {"temperatures": 4.0}}, r"mlkd\.temperatures: got 4\.0; allowed: a list of"),
    ],
)
def test_a_setting_of_a_wrong_type_is_named(entry, message):
    with pytest.raises(InputError, match=message):
        Objective.from_recipe(entry)
