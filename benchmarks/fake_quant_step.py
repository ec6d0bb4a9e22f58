"""What a training step in few bits costs beside the same step in float.

Each float step is followed by one of every quantised copy of the model, in one process, so that
whatever else the machine does falls on all. Printed is the median over rounds of (quantised time /
float time), with quartiles.

    OMP_NUM_THREADS=1 python benchmarks/fake_quant_step.py [--rounds 15] [--keep-norms]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.compress.fake_quant_method import FakeQuantization
from limbeck.compress.method import CalibrationContext
from limbeck.compress.quantizers.binary import Binary
from limbeck.compress.quantizers.ternary import Ternary
from limbeck.compress.quantizers.uniform import Uniform
from limbeck.models.nets.cifar_resnet import resnet20

BATCH, WARM_UP = 64, 2


def ways(fold: bool) -> dict[str, FakeQuantization]:
    """Give the quantised copies that are trained."""
    return {
        "int8 min-max": Uniform(fold_batch_norm=fold),
        "int4 LSQ+": Uniform(bits=4, activation_bits=4, step="learned", fold_batch_norm=fold),
        "int4 LSQ": Uniform(
            bits=4,
            activation_bits=4,
            step="learned",
            symmetric_activations=True,
            fold_batch_norm=fold,
        ),
        "ternary": Ternary(fold_batch_norm=fold),
        "binary": Binary(fold_batch_norm=fold),
    }


def steps(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Give what trains a model by one step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    model.train()

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def work(images: Tensor) -> CalibrationContext:
    """Open the door to the calibration samples."""

    def batches() -> Iterator[Mapping[str, Tensor]]:
        yield {"image": images}

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return model(batch["image"]).mean()

    return CalibrationContext(
        batches=batches,
        forward=lambda model, batch: model(batch["image"]),
        loss=loss,
        validate=lambda model: 0.0,
        seed=0,
    )


def main() -> None:
    """Train all copies side by side, and print what each costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep-norms", action="store_true", help="do not fold batch norms")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    dense = resnet20(10)
    trained = {"float": steps(copy.deepcopy(dense), images, labels)}
    for name, way in ways(not arguments.keep_norms).items():
        model = copy.deepcopy(dense)
        way.transform(model, work(images))
        trained[name] = steps(model, images, labels)
    times: dict[str, list[float]] = {name: [] for name in trained}
    for _ in range(WARM_UP + arguments.rounds):
        for name, step in trained.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    report({name: found[WARM_UP:] for name, found in times.items()})


def report(times: Mapping[str, list[float]]) -> None:
    """Print the medians."""
    dense = times["float"]
    print(
        f"resnet20, 3x32x32, batch {BATCH}, {torch.get_num_threads()} thread(s), "
        f"{len(dense)} rounds: float {1000 * statistics.median(dense):.0f} ms a step"
    )
    for name, found in times.items():
        ratios = [ours / theirs for ours, theirs in zip(found, dense, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:14}{middle:.2f} times float (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
