"""The message of a problem: location, given value, allowed values, fix."""

import pytest

from limbeck.errors import InputError, LimbeckError, Problem, did_you_mean, key_problems


def test_a_problem_shows_the_beginning_of_a_long_value():
    text = str(Problem("seeds", list(range(1000)), "fewer"))
    assert text.startswith("seeds: got [0, 1, 2")
    assert len(text) < 400


def test_a_number_too_long_to_be_written_out_is_named():
    assert "int too large to show" in str(Problem("seeds", 10**5000, "fewer digits"))


def test_a_value_that_holds_itself_is_shown():
    loop = []
    loop.append(loop)
    assert "[[...]]" in str(Problem("seeds", loop, "numbers"))


def test_an_input_error_has_every_problem_on_its_line():
    error = InputError(Problem("a", 1, "2"), Problem("b", 3, "4", "Use 4."))
    assert str(error).splitlines() == ["a: got 1; allowed: 2", "b: got 3; allowed: 4. Use 4."]
    assert (error.exit_code, LimbeckError.exit_code) == (2, 1)


def test_a_missing_field_is_required():
    assert str(Problem.missing("a.b")) == "a.b: field required"
    assert str(Problem.missing("a.b", "Give one.")) == "a.b: field required. Give one."


def test_a_misspelt_key_is_not_a_missing_one_too():
    known = ["epochs", "batch_size", "seed"]
    found = key_problems({"epoks": 1}, known, known, where="fit")
    assert [one.where for one in found] == ["fit.epoks", "fit.batch_size", "fit.seed"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("epoks", 'did you mean "epochs"?'), ("zzz", ""), (5, ""), (None, ""), ("", "")],
)
def test_did_you_mean(given, expected):
    assert did_you_mean(given, ["epochs", "batch_size"]) == expected
