"""A teacher that is a model, taught before and now frozen."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import nn

from limbeck import fingerprint
from limbeck.taps import Taps
from limbeck.targets import DenseTargets
from limbeck.tasks import Batch, Task
from limbeck.teachers.teacher import Answer


class FrozenTeacher:
    """A model that answers and never changes.

    The model is put in evaluation mode and its parameters are frozen in place. Each answer makes
    sure that every submodule is still in evaluation mode, since a caller may hold the model too and
    call `train()` on it.

    Args:
        model: The model.
        task: What a batch means to it.
        taps: The paths of the modules whose outputs are wanted beside the answer.

    Raises:
        InputError: A path does not exist; the message names the nearest that do.

    Example:
        >>> from limbeck.tasks.image_classification import ImageClassification
        >>> model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 2))
        >>> teacher = FrozenTeacher(model, ImageClassification(classes=("cat", "dog")))
        >>> _ = model.train()
        >>> batch = {"image": torch.ones(3, 1, 2, 2), "label": torch.tensor([0, 1, 1])}
        >>> teacher.answer(batch).targets.logits.requires_grad, model[1].training
        (False, False)
    """

    def __init__(self, model: nn.Module, task: Task, taps: Iterable[str] = ()) -> None:
        self._model = model.eval().requires_grad_(False)
        # Looked up once: walking the tree of modules would cost more than a small batch's losses.
        self._parts = tuple(model.modules())
        self._task = task
        self._taps = Taps(model, taps)

    @cached_property
    def fingerprint(self) -> str:
        """Hash the parameters and buffers, under their names."""
        return fingerprint.of_tensors(self._model.state_dict())

    def answer(self, batch: Batch) -> Answer:
        """Run the model without gradient; one row of logits a unit."""
        if any(part.training for part in self._parts):
            self._model.eval()
        # Not inference_mode: its tensors may not be saved for a student's backward pass.
        with torch.no_grad(), self._taps as taps:
            response = self._task.respond(self._model, batch, taps)
        return Answer(DenseTargets(response.outputs["logits"]), response.taps)
