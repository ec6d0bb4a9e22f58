"""torch alone: the KL of distillation as it is commonly written by hand."""

from __future__ import annotations

import torch.nn.functional as F
from definitions import forward_kl, over_classes
from definitions import without_square as softened
from torch import Tensor
from trial import NO_STUDENT_SIDE, Trial, by_unit_at, report


def mean(student: Tensor, teacher: Tensor, degree: float) -> Tensor:
    """`F.kl_div` as it comes: its mean is over all elements."""
    return F.kl_div(F.log_softmax(student / degree, -1), F.softmax(teacher / degree, -1))


def without_square(student: Tensor, teacher: Tensor, degree: float) -> Tensor:
    """The right mean, but the gradient falls with the temperature."""
    ours = F.log_softmax(student / degree, -1)
    return F.kl_div(ours, F.softmax(teacher / degree, -1), reduction="batchmean")


def batchmean(student: Tensor, teacher: Tensor, degree: float) -> Tensor:
    """As most repositories have it."""
    return without_square(student, teacher, degree) * degree**2


def log_target(student: Tensor, teacher: Tensor, degree: float) -> Tensor:
    """The teacher's side in logarithms, too."""
    ours, theirs = (F.log_softmax(side / degree, -1) for side in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * degree**2


def spelt_out(student: Tensor, teacher: Tensor, degree: float) -> Tensor:
    """The sum spelt out, as PyTorch's tutorial on distillation has it."""
    soft = F.softmax(teacher / degree, -1)
    ours = F.log_softmax(student / degree, -1)
    return (soft * (soft.log() - ours)).sum() / len(student) * degree**2


def without_log(student: Tensor, teacher: Tensor, degree: float) -> Tensor:
    """`F.kl_div` of probabilities: it wants logarithms, and does not say so."""
    ours, theirs = (F.softmax(side / degree, -1) for side in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean") * degree**2


SPELLINGS = {
    "F.kl_div(log_softmax(s/T), softmax(t/T))": mean,
    "F.kl_div(log_softmax(s/T), softmax(t/T), 'batchmean')": without_square,
    "T² · F.kl_div(log_softmax(s/T), softmax(t/T), 'batchmean')": batchmean,
    "T² · F.kl_div(…, 'batchmean', log_target=True)": log_target,
    "T² · sum(p · (p.log() − log_softmax(s/T))) / units": spelt_out,
    "T² · F.kl_div(softmax(s/T), softmax(t/T), 'batchmean')": without_log,
}

if __name__ == "__main__":
    trials = [
        Trial(
            name,
            "T²·KL(teacher ‖ student)",
            by_unit_at(call),
            "divergence",
            forward_kl,
            excused=NO_STUDENT_SIDE,
            instead={
                "the divergence without T²": softened(forward_kl),
                "that without T² and divided by the number of classes": over_classes(
                    softened(forward_kl)
                ),
            },
            mean=lambda student, teacher, call=call: call(student, teacher, 1.0),
        )
        for name, call in SPELLINGS.items()
    ]
    report([], trials, {})
