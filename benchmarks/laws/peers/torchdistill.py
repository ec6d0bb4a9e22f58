"""torchdistill: what its loss modules compute, without the modules around them.

They read a student's and a teacher's outputs from nested dictionaries; here those hold one layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import definitions as paper
import torch
from torch import Tensor, nn
from torchdistill.losses import mid_level
from trial import NO_STUDENT_SIDE, Trial, by_unit, by_unit_at, report, whole

PAIR = {
    "pair": {"student": {"path": "x", "io": "output"}, "teacher": {"path": "x", "io": "output"}}
}
LOGITS = ("x", "output", "x", "output")


def call(module: nn.Module, student: Any, teacher: Any, *labels: Tensor) -> Tensor:
    """Call a loss module on what two models put out."""
    return module({"x": {"output": student}}, {"x": {"output": teacher}}, *labels).reshape(())


def on_maps(module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Call it on features as they are."""
    return lambda student, teacher: call(module, student, teacher)


def on_rows(module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Call it on one row of features a sample."""
    return lambda student, teacher: call(module, student.flatten(1), teacher.flatten(1))


def soft(student: Tensor, teacher: Tensor, degree: float) -> Tensor:
    """As a stage without labels has it: alpha = 0."""
    module = mid_level.KDLoss(*LOGITS, temperature=degree, alpha=0, reduction="sum")
    return call(module, student, teacher)


def mixed(student: Tensor, teacher: Tensor, degree: float) -> Tensor:
    """With labels, and so little cross-entropy that it cannot be seen."""
    module = mid_level.KDLoss(*LOGITS, temperature=degree, alpha=1e-30, beta=1, reduction="sum")
    return call(module, student, teacher, torch.zeros(len(student), dtype=torch.long))


def standardized(student: Tensor, teacher: Tensor, degree: float) -> Tensor:
    """With labels, and so little cross-entropy that it cannot be seen."""
    settings = {"temperature": degree, "alpha": 1e-30, "beta": 1, "reduction": "sum"}
    module = mid_level.LogitStdKDLoss(*LOGITS, **settings)
    return call(module, student, teacher, torch.zeros(len(student), dtype=torch.long))


def variational(student: Tensor, teacher: Tensor) -> Tensor:
    """The student puts out a mean and a variance."""
    module = mid_level.VIDLoss(PAIR)
    return call(module, (student, torch.tensor(1.5, dtype=student.dtype)), teacher)


def review(student: Tensor, teacher: Tensor) -> Tensor:
    """The student puts out a map and what goes to the next layer."""
    return call(mid_level.HierarchicalContextLoss(*LOGITS), (student, None), teacher)


def factors(student: Tensor, teacher: Tensor) -> Tensor:
    """Without the learned parts around it."""
    return call(mid_level.FTLoss(paraphraser_path="x", translator_path="x"), student, teacher)


def relations(distance: float, angle: float) -> Callable[[Tensor, Tensor], Tensor]:
    """RKD's two halves, one by one."""
    return on_maps(mid_level.RKDLoss("x", "x", distance, angle, "mean"))


def congruence(**kernel: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """On the rows that its linear layer would give; those are of length one in the paper."""
    module = mid_level.CCKDLoss("x", "x", kernel, "batchmean")

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        rows = (nn.functional.normalize(side.flatten(1)) for side in (student, teacher))
        if kernel["type"] == "bilinear":
            rows = (side.flatten(1) for side in (student, teacher))
        return call(module, *rows)

    return loss


def stronger(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """DIST with both weights at 1."""
    if not len(student):
        return student.sum()
    return call(mid_level.DISTLoss(*LOGITS, tau=temperature), student, teacher)


def flow(student: Any, teacher: Any) -> Tensor:
    """Two layers on either side."""
    layers = {
        f"{side}_{name}": {"path": name, "io": "output"}
        for side in ("student", "teacher")
        for name in ("first", "second")
    }
    module = mid_level.FSPLoss({"pair": layers})
    ours, theirs = (
        {name: {"output": layer} for name, layer in zip(("first", "second"), side, strict=True)}
        for side in (student, teacher)
    )
    return module(ours, theirs)


def two_layers(generator: torch.Generator, scale: float) -> Any:
    """Draw two maps of one size for either side."""
    shapes = ((6, 3, 4, 4), (6, 2, 4, 4))
    return tuple(
        tuple(torch.randn(shape, generator=generator).double() * scale for shape in shapes)
        for _ in range(2)
    )


def larger_maps(generator: torch.Generator, scale: float) -> tuple[Tensor, Tensor]:
    """Draw maps that can be pooled."""
    student, teacher = (
        torch.randn(6, 3, 8, 8, generator=generator).double() * scale for _ in range(2)
    )
    return student, teacher


def drawing() -> str:
    """Let CRD draw its negatives itself."""
    module = mid_level.CRDLoss("x", "empty", "x", 4, 8, 3, 8)
    rows = nn.functional.normalize(torch.randn(2, 4))
    given = {"x": {"output": rows}, "empty": {"input": {"pos_idx": torch.arange(2)}}}
    try:
        module(given, {"x": {"output": rows}})
    except Exception as error:
        return f"drawing negatives itself, it raises {type(error).__name__}: {error}"
    return "its value depends on what it draws"


TRIALS = [
    Trial(
        "KDLoss, alpha = 0",
        "T²·KL(teacher ‖ student)",
        by_unit_at(soft),
        "divergence",
        paper.forward_kl,
        how="reduction='sum'",
        excused=NO_STUDENT_SIDE,
        instead={"KL(teacher ‖ student), without T²": paper.without_square(paper.forward_kl)},
    ),
    Trial(
        "KDLoss, with labels",
        "T²·KL(teacher ‖ student)",
        by_unit_at(mixed),
        "divergence",
        paper.forward_kl,
        how="reduction='sum', alpha = 1e-30",
        excused=NO_STUDENT_SIDE,
    ),
    Trial(
        "LogitStdKDLoss, with labels",
        "T²·KL of standardised logits, Sun 2024",
        by_unit_at(standardized),
        "response",
        paper.standardized_kl,
        how="reduction='sum', alpha = 1e-30",
        excused=NO_STUDENT_SIDE,
    ),
    Trial("DISTLoss", "Huang 2022", stronger, "batch", paper.stronger, without=[5]),
    Trial(
        "ATLoss, mode='code'",
        "Zagoruyko 2017, their code",
        by_unit(on_maps(mid_level.ATLoss(PAIR, mode="code"))),
        "feature",
        paper.attention,
    ),
    Trial(
        "ATLoss, mode='paper'",
        "Zagoruyko 2017, their paper",
        by_unit(on_maps(mid_level.ATLoss(PAIR, mode="paper"))),
        "feature",
        paper.attention_norm,
    ),
    Trial("FTLoss", "Kim 2018", by_unit(factors), "feature", paper.factors),
    Trial(
        "AltActTransferLoss",
        "Heo 2019",
        by_unit(on_maps(mid_level.AltActTransferLoss(PAIR, margin=1.0, reduction="mean"))),
        "feature",
        paper.boundaries,
        without=[1],
        how="not at its minimum at student = teacher by design: law 1 does not apply",
    ),
    Trial(
        "VIDLoss",
        "Ahn 2019",
        by_unit(variational),
        "feature",
        paper.variational(1.5),
        how="variance 1.5",
    ),
    Trial(
        "HierarchicalContextLoss",
        "Chen 2021",
        by_unit(review),
        "feature",
        paper.review,
        draw=larger_maps,
    ),
    Trial(
        "SPKDLoss",
        "Tung 2019",
        whole(on_maps(mid_level.SPKDLoss("x", "x", "batchmean"))),
        "relation",
        paper.similarity,
        instead={"that of rows normalised in L1, not L2": paper.similarity_of_sums},
    ),
    Trial(
        "PKTLoss",
        "Passalis 2018",
        whole(on_rows(mid_level.PKTLoss(*LOGITS))),
        "relation",
        paper.probabilities,
    ),
    Trial(
        "RKDLoss, distances", "Park 2019", whole(relations(1.0, 0.0)), "relation", paper.distances
    ),
    Trial("RKDLoss, angles", "Park 2019", whole(relations(0.0, 1.0)), "relation", paper.angles),
    Trial(
        "CCKDLoss, bilinear",
        "Peng 2019",
        whole(congruence(type="bilinear")),
        "relation",
        paper.congruence,
        instead={
            "‖C_S − C_T‖/n², a norm that is not squared": paper.root_over_pairs(paper.congruence)
        },
    ),
    Trial(
        "CCKDLoss, gaussian",
        "Peng 2019",
        whole(congruence(type="gaussian", gamma=0.4, max_p=2)),
        "relation",
        paper.congruence_gaussian,
        how="rows of length 1",
        instead={
            "‖C_S − C_T‖/n², a norm that is not squared": paper.root_over_pairs(
                paper.congruence_gaussian
            )
        },
    ),
    Trial(
        "FSPLoss",
        "Yim 2017",
        whole(flow),
        "relation",
        paper.flow,
        draw=two_layers,
        instead={"the sum of the columns' norms, not squared": paper.flow_of_columns},
    ),
]

if __name__ == "__main__":
    report(["torchdistill"], TRIALS, {"CRDLoss": drawing()})
