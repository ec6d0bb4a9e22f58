"""trl: the generalised JSD of its distillation trainers, and the functions of its SDFT trainer."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable

import torch
from definitions import forward_kl, jsd, reverse_kl, without_square
from torch import Tensor
from trial import NO_STUDENT_SIDE, NO_TEACHER_SIDE, Trial, by_unit_at, report

IGNORED = -100
TRAINERS = {
    "GKDTrainer": "trl.experimental.gkd",
    "GOLDTrainer": "trl.experimental.gold",
    "IWOPDTrainer": "trl.experimental.iw_opd",
}
BETAS = (
    (0.5, "JSD, beta = 0.5", jsd(0.5), ()),
    (0.1, "JSD, beta = 0.1", jsd(0.1), ()),
    (0.0, "KL(teacher ‖ student)", forward_kl, NO_STUDENT_SIDE),
    (1.0, "KL(student ‖ teacher)", reverse_kl, NO_TEACHER_SIDE),
)


def unreduced(function: Callable[..., Tensor], beta: float) -> Callable[..., Tensor]:
    """Ask for no reduction, and sum over classes: batchmean is this over the tokens."""

    def loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
        value = function(student, teacher, beta=beta, temperature=temperature, reduction="none")
        return value.sum(-1) if value.ndim == 2 else value

    return loss


def masked(function: Callable[..., Tensor], beta: float) -> Callable[..., Tensor]:
    """Mark padding in the labels, and take the mean that its trainer takes."""

    def call(student: Tensor, teacher: Tensor, counts: Tensor) -> Tensor:
        labels = torch.where(counts, 0, IGNORED).unsqueeze(0)
        return function(student.unsqueeze(0), teacher.unsqueeze(0), labels=labels, beta=beta)

    return call


def of_trainer(name: str, function: Callable[..., Tensor]) -> list[Trial]:
    """Put one trainer's function on trial at both ends and between them."""
    trials = []
    for beta, promise, definition, excused in BETAS:

        def ends(student: Tensor, teacher: Tensor, share: float) -> Tensor:
            return unreduced(function, share)(student, teacher, temperature=1.0).sum()

        trials.append(
            Trial(
                f"{name}.generalized_jsd_loss, beta = {beta:g}",
                f"{promise}, softened",
                unreduced(function, beta),
                "divergence",
                without_square(definition),
                how="reduction='none', summed over classes; for law 7 as its trainer calls it",
                excused=excused,
                masked=masked(function, beta),
                ends=ends if beta == 0.5 else None,
            )
        )
    return trials


def of_distillation() -> list[Trial]:
    """What DistillationTrainer calls: hidden states and heads; here heads that change nothing."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    def total(
        student: Tensor,
        teacher: Tensor,
        counts: Tensor | None = None,
        items: int | None = None,
        **how: float,
    ) -> Tensor:
        head = torch.eye(student.shape[1]).to(student)
        if counts is None:
            counts = torch.ones(len(student), dtype=torch.bool)
        hidden = (side.unsqueeze(0) for side in (student, teacher))
        return _chunked_divergence_loss(
            *hidden, head, head, counts.unsqueeze(0), num_items_in_batch=items, **how
        )[0]

    def one_by_one(beta: float) -> Callable[..., Tensor]:
        return by_unit_at(lambda s, t, degree: total(s, t, items=1, beta=beta, temperature=degree))

    return [
        Trial(
            f"DistillationTrainer, _chunked_divergence_loss, beta = {beta:g}",
            f"{promise}, softened",
            one_by_one(beta),
            "divergence",
            without_square(definition),
            how="num_items_in_batch = 1; heads of 1; its path in torch",
            excused=("-inf",),  # a head's product of -inf is not a number, whoever multiplies
            without=[12],
            masked=lambda s, t, counts, beta=beta: total(s, t, counts, beta=beta),
            ends=(lambda s, t, share: total(s, t, items=1, beta=share)) if beta == 0.5 else None,
        )
        for beta, promise, definition, _ in BETAS
    ]


def of_sdft() -> list[Trial]:
    """The pure functions: one value a token, and no temperature."""
    from trl.experimental.sdft import loss_utils

    def full(alpha: float) -> Callable[..., Tensor]:
        def loss(student: Tensor, teacher: Tensor) -> Tensor:
            return loss_utils.compute_full_logit_self_distillation_loss(
                student, teacher, distillation_alpha=alpha
            )

        return loss

    def top_k(alpha: float, tail: bool) -> Callable[..., Tensor]:
        def loss(student: Tensor, teacher: Tensor) -> Tensor:
            return loss_utils.compute_topk_self_distillation_loss(
                student,
                teacher,
                distillation_topk=student.shape[1],
                distillation_alpha=alpha,
                distillation_add_tail=tail,
            )

        return loss

    forms = {
        "compute_full_logit_self_distillation_loss": full,
        "compute_topk_self_distillation_loss, k = all classes": lambda a: top_k(a, tail=False),
        "compute_topk_self_distillation_loss, k = all classes, tail": lambda a: top_k(a, tail=True),
    }
    return [
        Trial(
            f"sdft.{name}, alpha = {alpha:g}",
            promise,
            form(alpha),
            "divergence",
            definition,
            how="top-k of all classes is to be the whole (law 11)" if "topk" in name else "",
            excused=excused,
            ends=(lambda s, t, a, form=form: form(a)(s, t).sum())
            if alpha == 0.5 and "full" in name
            else None,
        )
        for name, form in forms.items()
        for alpha, promise, definition, excused in BETAS
        if alpha in (0.5, 0.0)
    ]


def collected() -> tuple[list[Trial], dict[str, str]]:
    """Look for every trainer that this version has."""
    trials: list[Trial] = []
    left_out: dict[str, str] = {}
    for name, place in TRAINERS.items():
        try:
            trainer = getattr(importlib.import_module(place), name)
        except Exception as error:  # an experimental module may want what is not there
            left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        function = inspect.getattr_static(trainer, "generalized_jsd_loss", None)
        if "generalized_jsd_loss" not in vars(trainer) or not isinstance(function, staticmethod):
            left_out[name] = "its loss is not a function of its own"
            continue
        trials += of_trainer(name, function.__func__)
    for place, collect in {"sdft": of_sdft, "DistillationTrainer": of_distillation}.items():
        try:
            trials += collect()
        except Exception as error:
            left_out[place] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return trials, left_out


if __name__ == "__main__":
    report(["trl", "transformers"], *collected())
