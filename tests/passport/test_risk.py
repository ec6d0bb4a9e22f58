"""A student is never of a lower class than an ancestor, without a written justification."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from limbeck.errors import InputError
from limbeck.passport import ModelFacts, PassportFacts, as_teacher, build_passport, inherit, verify

CLASSES = ("", "minimal", "limited", "high", "unacceptable")


@pytest.mark.parametrize(("own", "elder", "eldest"), [*itertools.product(CLASSES, repeat=3)])
def test_risk_is_the_highest_of_all(own: str, elder: str, eldest: str) -> None:
    family = [ModelFacts("elder", risk=elder), ModelFacts("eldest", risk=eldest)]
    expected = CLASSES[max(CLASSES.index(risk) for risk in (own, elder, eldest))]
    found = inherit(own, family)
    assert found.risk == expected
    assert found.justification == ""
    assert set(found.unstated) == {model.name for model in family if not model.risk}


def test_justification_lowers_the_risk() -> None:
    scorer = ModelFacts("scorer", risk="high")
    found = inherit("minimal", [scorer], justification=" It sorts letters. ")
    assert (found.risk, found.inherited, found.inherited_from) == ("minimal", "high", ("scorer",))
    assert found.justification == "It sorts letters."
    # A justification that is not needed is dropped.
    assert inherit("high", [scorer], justification="No reason.").justification == ""
    assert inherit("minimal", [scorer], justification="  ").risk == "high"


def test_invalid_arguments_raise_input_error() -> None:
    with pytest.raises(InputError, match="did you mean"):
        inherit("hihg", [])
    with pytest.raises(InputError, match="State the class"):
        inherit("", [ModelFacts("scorer", risk="high")], justification="Why not.")


def about(facts: PassportFacts) -> dict[str, str]:
    student = build_passport(facts)["metadata"]["component"]
    return {item["name"]: item["value"] for item in student["properties"]}


def test_risk_is_inherited_over_three_generations(facts: PassportFacts, write) -> None:
    grand = ModelFacts("grand", risk="high")
    first = dataclasses.replace(
        facts, teachers=(ModelFacts("t", ancestors=(grand,)),), risk="minimal"
    )
    assert about(first)["limbeck:risk"] == "high"
    assert json.loads(about(first)["limbeck:risk-inherited-from"]) == ["grand"]
    lowered = dataclasses.replace(first, risk_justification="It sorts letters.")
    write(lowered)
    assert verify(lowered.folder).ok
    teacher = as_teacher(lowered.folder / "passport.json")
    assert (teacher.risk, teacher.risk_justification) == ("minimal", "It sorts letters.")
    # A teacher's justification does not apply to its student.
    assert about(dataclasses.replace(facts, teachers=(teacher,)))["limbeck:risk"] == "high"
