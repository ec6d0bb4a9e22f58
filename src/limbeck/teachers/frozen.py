"""A teacher that is a model, taught before and now frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor, nn

from limbeck import fingerprint
from limbeck.taps import Taps
from limbeck.targets import DenseTargets
from limbeck.tasks import Batch, Task
from limbeck.teachers.teacher import Answer


class FrozenTeacher(nn.Module):
    """A model that answers and never changes.

    The model is put in evaluation mode and its parameters are frozen in place; `train()` leaves it
    in evaluation mode. Each answer makes sure that every submodule is still in that mode, since a
    caller may hold the model too and call `train()` on it.

    Args:
        model: The model.
        task: What a batch means to it.
        taps: The paths of the modules whose outputs are wanted beside the answer. A scheme adds
            those that its objective compares.

    Attributes:
        model: The model.

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
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        # Looked up once: walking the tree of modules would cost more than a small batch's losses.
        self._parts = tuple(model.modules())
        self._task = task
        self._paths = list(taps)
        self._taps = Taps(model, self._paths)
        self.register_load_state_dict_post_hook(_forget)
        self.eval()

    def add_taps(self, paths: Iterable[str]) -> None:
        """Capture more modules' outputs with every answer.

        Raises:
            InputError: A path does not exist; the message names the nearest that do.
        """
        self._paths = list(dict.fromkeys([*self._paths, *paths]))
        self._taps = Taps(self.model, self._paths)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stay in evaluation mode."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenTeacher:
        super()._apply(fn, recurse)
        _forget(self)
        return self

    @cached_property
    def fingerprint(self) -> str:
        """Hash the model: structure, parameters, buffers and other attributes, the user's code."""
        return fingerprint.of_module(self.model)

    def answer(self, batch: Batch) -> Answer:
        """Run the model without gradient; one row of logits per element."""
        if any(part.training for part in self._parts):
            self.model.eval()
        # Not inference_mode: its tensors may not be saved for a student's backward pass.
        with torch.no_grad(), self._taps as taps:
            response = self._task.respond(self.model, batch, taps)
        return Answer(DenseTargets(response.outputs["logits"]), response.taps)

    def forward(self, batch: Batch) -> Answer:
        """Run `answer`, for wrappers that call a module."""
        return self.answer(batch)


def _forget(teacher: nn.Module, *_: object) -> None:
    """Drop the fingerprint: the weights may be others now."""
    teacher.__dict__.pop("fingerprint", None)
