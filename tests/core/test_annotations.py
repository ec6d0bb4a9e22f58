"""Values are checked against annotations, and none of another type is converted."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from limbeck.core.annotations import describe, json_schema, validate, validate_arguments
from limbeck.errors import InputError


@dataclass
class Own:
    """A type with a schema of its own, whose configuration pydantic does not let us set."""

    width: int


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (float, 4, 4.0),
        (float | None, None, None),
        (tuple[float, ...], [1, 2], (1.0, 2.0)),
        (Any, {"a": object}, {"a": object}),
        (Own, 3, 3),
        (torch.device | int, 3, 3),
    ],
)
def test_a_value_of_the_type_is_returned_in_it(annotation, value, expected):
    found = validate(annotation, value, where="it")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value", "allowed"),
    [
        (float, "4", "a finite number"),
        (float, True, "a finite number"),
        (float, float("nan"), "a finite number"),
        (int, 2.0, "a whole number"),
        (bool, 1, "true, false"),
        (str, 1, "a word"),
        (PositiveInt, 0, "a whole number above 0"),
        (NonNegativeFloat | None, -1, "a finite number at least 0"),
        (Annotated[float, Field(ge=0, lt=1)], 1, "a finite number at least 0 and below 1"),
        (Literal["mean", "sum"], "men", "mean, sum"),
        (list[list[int]], [1], "a list of lists of whole numbers"),
        (int | Annotated[str, Field(description="auto")], 2.5, "a whole number or auto"),
        (torch.Tensor, 1, "an instance of Tensor"),
    ],
)
def test_another_value_is_refused_with_what_is_allowed(annotation, value, allowed):
    with pytest.raises(InputError) as caught:
        validate(annotation, value, where="it")
    assert [(one.where, one.allowed) for one in caught.value.problems] == [("it", allowed)]


def test_tensors_have_no_description():
    assert describe(json_schema(torch.Tensor | None)) == ""
    assert describe(json_schema(torch.Tensor | PositiveFloat)) == "a finite number above 0"


def test_arguments_are_checked_all_at_once():
    def function(low: float, high: PositiveFloat = 1.0, *, name: str = "it") -> None: ...

    assert validate_arguments(function, {"low": 0}, where="at") == {"low": 0.0}
    for given, places in (
        ({"high": -1, "nome": 2}, ["at.nome", "at.low", "at.high"]),
        (None, ["at.low"]),
        (3, ["at"]),
    ):
        with pytest.raises(InputError) as caught:
            validate_arguments(function, given, where="at")
        assert [problem.where for problem in caught.value.problems] == places
