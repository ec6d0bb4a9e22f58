"""torchtune: its three divergences, whole and in chunks.

Labels say which units count: -100 is padding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from definitions import cross_entropy, forward_kl, reverse_kl, symmetric_kl
from torch import Tensor, nn
from torchtune.modules import loss as losses
from trial import NO_STUDENT_SIDE, NO_TEACHER_SIDE, Reference, Trial, by_unit, report

IGNORED = -100
CHUNKS = 2


def labels_of(counts: Tensor) -> Tensor:
    """Label what counts with any class."""
    return torch.where(counts, 0, IGNORED)


def in_one(module: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Call it on `[units, classes]`."""
    return lambda student, teacher, counts: module(student, teacher, labels_of(counts))


def chunked(module: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Call it on a sequence of tokens, cut in as many pieces as it was told."""

    def call(student: Tensor, teacher: Tensor, counts: Tensor) -> Tensor:
        pad = -len(student) % CHUNKS  # padding, so that the pieces are of one length
        student, teacher = (nn.functional.pad(side, (0, 0, 0, pad)) for side in (student, teacher))
        labels = nn.functional.pad(labels_of(counts), (0, pad), value=IGNORED)
        sides = (list(side.unsqueeze(0).chunk(CHUNKS, dim=1)) for side in (student, teacher))
        return module(*sides, labels.unsqueeze(0))

    return call


def trials() -> list[Trial]:
    """Put each of its classes on trial, in both forms."""
    promises = {
        "ForwardKL": ("KL(teacher ‖ student)", forward_kl, NO_STUDENT_SIDE),
        "ReverseKL": ("KL(student ‖ teacher)", reverse_kl, NO_TEACHER_SIDE),
        "SymmetricKL": (
            "½·KL(student ‖ teacher) + ½·KL(teacher ‖ student)",
            symmetric_kl(0.5),
            (*NO_STUDENT_SIDE, *NO_TEACHER_SIDE),
        ),
    }
    found = []
    for name, (promise, definition, excused) in promises.items():
        forms = {
            f"{name}Loss": in_one(getattr(losses, f"{name}Loss")()),
            f"{name}WithChunkedOutputLoss": chunked(
                getattr(losses, f"{name}WithChunkedOutputLoss")(num_output_chunks=CHUNKS)
            ),
        }
        for function, call in forms.items():
            found.append(trial(function, promise, definition, excused, call))
    return found


def trial(
    function: str,
    promise: str,
    definition: Reference,
    excused: tuple[str, ...],
    call: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Trial:
    """Hold one form to what its name promises."""

    def every(student: Tensor, teacher: Tensor) -> Tensor:
        return call(student, teacher, torch.ones(len(student), dtype=torch.bool))

    return Trial(
        function,
        promise,
        by_unit(every),
        "divergence",
        definition,
        how="it has no temperature",
        excused=excused,
        mean=every if "Chunked" in function else None,
        masked=call,
        instead={"the cross-entropy −Σ p·log q, not the divergence": cross_entropy},
    )


if __name__ == "__main__":
    report(["torchtune", "torchao"], trials(), {})
