"""One optimiser step: gradient accumulation over micro-batches and processes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.tasks import Batch
from limbeck.training.groups import freeze, keep_frozen, learning_rates
from limbeck.training.optimizer import build_optimizer, rate
from limbeck.training.prepare import Channel, DivergedError
from limbeck.training.settings import Training
from limbeck.training.sharding import clip_gradients, is_shard

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.objective import Losses
    from limbeck.schemes.scheme import Scheme

BRANCHES = (
    "the processes take different branches of the model, as layers skipped at random have them: "
    "batch normalisation uses each process's own samples, and averages the running statistics."
)
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Stepper:
    """The optimiser steps of a training, in one process or several.

    Args:
        scheme: The scheme that computes a micro-batch's losses.
        settings: The training settings.
        accelerator: The device and the processes.
        channel: The channel that synchronises the batch normalisations of several processes.

    Attributes:
        optimizers: The optimiser of each phase; its learning rate is set at each step.
        scaler: The gradient scaler for float16; disabled otherwise.
        loss: The loss of the last step, over all phases and processes.

    Raises:
        InputError: A phase of the scheme has no trainable parameters, or others than those of its
            modules.
    """

    def __init__(
        self,
        scheme: Scheme,
        settings: Training,
        accelerator: Accelerator,
        channel: Channel | None = None,
    ) -> None:
        self._channel = channel or Channel()
        self._scheme, self._settings, self._accelerator = scheme, settings, accelerator
        self.loss = math.nan
        student = next(iter(scheme.students.values()))
        _, self._frozen_norms = freeze(student, settings.freeze)
        self._phases = dict(scheme.phases)
        for name, phase in self._phases.items():
            if not phase.parameters:
                fix = "Are the student's parameters frozen, or is the student its own teacher?"
                raise InputError(Problem(name, "no parameters", "at least one that trains", fix))
        modules = list(scheme.modules_to_save().values())
        self._check_parameters(modules)
        rates = learning_rates(student, settings)
        self.optimizers = {
            name: build_optimizer(dict.fromkeys(phase.parameters), modules, settings, rates)
            for name, phase in self._phases.items()
        }
        # Not the accelerator's scaler: it keeps its scale from training to training.
        half = settings.precision == "float16"
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=half)

    def _check_parameters(self, modules: Sequence[nn.Module]) -> None:
        """Check that every parameter is one of a module that is trained and saved."""
        known = {id(parameter) for module in modules for parameter in module.parameters()}
        for name, phase in self._phases.items():
            if any(id(parameter) not in known for parameter in phase.parameters):
                given = "parameters of no module in modules_to_save()"
                fix = "Read them from the students: these are replaced when they are prepared."
                raise InputError(Problem(name, given, "those of modules that are saved", fix))

    def train_step(self, micro_batches: Sequence[Batch], progress: float) -> dict[str, float]:
        """Update the weights by the mean over all elements of all micro-batches of all processes.

        Args:
            micro_batches: This process's micro-batches of the step.
            progress: The finished share of the training, in [0, 1].

        Returns:
            The losses, raw and weighted by term: this process's part of the step's mean. The terms
            of several phases have the phase before their name; a repeated phase returns its last
            losses.

        Raises:
            LimbeckError: A loss is not finite; the weights of its phase are unchanged.
        """
        keep_frozen(self._frozen_norms)
        weights = self._total_weights(micro_batches)
        row: dict[str, float] = {}
        self.loss = 0.0
        begin_update = getattr(self._scheme, "begin_update", None)
        for name, phase in self._phases.items():
            for number in range(phase.steps):
                if begin_update is not None:
                    begin_update(name, number)
                results = self._differentiated(micro_batches, weights, progress, name)
                own = _row(results, prefix="" if len(self._phases) == 1 else f"{name}/")
                loss = self._sum_over_processes(own["train/loss"], phase.parameters)
                self._check(results, loss)
                self._move(name, progress)
            self.loss += loss
            row |= own | {"train/loss": row.get("train/loss", 0.0) + own["train/loss"]}
        return row

    def _differentiated(
        self,
        micro_batches: Sequence[Batch],
        total_weights: Mapping[str, Tensor] | None,
        progress: float,
        phase: str,
    ) -> list[Losses]:
        """Accumulate the gradients of a phase, with local statistics if the processes diverge."""
        try:
            return self._losses(micro_batches, total_weights, progress, phase)
        except DivergedError:
            # All processes raise at the same message, and repeat the phase.
            if self._channel.fails:
                raise
            if self._accelerator.is_main_process:
                warnings.warn(BRANCHES, stacklevel=2)
            self._channel.local = True
            self._clear()
            return self._losses(micro_batches, total_weights, progress, phase)

    def _losses(
        self,
        micro_batches: Sequence[Batch],
        total_weights: Mapping[str, Tensor] | None,
        progress: float,
        phase: str,
    ) -> list[Losses]:
        """Accumulate the gradients of all micro-batches, and return their losses."""
        results = []
        for batch in micro_batches:
            with self._autocast():
                losses = self._scheme.step(batch, progress, total_weights, phase)
            results.append(losses)
            self.scaler.scale(losses.total).backward()
        if not self._alone:
            self._channel.end_step(self._accelerator.device)
        return results

    def _total_weights(self, micro_batches: Sequence[Batch]) -> Mapping[str, Tensor] | None:
        """Sum the step's element weights by output; None if this micro-batch is the step."""
        if len(micro_batches) == 1 and self._alone:
            return None
        parts = [self._scheme.total_weights(batch) for batch in micro_batches]
        names = list(parts[0])
        total = torch.stack([torch.stack([p[name] for name in names]).double() for p in parts]).sum(
            0
        )
        if not self._alone:
            total = self._accelerator.reduce(total, reduction="sum")
        return dict(zip(names, total, strict=True))

    @property
    def _alone(self) -> bool:
        return bool(self._accelerator.num_processes == 1)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self._accelerator.device.type, _HALF[self._settings.precision])

    def _sum_over_processes(self, loss: float, parameters: Sequence[nn.Parameter]) -> float:
        """Sum gradients and loss over all processes, in one message per step.

        DistributedDataParallel wraps one `forward`, but a scheme may run several modules, twice or
        in parts, through taps and connectors.
        """
        if self._alone:
            return loss
        # Those of sharded parameters are summed already.
        parameters = [one for one in parameters if not is_shard(one)]
        gradients = [parameter.grad for parameter in parameters]
        head = [loss, *(float(gradient is not None) for gradient in gradients)]
        parts = [torch.tensor(head, device=self._accelerator.device)]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parts.append(torch.zeros_like(parameter) if gradient is None else gradient)
        sizes = [part.numel() for part in parts]
        flat = torch.cat([part.detach().reshape(-1) for part in parts])
        head_sum, *summed = self._accelerator.reduce(flat, reduction="sum").split(sizes)
        total, *present = head_sum.tolist()
        for parameter, part, there in zip(parameters, summed, present, strict=True):
            # Parameters without a gradient in any process keep None: zeros would apply weight
            # decay.
            parameter.grad = part.view_as(parameter).to(parameter.dtype) if there else None
        return total

    def _check(self, results: Sequence[Losses], loss: float) -> None:
        if math.isfinite(loss):
            return
        for losses in results:
            losses.check()
        raise LimbeckError(
            "the loss is not finite in another process; its own message names the term."
        )

    def _move(self, phase: str, progress: float) -> None:
        optimizer = self.optimizers[phase]
        if self._settings.max_grad_norm is not None:
            self.scaler.unscale_(optimizer)
            clip_gradients(self._phases[phase].parameters, self._settings.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate(progress, self._settings) * group["scale"]
        self.scaler.step(optimizer)
        self.scaler.update()
        self._clear()

    def _clear(self) -> None:
        """Drop all gradients: a phase's loss may reach the parameters of another phase."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()


@torch.no_grad()
def _row(results: Sequence[Losses], *, prefix: str) -> dict[str, float]:
    """Sum the losses of all micro-batches, with one device synchronisation."""
    names: list[str] = []
    values: list[Tensor] = []
    for losses in results:
        names.append("train/loss")
        values.append(losses.total)
        for name, term in losses.terms.items():
            names += [f"train/{prefix}{name}/raw", f"train/{prefix}{name}/weighted"]
            values += term
        for name, norm in losses.gradient_norms.items():
            names.append(f"train/{prefix}{name}/gradient_norm")
            values.append(norm)
        for name, figure in losses.figures.items():
            names.append(f"{prefix}{name}")
            values.append(figure.to(losses.total.dtype))
    row: dict[str, float] = {}
    for name, number in zip(names, torch.stack(values).tolist(), strict=True):
        row[name] = row.get(name, 0.0) + number
    return row
