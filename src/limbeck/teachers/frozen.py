"""A frozen teacher: a pretrained model in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor, nn

from limbeck.core import fingerprint
from limbeck.errors import InputError, Problem
from limbeck.taps import Taps
from limbeck.targets import Answer
from limbeck.tasks import Batch, Task
from limbeck.teachers.forms import Form, TargetForm


class FrozenTeacher(nn.Module):
    """A pretrained model that never changes.

    The model is set to evaluation mode and its parameters are frozen in place; `train()` keeps
    evaluation mode. Each call resets every submodule to that mode, since other code may call
    `train()` on the model.

    Args:
        model: The model.
        task: The task that runs it.
        taps: The paths of the modules whose outputs are returned with the logits. A scheme adds
            those that its objective compares.
        targets: The form of the targets of categorical outputs, with all settings or by name:
            `"dense"`, `"top_k"`, `"sampled"` or `"head"`.
        input_gradients: Whether answers have a gradient with respect to the batch's inputs, as a
            generator that is trained against the teacher needs. The model's parameters stay frozen
            and get none.

    Attributes:
        model: The model.

    Raises:
        InputError: A path does not exist; the message lists the nearest existing ones. Or
            the form is unknown, or not dense with `input_gradients`.

    Example:
        >>> from limbeck.tasks.image_classification import ImageClassification
        >>> model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 2))
        >>> teacher = FrozenTeacher(model, ImageClassification(classes=("cat", "dog")))
        >>> _ = model.train()
        >>> batch = {"image": torch.ones(3, 1, 2, 2), "labels": torch.tensor([0, 1, 1])}
        >>> teacher.answer(batch).logits.requires_grad, model[1].training
        (False, False)
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        taps: Iterable[str] = (),
        *,
        targets: TargetForm | Form = "dense",
        input_gradients: bool = False,
    ) -> None:
        super().__init__()
        self._form = targets if isinstance(targets, TargetForm) else TargetForm(targets)
        if input_gradients and self._form.form != "dense":
            allowed = "dense, with input_gradients"
            raise InputError(Problem("targets", self._form.form, allowed))
        self._input_gradients = input_gradients
        self.model = model.eval().requires_grad_(False)
        # Computed once: walking the module tree would cost more than a small batch's losses.
        self._parts = tuple(model.modules())
        self._task = task
        self._paths = list(taps)
        self._taps = Taps(model, self._paths)
        self.register_load_state_dict_post_hook(_forget)
        self.eval()

    def add_taps(self, paths: Iterable[str]) -> None:
        """Capture more modules' outputs with every call.

        Raises:
            InputError: A path does not exist; the message lists the nearest existing ones.
        """
        self._paths = list(dict.fromkeys([*self._paths, *paths]))
        self._taps = Taps(self.model, self._paths)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Keep evaluation mode, for any argument."""
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
        """Run the model without gradient; one row of targets per element of each output.

        With `input_gradients`, there is a gradient if an input requires one.
        """
        if any(part.training for part in self._parts):
            self.model.eval()
        if self._input_gradients:  # another caller may have unfrozen them
            self.model.requires_grad_(False)
        # Not inference_mode: its tensors cannot be saved for a student's backward pass.
        with torch.set_grad_enabled(self._input_gradients and torch.is_grad_enabled()):
            return self._answer(batch)

    def _answer(self, batch: Batch) -> Answer:
        with self._taps as taps:
            response = self._task.respond(self.model, batch, taps)
            return self._form.answer(response, self._task.kinds, batch)

    def forward(self, batch: Batch) -> Answer:
        """Run `answer`, for wrappers that call a module."""
        return self.answer(batch)


def _forget(teacher: nn.Module, *_: object) -> None:
    """Discard the fingerprint, since the weights may have changed."""
    teacher.__dict__.pop("fingerprint", None)
