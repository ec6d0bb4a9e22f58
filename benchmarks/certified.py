"""What can be proven of a distilled student, and of one that was trained to be provable?

Handwritten digits, a teacher of three layers and four students of the same small net: on labels
alone, distilled, on interval bounds (the worst logits within a size that grows), and on both. All
figures on test samples, means over seeds with 95 % intervals: accuracy, accuracy under PGD, and the
share that no change of a pixel by the size can break, which is proven.

    OMP_NUM_THREADS=1 python benchmarks/certified.py [--seeds 5] [--size 0.1]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from _digits import over_seeds, samples, split
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.evaluate.robustness.bound_functions import propagate, trace
from limbeck.evaluate.robustness.certified import around, certified_margins
from limbeck.losses import soft_target_kl

EPOCHS, BATCH = 60, 64
STUDENTS = {
    "labels alone": (False, False),
    "distilled": (True, False),
    "interval bounds": (False, True),
    "both": (True, True),
}
"""Each: whether it has a teacher, and whether it is trained on bounds."""

Loss = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


def net(width: int, seed: int) -> nn.Module:
    """Build a net without normalisation, whose bounds are the same in training."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * width, 10),
    )


def train(model: nn.Module, rows: Tensor, loss: Loss, *, seed: int) -> nn.Module:
    """Train with a size that grows from the first to the sixth tenth of the steps."""
    images, labels = samples()
    random = torch.Generator().manual_seed(seed)
    steps = EPOCHS * (len(rows) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), 0.003)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        batch = rows[torch.randint(len(rows), (BATCH,), generator=random)]
        grown = min(1.0, max(0.0, (step / steps - 0.1) / 0.5))
        optimizer.zero_grad()
        loss(model, images[batch], labels[batch], grown).backward()
        optimizer.step()
        falling.step()
    return model.eval().requires_grad_(False)


def worst_logits(model: nn.Module, images: Tensor, labels: Tensor, size: float) -> Tensor:
    """Give the lowest logit of each label, and the highest of all other classes."""
    graph = trace(model)
    known = propagate(model, graph, around(images, size, (0.0, 1.0)))
    bounds = known[next(node for node in graph.nodes if node.op == "output")]
    right = F.one_hot(labels, bounds.low.shape[1]).bool()
    return torch.where(right, bounds.low, bounds.high).float()


def objective(teacher: nn.Module | None, *, bounded: bool, size: float) -> Loss:
    """Compose what a student learns from."""

    def loss(model: nn.Module, images: Tensor, labels: Tensor, grown: float) -> Tensor:
        logits = model(images)
        total = F.cross_entropy(logits, labels)
        if teacher is not None:
            soft = soft_target_kl(logits, teacher(images), temperature=4.0).mean()
            total = 0.1 * total + 0.9 * soft
        if not bounded:
            return total
        worst = worst_logits(model, images, labels, size * grown)
        return (1 - 0.5 * grown) * total + 0.5 * grown * F.cross_entropy(worst, labels)

    return loss


def attacked(model: nn.Module, images: Tensor, labels: Tensor, size: float) -> float:
    """Climb the loss within the size, twenty steps, and give the accuracy that is left."""
    model = model.requires_grad_(False)
    changed = images.clone()
    for _ in range(20):
        changed.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(changed), labels), changed)
        step = changed.detach() + size / 4 * slope.sign()
        changed = torch.minimum(torch.maximum(step, images - size), images + size).clamp(0, 1)
    return float((model(changed).argmax(1) == labels).double().mean())


def judged(model: nn.Module, rows: Tensor, size: float) -> list[float]:
    """Give accuracy, accuracy under attack, and the share that is proven."""
    images, labels = samples()
    images, labels = images[rows], labels[rows]
    margins = certified_margins(model, images.numpy(), labels.numpy(), eps=size)
    right = float((model(images).argmax(1) == labels).double().mean())
    return [right, attacked(model, images, labels, size), float((margins > 0).mean())]


def of_seed(seed: int, size: float) -> list[list[float]]:
    """Train a teacher and its four students on one split."""
    learning, testing = split(seed)
    plain = objective(None, bounded=False, size=size)
    teacher = train(net(32, seed), learning, plain, seed=seed)
    found = [judged(teacher, testing, size)]
    for taught, bounded in STUDENTS.values():
        loss = objective(teacher if taught else None, bounded=bounded, size=size)
        student = train(net(4, seed + 100), learning, loss, seed=seed)
        found.append(judged(student, testing, size))
    return found


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--size", type=float, default=0.1)
    arguments = parser.parse_args()
    found = np.array([of_seed(seed, arguments.size) for seed in range(arguments.seeds)])
    print(f"| size {arguments.size:g} | accuracy, % | under PGD, % | proven, % |")
    print("|-|-:|-:|-:|")
    for place, name in enumerate(["teacher", *STUDENTS]):
        cells = (over_seeds(100 * found[:, place, figure]) for figure in range(3))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
