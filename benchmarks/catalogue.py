"""limbeck's losses beside torchdistill's, where it has the same loss, at the shapes of CIFAR-100.

It runs where torchdistill is installed, with limbeck's source on the path; forward and backward of
both in one process, block by block in turns, so that whatever else the machine does falls on both.

    PYTHONPATH=src OMP_NUM_THREADS=1 python benchmarks/catalogue.py [--loss NAME] [--blocks 400]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchdistill.losses import mid_level

from limbeck import losses
from limbeck.connectors.contrastive import MemoryBank

BATCH, CLASSES, SAMPLES, NEGATIVES = 64, 100, 50_000, 4096
LONG, PATIENCE = 0.001, 40.0  # seconds: of a block at least, of a loss at most, about
LOGITS = ("x", "output", "x", "output")
PAIR = {
    "pair": {"student": {"path": "x", "io": "output"}, "teacher": {"path": "x", "io": "output"}}
}

Layers = Sequence[Tensor]


@dataclass(frozen=True)
class Case:
    """A loss on both sides.

    Attributes:
        theirs: The name of torchdistill's.
        shapes: What is compared: the student's, then the teacher's, of one layer or two.
        limbeck: limbeck's, of (student, teacher) to one value or one a sample.
        peer: torchdistill's, to a scalar.
    """

    theirs: str
    shapes: tuple[tuple[int, ...], ...]
    limbeck: Callable[..., Tensor]
    peer: Callable[..., Tensor]


@dataclass(frozen=True)
class Result:
    """Milliseconds for forward and backward, and the medians over blocks of the sides' ratio.

    In one thread processor time is what the clock would say on a machine with nothing else to do.
    """

    loss: str
    theirs: str
    shapes: str
    limbeck_ms: float
    torchdistill_ms: float
    ratio: float
    ratio_of_cpu_time: float
    cpu_quartiles: tuple[float, float]
    blocks: int


def of(module: nn.Module) -> Callable[..., Tensor]:
    """Call a module of torchdistill on what one layer of either side puts out."""
    return lambda ours, theirs: module({"x": {"output": ours}}, {"x": {"output": theirs}})


def of_two(module: nn.Module) -> Callable[..., Tensor]:
    """Call it on two layers of either side."""

    def call(ours: Layers, theirs: Layers) -> Tensor:
        return module(
            *({"a": {"output": side[0]}, "b": {"output": side[1]}} for side in (ours, theirs))
        )

    return call


def cases() -> dict[str, Case]:
    """Give the losses that both have."""
    return {**_of_logits(), **_of_features(), **_of_relations()}


def _of_logits() -> dict[str, Case]:
    one = ((BATCH, CLASSES), (BATCH, CLASSES))
    return {
        # Without labels it leaves T² out: one multiplication less than limbeck.
        "soft_target_kl": Case(
            "KDLoss",
            one,
            lambda s, t: losses.soft_target_kl(s, t, temperature=4.0),
            of(mid_level.KDLoss(*LOGITS, temperature=4.0, alpha=0)),
        ),
        "standardized_kl": Case(
            "LogitStdKDLoss",
            one,
            losses.standardized_kl,
            of(mid_level.LogitStdKDLoss(*LOGITS, temperature=2.0, alpha=0)),
        ),
        "dist": Case("DISTLoss", one, losses.dist, of(mid_level.DISTLoss(*LOGITS, 2.0, 2.0))),
    }


def _of_features() -> dict[str, Case]:
    alike = ((BATCH, 64, 8, 8), (BATCH, 64, 8, 8))
    wider = ((BATCH, 64, 8, 8), (BATCH, 256, 8, 8))
    variance = torch.full((1, 64, 1, 1), 5.0)
    squares = nn.MSELoss()
    return {
        "fitnet_hint": Case("MSELoss (torch's)", alike, losses.fitnet_hint, squares),
        "attention_transfer": Case(
            "ATLoss", wider, losses.attention_transfer, of(mid_level.ATLoss(PAIR, mode="code"))
        ),
        "factor_transfer": Case(
            "FTLoss",
            alike,
            lambda s, t: losses.factor_transfer(s, t, form="factor"),
            of(mid_level.FTLoss(paraphraser_path="x", translator_path="x")),
        ),
        "activation_boundary": Case(
            "AltActTransferLoss",
            alike,
            losses.activation_boundary,
            of(mid_level.AltActTransferLoss(PAIR, margin=1.0, reduction="mean")),
        ),
        "variational_information": Case(
            "VIDLoss",
            alike,
            lambda s, t: losses.variational_information(s, t, variance=variance.flatten()),
            lambda s, t: of(mid_level.VIDLoss(PAIR))((s, variance.expand_as(s)), t),
        ),
        "review_kd": Case(
            "HierarchicalContextLoss",
            alike,
            losses.review_kd,
            lambda s, t: of(mid_level.HierarchicalContextLoss(*LOGITS))((s, None), t),
        ),
    }


def _of_relations() -> dict[str, Case]:
    rows, maps = ((BATCH, 64), (BATCH, 256)), ((BATCH, 64, 8, 8), (BATCH, 256, 8, 8))
    embedded = ((BATCH, 128), (BATCH, 128))
    stages = ((BATCH, 16, 32, 32), (BATCH, 32, 16, 16)) * 2
    gaussian = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    ends = {
        f"{side}_{place}": {"path": path, "io": "output"}
        for side in ("student", "teacher")
        for place, path in (("first", "a"), ("second", "b"))
    }
    return {
        "similarity_preserving": Case(
            "SPKDLoss",
            maps,
            losses.similarity_preserving,
            of(mid_level.SPKDLoss("x", "x", "batchmean")),
        ),
        "rkd_distance": Case(
            "RKDLoss", rows, losses.rkd_distance, of(mid_level.RKDLoss("x", "x", 1.0, 0.0, "mean"))
        ),
        "rkd_angle": Case(
            "RKDLoss", rows, losses.rkd_angle, of(mid_level.RKDLoss("x", "x", 0.0, 1.0, "mean"))
        ),
        "pkt": Case("PKTLoss", rows, losses.pkt, of(mid_level.PKTLoss(*LOGITS))),
        "correlation_congruence": Case(
            "CCKDLoss",
            embedded,
            losses.correlation_congruence,
            of(mid_level.CCKDLoss("x", "x", gaussian, "batchmean")),
        ),
        "fsp": Case("FSPLoss", stages, losses.fsp, of_two(mid_level.FSPLoss({"pair": ends}))),
        "crd": Case("CRDLoss", embedded, _bank(), _their_bank()),
    }


def _bank() -> Callable[..., Tensor]:
    bank = MemoryBank(SAMPLES, 128, negatives=NEGATIVES)
    index = torch.randperm(SAMPLES)[:BATCH]
    normalize = nn.functional.normalize

    def call(student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = normalize(student), normalize(teacher)
        return losses.crd(ours, theirs, **bank(ours, theirs, {"index": index}))

    return call


def _their_bank() -> Callable[..., Tensor]:
    """Negatives are drawn beforehand: its own way of drawing them fails (it asks for `prob`)."""
    module = mid_level.CRDLoss("x", "empty", "x", 128, SAMPLES, NEGATIVES, SAMPLES)
    index = torch.randperm(SAMPLES)[:BATCH]
    drawn = torch.randint(SAMPLES, (BATCH, NEGATIVES + 1))
    drawn[:, 0] = index
    given = {"empty": {"input": {"pos_idx": index, "contrast_idx": drawn}}}
    normalize = nn.functional.normalize

    def call(student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = normalize(student), normalize(teacher)
        return module({"x": {"output": ours}, **given}, {"x": {"output": theirs}}).sum()

    return call


def measure(name: str, case: Case, blocks: int) -> Result:
    """Take both sides' times in turns."""
    steps = [_step(call, _draw(case.shapes)) for call in (case.limbeck, case.peer)]
    for step in steps * 3:
        step()
    counts, costs = zip(*(_enough(step) for step in steps), strict=True)
    blocks = max(15, min(blocks, round(PATIENCE / sum(costs))))
    ours, theirs = zip(*_alternate(steps, counts, blocks), strict=True)
    ratios, of_cpu = (
        [mine[clock] / other[clock] for mine, other in zip(ours, theirs, strict=True)]
        for clock in (0, 1)
    )
    low, middle, high = statistics.quantiles(of_cpu, n=4)
    limbeck, torchdistill = (
        1000 * statistics.median(wall for wall, _ in side) for side in (ours, theirs)
    )
    shapes = " and ".join("×".join(map(str, shape)) for shape in dict.fromkeys(case.shapes))
    return Result(
        loss=name,
        theirs=case.theirs,
        shapes=shapes,
        limbeck_ms=limbeck,
        torchdistill_ms=torchdistill,
        ratio=statistics.median(ratios),
        ratio_of_cpu_time=middle,
        cpu_quartiles=(low, high),
        blocks=blocks,
    )


def _draw(shapes: Sequence[tuple[int, ...]]) -> tuple[Any, Any]:
    torch.manual_seed(0)
    drawn = [torch.randn(shape) for shape in shapes]
    half = len(drawn) // 2
    return (drawn[0], drawn[1]) if half == 1 else (drawn[:half], drawn[half:])


def _step(call: Callable[..., Tensor], sides: tuple[Any, Any]) -> Callable[[], object]:
    student, teacher = sides
    leaves = [student] if isinstance(student, Tensor) else list(student)
    for leaf in leaves:
        leaf.requires_grad_()

    def step() -> object:
        value = call(student, teacher)
        return torch.autograd.grad(value.mean() if value.ndim else value, leaves)

    return step


def _enough(step: Callable[[], object]) -> tuple[int, float]:
    """Say how many steps make a block, and how many seconds that takes."""
    began = time.perf_counter()
    step()
    taken = time.perf_counter() - began
    count = max(1, round(LONG / taken))
    return count, count * taken


def _alternate(
    steps: Sequence[Callable[[], object]], counts: Sequence[int], blocks: int
) -> Iterator[tuple[tuple[float, float], ...]]:
    """Give seconds a step of either side, by the clock and of processor time.

    Who begins changes from block to block.
    """
    for block in range(blocks):
        taken = [(0.0, 0.0), (0.0, 0.0)]
        for side in (0, 1) if block % 2 else (1, 0):
            began, began_cpu = time.perf_counter(), time.process_time()
            for _ in range(counts[side]):
                steps[side]()
            wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
            taken[side] = (wall / counts[side], cpu / counts[side])
        yield tuple(taken)


def main() -> None:
    """Measure, and print the rows of the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", action="append", help="all if not given")
    parser.add_argument("--blocks", type=int, default=400)
    parser.add_argument("--json", type=Path, help="where the results go, besides the screen")
    arguments = parser.parse_args()
    known, results = cases(), []
    for name in arguments.loss or known:
        result = measure(name, known[name], arguments.blocks)
        results.append(asdict(result))
        low, high = result.cpu_quartiles
        print(
            f"| `{name}` | `{result.theirs}` | {result.shapes} | {result.limbeck_ms:.2f} | "
            f"{result.torchdistill_ms:.2f} | {result.ratio:.2f} | "
            f"{result.ratio_of_cpu_time:.2f} ({low:.2f} to {high:.2f}) |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
