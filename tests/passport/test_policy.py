"""A policy applies to every generation, and mistakes in its file are always reported."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.passport import (
    DatasetFacts,
    ModelFacts,
    Policy,
    check,
    enforce,
    parse_policy,
    read_policy,
)

PHOTOS = DatasetFacts("photographs", licence="CC-BY-NC-4.0")
CLOSED = ModelFacts("large", owner="Example Corp", terms=("no-distillation",), licence="closed")
MIDDLE = ModelFacts("base", licence="MIT", data=(PHOTOS,), ancestors=(CLOSED,))
YOUNGEST = ModelFacts("small", licence="Apache-2.0", ancestors=(MIDDLE,))


def broken(text: str, *teachers: ModelFacts, data: tuple[DatasetFacts, ...] = ()) -> list[str]:
    found = check(parse_policy(text, where="policy"), teachers or (YOUNGEST,), data)
    return [f"{one.ancestor} {one.rule}" for one in found]


def test_no_distillation_is_enforced_without_a_policy() -> None:
    with pytest.raises(InputError) as caught:
        enforce(Policy(), [YOUNGEST])
    (problem,) = caught.value.problems
    assert problem.where == "model 'large' (terms.forbid)"
    assert problem.given == "no-distillation"
    assert problem.fix
    assert broken("") == ["model 'large' terms.forbid"]


def test_permission_lifts_no_distillation() -> None:
    assert broken("terms: {allow: [no-distillation]}") == []


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("licences: {allow: [MIT, Apache-2.0, closed]}", ["data 'photographs' licences.allow"]),
        ("licences: {forbid: ['cc-by-nc-*']}", ["data 'photographs' licences.forbid"]),
        ("licences: {allow: ['*'], forbid: [mit]}", ["model 'base' licences.forbid"]),
        ("use: commercial", ["data 'photographs' use"]),
        ("use: research", []),
        ("models: {forbid: ['LAR*']}", ["model 'large' models.forbid"]),
        ("data: {forbid: [photographs]}", ["data 'photographs' data.forbid"]),
        ("owners: {forbid: [example corp]}", ["model 'large' owners.forbid"]),
        (
            "owners: {allow: [Example Corp]}",
            ["model 'base' owners.allow", "model 'small' owners.allow"],
        ),
        ("terms: {forbid: [non-commercial]}", ["data 'photographs' terms.forbid"]),
    ],
)
def test_each_violation_names_the_ancestor(text: str, rules: list[str]) -> None:
    assert (
        broken(text + "\nterms: {allow: [no-distillation]}") == rules
        if ("terms" not in text)
        else broken(text) == ["model 'large' terms.forbid", *rules]
    )


def test_flags_risk_and_unstated_licence() -> None:
    model = ModelFacts("m", flags=("dual-use",), risk="high")
    text = "{flags: {forbid: [dual-use]}, risk: {highest: limited}, licences: {unstated: forbid}}"
    assert broken(text, model) == [
        "model 'm' licences.unstated",
        "model 'm' flags.forbid",
        "model 'm' risk.highest",
    ]
    assert broken("risk: {highest: high}", model) == []


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("mit", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT AND BSD-3-Clause", True),
        ("MIT (A. Author, 2020)", True),
        ("MIT or so", False),
        ("MIT OR unknown", False),
        ("(MIT OR GPL-3.0-only)", False),
        ("", True),
    ],
)
def test_licence_expressions(licence: str, allowed: bool) -> None:
    found = broken("licences: {allow: [MIT, BSD-*]}", ModelFacts("m", licence=licence))
    assert (found == []) == allowed


def test_duplicate_violations_are_listed_once() -> None:
    assert len(broken("", YOUNGEST, MIDDLE, CLOSED)) == 1
    assert broken("data: {forbid: [d]}", MIDDLE, data=(DatasetFacts("d"), DatasetFacts("d")))[
        -1:
    ] == ["data 'd' data.forbid"]


def test_unknown_words_raise_input_error() -> None:
    strange = ModelFacts("m", terms=("no distillation",), flags=("dual_use",), risk="hi")
    with pytest.raises(InputError) as caught:
        check(Policy(), [ModelFacts("child", ancestors=(strange,))])
    assert [problem.where for problem in caught.value.problems] == [
        "m: terms",
        "m: flags",
        "m: risk",
    ]
    assert 'did you mean "no-distillation"' in str(caught.value)


def test_every_mistake_in_a_policy_is_listed_at_once() -> None:
    text = """
licenses: {allow: [MIT]}
terms: {forbid: [no-distilation], alow: []}
use: comercial
models: [gpt]
owners: {forbid: a corporation}
flags: {forbid: [[]]}
risk: {highest: higher}
risk: {highest: high}
"""
    with pytest.raises(InputError) as caught:
        parse_policy(text, where="policy.yaml")
    message = str(caught.value)
    assert len(caught.value.problems) == 9
    for word in ("licences", "no-distillation", "allow", "commercial", "high"):
        assert f'"{word}"' in message


MALFORMED = [
    "[" * 50_000,
    "a: [",
    "- use",
    "use",
    "{use: commercial, use: research}",
    "? [a]\n: b",
    "!!python/object/apply:os.system [echo]",
    "use: !!python/name:os.system",
    "licences: &a {allow: *a}",
    "licences: {allow: [&a [*a]]}",
    "terms: {allow: [no-distillation], forbid: [no-distillation]}",
    "use: \x00",
    "licences: {allow: ['']}",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_policies_raise_input_error(text: str) -> None:
    with pytest.raises(InputError):
        parse_policy(text, where="policy.yaml")


def test_scalars_stay_strings() -> None:
    policy = parse_policy("licences: {forbid: [no, 1.0, 2001-01-01, null]}", where="p")
    assert policy.licences.forbid == ("no", "1.0", "2001-01-01", "null")


def test_unreadable_policy_files_raise_input_error(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large.yaml").write_bytes(b"#" * (2**20 + 1))
    for path in (tmp_path, tmp_path / "none.yaml", *tmp_path.glob("*.yaml"), Path("\0")):
        with pytest.raises(InputError):
            read_policy(path)
    (tmp_path / "good.yaml").write_text("use: commercial\n", encoding="utf-8")
    assert read_policy(tmp_path / "good.yaml").use == "commercial"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_mutated_policies_raise_only_input_errors(seed: int) -> None:
    draw = random.Random(seed)
    text = list(
        "use: commercial\nlicences: {allow: [MIT], unstated: forbid}\nrisk: {highest: high}"
    )
    for _ in range(draw.randrange(1, 6)):
        text[draw.randrange(len(text))] = draw.choice(list("{}[]:,&*!|>'\"#-?%@` \n\tx\ud800"))
    with contextlib.suppress(InputError):
        parse_policy("".join(text), where="policy")
