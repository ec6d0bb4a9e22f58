"""Costs: speed, FLOPs, memory, energy, the cost of training, and the size of updates."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.evaluate import measure
from limbeck.evaluate.cost import lifecycle
from limbeck.evaluate.flops import flops, parameters
from limbeck.objective import Objective
from limbeck.studies.measures import bench, pairs, theory
from limbeck.studies.measures.bench import Data, Spec

HOURS_A_YEAR = 8766
"""365.25 days."""

_SPEEDS: dict[str, dict[str, float]] = {}


@dataclass(frozen=True)
class Times:
    """The median and the 99th percentile of the CPU time of a call, in milliseconds."""

    p50: float
    p99: float


def call_of(net: nn.Module, inputs: Tensor) -> Callable[[], object]:
    """Return a call of a net in evaluation mode, without gradient."""
    return partial(_forward, net.eval(), inputs)


def _forward(net: nn.Module, inputs: Tensor) -> None:
    with torch.no_grad():
        net(inputs)


def flops_of(net: nn.Module, on: Data) -> int:
    """Count the FLOPs of a net for one sample."""
    return flops(net, on.task, {next(iter(on.task.inputs)): on.test.inputs[:1]})


def cpu_times(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Times]:
    """Measure the CPU time of calls on this thread, interleaved in rotating order.

    On one thread it is the latency on an idle machine; unlike that by the wall clock it does not
    depend on the other work of a shared one.

    Args:
        calls: What is called, by name.
        seconds: CPU seconds after which to stop, after at least ten rounds.
    """
    for call in calls.values():
        call()
    names, found = list(calls), {name: list[int]() for name in calls}
    begun = time.thread_time()
    while len(found[names[0]]) < 10 or time.thread_time() - begun < seconds:
        first = len(found[names[0]]) % len(names)
        for name in names[first:] + names[:first]:
            start = time.thread_time_ns()
            calls[name]()
            found[name].append(time.thread_time_ns() - start)
    return {
        name: Times(*(float(one) / 1e6 for one in np.percentile(values, [50, 99])))
        for name, values in found.items()
    }


def joules_per_call(
    calls: Mapping[str, Callable[[], object]], seconds: float, rounds: int = 4
) -> dict[str, float]:
    """Estimate joules per call from CPU time at 10 W per core, the calls in turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        part = measure.energy(calls, seconds=seconds / rounds, method="cpu_time")
        for name, one in part.items():
            if one is not None:
                found[name].append(one.joules)
    return {name: float(np.median(values)) for name, values in found.items()}


def speed(
    *, seed: int, large: Spec, small: Spec, data: str = "digits", batch: int = 64, seconds: float
) -> dict[str, float]:
    """Measure how much faster a small net is than a large one, by CPU time on one thread.

    The nets are untrained, since their time does not depend on the weights. Calls are interleaved.
    What is measured once is returned to every study of this process.

    Args:
        seed: The seed of the weights.
        large: The large net.
        small: The small net.
        data: The data set of the inputs.
        batch: Samples of a batch for the throughput.
        seconds: CPU seconds of the latencies, and as many of the throughputs.

    Returns:
        `latency_ratio` and `throughput_ratio`, large over small and small over large, both above 1
        if the small one is faster; `disagreement`, throughput ratio over latency ratio;
        `p99_ratio`; `tail_large` and `tail_small`, p99 over p50; `energy_ratio`, small over large,
        an estimate from CPU time, and `per_mwh_ratio`, inferences per milliwatt hour of small over
        large; `flops_ratio` and `parameter_ratio`, small over large.
    """
    place = repr((seed, large, small, data, batch, seconds))
    if place not in _SPEEDS:
        _SPEEDS[place] = _speed(seed, large, small, data, batch, seconds)
    return _SPEEDS[place]


def _speed(
    seed: int, large: Spec, small: Spec, data: str, batch: int, seconds: float
) -> dict[str, float]:
    on = bench.data(data)
    nets = {
        name: pairs.build(spec, on, seed=seed)
        for name, spec in (("large", large), ("small", small))
    }
    one = {name: call_of(net, on.test.inputs[:1]) for name, net in nets.items()}
    many = {name: call_of(net, on.test.inputs[:batch]) for name, net in nets.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = cpu_times(one, seconds)
        through = cpu_times(many, seconds)
        joules = joules_per_call(one, 2 * seconds)
    finally:
        torch.set_num_threads(threads)
    latency = times["large"].p50 / times["small"].p50
    throughput = through["large"].p50 / through["small"].p50
    return {
        "latency_ratio": latency,
        "throughput_ratio": throughput,
        "disagreement": throughput / latency,
        "p99_ratio": times["large"].p99 / times["small"].p99,
        "tail_large": times["large"].p99 / times["large"].p50,
        "tail_small": times["small"].p99 / times["small"].p50,
        "energy_ratio": joules["small"] / joules["large"],
        "per_mwh_ratio": lifecycle.inferences_per_mwh(joules["small"])
        / lifecycle.inferences_per_mwh(joules["large"]),
        "flops_ratio": flops_of(nets["small"], on) / flops_of(nets["large"], on),
        "parameter_ratio": parameters(nets["small"]) / parameters(nets["large"]),
    }


def batch_scaling(
    *, seed: int, net: Spec, batch: int, data: str = "digits", seconds: float
) -> dict[str, float]:
    """Compare a batch with a single sample: throughput and the memory of activations.

    Args:
        seed: The seed of the weights.
        net: The net.
        batch: Samples per batch.
        data: The data set of the inputs.
        seconds: CPU seconds of both, interleaved on one thread.

    Returns:
        `throughput_gain`, the samples per second relative to batch 1; `activation_growth`, the peak
        of the activations relative to batch 1; `activation_share`, that peak over its sum with the
        weights, in bytes.
    """
    on = bench.data(data)
    model = pairs.build(net, on, seed=seed)
    several = on.train.inputs[:batch]
    calls = {"one": call_of(model, several[:1]), "many": call_of(model, several)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = cpu_times(calls, seconds)
    finally:
        torch.set_num_threads(threads)
    peak, single = activation_bytes(model, several), activation_bytes(model, several[:1])
    weights = 4 * parameters(model)
    return {
        "throughput_gain": batch * times["one"].p50 / times["many"].p50,
        "activation_growth": peak / single,
        "activation_share": peak / (peak + weights),
        "activation_kb": peak / 1000,
    }


def activation_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Compute the peak of input and output bytes of a layer in a forward pass.

    Example:
        >>> activation_bytes(nn.Sequential(nn.Linear(3, 5), nn.ReLU()), torch.zeros(2, 3))
        80
    """
    peaks: list[int] = []

    def record(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        peaks.append(sum(one.nbytes for one in (*given, output) if isinstance(one, Tensor)))

    leaves = [one for one in model.modules() if not list(one.children())]
    handles = [one.register_forward_hook(record) for one in leaves]
    try:
        _forward(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return max(peaks)


def counts(*, seed: int, net: Spec, data: str = "digits") -> dict[str, float]:
    r"""Compare counted FLOPs and parameters of a net with their formulas.

    A convolution of `h w` outputs costs $2 h w k^2 c_{in} c_{out}$, a linear layer
    $2 n_{in} n_{out}$. The formulas here are of `digits_cnn` and `pixel_mlp` on 8 by 8 images.

    Returns:
        `flops_ratio` and `parameter_ratio`, counted over the formula.
    """
    on = bench.data(data)
    model = pairs.build(net, on, seed=seed)
    width, classes = int(net["width"]), on.classes
    if net["name"] == "digits_cnn":
        planes = [(64, 1, width), (16, width, 2 * width), (4, 2 * width, 4 * width)]
        work = sum(2 * 9 * area * a * b for area, a, b in planes) + 2 * 4 * width * classes
        held = sum(9 * a * b + 2 * b for _, a, b in planes) + 4 * width * classes + classes
    else:
        widths = [64, *[width] * int(net["depth"]), classes]
        layers = list(pairwise(widths))
        work = sum(2 * a * b for a, b in layers)
        held = sum(a * b + b for a, b in layers)
    return {
        "flops_ratio": flops_of(model, on) / work,
        "parameter_ratio": parameters(model) / held,
        "flops": work,
        "parameters": held,
    }


def compact(*, seed: int, **settings: Any) -> dict[str, float]:
    """Measure a student as `theory.student` does, and its FLOPs relative to its teacher's.

    Returns:
        The same, with `flops_share`, the student's FLOPs over those of all members of the teacher.
    """
    values = theory.student(seed=seed, **settings)
    pair = pairs.trained(seed=seed, **settings)
    teacher = sum(flops_of(one, pair.on) for one in pair.models)
    return {**values, "flops_share": flops_of(pair.net, pair.on) / teacher}


def several_students(*, seed: int, widths: Sequence[int], **settings: Any) -> dict[str, float]:
    """Measure the training cost per student if one teacher teaches several.

    Args:
        seed: The seed.
        widths: Widths of the students.
        settings: See `pairs.trained`, without the student's width.

    Returns:
        `seconds_per_student`, the CPU seconds of the teacher and of all students over their number;
        `teacher_share`, the teacher's share of them; `lowest_retention`, the smallest accuracy of a
        student over the teacher's.
    """
    found = [
        pairs.trained(seed=seed, **{**settings, "student": {**settings["student"], "width": one}})
        for one in widths
    ]
    retained = []
    for pair in found:
        if pair.teacher_test is None:
            raise ValueError("a teacher is required")
        own = bench.describe(pair.predict(pair.on.test.inputs), pair.on.test)["accuracy"]
        retained.append(own / bench.describe(pair.teacher_test, pair.on.test)["accuracy"])
    teacher = found[0].teacher_seconds
    total = teacher + sum(one.seconds for one in found)
    return {
        "seconds_per_student": total / len(found),
        "teacher_share": teacher / total,
        "lowest_retention": min(retained),
    }


def training_cost(*, seed: int, objective: Any, **settings: Any) -> dict[str, float]:
    """Compare the CPU time of trainings: on labels, with the teacher run, with recorded answers.

    Args:
        seed: The seed.
        objective: The objective of the distilled students.
        settings: See `pairs.trained`; a teacher of one member.

    Returns:
        `online_overhead` and `recorded_overhead`, the time of a distillation in which the teacher
        runs in every step, or answered every sample once, over that of the training on labels;
        `recorded_to_online`; `total_overhead`, the teacher's training and the recorded distillation
        over the training on labels; `student_to_teacher`, the recorded distillation over the
        teacher's training.
    """
    pair = pairs.trained(seed=seed, objective=objective, **settings)
    aim = Objective.of(objective)

    def spent(aim: Any, teacher: nn.Module | None, recorded: bool) -> float:
        net = pairs.build(settings["student"], pair.on, seed=seed)
        begun = time.process_time()
        given = bench.logits(teacher, pair.on.train.inputs) if teacher and recorded else teacher
        bench.train(net, pair.on, aim, seed=seed, teacher=given, **settings["training"])
        return time.process_time() - begun

    teacher = pair.models[0]
    labels = spent("label_only", None, recorded=False)
    online, recorded = (spent(aim, teacher, recorded=one) for one in (False, True))
    return {
        "online_overhead": online / labels,
        "recorded_overhead": recorded / labels,
        "recorded_to_online": recorded / online,
        "total_overhead": (pair.teacher_seconds + recorded) / labels,
        "student_to_teacher": recorded / pair.teacher_seconds,
    }


def early_stopping(
    *, seed: int, patience: int, epochs: int, share: float = 0.2, **settings: Any
) -> dict[str, float]:
    """Measure what stopping a distillation on a plateau of its loss saves, and what it costs.

    A share of the training rows is held out; the divergence from the teacher on them is computed
    after every epoch. The training stops after `patience` epochs without a lower one, and the
    weights of the lowest are kept; both are compared with the last epoch.

    Args:
        seed: The seed.
        patience: Epochs without a lower divergence.
        epochs: Epochs of the full training.
        share: The share of held-out rows.
        settings: See `pairs.trained`; `training` has neither epochs nor steps.

    Returns:
        `saved`, the share of epochs that were not run; `accuracy_change`, the test accuracy after
        stopping minus that of the last epoch; `accuracy` and `full_accuracy`.
    """
    settings = dict(settings)
    training, objective = settings.pop("training"), settings.pop("objective")
    pair = pairs.trained(seed=seed, training={"steps": 1}, objective=objective, **settings)
    if pair.teacher_train is None:
        raise ValueError("a teacher is required")
    rows = bench.chosen_rows(pair.on.train.labels, round(share * len(pair.on.train)), seed)
    held = torch.zeros(len(pair.on.train), dtype=torch.bool)
    held[rows] = True
    kept = (~held).nonzero().flatten()
    on = Data(pair.on.train.take(kept), pair.on.test, pair.on.task)
    val, answers = pair.on.train.take(rows), pair.teacher_train[rows]
    curve: list[tuple[float, float]] = []
    each = -(-len(on.train) // int(training.get("batch_size", 64)))

    def evaluate(model: nn.Module, step: int) -> None:
        if step % each == 0:
            divergence = bench.describe(bench.logits(model, val.inputs), val, answers)["kl"]
            test = bench.describe(bench.logits(model, on.test.inputs), on.test)["accuracy"]
            curve.append((divergence, test))
            model.train()

    net = pairs.build(settings["student"], on, seed=seed)
    given = pair.teacher_train[kept]
    bench.train(
        net, on, objective, seed=seed, teacher=given, after_step=evaluate, epochs=epochs, **training
    )
    best = end = 0
    for end in range(len(curve)):
        if curve[end][0] < curve[best][0]:
            best = end
        elif end - best >= patience:
            break
    return {
        "saved": 1 - (end + 1) / len(curve),
        "accuracy_change": curve[best][1] - curve[-1][1],
        "accuracy": curve[best][1],
        "full_accuracy": curve[-1][1],
    }


def life_cycle(*, seed: int, seconds: float, **settings: Any) -> dict[str, float]:
    """Estimate after how many predictions a student has saved the energy of its training.

    All energies are estimates: CPU time at 10 W per core.

    Args:
        seed: The seed.
        seconds: Seconds of the inferences at batch 1.
        settings: See `pairs.trained`.

    Returns:
        `predictions`, for the student's training; `predictions_with_teacher`, for both trainings;
        `training_joules`; `grams` of CO₂ of both trainings; `saved_share` of the energy per
        prediction. A saving of nothing counts as 10¹² predictions.
    """
    pair = pairs.trained(seed=seed, **settings)
    inputs = pair.on.test.inputs[:1]
    teacher = pairs.Mean(pair.models)
    calls = {"student": call_of(pair.net, inputs), "teacher": call_of(teacher, inputs)}
    joules = joules_per_call(calls, seconds)
    spent = lifecycle.training_joules(pair.seconds)
    both = spent + lifecycle.training_joules(pair.teacher_seconds)
    count = [lifecycle.break_even(e, joules["teacher"], joules["student"]) for e in (spent, both)]
    first, second = (1e12 if one is None else one for one in count)
    return {
        "predictions": first,
        "predictions_with_teacher": second,
        "training_joules": spent,
        "grams": lifecycle.grams(both),
        "saved_share": 1 - joules["student"] / joules["teacher"],
    }


def updates(
    *, seed: int, samples: int, tuning: Mapping[str, Any], **settings: Any
) -> dict[str, float]:
    """Compare the bytes of an update of a model on devices, by what is sent.

    The model is trained further on other rows; then its float32 weights, its int8 weights, the
    difference of the int8 files, or soft labels in half precision are sent.

    Args:
        seed: The seed.
        samples: Samples of which soft labels are sent.
        tuning: Settings of the further training.
        settings: See `pairs.trained`.

    Returns:
        `int8`, `difference` and `soft_labels`, each relative to the float32 weights, which are
        `kilobytes`.
    """
    pair = pairs.trained(seed=seed, **settings)
    before = _int8(pair.net)
    net = pairs.build(settings["student"], pair.on, seed=seed)
    net.load_state_dict(pair.net.state_dict())
    bench.train(net, pair.on, "label_only", seed=seed + 1, **tuning)
    whole = b"".join(one.detach().numpy().tobytes() for one in net.parameters())
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in ("whole", "student", "previous")}
        for path, content in zip(files.values(), (whole, _int8(net), before), strict=True):
            path.write_bytes(content)
        previous = files.pop("previous")
        sent = lifecycle.update_sizes(
            files, samples=samples, classes=pair.on.classes, previous=previous
        )
    return {
        "int8": sent["student"] / sent["whole"],
        "difference": sent["student, difference to the previous"] / sent["whole"],
        "soft_labels": sent[f"soft labels of {samples:,} samples"] / sent["whole"],
        "zlib": sent["whole, zlib"] / sent["whole"],
        "kilobytes": sent["whole"] / 1000,
    }


def _int8(net: nn.Module) -> bytes:
    """Return the weights as int8 on the symmetric grid of each tensor, with its float32 scale."""
    parts = []
    for weight in net.parameters():
        scale = weight.detach().abs().max().clamp_min(1e-12) / 127
        rounded = (weight.detach() / scale).round().char()
        parts += [scale.numpy().tobytes(), rounded.numpy().tobytes()]
    return b"".join(parts)


def device_energy(*, seed: int, watts: float, years: float) -> dict[str, float]:
    """Compute the energy of a device at a constant power, in kilowatt hours.

    Example:
        >>> device_energy(seed=0, watts=200, years=1)["kilowatt_hours"]
        1753.2
    """
    return {"kilowatt_hours": watts * years * HOURS_A_YEAR / 1000}
