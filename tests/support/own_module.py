"""A module as a user writes it, with a task, a scheme and a loss, for `python:` names."""

from pathlib import Path

TEXT = """\
import torch
from limbeck.schemes.offline import OfflineSettings
from limbeck.tasks.image_classification import ImageClassification


class Mine(ImageClassification):
    pass


class MineSettings(OfflineSettings):
    strength: float = 1.0


def absolute(student, teacher):
    return (student - teacher.detach()).abs().mean(1)
"""


def write_own_module(folder: Path) -> Path:
    """Write mine.py into a folder."""
    path = folder / "mine.py"
    path.write_text(TEXT)
    return path
