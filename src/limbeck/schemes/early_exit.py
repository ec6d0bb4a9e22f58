"""Self-distillation of early exits: each exit learns from the last one of the same student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from limbeck import losses
from limbeck.core.exits import check_exits
from limbeck.objective import Losses, TermLoss
from limbeck.schemes._settings import SchemeInputs, SchemeSettings
from limbeck.schemes.offline import Offline, on_labels
from limbeck.tasks import Response

EXITS = "exits"
"""The name of the term in logs."""


class EarlyExit(Offline):
    """Offline distillation of the last exit, and self-distillation of the exits before it.

    The objective compares the last exit with labels and teacher. To it is added, for each earlier
    exit, the temperature-scaled KL divergence from the last exit, times T², without a gradient to
    the last exit. The task's loss includes the exits as auxiliary heads.

    Args:
        student: A model with early exits (`limbeck.core.exits.HasExits`).
        inputs: The task, objective, teacher and example batch.
        exit_weight: The weight of the sum over the exits.
        exit_temperature: The temperature T.

    Raises:
        InputError: The student has no early exits; or as for `Offline`.

    Source: Zhang et al. 2019, "Be your own teacher"; Phuong and Lampert 2019,
    "Distillation-based training for multi-exit architectures".
    """

    def __init__(
        self,
        student: nn.Module,
        inputs: SchemeInputs,
        *,
        exit_weight: float,
        exit_temperature: float,
    ) -> None:
        check_exits(student, where="student")
        super().__init__(
            student,
            inputs.task,
            inputs.objective(),
            teacher=inputs.teacher,
            probe=inputs.probe,
            training_set=inputs.training_set,
        )
        self._weight, self._temperature = exit_weight, exit_temperature

    def _add(
        self, found: Losses, response: Response, total_weights: Mapping[str, Tensor] | None
    ) -> Losses:
        """Add the divergence of the exits from the last one, as the term `exits`."""
        found = super()._add(found, response, total_weights)
        output = response.primary
        if output.values is None or not output.auxiliary:
            return found
        last = output.values.detach()
        each = torch.stack(
            [
                losses.soft_target_kl(one, last, temperature=self._temperature)
                for one in output.auxiliary
            ]
        ).sum(0)
        [name, *_] = response.outputs
        weights = output.weights
        total = weights.sum() if total_weights is None else total_weights[name]
        # A step without weight has no loss.
        raw = (each * weights).sum() / total.clamp_min(torch.finfo(weights.dtype).tiny)
        logged = TermLoss(raw.detach(), self._weight * raw.detach())
        terms = {**found.terms, EXITS: logged}
        return Losses(found.total + self._weight * raw, terms, found.gradient_norms)


class EarlyExitSettings(SchemeSettings):
    """Self-distillation of a student's early exits, beside the distillation of its last exit."""

    control_label: ClassVar[str] = "label-only student"

    exit_weight: Annotated[
        float,
        Field(gt=0, le=1e6, description="The weight of the exits' divergence from the last one."),
    ] = 0.1
    exit_temperature: Annotated[
        float, Field(gt=0, le=1e6, description="The temperature of the exits' divergence.")
    ] = 3.0

    def build_scheme(self, student: nn.Module, inputs: SchemeInputs) -> EarlyExit:
        """Build the scheme.

        Raises:
            InputError: The student has no early exits.
        """
        return EarlyExit(
            student,
            inputs,
            exit_weight=self.exit_weight,
            exit_temperature=self.exit_temperature,
        )

    def build_control(self, student: nn.Module, inputs: SchemeInputs) -> Offline:
        """Build the training on labels alone, of all exits."""
        return on_labels(student, inputs)
