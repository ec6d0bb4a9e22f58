"""A LightningModule that distils: `DistillationModule`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.imports import require
from limbeck.errors import InputError, Problem
from limbeck.integrations._core import INPUTS, LABELS, Distillation, logits_of
from limbeck.objective.objective import ObjectiveLike

require("lightning", extra="lightning")
from lightning.pytorch import LightningModule  # noqa: E402

_MODULES = "objective_modules"


class DistillationModule(LightningModule):
    """A `LightningModule` whose loss is an `Objective` over a student and a frozen teacher.

    A batch is `(inputs, labels)` or a mapping with `labels`; the label −100 excludes an element.
    The teacher is in evaluation mode, without gradient, and not in checkpoints: give it again to
    resume or to `load_from_checkpoint`. Logged are `train_loss`, each term as `train/NAME/raw` and
    `train/NAME/weighted`, `val_loss` and `val_accuracy`.

    For terms over features, connectors are built from the first training batch before the strategy
    wraps the module, and are in the optimiser and in checkpoints. With `accumulate_grad_batches`
    Lightning averages the means of batches, which equals the mean over all elements only if batches
    have equally many.

    Args:
        student: The model to train.
        teacher: The teacher; None if no term requires one.
        objective: An `Objective`, the name of a method, a list of `Term`s, or a recipe's entries;
            default `hinton`.
        optimizer: A function of the list of trained parameters that returns an optimiser, or
            anything else that `configure_optimizers` may return; default `torch.optim.AdamW`.

    Attributes:
        student: The student.
        distillation: The teacher and the objective.

    Raises:
        InputError: Teacher, student and objective do not fit each other.

    Source: Hinton, Vinyals and Dean 2015.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        objective: ObjectiveLike | None = None,
        *,
        optimizer: Callable[[list[nn.Parameter]], Any] = torch.optim.AdamW,
    ) -> None:
        super().__init__()
        self.distillation = Distillation(student, teacher, objective)
        self.student = student
        self.objective_modules = self.distillation.modules
        self._optimizer = optimizer

    def _apply(self, fn: Any, recurse: bool = True) -> DistillationModule:
        """Move or convert the teacher, too, which is no submodule."""
        super()._apply(fn, recurse)
        if any(one.dtype.itemsize < 4 for one in self.objective_modules.parameters()):
            self.objective_modules.float()  # connectors compute in float32 at least
        if self.distillation.teacher is not None:
            self.distillation.teacher._apply(fn)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the student."""
        return self.student(*args, **kwargs)

    def configure_model(self) -> None:
        """Build connectors from the first training batch."""
        distillation, trainer = self.distillation, self._trainer  # `trainer` raises without one
        if distillation.connected or not distillation.has_features:
            return
        if trainer is None or not trainer.training:  # built from the first batch that is seen
            return
        with torch.random.fork_rng(devices=[]):
            if trainer.train_dataloader is None:
                trainer.fit_loop.setup_data()
            batch = next(iter(trainer.train_dataloader))
        # The strategy converts the module only after this hook.
        trainer.precision_plugin.convert_module(self)
        batch = trainer.precision_plugin.convert_input(batch)
        self._connect(_mapping(self.transfer_batch_to_device(batch, self.device, 0)))

    def configure_optimizers(self) -> Any:
        """Build the optimiser of the student and the connectors."""
        return self._optimizer([one for one in self.parameters() if one.requires_grad])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the objective of a batch."""
        batch = _mapping(batch)
        self._connect(batch)
        steps = self.trainer.estimated_stepping_batches
        step = self.distillation.step(
            self.student,
            batch,
            progress=min(1.0, self.trainer.global_step / steps) if steps > 0 else 0.0,
        )
        terms = {
            f"train/{name}/{kind}": value
            for name, term in step.losses.terms.items()
            for kind, value in term._asdict().items()
        }
        log = partial(self.log_dict, batch_size=len(step.response.primary.weights))
        log({"train_loss": step.losses.total.detach()}, prog_bar=True)
        log(terms)
        return step.losses.total

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the objective and the accuracy of a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the objective and the accuracy of a batch."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, *args: Any) -> Tensor:
        """Return the student's logits."""
        return logits_of(self.distillation.task.run(self.student, _mapping(batch)))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of connectors that are built later."""
        if self.distillation.connected:
            return
        state, prefix = checkpoint["state_dict"], f"{_MODULES}."
        kept = {key: state.pop(key) for key in list(state) if key.startswith(prefix)}
        self.distillation.load_state_dict(
            {key.removeprefix(prefix): one for key, one in kept.items()}
        )

    def _connect(self, batch: Mapping[str, Any]) -> None:
        self.distillation.connect(self.student, batch, None)

    def _evaluate(self, batch: Any, prefix: str) -> None:
        batch = _mapping(batch)
        self._connect(batch)
        step = self.distillation.step(self.student, batch, progress=1.0)
        output = step.response.primary
        count = int(output.weights.sum())
        if not count:
            return
        values = {f"{prefix}_loss": step.losses.total}
        if output.values is not None and output.labels is not None:
            correct = (output.values.argmax(-1) == output.labels) * output.weights
            values[f"{prefix}_accuracy"] = correct.sum() / count
        self.log_dict(values, batch_size=count, sync_dist=True, prog_bar=True)


def _mapping(batch: Any) -> Mapping[str, Any]:
    """Return a batch as a mapping with the student's inputs and the labels."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, Tensor):
        return {INPUTS: batch}
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        given = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else batch
        allowed = "(inputs, labels), or a mapping with labels"
        raise InputError(Problem("batch", given, allowed))
    inputs, labels = batch
    return {**(inputs if isinstance(inputs, Mapping) else {INPUTS: inputs}), LABELS: labels}
