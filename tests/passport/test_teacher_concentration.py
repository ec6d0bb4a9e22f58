"""Teacher concentration against manual counts and against removing each teacher."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from limbeck.errors import InputError
from limbeck.passport import ModelFacts, PassportFacts, measure_teacher_concentration, read_students
from limbeck.passport.lineage import topological

LARGE, OTHER = ModelFacts("large", digest="a"), ModelFacts("other", digest="b")
BASE = ModelFacts("base", digest="c", ancestors=(LARGE,))


def student(name: str, *teachers: ModelFacts) -> ModelFacts:
    return ModelFacts(name, digest=f"student {name}", ancestors=teachers)


def test_shares_index_and_single_points_match_manual_values() -> None:
    found = measure_teacher_concentration(
        [
            student("1", BASE),
            student("2", BASE),
            student("3", LARGE, OTHER),
            student("4"),
        ]
    )
    shares = {one.name: one.share for one in found.roots}
    assert shares == {"large": 0.75, "other": 0.25, "4": 0.25}
    assert found.herfindahl == pytest.approx((2.5 / 4) ** 2 + (0.5 / 4) ** 2 + (1 / 4) ** 2)
    assert found.effective_roots == pytest.approx(1 / found.herfindahl)
    assert {one.name: one.share for one in found.single_points} == {"large": 0.5, "base": 0.5}


def test_concentration_of_one_root_and_of_many() -> None:
    assert measure_teacher_concentration([student(str(n), BASE) for n in range(3)]).herfindahl == 1
    apart = measure_teacher_concentration(
        [student(str(n), ModelFacts(f"root {n}")) for n in range(4)]
    )
    assert apart.effective_roots == pytest.approx(4)
    assert apart.single_points == ()


def random_lineage(draw: random.Random) -> list[ModelFacts]:
    models: list[ModelFacts] = []
    for number in range(draw.randrange(1, 9)):
        elders = draw.sample(models, draw.randrange(min(3, len(models)) + 1))
        models.append(ModelFacts(str(number), digest=str(number), ancestors=tuple(elders)))
    return [
        student(f"s{n}", *draw.sample(models, draw.randrange(1, min(3, len(models)) + 1)))
        for n in range(5)
    ]


def left_without(model: ModelFacts, gone: str) -> bool:
    """Return whether a root can be reached without a model."""
    if model.digest == gone:
        return False
    return not model.ancestors or any(left_without(elder, gone) for elder in model.ancestors)


def test_removing_a_single_point_leaves_no_root() -> None:
    for seed in range(150):
        students = random_lineage(random.Random(seed))
        found = measure_teacher_concentration(students, most=0.01)
        family = {m.digest for s in students for m in topological(s.ancestors)}
        lost = {gone: sum(not left_without(s, gone) for s in students) / 5 for gone in family}
        expected = {gone: share for gone, share in lost.items() if share}
        assert {one.digest: one.share for one in found.single_points} == expected, seed


def test_long_lineage_is_measured_quickly() -> None:
    model = ModelFacts("first")
    for number in range(5000):
        model = ModelFacts(str(number), ancestors=(model,))
    assert len(measure_teacher_concentration([model]).single_points) == 5000


def test_invalid_arguments_raise_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        measure_teacher_concentration([])
    with pytest.raises(InputError, match="share"):
        measure_teacher_concentration([BASE], most=0)
    with pytest.raises(InputError) as caught:
        read_students([tmp_path, tmp_path / "none.json"])
    assert len(caught.value.problems) == 2


def test_cyclic_lineage_raises_input_error() -> None:
    def named(name: str, digest: str, *ancestors: ModelFacts) -> ModelFacts:
        return ModelFacts(name, digest=digest, ancestors=ancestors)

    circle = [student("1", named("a", "x", named("b", "y"))), student("2", named("b", "y"))]
    assert measure_teacher_concentration(circle).students == 2
    with pytest.raises(InputError, match="descends from itself"):
        measure_teacher_concentration(
            [student("3", named("a", "x", named("b", "y", named("a", "x"))))]
        )


def test_read_students_accepts_folders_and_files(facts: PassportFacts, student: Path) -> None:
    found = measure_teacher_concentration(read_students([student, student / "passport.json"]))
    assert [(one.name, one.share) for one in found.roots] == [("large", 1.0)]
    assert [one.name for one in found.single_points] == ["base", "digits_cnn", "large"]
