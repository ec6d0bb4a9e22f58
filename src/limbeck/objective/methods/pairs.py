"""Pairs of student and teacher layers."""

from __future__ import annotations

from typing import Any

from limbeck.errors import InputError, Problem
from limbeck.objective.schedules import Spec
from limbeck.objective.terms import Paths, Term


def several(paths: Paths) -> list[str]:
    """Return one path as a list of one.

    Example:
        >>> several("layer2"), several(["layer1", "layer2"])
        (['layer2'], ['layer1', 'layer2'])
    """
    return [paths] if isinstance(paths, str) else list(paths)


def pairs(student: Paths, teacher: Paths) -> list[tuple[str, str]]:
    """Pair each layer of the student with one of the teacher.

    Raises:
        InputError: The numbers of layers differ.

    Example:
        >>> pairs(["layer1", "layer2"], ["layer2", "layer4"])
        [('layer1', 'layer2'), ('layer2', 'layer4')]
    """
    student_paths, teacher_paths = several(student), several(teacher)
    if not student_paths or len(student_paths) != len(teacher_paths):
        allowed = f"{len(student_paths) or 'some'} layers, as many as for the student"
        raise InputError(Problem("teacher", f"{len(teacher_paths)} layers", allowed))
    return list(zip(student_paths, teacher_paths, strict=True))


def beside(loss: str, student: Paths, teacher: Paths, weight: Spec, **arguments: Any) -> list[Term]:
    """Return the task's own loss, and a term for each pair of layers.

    Example:
        >>> beside("attention_transfer", "layer1", "layer3", 1000.0)[1].teacher
        'layer3'
    """
    return [
        Term("task"),
        *(
            Term(loss, student=layer, teacher=other, weight=weight, **arguments)
            for layer, other in pairs(student, teacher)
        ),
    ]
