"""nvidia-modelopt: the losses on logits of `modelopt.torch.distill`."""

from __future__ import annotations

import inspect

from definitions import forward_kl, over_classes
from modelopt.torch.distill.losses import LogitsDistillationLoss
from torch import Tensor
from trial import NO_STUDENT_SIDE, Trial, by_unit_at, report

DEFAULT = inspect.signature(LogitsDistillationLoss).parameters["reduction"].default


def as_it_comes(student: Tensor, teacher: Tensor, degree: float) -> Tensor:
    """With the reduction that it has unless told otherwise."""
    return LogitsDistillationLoss(temperature=degree)(student, teacher)


def unreduced(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """With reduction="none": what its documentation says of masks."""
    return LogitsDistillationLoss(temperature=temperature, reduction="none")(student, teacher)


if __name__ == "__main__":
    promise = "T²·KL(teacher ‖ student)"
    report(
        ["nvidia-modelopt"],
        [
            Trial(
                f"LogitsDistillationLoss, as it comes (reduction={DEFAULT!r})",
                promise,
                by_unit_at(as_it_comes),
                "divergence",
                forward_kl,
                excused=NO_STUDENT_SIDE,
                instead={"the divergence over the number of classes": over_classes(forward_kl)},
                mean=lambda student, teacher: as_it_comes(student, teacher, 1.0),
            ),
            Trial(
                "LogitsDistillationLoss, reduction='none'",
                promise,
                unreduced,
                "divergence",
                forward_kl,
                excused=NO_STUDENT_SIDE,
            ),
        ],
        {
            "MFTLoss": "its targets are corrected by labels: no divergence to hold it to",
            "MGDLoss": "it is a learned generator with a random mask",
        },
    )
