"""Teachers: a frozen model, an ensemble, or cached teacher outputs."""

from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.frozen import FrozenTeacher
from limbeck.teachers.recorded import CachedTeacher
from limbeck.teachers.teacher import Answer, Teacher

__all__ = ["Answer", "CachedTeacher", "EnsembleTeacher", "FrozenTeacher", "Teacher"]
