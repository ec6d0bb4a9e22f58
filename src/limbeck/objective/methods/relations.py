"""Relation-based distillation methods."""

from __future__ import annotations

from limbeck.errors import InputError, Problem
from limbeck.objective.methods.pairs import beside, pairs, several
from limbeck.objective.schedules import Spec
from limbeck.objective.terms import Paths, Term


def sp(student: Paths, teacher: Paths, *, weight: Spec = 3000.0) -> list[Term]:
    r"""Build similarity-preserving distillation (SP): pairwise similarity matrices of a batch.

    Args:
        student: Paths of modules of the student.
        teacher: The same number of paths of the teacher.
        weight: The weight of each pair; 3000 in the CIFAR-100 benchmark.

    Example:
        >>> sp("layer3", "layer3")[1].loss
        'similarity_preserving'

    Source: Tung and Mori 2019.
    """
    return beside("similarity_preserving", student, teacher, weight)


def cc(student: Paths, teacher: Paths, *, weight: Spec = 1.0) -> list[Term]:
    r"""Build correlation congruence (CC): kernel correlation matrices of a batch.

    Args:
        student: Paths of modules of the student.
        teacher: The same number of paths of the teacher.
        weight: The weight of each pair.

    Example:
        >>> cc("pool", "pool")[1].loss
        'correlation_congruence'

    Source: Peng et al. 2019.
    """
    return beside("correlation_congruence", student, teacher, weight)


def pkt(student: Paths, teacher: Paths, *, weight: Spec = 30000.0) -> list[Term]:
    r"""Build probabilistic knowledge transfer (PKT): KL divergence of neighbour probabilities.

    Args:
        student: Paths of modules of the student.
        teacher: The same number of paths of the teacher.
        weight: The weight of each pair; 30000 in the CIFAR-100 benchmark.

    Example:
        >>> pkt("pool", "pool")[1].loss
        'pkt'

    Source: Passalis and Tefas 2018.
    """
    return beside("pkt", student, teacher, weight)


def rkd(
    student: str,
    teacher: str,
    *,
    weight: float = 1.0,
    distance: float = 25.0,
    angle: float = 50.0,
) -> list[Term]:
    r"""Build relational knowledge distillation (RKD): pairwise distances and triplet angles.

    Args:
        student: The path of a module of the student.
        teacher: The path of a module of the teacher.
        weight: The weight of both.
        distance: The weight of distances; 25 in the paper.
        angle: The weight of angles; 50 in the paper.

    Example:
        >>> [(term.loss, term.weight) for term in rkd("pool", "pool")]
        [('task', 1.0), ('rkd_distance', 25.0), ('rkd_angle', 50.0)]

    Source: Park et al. 2019.
    """
    layers = {"student": student, "teacher": teacher}
    return [
        Term("task"),
        Term("rkd_distance", weight=weight * distance, **layers),
        Term("rkd_angle", weight=weight * angle, **layers),
    ]


def crd(
    student: str,
    teacher: str,
    *,
    weight: Spec = 0.8,
    negatives: int = 4096,
    temperature: float = 0.07,
) -> list[Term]:
    r"""Build contrastive representation distillation (CRD) with negatives from a memory bank.

    Args:
        student: The path of a module of the student.
        teacher: The path of a module of the teacher.
        weight: The weight; 0.8 in the CIFAR-100 benchmark.
        negatives: The number of negatives from the memory bank; 16384 in the paper. 0 uses the
            other samples of the batch.
        temperature: τ, above 0.

    Example:
        >>> crd("pool", "pool")[1].connector
        {'negatives': 4096}

    Source: Tian, Krishnan and Isola 2020.
    """
    settings = {"negatives": negatives}
    return [
        Term("task"),
        Term(
            "crd",
            student=student,
            teacher=teacher,
            weight=weight,
            connector=settings,
            temperature=temperature,
        ),
    ]


def fsp(student: Paths, teacher: Paths, *, weight: Spec = 50.0) -> list[Term]:
    r"""Build FSP: flow of solution procedure matrices between each layer and the next.

    Args:
        student: At least two paths of modules with map outputs, shallow to deep.
        teacher: The same number of paths of the teacher, with equal numbers of channels.
        weight: The weight of each FSP matrix; 50 in the CIFAR-100 benchmark.

    Example:
        >>> fsp(["layer1", "layer2"], ["layer1", "layer2"])[1].student
        ['layer1', 'layer2']

    Source: Yim et al. 2017.
    """
    found = pairs(student, teacher)
    if len(found) < 2:
        raise InputError(Problem("student", several(student), "at least two layers"))
    student_paths, teacher_paths = several(student), several(teacher)
    return [
        Term("task"),
        *(
            Term(
                "fsp",
                student=student_paths[n : n + 2],
                teacher=teacher_paths[n : n + 2],
                weight=weight,
            )
            for n in range(len(found) - 1)
        ),
    ]
