"""Where in a net does compressing cost robustness? One layer pruned at a time, early to late.

A small net learns handwritten digits; then the smallest weights of one layer become zero, with no
training after it or with a little. What is shown, of test samples that the net never saw: how many
points of accuracy went, and what share of its distance to the decision boundary is left (median,
L2, margin over slope). Means over seeds with 95 % intervals, paired by seed.

    OMP_NUM_THREADS=1 python benchmarks/position.py [--seeds 5] [--width 8]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence

import numpy as np
import torch
from _digits import over_seeds, samples, split
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.compress.method import CalibrationContext
from limbeck.compress.pruners.magnitude import Magnitude
from limbeck.evaluate.robustness.certified import boundary_distances
from limbeck.models.nets.digits_cnn import digits_cnn

LAYERS = ("block1.0", "block2.0", "block3.0", "linear")


def train(model: nn.Module, rows: Tensor, *, epochs: int, rate: float, seed: int) -> None:
    """Train on labels alone, in batches of 64."""
    images, labels = samples()
    random = torch.Generator().manual_seed(seed)
    steps = epochs * (len(rows) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (64,), generator=random)]
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        falling.step()
    model.eval()


def prune(model: nn.Module, layer: str, sparsity: float) -> None:
    """Zero the smallest weights of one layer; they stay zero."""
    Magnitude(sparsity=sparsity, layers=[layer]).transform(model, NO_WORK)


NO_WORK = CalibrationContext(
    batches=lambda: iter(()),
    forward=lambda model, batch: model(batch["image"]),
    loss=lambda model, batch: torch.tensor(0.0),
    validate=lambda model: 0.0,
    seed=0,
)
"""Magnitudes ask for nothing beside the model."""


def judged(model: nn.Module, rows: Tensor) -> tuple[float, float]:
    """Give the accuracy and the median distance to the boundary, with the model's own gradients."""
    images, labels = samples()
    with torch.no_grad():
        right = (model(images[rows]).argmax(1) == labels[rows]).double().mean()
    still = copy.deepcopy(model).requires_grad_(False)
    distances = boundary_distances(still, images[rows].numpy(), labels[rows].numpy())
    return float(right), float(np.median(distances))


def seeds_of(seed: int, width: int, sparsities: Sequence[float]) -> list[list[float]]:
    """Prune every layer of one net: accuracy and distance, before it and after each."""
    learning, testing = split(seed)
    torch.manual_seed(seed)
    net = digits_cnn(10, width=width)
    train(net, learning, epochs=30, rate=0.01, seed=seed)
    before = judged(net, testing)
    rows = []
    for sparsity in sparsities:
        for layer in LAYERS:
            pruned = copy.deepcopy(net)
            prune(pruned, layer, sparsity)
            at_once = judged(pruned, testing)
            train(pruned, learning, epochs=5, rate=0.002, seed=seed + 1)
            after = judged(pruned, testing)
            rows.append(
                [
                    *(100 * (found[0] - before[0]) for found in (at_once, after)),
                    *(100 * found[1] / before[1] for found in (at_once, after)),
                ]
            )
    return rows


def main() -> None:
    """Print a table in Markdown, a line a layer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--width", type=int, default=8)
    arguments = parser.parse_args()
    sparsities = (0.5, 0.8)
    found = np.array([seeds_of(s, arguments.width, sparsities) for s in range(arguments.seeds)])
    print("| layer | zeros | points | points, trained on | distance, % | distance, trained on, % |")
    print("|-|-:|-:|-:|-:|-:|")
    places = [(sparsity, layer) for sparsity in sparsities for layer in LAYERS]
    for place, (sparsity, layer) in enumerate(places):
        values = found[:, place].T
        cells = [
            *(over_seeds(one, "+") for one in values[:2]),
            *(over_seeds(one) for one in values[2:]),
        ]
        print(f"| {layer} | {sparsity:.0%} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
