"""Students and what they learned besides labels: features, relations, structure of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from limbeck.objective import Objective
from limbeck.objective.objective import ObjectiveLike
from limbeck.studies.measures import bench
from limbeck.studies.measures.bench import Data, Spec, Split
from limbeck.taps import Taps
from limbeck.tasks import TASKS


@dataclass(frozen=True, eq=False)
class Pair:
    """A trained student, its teacher's members, and the data."""

    net: nn.Module
    teachers: Sequence[nn.Module]
    on: Data

    def teacher_logits(self, inputs: Tensor) -> Tensor:
        """Return the logits of the teacher, for several members those of the mean probability."""
        return of_members(self.teachers, inputs)


def of_members(models: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """Return the logits of one model, or of the mean probability of several."""
    found = [bench.logits(one, inputs) for one in models]
    return found[0] if len(found) == 1 else bench.ensemble(found)


def trained(
    *,
    seed: int,
    data: str,
    student: Spec,
    teacher: Spec,
    objective: ObjectiveLike,
    training: Mapping[str, Any],
    rows: int | None = None,
    labelled: int | None = None,
    groups: int | None = None,
) -> Pair:
    """Train a teacher and a student, as `distillation.student` does.

    Args:
        seed: The seed.
        data: A data set of `bench.data`, or `textures` or `parity`.
        student: The student's net.
        teacher: The teacher's net, with the settings of its training.
        objective: Terms, or a method by name, as in a recipe.
        training: Settings of the student's training.
        rows: Training samples; all if None.
        labelled: Of these, samples with a label; all if None.
        groups: Merge the classes into as many groups of consecutive ones; no change if None.
    """
    on = grouped(load(data), groups).with_rows(rows)
    spec = {**teacher, **({} if labelled is None else {"labelled": labelled})}
    models = bench.teachers(spec, on, seed=seed, key=f"{data} {rows} {groups}")
    aim = Objective.of(objective)
    given: nn.Module | Tensor | None = None
    if aim.needs_teacher:
        live = bool(aim.teacher_taps)
        given = models[0] if live else of_members(models, on.train.inputs)
    net = bench.train(
        bench.build(student, on, seed=seed),
        on,
        aim,
        seed=seed,
        teacher=given,
        labelled=None if labelled is None else bench.mask(on, labelled, seed=seed),
        **training,
    )
    return Pair(net, models, on)


@cache
def load(name: str) -> Data:
    """Load a data set of `bench.data`, or make `textures` or `parity`."""
    return _MADE[name]() if name in _MADE else bench.data(name)


def _textures(*, count: int = 1600, size: int = 16, noise: float = 2.5) -> Data:
    """Make images of 8 textures: two gratings each, of random phases, with Gaussian noise.

    The textures differ by the directions of the gratings (four, at 45 degrees) and by their
    frequency (two); positions say nothing about the class. Half of the images are test samples.
    """
    generator = torch.Generator().manual_seed(bench.SPLIT_SEED)
    labels = torch.arange(count) % 8
    axis = torch.arange(size) - size / 2
    angles = (labels % 4) * torch.pi / 4
    frequency = torch.where(labels < 4, 0.15, 0.25)

    def grating(angle: Tensor) -> Tensor:
        position = angle.cos()[:, None, None] * axis + angle.sin()[:, None, None] * axis[:, None]
        phase = torch.rand(count, 1, 1, generator=generator)
        return torch.sin(2 * torch.pi * (frequency[:, None, None] * position + phase))

    images = grating(angles) + 0.5 * grating(angles + torch.pi / 3)
    images = images + noise * torch.randn(images.shape, generator=generator)
    return _halves(images.unsqueeze(1), labels, "image_classification", generator)


def _parity(
    *, count: int = 4000, columns: int = 8, relevant: int = 3, flipped: float = 0.1
) -> Data:
    """Make rows of Gaussian columns; the label is the parity of the signs of some of them.

    A share of the training labels is flipped. Neighbours have the same label little more often than
    other pairs.
    """
    generator = torch.Generator().manual_seed(bench.SPLIT_SEED)
    rows = torch.randn(count, columns, generator=generator)
    labels = (rows[:, :relevant] > 0).sum(1) % 2
    on = _halves(rows, labels, "tabular_classification", generator)
    wrong = torch.rand(len(on.train), generator=generator) < flipped
    return replace(on, train=replace(on.train, labels=on.train.labels ^ wrong.long()))


def _halves(inputs: Tensor, labels: Tensor, task: str, generator: torch.Generator) -> Data:
    order = torch.randperm(len(labels), generator=generator)
    everything = Split(inputs, labels)
    half = len(labels) // 2
    names = tuple(map(str, range(int(labels.max()) + 1)))
    parts = everything.take(order[:half]), everything.take(order[half:])
    return Data(*parts, TASKS.load(task)(names))


_MADE: Mapping[str, Callable[[], Data]] = {"textures": _textures, "parity": _parity}


def grouped(on: Data, groups: int | None) -> Data:
    """Merge the classes into groups of consecutive ones; no change if None."""
    if groups is None:
        return on
    size = -(-on.classes // groups)
    task = TASKS.load("image_classification")(tuple(map(str, range(groups))))
    train, test = (replace(one, labels=one.labels // size) for one in (on.train, on.test))
    return Data(train, test, task)


def student(
    *,
    seed: int,
    layer: str | None = None,
    teacher_layer: str | None = None,
    attack: float = 0.0,
    probe: str | None = None,
    **settings: Any,
) -> dict[str, float]:
    """Train a student, and compare its features with the teacher's on the test samples.

    Args:
        seed: The seed.
        layer: A layer of the student.
        teacher_layer: A layer of the teacher; the student's if None.
        attack: The largest change of a pixel in an attack (PGD); none if 0.
        probe: Another data set, for a linear probe of the layer.
        settings: As for `trained`.

    Returns:
        What `bench.describe` computes, `teacher_accuracy`, `boundary_changes` (class changes per
        line between two test samples); with a layer `cka` (linear CKA), `recall` (the share of
        samples whose nearest neighbour by the layer's cosine has the same class), for maps
        `attention_cosine`, for equal shapes `sign_agreement`; with an attack `attacked_accuracy`;
        with a probe `probe_accuracy`.

    Source: Kornblith et al. 2019 (CKA); Madry et al. 2018 (PGD).
    """
    pair = trained(seed=seed, **settings)
    test = pair.on.test
    answer = pair.teacher_logits(test.inputs)
    values = bench.describe(bench.logits(pair.net, test.inputs), test, answer)
    values["teacher_accuracy"] = bench.describe(answer, test)["accuracy"]
    values["parameters"] = bench.parameters(pair.net)
    values["boundary_changes"] = boundary_changes(pair.net, test, seed=seed)
    if layer is not None:
        own = features(pair.net, layer, test.inputs)
        other = features(pair.teachers[0], teacher_layer or layer, test.inputs)
        values["cka"] = linear_cka(own.flatten(1), other.flatten(1))
        values["recall"] = recall_at_1(own.flatten(1), test.labels)
        if own.ndim == other.ndim == 4:
            values["attention_cosine"] = attention_cosine(own, other)
        if own.shape == other.shape:
            values["sign_agreement"] = float(((own > 0) == (other > 0)).float().mean())
    if attack:
        moved = attacked(pair.net, test, attack)
        values["attacked_accuracy"] = bench.describe(bench.logits(pair.net, moved), test)[
            "accuracy"
        ]
    if probe is not None and layer is not None:
        values["probe_accuracy"] = linear_probe(pair.net, layer, probe)
    return values


def features(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """Return the outputs of a layer, `[n, ...]`."""
    with Taps(model, [layer]) as taps:
        bench.logits(model, inputs, batch=len(inputs))
        return taps.take()[layer].detach()


def linear_cka(x: Tensor, y: Tensor) -> float:
    r"""Compute the linear centred kernel alignment of features `[n, p]` and `[n, q]`.

    $$\|Y^T X\|_F^2 / (\|X^T X\|_F \|Y^T Y\|_F)$$ for centred columns; 1 for equal features up to a
    rotation and a factor.

    Example:
        >>> x = torch.randn(20, 3)
        >>> round(linear_cka(x, -2 * x), 5)
        1.0

    Source: Kornblith et al. 2019.
    """
    x, y = ((one - one.mean(0)).double() for one in (x, y))
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def recall_at_1(found: Tensor, labels: Tensor) -> float:
    """Compute the share of samples whose nearest neighbour, by the cosine, has the same class."""
    unit = F.normalize(found, dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return float((labels[similarity.argmax(1)] == labels).float().mean())


def attention_cosine(student: Tensor, teacher: Tensor) -> float:
    """Compute the mean cosine of spatial attention maps (sums of squares over the channels).

    The larger map is average-pooled to the size of the smaller.
    """
    maps = [one.square().mean(1, keepdim=True) for one in (student, teacher)]
    height, width = (min(one.shape[axis] for one in maps) for axis in (2, 3))
    size = (height, width)
    x, y = (F.adaptive_avg_pool2d(one, size).flatten(1) for one in maps)
    return float(F.cosine_similarity(x, y).mean())


def attacked(net: nn.Module, test: Split, size: float, *, steps: int = 10) -> Tensor:
    """Return inputs after projected gradient descent (PGD) within `size` per input value."""
    x, moved = test.inputs, test.inputs.clone()
    for _ in range(steps):
        moved.requires_grad_()
        loss = F.cross_entropy(net(moved), test.labels)
        [gradient] = torch.autograd.grad(loss, moved)
        step = moved.detach() + 2.5 * size / steps * gradient.sign()
        moved = (x + (step - x).clamp(-size, size)).clamp(0, 1)
    return moved.detach()


def boundary_changes(
    net: nn.Module, test: Split, *, seed: int, lines: int = 300, points: int = 21
) -> float:
    """Count the changes of the predicted class along lines between two test samples, per line."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(len(test), (2, lines), generator=generator)
    share = torch.linspace(0, 1, points).reshape(-1, *[1] * test.inputs.ndim)
    on_line = torch.lerp(test.inputs[first], test.inputs[second], share)
    predicted = bench.logits(net, on_line.flatten(0, 1)).argmax(1).reshape(points, lines)
    return float((predicted[1:] != predicted[:-1]).sum(0).float().mean())


@cache
def small(name: str, count: int = 1500, size: int = 8) -> Data:
    """Return images of a data set, average-pooled to `size`, the first `count` of each part."""
    on = bench.data(name)

    def part(split: Split) -> Split:
        split = split.take(torch.arange(count))
        return replace(split, inputs=F.adaptive_avg_pool2d(split.inputs, size))

    return replace(on, train=part(on.train), test=part(on.test))


def linear_probe(net: nn.Module, layer: str, name: str) -> float:
    """Return the test accuracy of logistic regression on a layer, on another data set."""
    on = small(name)
    train, test = (features(net, layer, one.inputs).flatten(1) for one in (on.train, on.test))
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    probe = LogisticRegression(max_iter=300).fit((train - mean) / std, on.train.labels)
    return float(probe.score((test - mean) / std, on.test.labels))


def changed_targets(
    *,
    seed: int,
    data: str,
    student: Spec,
    teacher: Spec,
    objective: ObjectiveLike,
    training: Mapping[str, Any],
    labelled: int | None = None,
    rows: int | None = None,
    change: str,
) -> dict[str, float]:
    """Train a student on the teacher's targets, and another on changed ones.

    Args:
        seed: The seed.
        data: The data set.
        student: The student's net.
        teacher: The teacher's net, with the settings of its training.
        objective: The objective of both students.
        training: Settings of the student's training.
        labelled: Samples with a label; all if None.
        rows: Training samples; all if None.
        change: `wrong_classes` permutes each sample's logits of the classes other than the
            teacher's prediction; `within_class` exchanges the targets of samples with the same
            predicted class.

    Returns:
        `accuracy`, `changed_accuracy`, and `drop`, the first minus the second.
    """
    on = bench.data(data).with_rows(rows)
    spec = {**teacher, **({} if labelled is None else {"labelled": labelled})}
    targets = of_members(bench.teachers(spec, on, seed=seed, key=f"{data} {rows}"), on.train.inputs)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, given in {
        "accuracy": targets,
        "changed_accuracy": _CHANGES[change](targets, generator),
    }.items():
        net = bench.train(
            bench.build(student, on, seed=seed),
            on,
            objective,
            seed=seed,
            teacher=given,
            labelled=None if labelled is None else bench.mask(on, labelled, seed=seed),
            **training,
        )
        found[name] = bench.describe(bench.logits(net, on.test.inputs), on.test)["accuracy"]
    return {**found, "drop": found["accuracy"] - found["changed_accuracy"]}


def _wrong_classes(targets: Tensor, generator: torch.Generator) -> Tensor:
    predicted = targets.argmax(1, keepdim=True)
    others = torch.ones_like(targets, dtype=torch.bool).scatter_(1, predicted, False)
    values = targets[others].reshape(len(targets), -1)
    order = torch.rand(values.shape, generator=generator).argsort(1)
    changed = targets.clone()
    changed[others] = values.gather(1, order).flatten()
    return changed


def _within_class(targets: Tensor, generator: torch.Generator) -> Tensor:
    changed = targets.clone()
    predicted = targets.argmax(1)
    for label in predicted.unique():
        rows = (predicted == label).nonzero().flatten()
        changed[rows] = targets[rows[torch.randperm(len(rows), generator=generator)]]
    return changed


_CHANGES = {"wrong_classes": _wrong_classes, "within_class": _within_class}


def soft_targets_of_a_class(
    *,
    seed: int,
    data: str,
    teacher: Spec,
    of: int,
    similar: Sequence[int],
    temperature: float,
    labelled: int | None = None,
) -> dict[str, float]:
    """Compute the mean soft target of a class over the test samples.

    Returns:
        `share`, the part of the wrong classes' probability that similar classes have, and `ratio`,
        their mean probability over that of the other wrong classes.
    """
    on = bench.data(data)
    spec = {**teacher, **({} if labelled is None else {"labelled": labelled})}
    models = bench.teachers(spec, on, seed=seed, key=f"{data} None")
    soft = of_members(models, on.test.inputs[on.test.labels == of]).div(temperature).softmax(1)
    mean = soft.mean(0)
    others = [one for one in range(on.classes) if one not in (of, *similar)]
    near, far = mean[list(similar)], mean[others]
    return {
        "share": float(near.sum() / (near.sum() + far.sum())),
        "ratio": float(near.mean() / far.mean()),
        **{f"p{number}": float(p) for number, p in enumerate(mean)},
    }


def omitted_class(
    *,
    seed: int,
    data: str,
    student: Spec,
    teacher: Spec,
    objective: ObjectiveLike,
    training: Mapping[str, Any],
    omitted: int,
) -> dict[str, float]:
    """Train a student without the samples of one class, and test it on that class.

    As in the paper, the bias of the omitted class is then raised: to the value at which the class
    is predicted for its share of the test samples, without their labels.

    Returns:
        `recall` of the omitted class, `corrected_recall` and `corrected_accuracy` with the bias
        raised, `accuracy`.
    """
    on = bench.data(data)
    models = bench.teachers(teacher, on, seed=seed, key=f"{data} None")
    kept = (on.train.labels != omitted).nonzero().flatten()
    less = replace(on, train=on.train.take(kept))
    given = of_members(models, less.train.inputs)
    aim = Objective.of(objective)
    net = bench.train(
        bench.build(student, on, seed=seed),
        less,
        aim,
        seed=seed,
        teacher=given if aim.needs_teacher else None,
        **training,
    )
    logits = bench.logits(net, on.test.inputs)
    is_omitted = on.test.labels == omitted
    others = logits.clone()
    others[:, omitted] = -torch.inf
    margin = others.amax(1) - logits[:, omitted]
    raised = logits.clone()
    raised[:, omitted] += margin.quantile(is_omitted.float().mean())
    values = {"": logits, "corrected_": raised}
    found: dict[str, float] = {}
    for name, one in values.items():
        right = (one.argmax(1) == on.test.labels).float()
        found[f"{name}recall"] = float(right[is_omitted].mean())
        found[f"{name}accuracy"] = float(right.mean())
    return found


def interaction(
    *, seed: int, setting: str, low: Any, high: Any, **settings: Any
) -> dict[str, float]:
    """Return how much one setting changes a student's accuracy.

    Args:
        seed: The seed.
        setting: The dotted path of the setting, in the settings of `trained`.
        low: Its first value.
        high: Its second value.
        settings: The settings of `trained`.

    Returns:
        `low`, `high` (accuracies), and `change`, the second minus the first.
    """
    found = {}
    for name, value in {"low": low, "high": high}.items():
        pair = trained(seed=seed, **_with(settings, setting.split("."), value))
        test = pair.on.test
        found[name] = bench.describe(bench.logits(pair.net, test.inputs), test)["accuracy"]
    return {**found, "change": found["high"] - found["low"]}


def mismatch(
    *, seed: int, same: Mapping[str, Any], other: Mapping[str, Any], **settings: Any
) -> dict[str, float]:
    """Compare a student of the teacher's architecture with one of another.

    Args:
        seed: The seed.
        same: The settings of the first student, `student` and `objective`.
        other: Those of the second.
        settings: The other settings of `trained`.

    Returns:
        `same` and `other` (accuracies), and `degradation`, the first minus the second.
    """
    found = {}
    for name, own in {"same": same, "other": other}.items():
        pair = trained(seed=seed, **settings, **own)
        test = pair.on.test
        found[name] = bench.describe(bench.logits(pair.net, test.inputs), test)["accuracy"]
    return {**found, "degradation": found["same"] - found["other"]}


def _with(settings: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    if isinstance(settings, list | tuple):
        place = int(path[0])
        return [
            _with(one, path[1:], value) if number == place else one
            for number, one in enumerate(settings)
        ]
    return {**settings, path[0]: _with(settings[path[0]], path[1:], value)}


def soft_vectors(
    *,
    seed: int,
    data: str,
    net: Spec,
    kept: int,
    temperature: float,
    embedding: str,
    **training: Any,
) -> dict[str, float]:
    """Train a net on some classes, and classify the others by nearest neighbours in its outputs.

    Args:
        seed: The seed.
        data: The data set.
        net: The net.
        kept: The first so many classes are trained on; the rest are new.
        temperature: The temperature of `soft`.
        embedding: `soft` (softened probabilities), `hard` (the predicted class, one-hot), or a
            layer's path.
        training: Settings of its training.

    Returns:
        `accuracy` of 5 neighbours on the new classes, whose training samples are the reference.
    """
    on = bench.data(data)
    train = on.train.take((on.train.labels < kept).nonzero().flatten())
    task = TASKS.load("image_classification")(tuple(map(str, range(kept))))
    known = Data(train, on.test, task)
    [model] = bench.teachers({**net, **training}, known, seed=seed, key=f"{data} below {kept}")

    def embed(split: Split) -> tuple[np.ndarray, np.ndarray]:
        new = split.take((split.labels >= kept).nonzero().flatten())
        logits = bench.logits(model, new.inputs)
        if embedding == "soft":
            found = logits.div(temperature).softmax(1)
        elif embedding == "hard":
            found = F.one_hot(logits.argmax(1), kept).float()
        else:
            found = features(model, embedding, new.inputs).flatten(1)
        return found.numpy(), new.labels.numpy()

    reference, queries = embed(on.train), embed(on.test)
    found = KNeighborsClassifier(5).fit(*reference)
    return {"accuracy": float(found.score(*queries))}
