"""Teachers: a frozen model, an ensemble, or cached teacher outputs."""

from limbeck.targets import Answer
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.forms import Form, TargetForm
from limbeck.teachers.frozen import FrozenTeacher
from limbeck.teachers.recorded import CachedTeacher
from limbeck.teachers.teacher import Teacher

__all__ = [
    "Answer",
    "CachedTeacher",
    "EnsembleTeacher",
    "Form",
    "FrozenTeacher",
    "TargetForm",
    "Teacher",
]
