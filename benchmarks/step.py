"""What a training step of limbeck costs beside a loop written by hand with the same arithmetic.

Both train the same student beside the same frozen teacher on the same batches: cross-entropy and
T² KL, AdamW, a cosine learning rate. Each block of limbeck's steps, from data to optimiser with all
that `fit` does in between, is followed by a block of the other loop's, in one process, so that
whatever else the machine does falls on both.

    OMP_NUM_THREADS=1 python benchmarks/step.py [--size digits] [--blocks 200] [--json results.json]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from limbeck.data.load import load
from limbeck.data.rows import DenseLabels
from limbeck.data.spec import DataSpec
from limbeck.data.split import Split
from limbeck.models.nets.cifar_resnet import resnet20, resnet56
from limbeck.models.nets.digits_cnn import digits_cnn
from limbeck.objective import Objective, methods
from limbeck.schemes import Offline
from limbeck.tasks.image_classification import ImageClassification
from limbeck.teachers import FrozenTeacher
from limbeck.training import Training, fit

TEMPERATURE, ALPHA, RATE, WARMUP = 4.0, 0.1, 3e-3, 0.1


@dataclass(frozen=True)
class Size:
    """What is trained, and how many of its steps make a block."""

    what: str
    split: Callable[[], Split]
    student: Callable[[], nn.Module]
    teacher: Callable[[], nn.Module]
    batch: int
    steps: int


@dataclass(frozen=True)
class Result:
    """Milliseconds a step, and how much more limbeck takes."""

    size: str
    what: str
    threads: int
    blocks: int
    steps_a_block: int
    limbeck_ms: float
    by_hand_ms: float
    ratio: float
    ratio_of_totals: float
    ratio_quartiles: tuple[float, float]
    ratio_of_cpu_time: float


class Held:
    """Samples in memory, of random pixels: time does not depend on what they show."""

    def __init__(self, count: int, *shape: int) -> None:
        self.images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Give some pictures."""
        return {"image": self.images.index_select(0, index)}

    def raw(self, row: int) -> dict[str, object]:
        """Give one picture to be shown."""
        return {"image": self.images[row]}


def noise(count: int, *shape: int) -> Split:
    """Make a split of random pictures and labels."""
    labels = torch.randint(10, (count,), generator=torch.Generator().manual_seed(1))
    return Split(Held(count, *shape), DenseLabels(labels, classes=10))


def digits() -> Split:
    """Load scikit-learn's digits."""
    return load(DataSpec(source="sklearn", name="digits"), workdir=Path()).train


SIZES = {
    "digits": Size(
        "digits_cnn width 8, teacher width 64, 8x8, batch 64",
        digits,
        lambda: digits_cnn(10, width=8),
        lambda: digits_cnn(10, width=64),
        batch=64,
        steps=5,
    ),
    "fashion": Size(
        "digits_cnn width 32, teacher width 64, 28x28, batch 128",
        lambda: noise(5120, 1, 28, 28),
        lambda: digits_cnn(10, width=32),
        lambda: digits_cnn(10, width=64),
        batch=128,
        steps=2,
    ),
    "cifar": Size(
        "resnet20, teacher resnet56, 3x32x32, batch 64",
        lambda: noise(2560, 3, 32, 32),
        lambda: resnet20(10),
        lambda: resnet56(10),
        batch=64,
        steps=1,
    ),
}


def by_hand(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch: int,
    total: int,
    *,
    fused: bool,
) -> Iterator[float]:
    """Train as one would without limbeck; gives the running loss at each step."""
    parameters = list(student.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, fused=fused or None)
    student.train()
    teacher.eval().requires_grad_(False)
    step, running = 0, 0.0
    while True:
        order = torch.randperm(len(labels))
        for rows in order.split(batch):
            if len(rows) < 2:
                continue
            picture, label = images[rows], labels[rows]
            with torch.no_grad():
                theirs = teacher(picture)
            ours = student(picture)
            soft = F.kl_div(
                F.log_softmax(ours / TEMPERATURE, dim=1),
                F.log_softmax(theirs / TEMPERATURE, dim=1),
                log_target=True,
                reduction="batchmean",
            )
            hard = F.cross_entropy(ours, label)
            loss = ALPHA * hard + (1 - ALPHA) * TEMPERATURE**2 * soft
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = cosine(step / total)
            optimizer.step()
            optimizer.zero_grad()
            running += loss.item()
            step += 1
            yield running


def cosine(progress: float) -> float:
    """Give the learning rate: a linear warm-up, then half a cosine."""
    if progress < WARMUP:
        return RATE * progress / WARMUP
    return RATE * 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


class Enough(BaseException):
    """Ends a training when there are enough blocks."""


class Alternate:
    """Hears of limbeck's every step; after each block of them it runs a block of the other loop."""

    def __init__(self, other: Iterator[float], size: Size, blocks: int) -> None:
        self.other, self.size, self.blocks = other, size, blocks
        self.limbeck: list[float] = []
        self.by_hand: list[float] = []
        self.limbeck_cpu: list[float] = []
        self.by_hand_cpu: list[float] = []
        self.began = self.began_cpu = math.nan

    def update(self, done: int, total: int, note: str, *, milestone: bool = False) -> None:
        """After a full block of limbeck's steps, time it and run a block of the other loop's."""
        if milestone or done % self.size.steps:
            return
        now, cpu = time.perf_counter(), time.process_time()
        ours, ours_cpu = now - self.began, cpu - self.began_cpu
        for _ in range(self.size.steps):
            next(self.other)
        self.began, self.began_cpu = time.perf_counter(), time.process_time()
        if done > 2 * self.size.steps:  # the first blocks warm up
            self.limbeck.append(ours)
            self.by_hand.append(self.began - now)
            self.limbeck_cpu.append(ours_cpu)
            self.by_hand_cpu.append(self.began_cpu - cpu)
        if len(self.limbeck) == self.blocks:
            raise Enough


def measure(name: str, blocks: int, *, fused: bool) -> Result:
    """Run both loops at one size, block by block."""
    size = SIZES[name]
    torch.manual_seed(0)
    split, student, teacher = size.split(), size.student(), size.teacher()
    everything = split.__getitems__(range(len(split)))
    epochs = (blocks + 3) * size.steps // max(len(split) // size.batch, 1) + 1
    total = epochs * (len(split) // size.batch)
    other = by_hand(
        copy.deepcopy(student),
        copy.deepcopy(teacher),
        everything["image"],
        everything["labels"],
        size.batch,
        total,
        fused=fused,
    )
    alternate = Alternate(other, size, blocks)
    task = ImageClassification(classes=tuple(map(str, range(10))))
    scheme = Offline(
        student,
        task,
        Objective(methods.hinton(temperature=TEMPERATURE, alpha=ALPHA)),
        teacher=FrozenTeacher(teacher, task),
        probe=split.__getitems__([0, 1]),
    )
    settings = Training(
        epochs=epochs,
        batch_size=size.batch,
        learning_rate=RATE,
        weight_decay=0.01,
        warmup_ratio=WARMUP,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        fit(
            scheme,
            train=split,
            validate=lambda model: {"none": 0.0},
            settings=settings,
            folder=Path(folder),
            seed=0,
            accelerator=Accelerator(cpu=True),
            progress_bar=alternate,
        )
    return summarize(name, size, alternate)


def summarize(name: str, size: Size, alternate: Alternate) -> Result:
    """Take the medians over blocks."""
    pairs = zip(alternate.limbeck, alternate.by_hand, strict=True)
    quarters = statistics.quantiles((ours / theirs for ours, theirs in pairs), n=4)
    cpu = [
        ours / theirs
        for ours, theirs in zip(alternate.limbeck_cpu, alternate.by_hand_cpu, strict=True)
    ]
    ours, theirs = (
        1000 * statistics.median(times) / size.steps
        for times in (alternate.limbeck, alternate.by_hand)
    )
    return Result(
        size=name,
        what=size.what,
        threads=torch.get_num_threads(),
        blocks=len(alternate.limbeck),
        steps_a_block=size.steps,
        limbeck_ms=ours,
        by_hand_ms=theirs,
        ratio=quarters[1],
        ratio_of_totals=sum(alternate.limbeck) / sum(alternate.by_hand),
        ratio_quartiles=(quarters[0], quarters[2]),
        ratio_of_cpu_time=statistics.median(cpu),
    )


def main() -> None:
    """Measure every size and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, action="append", help="all if not given")
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--fused", action="store_true", help="the other loop's AdamW is fused, too")
    parser.add_argument("--json", type=Path, help="where the results go, besides the screen")
    arguments = parser.parse_args()
    results = []
    for name in arguments.size or SIZES:
        result = measure(name, arguments.blocks, fused=arguments.fused)
        results.append(asdict(result))
        low, high = result.ratio_quartiles
        print(
            f"{name}: {result.what}\n  limbeck {result.limbeck_ms:.3f} ms a step, by hand "
            f"{result.by_hand_ms:.3f} ms; ratio {result.ratio:.3f} (quartiles {low:.3f} to "
            f"{high:.3f}), of totals {result.ratio_of_totals:.3f}, "
            f"of CPU time {result.ratio_of_cpu_time:.3f}; {result.blocks} blocks of "
            f"{result.steps_a_block} steps, {result.threads} thread(s)"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
