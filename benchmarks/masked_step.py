"""What masks add to a training step: ResNet-20 at 3x32x32, batches of 64, SGD with momentum.

The dense net and each way of masking take turns, step by step, in one process; the ratio is the
median over rounds of (masked / dense). Growing masks are told of their progress before each step,
so that every step ranks all weights anew.

    OMP_NUM_THREADS=1 python benchmarks/masked_step.py [--rounds 30]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.compress.method import CalibrationContext
from limbeck.compress.pruners import PRUNERS
from limbeck.core.parametrized import Progressive
from limbeck.models.nets.cifar_resnet import resnet20

WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "masked, 90 %": ("magnitude", {"sparsity": 0.9}),
    "growing by magnitude": ("magnitude", {"sparsity": 0.9, "schedule": "cubic", "end": 1.0}),
    "growing by movement": ("movement", {"sparsity": 0.9, "begin": 0.0, "end": 1.0}),
}


def stepper(model: nn.Module, image: Tensor, label: Tensor) -> Callable[[float], float]:
    """Give a function that takes one step at a progress and says how long it took."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    parts = [part for part in model.modules() if isinstance(part, Progressive)]

    def step(progress: float) -> float:
        started = time.perf_counter()
        for part in parts:
            part.advance(progress)
        optimizer.zero_grad()
        F.cross_entropy(model(image), label).backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


def measure(rounds: int) -> dict[str, list[float]]:
    """Time every way in turn, in seconds a step; the first rounds warm up and are left out."""
    torch.manual_seed(0)
    image, label = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    dense = resnet20(10)
    work = CalibrationContext(
        batches=lambda: iter([{"image": image, "labels": label}]),
        forward=lambda model, batch: model(batch["image"]),
        loss=lambda model, batch: F.cross_entropy(model(batch["image"]), batch["labels"]),
        validate=lambda model: 0.0,
        seed=0,
    )
    models = {"dense": dense}
    for name, (method, settings) in WAYS.items():
        models[name] = copy.deepcopy(dense)
        PRUNERS.load(method)(**settings).change(models[name], work)
    steps = {name: stepper(model, image, label) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 3):
        for name, step in steps.items():
            seconds = step(turn / (rounds + 3))
            if turn >= 3:
                times[name].append(seconds)
    return times


def main() -> None:
    """Measure, and print a row of a table for every way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    times = measure(parser.parse_args().rounds)
    print(f"| way | ms a step | ratio to dense | quartiles | threads {torch.get_num_threads()} |")
    print("|-|-|-|-|-|")
    for name, seconds in times.items():
        ratios = [own / dense for own, dense in zip(seconds, times["dense"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        milliseconds = 1000 * statistics.median(seconds)
        print(f"| {name} | {milliseconds:.1f} | {middle:.3f} | {low:.3f} to {high:.3f} | |")


if __name__ == "__main__":
    main()
