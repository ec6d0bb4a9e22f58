"""Liger: its chunked losses in torch, and its Triton kernels where an interpreter runs them.

The chunked losses take hidden states and two heads; with heads that change nothing, hidden states
are logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from definitions import cosine_distance, forward_kl, jsd, reverse_kl, tvd, without_square
from liger_kernel.chunked_loss import LigerFusedLinearCosineSimilarityLoss, LigerFusedLinearJSDLoss
from torch import Tensor
from trial import NO_STUDENT_SIDE, NO_TEACHER_SIDE, Trial, by_unit, by_unit_at, report

IGNORED = -100
SOFT_ONLY = {"weight_hard_loss": 0.0, "weight_soft_loss": 1.0, "compiled": False}


def chunked(kind: type, **settings: float) -> Callable[..., Tensor]:
    """Call a chunked loss on logits."""

    def call(
        student: Tensor, teacher: Tensor, degree: float = 1.0, counts: Tensor | None = None
    ) -> Tensor:
        head = torch.eye(student.shape[1]).to(student)
        labels = torch.zeros(len(student), dtype=torch.long)
        if counts is not None:
            labels = labels.masked_fill(~counts, IGNORED)
        module = kind(**SOFT_ONLY, temperature=degree, **settings)
        return module(student, head, teacher, head, labels, None, None)

    return call


def fused(beta: float, promise: str, definition: Callable[..., object]) -> Trial:
    """The chunked JSD at one beta."""
    call = chunked(LigerFusedLinearJSDLoss, beta=beta)
    return Trial(
        f"LigerFusedLinearJSDLoss, beta = {beta:g}",
        promise,
        by_unit_at(call),
        "divergence",
        without_square(definition),
        how="weight_hard_loss = 0; heads of 1; not compiled",
        # A head's product of -inf is not a number, whoever multiplies.
        excused=("-inf",),
        without=[12],
        mean=call,
        masked=lambda student, teacher, counts: call(student, teacher, 1.0, counts),
        ends=(lambda s, t, b: chunked(LigerFusedLinearJSDLoss, beta=b)(s, t))
        if beta == 0.5
        else None,
    )


def chunked_trials() -> list[Trial]:
    """What runs in torch."""
    cosine = chunked(LigerFusedLinearCosineSimilarityLoss, beta=1.0)
    return [
        fused(0.5, "JSD, beta = 0.5, softened", jsd(0.5)),
        fused(0.1, "JSD, beta = 0.1, softened", jsd(0.1)),
        fused(0.0, "KL(teacher ‖ student), softened", forward_kl),
        fused(1.0, "KL(student ‖ teacher), softened", reverse_kl),
        Trial(
            "LigerFusedLinearCosineSimilarityLoss",
            "1 − cos(student, teacher)",
            by_unit(cosine),
            "response",
            cosine_distance,
            how="weight_hard_loss = 0; heads of 1; not compiled",
            excused=("-inf",),
            without=[8],  # a cosine sees a constant on logits
            mean=cosine,
            masked=lambda student, teacher, counts: cosine(student, teacher, 1.0, counts),
        ),
    ]


def kernels() -> list[Trial]:
    """What is written in Triton; its interpreter runs it on a CPU."""
    from liger_kernel.transformers import LigerJSD, LigerKLDIVLoss, LigerTVDLoss

    def logs(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        # They take logarithms; those of half precision would be the caller's rounding, not theirs.
        ours, theirs = (
            side.float() if side.dtype in (torch.bfloat16, torch.float16) else side
            for side in (student, teacher)
        )
        return ours.log_softmax(-1), theirs.log_softmax(-1)

    def kl(student: Tensor, teacher: Tensor) -> Tensor:
        return LigerKLDIVLoss(reduction="batchmean", log_target=True)(*logs(student, teacher))

    def kl_of_probabilities(student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = logs(student, teacher)
        return LigerKLDIVLoss(reduction="batchmean")(ours, theirs.exp())

    def generalized(beta: float) -> Callable[..., Tensor]:
        def call(student: Tensor, teacher: Tensor, counts: Tensor | None = None) -> Tensor:
            labels = None if counts is None else torch.where(counts, 0, IGNORED)
            return LigerJSD(beta=beta)(*logs(student, teacher), labels)

        return call

    def total(student: Tensor, teacher: Tensor) -> Tensor:
        return LigerTVDLoss()(*(side.exp() for side in logs(student, teacher)))

    how = "kernel, in Triton's interpreter"
    return [
        Trial(
            "LigerKLDIVLoss, log_target=True",
            "KL(teacher ‖ student)",
            by_unit(kl),
            "divergence",
            forward_kl,
            how=how,
            excused=NO_STUDENT_SIDE,
        ),
        Trial(
            "LigerKLDIVLoss",
            "KL(teacher ‖ student)",
            by_unit(kl_of_probabilities),
            "divergence",
            forward_kl,
            how=how,
            excused=NO_STUDENT_SIDE,
        ),
        *(
            Trial(
                f"LigerJSD, beta = {beta:g}",
                promise,
                by_unit(generalized(beta)),
                "divergence",
                definition,
                how=how,
                excused=excused,
                mean=generalized(beta),
                masked=generalized(beta),
                ends=(lambda s, t, b: generalized(b)(s, t)) if beta == 0.5 else None,
            )
            for beta, promise, definition, excused in (
                (0.5, "JSD, beta = 0.5", jsd(0.5), ()),
                (0.1, "JSD, beta = 0.1", jsd(0.1), ()),
                (0.0, "KL(teacher ‖ student)", forward_kl, NO_STUDENT_SIDE),
                (1.0, "KL(student ‖ teacher)", reverse_kl, NO_TEACHER_SIDE),
            )
        ),
        Trial("LigerTVDLoss", "½·Σ|p − q|", by_unit(total), "response", tvd, how=how),
    ]


def that_run(trials: list[Trial]) -> tuple[list[Trial], dict[str, str]]:
    """Leave out what Triton's interpreter does not run."""
    running, left_out = [], {}
    for trial in trials:
        try:
            trial.loss(torch.zeros(1, 4, requires_grad=True), torch.ones(1, 4)).sum().backward()
        except Exception as error:
            left_out[trial.function] = f"Triton's interpreter does not run it: {str(error)[:100]}"
        else:
            running.append(trial)
    return running, left_out


if __name__ == "__main__":
    running, left_out = that_run(kernels())
    report(["liger-kernel", "triton"], [*chunked_trials(), *running], left_out)
