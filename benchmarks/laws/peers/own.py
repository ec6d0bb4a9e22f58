"""limbeck itself, held to the laws by the same code as its peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import definitions as paper
import torch
from torch import Tensor
from trial import Trial, report

from limbeck import losses
from limbeck.losses import divergence
from limbeck.targets import DenseTargets


def of(kind: str, **settings: float) -> Callable[..., Tensor]:
    """Give a divergence over tensors."""

    def loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
        targets = DenseTargets(teacher)
        return divergence(student, targets, kind=kind, temperature=temperature, **settings)

    return loss


def ends(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Sum the jsd over units."""
    return of("jsd", beta=beta)(student, teacher).sum()


def layers(*shapes: tuple[int, ...]) -> Callable[[torch.Generator, float], tuple[object, object]]:
    """Draw one map for either side, or two."""

    def draw(generator: torch.Generator, scale: float) -> tuple[object, object]:
        sides = [
            tuple(torch.randn(shape, generator=generator).double() * scale for shape in shapes)
            for _ in range(2)
        ]
        return tuple(side if len(shapes) > 1 else side[0] for side in sides)

    return draw


def summed_factors(student: paper.Array, teacher: paper.Array) -> paper.Array:
    """The paper's own scale: the sum over twelve factors, not their mean."""
    return 12 * paper.factors(student, teacher)


def mean_flow(student: object, teacher: object) -> float:
    """The mean over a matrix of six, as the CIFAR-100 benchmark has it, not their sum."""
    return paper.flow(student, teacher) / 6


def of_logits() -> list[Trial]:
    """What compares answers."""
    return [
        Trial(
            "soft_target_kl",
            "T²·KL(teacher ‖ student)",
            losses.soft_target_kl,
            "divergence",
            paper.forward_kl,
        ),
        Trial(
            "divergence, reverse_kl",
            "T²·KL(student ‖ teacher)",
            of("reverse_kl"),
            "divergence",
            paper.reverse_kl,
        ),
        Trial(
            "divergence, jsd",
            "T²·JSD, beta = 0.3",
            of("jsd", beta=0.3),
            "divergence",
            paper.jsd(0.3),
            ends=ends,
        ),
        Trial(
            "standardized_kl",
            "T²·KL of standardised logits, Sun 2024",
            losses.standardized_kl,
            "response",
            paper.standardized_kl,
        ),
        Trial(
            "dist",
            "Huang 2022",
            partial(losses.dist, beta=1.0, gamma=1.0),
            "batch",
            paper.stronger,
            without=[5],
        ),
    ]


def of_features() -> list[Trial]:
    """What compares features and relations."""
    features = {
        "attention_transfer": ("Zagoruyko 2017, their code", {}, paper.attention),
        "factor_transfer": ("Kim 2018, summed", {"form": "factor"}, summed_factors),
        "activation_boundary": ("Heo 2019", {}, paper.boundaries),
        "variational_information": ("Ahn 2019", {"variance": 1.5}, paper.variational(1.5)),
    }
    relations = {
        "similarity_preserving": ("Tung 2019", {}, paper.similarity),
        "pkt": ("Passalis 2018", {}, paper.probabilities),
        "rkd_distance": ("Park 2019", {}, paper.distances),
        "rkd_angle": ("Park 2019", {}, paper.angles),
        "correlation_congruence": ("Peng 2019", {}, paper.congruence_gaussian),
    }
    trials = [
        Trial(
            name,
            promise,
            partial(getattr(losses, name), **settings),
            kind,
            definition,
            without=[1] if name == "activation_boundary" else [],
        )
        for kind, table in (("feature", features), ("relation", relations))
        for name, (promise, settings, definition) in table.items()
    ]
    return [
        *trials,
        Trial(
            "review_kd",
            "Chen 2021",
            losses.review_kd,
            "feature",
            paper.review,
            draw=layers((6, 3, 8, 8)),
        ),
        Trial(
            "fsp",
            "Yim 2017, mean over the matrix",
            losses.fsp,
            "relation",
            mean_flow,
            draw=layers((6, 3, 4, 4), (6, 2, 4, 4)),
        ),
    ]


if __name__ == "__main__":
    report([], [*of_logits(), *of_features()], {})
