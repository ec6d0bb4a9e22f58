"""Who answers: a frozen model, several of them, or a record of what one said."""

from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.frozen import FrozenTeacher
from limbeck.teachers.recorded import RecordedTeacher
from limbeck.teachers.teacher import Answer, Teacher

__all__ = ["Answer", "EnsembleTeacher", "FrozenTeacher", "RecordedTeacher", "Teacher"]
