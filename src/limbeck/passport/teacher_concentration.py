"""Teacher concentration of a set of students: shares by root, Herfindahl index, single points.

If most students of an organisation descend from one model, its faults reach all of them. The
Herfindahl index is that of competition law: the sum of squared shares (Hirschman 1945; Herfindahl
1950).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from limbeck.errors import InputError, Problem
from limbeck.passport.document import PASSPORT
from limbeck.passport.facts import ModelFacts
from limbeck.passport.lineage import as_teacher, topological

MOST = 0.5  # the share of students from which a model is a single point of failure


@dataclass(frozen=True)
class Dependence:
    """A model and the share of students that depend on it.

    Attributes:
        name: The model's name.
        digest: The SHA-256 of its weights; empty when not stated.
        share: The share of students, from 0 to 1.
    """

    name: str
    digest: str
    share: float


@dataclass(frozen=True)
class TeacherConcentration:
    """Teacher concentration of a set of students.

    Attributes:
        students: The number of students.
        roots: Each root teacher, with the share of students that descend from it. A student with
            two roots counts for both; one without a teacher is a root itself.
        herfindahl: The sum of squared shares, where a student's roots share it equally: 1 if all
            students have one root, `1 / n` if they are spread evenly over n.
        effective_roots: The number of equal roots with the same index: `1 / herfindahl`.
        single_points: Each teacher, root or intermediate, that a share of at least `most` of the
            students depends on: without it, no other root would be left to them.
    """

    students: int
    roots: tuple[Dependence, ...]
    herfindahl: float
    effective_roots: float
    single_points: tuple[Dependence, ...]


_Key = tuple[str, ...]


def measure_teacher_concentration(
    students: Sequence[ModelFacts], *, most: float = MOST
) -> TeacherConcentration:
    """Compute the teacher concentration of a set of students.

    Two models are the same if their weights have the same hash; where none is stated, if name and
    source are equal.

    Args:
        students: The students, each with its ancestors (`as_teacher` reads them from a passport).
        most: The share of students from which a model is a single point of failure, above 0.

    Raises:
        InputError: There are no students, or `most` is not a share above 0.

    Example:
        >>> large = ModelFacts("large")
        >>> students = [ModelFacts(name, ancestors=(large,)) for name in ("one", "two")]
        >>> found = measure_teacher_concentration(students)
        >>> found.herfindahl, [point.name for point in found.single_points]
        (1.0, ['large'])
    """
    if not students:
        raise InputError(Problem("students", "none", "at least one student"))
    if not 0 < most <= 1:
        raise InputError(Problem("most", most, "a share above 0 and at most 1"))
    models: dict[_Key, ModelFacts] = {}
    descendants: Counter[_Key] = Counter()
    weights: Counter[_Key] = Counter()
    dependants: Counter[_Key] = Counter()
    for student in students:
        graph: dict[_Key, set[_Key]] = {}
        for model in topological([student]):
            models[_key(model)] = model
            graph.setdefault(_key(model), set()).update(map(_key, model.ancestors))
        roots = [key for key, ancestors in graph.items() if not ancestors]
        descendants.update(roots)
        weights.update({root: 1 / len(roots) for root in roots})
        dominators = _immediate_dominators(graph, student.name)
        teacher = dominators[_key(student)]
        while teacher is not None:
            dependants[teacher] += 1
            teacher = dominators[teacher]
    herfindahl = sum((weight / len(students)) ** 2 for weight in weights.values())
    points = {key: count for key, count in dependants.items() if count >= most * len(students)}
    return TeacherConcentration(
        students=len(students),
        roots=_shares(descendants, models, len(students)),
        herfindahl=herfindahl,
        effective_roots=1 / herfindahl,
        single_points=_shares(points, models, len(students)),
    )


def read_students(folders: Iterable[Path]) -> list[ModelFacts]:
    """Read students with all their ancestors from their folders or passports.

    Raises:
        InputError: A passport is missing or invalid; every problem is listed.
    """
    found, problems = [], []
    for folder in folders:
        try:
            found.append(as_teacher(folder / PASSPORT if folder.is_dir() else folder))
        except InputError as error:
            problems += [
                Problem(f"{folder}: {one.where}", one.given, one.allowed, one.fix)
                for one in error.problems
            ]
    if problems:
        raise InputError(*problems)
    return found


def _immediate_dominators(graph: Mapping[_Key, set[_Key]], student: str) -> dict[_Key, _Key | None]:
    """Compute for each model the nearest one that every path to a root passes through.

    These are the immediate dominators of the descent graph (Cooper, Harvey and Kennedy 2001).
    """
    dominators: dict[_Key, _Key | None] = {}
    depth: dict[_Key | None, int] = {None: 0}

    def intersect(left: _Key | None, right: _Key | None) -> _Key | None:
        while left != right:
            if left is not None and depth[left] >= depth[right]:
                left = dominators[left]
            elif right is not None:
                right = dominators[right]
        return left

    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        allowed = "a lineage in which no model descends from itself"
        raise InputError(Problem(f"{student}: ancestors", error.args[1], allowed)) from error
    for key in order:
        ancestors: list[_Key | None] = list(graph[key]) or [None]
        dominators[key] = reduce(intersect, ancestors)
        depth[key] = depth[dominators[key]] + 1
    return dominators


def _key(model: ModelFacts) -> _Key:
    return ("sha256", model.digest) if model.digest else (model.name, model.source)


def _shares(
    counts: Mapping[_Key, int], models: Mapping[_Key, ModelFacts], students: int
) -> tuple[Dependence, ...]:
    shares = (
        Dependence(models[key].name, models[key].digest, count / students)
        for key, count in counts.items()
    )
    return tuple(sorted(shares, key=lambda one: (-one.share, one.name, one.digest)))
