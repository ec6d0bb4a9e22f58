"""Chains of compression steps on one model, measured on the exported file."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck import export, quantize_onnx
from limbeck.compress.factorizers import FACTORIZERS
from limbeck.compress.masked_weights import fixed, total_sparsity
from limbeck.compress.pruners import PRUNERS
from limbeck.compress.quantizers import QUANTIZERS
from limbeck.evaluate.context import Normalization, TorchModel
from limbeck.evaluate.measure import latencies
from limbeck.evaluate.robustness.attacks import fgsm, pgd
from limbeck.evaluate.robustness.images import PixelModel
from limbeck.export.module import LOGITS, read_example
from limbeck.export.predictor import OnnxPredictor
from limbeck.objective.objective import ObjectiveLike
from limbeck.pipeline.compression import make_method
from limbeck.pipeline.functional import calibration_of
from limbeck.studies.measures import bench
from limbeck.studies.measures.bench import Data, Spec

Step = Mapping[str, Mapping[str, Any]]
"""One step: `{prune: {method: magnitude, sparsity: 0.9}}`, as the stages of a recipe, with
`finetune: {objective: ..., epochs: ...}`; or `{distill: {student: ..., objective: ...}}`."""

REGISTRIES = {"prune": PRUNERS, "factorize": FACTORIZERS, "quantize": QUANTIZERS}
CALIBRATION = 256
PIXELS = Normalization(mean=(0.0,), std=(1.0,))


class _Start(NamedTuple):
    """A trained student, what its exported file measures, and the teacher's recorded logits."""

    model: nn.Module
    measured: dict[str, Any]
    answers: Tensor | None


_STARTS: dict[str, _Start] = {}


def chain(
    *,
    seed: int,
    data: str,
    student: Spec,
    training: Mapping[str, Any],
    teacher: Spec | None = None,
    objective: ObjectiveLike = "label_only",
    rows: int | None = None,
    labelled: int | None = None,
    teacher_steps: Sequence[Step] = (),
    steps: Sequence[Step] = (),
    file: str | None = None,
    attack: float | None = None,
    noise: float | None = None,
) -> dict[str, float]:
    """Train a student, apply compression steps to a copy, export it and measure the file.

    The student before the steps is trained once per seed in a process.

    Args:
        seed: The seed of teacher, student and steps.
        data: The data set; see `bench.data`.
        student: The student's net.
        training: Settings of its training, as in a recipe.
        teacher: The teacher's net, with the settings of its training.
        objective: The student's objective; fine-tunings have it as their default.
        rows: Training samples; all if None.
        labelled: Of these, samples with a label; all if None.
        teacher_steps: Steps applied to the teacher before it teaches.
        steps: Steps applied to the student.
        file: A quantiser of the exported file, such as `int8_static`.
        attack: The size ε of FGSM and PGD attacks on 300 test samples.
        noise: The standard deviation of Gaussian noise on the test inputs.

    Returns:
        `accuracy`, `agreement` with the float student and `size` in bytes, all of the file;
        `float_accuracy` and `float_size` of the file without steps; `sparsity` of masked weights;
        with a teacher `teacher_accuracy` and `teacher_size` of its first
        member, `size_ratio` and `drop` to it; `fgsm_accuracy`, `pgd_accuracy` and
        `noisy_accuracy`.
    """
    on = bench.data(data).with_rows(rows)
    mask = None if labelled is None else bench.mask(on, labelled, seed=seed)
    begun = _start(
        on, f"{data} {rows}", seed, student, training, teacher, objective, labelled, teacher_steps
    )
    before = after = begun.measured
    model = copy.deepcopy(begun.model)
    for step in steps:
        model = _apply(model, step, on, seed, begun.answers, mask, objective, training)
    if steps or file is not None:
        after = _measured(model, on, quantizer=file)
    values = {f"float_{name}": value for name, value in before.items() if name != LOGITS}
    values |= {name: value for name, value in after.items() if name != LOGITS}
    same = before[LOGITS].argmax(1) == after[LOGITS].argmax(1)
    values["agreement"] = float(same.float().mean())
    values["sparsity"] = total_sparsity(model)
    values["parameters"] = bench.parameters(model)
    if teacher is not None and not teacher_steps:
        models = bench.teachers(_labelled(teacher, labelled), on, seed=seed, key=f"{data} {rows}")
        measured = _measured(models[0], on)
        values |= {f"teacher_{name}": measured[name] for name in ("accuracy", "size")}
        values["size_ratio"] = values["teacher_size"] / values["size"]
        values["drop"] = values["teacher_accuracy"] - values["accuracy"]
    if attack is not None:
        values |= _attacked(model, on, attack, seed)
    if noise is not None:
        generator = torch.Generator().manual_seed(seed)
        moved = noise * torch.randn(on.test.inputs.shape, generator=generator)
        noisy = bench.logits(model, on.test.inputs + moved)
        values["noisy_accuracy"] = bench.describe(noisy, on.test)["accuracy"]
    return values


def _labelled(teacher: Spec, labelled: int | None) -> Spec:
    return teacher if labelled is None else {**teacher, "labelled": labelled}


def _start(
    on: Data,
    key: str,
    seed: int,
    student: Spec,
    training: Mapping[str, Any],
    teacher: Spec | None,
    objective: ObjectiveLike,
    labelled: int | None,
    teacher_steps: Sequence[Step],
) -> _Start:
    """Train the student, or return the one trained before in this process."""
    place = str((key, seed, student, training, teacher, objective, labelled, teacher_steps))
    if place not in _STARTS:
        mask = None if labelled is None else bench.mask(on, labelled, seed=seed)
        answers = None
        if teacher is not None:
            models = bench.teachers(_labelled(teacher, labelled), on, seed=seed, key=key)
            for step in teacher_steps:
                changed = copy.deepcopy(models[0])
                models = [_apply(changed, step, on, seed, None, mask, "label_only", training)]
            each = [bench.logits(one, on.train.inputs) for one in models]
            answers = bench.ensemble(each) if len(each) > 1 else each[0]
        net = bench.build(student, on, seed=seed)
        bench.train(net, on, objective, seed=seed, teacher=answers, labelled=mask, **training)
        _STARTS[place] = _Start(net, _measured(net, on), answers)
    return _STARTS[place]


def _apply(
    model: nn.Module,
    step: Step,
    on: Data,
    seed: int,
    answers: Tensor | None,
    mask: Tensor | None,
    objective: ObjectiveLike,
    training: Mapping[str, Any],
) -> nn.Module:
    """Apply one step to a model, in place or not; return the result."""
    [(stage, given)] = step.items()
    settings = dict(given)
    finetune = settings.pop("finetune", None)
    if stage == "distill":
        net = bench.build(settings.pop("student"), on, seed=seed)
        teacher = bench.logits(model, on.train.inputs)
        aim = settings.pop("objective", objective)
        return bench.train(
            net, on, aim, seed=seed, teacher=teacher, labelled=mask, **{**training, **settings}
        )
    method = make_method(REGISTRIES[stage], settings.pop("method"), settings, where=stage)
    example = {"image": on.train.inputs[:CALIBRATION], "labels": on.train.labels[:CALIBRATION]}
    plain, batch = read_example(model, example)
    method.transform(model, calibration_of(plain, batch, seed=seed))
    if finetune is not None:
        more = {**training, **finetune}
        aim = more.pop("objective", objective)
        bench.train(model, on, aim, seed=seed + 1, teacher=answers, labelled=mask, **more)
    fixed(model)
    return model


def _measured(model: nn.Module, on: Data, *, quantizer: str | None = None) -> dict[str, Any]:
    """Export a model; return the file's logits, accuracy and size in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = export(model, {"image": on.train.inputs[:4]}, folder)
        if quantizer is not None:
            source, path = path, Path(folder) / "quantized.onnx"
            example = {"image": on.train.inputs[:CALIBRATION]}
            quantize_onnx(source, path, example, method=quantizer, tolerance=10)
        predictor = OnnxPredictor(path, threads=1)
        found = torch.from_numpy(predictor.predict({"image": on.test.inputs.numpy()})[LOGITS])
        size = float(path.stat().st_size)
    return {LOGITS: found, "accuracy": bench.describe(found, on.test)["accuracy"], "size": size}


def _attacked(model: nn.Module, on: Data, eps: float, seed: int) -> dict[str, float]:
    target = PixelModel(TorchModel(model, on.task), "image", PIXELS)
    pixels, labels = on.test.inputs[:300].numpy(), on.test.labels[:300].numpy()
    attacks = {
        "fgsm_accuracy": fgsm(target, pixels, labels, eps=eps),
        "pgd_accuracy": pgd(target, pixels, labels, eps=eps, seed=seed),
    }
    return {
        name: float((bench.logits(model, torch.from_numpy(x)).argmax(1).numpy() == labels).mean())
        for name, x in attacks.items()
    }


def sparse_latency(
    *, seed: int, sparsity: float, size: int = 512, rows: int = 64, kernel: str = "dense"
) -> dict[str, float]:
    """Compare a product with a sparse weight, stored dense or in a compressed format.

    Returns:
        `ratio`: the median time with zeros over that of a full dense weight, interleaved;
        `bytes_ratio`: the bytes of the storage over those of the full dense weight.
    """
    generator = torch.Generator().manual_seed(seed)
    full = torch.randn(size, size, generator=generator)
    inputs = torch.randn(size, rows, generator=generator)
    zeroed = full * (torch.rand(size, size, generator=generator) >= sparsity)
    weight = zeroed.to_sparse_csr() if kernel == "csr" else zeroed
    stored = zeroed.numel() * 4.0
    if kernel == "csr":
        parts = (weight.crow_indices().int(), weight.col_indices().int(), weight.values())
        stored = float(sum(one.numel() * one.element_size() for one in parts))
    calls = {"full": lambda: full @ inputs, "zeros": lambda: weight @ inputs}
    times = latencies(calls, threads=1, seconds=1.0)
    return {
        "ratio": times["zeros"].p50 / times["full"].p50,
        "bytes_ratio": stored / (full.numel() * 4.0),
    }


def straight_through(*, seed: int, bits: int = 2, temperature: float = 1.0) -> dict[str, float]:
    """Measure the bias of the straight-through estimator of a quantised linear classifier.

    The exact gradient with respect to the float weights is zero almost everywhere. What it stands
    for is the slope of the loss over a whole quantisation step, smoothed by uniform dither of one
    step: along random directions, the mean of central differences over 64 draws.

    Args:
        seed: The seed of the problem, the dither and the directions.
        bits: Bits of the weights.
        temperature: Divides the logits of both sides; the loss has no factor T².

    Returns:
        `exact_slope`: the largest slope of the loss over steps of 1e-6; `slope_correlation` of the
        estimator's slopes with the smoothed ones, over directions; `estimate_norm` of the
        estimator's slopes; `bias`: the norm of their difference to the smoothed ones.

    Source: Bengio, Léonard and Courville 2013 (arXiv:1308.3432).
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(128, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 16, generator=generator, dtype=torch.float64) / 2
    teacher = inputs @ torch.randn(16, 4, generator=generator, dtype=torch.float64)
    step = 2.0 / (2 ** (bits - 1))

    def loss(w: Tensor) -> Tensor:
        # The gradient of the softened divergence without the factor T², as an estimator sees it.
        answers, targets = (one / temperature for one in (inputs @ w.T, teacher))
        return F.kl_div(
            answers.log_softmax(1), targets.log_softmax(1), log_target=True, reduction="batchmean"
        )

    def rounded(w: Tensor) -> Tensor:
        return step * torch.round(w / step)

    held = rounded(weight).requires_grad_()
    [estimate] = torch.autograd.grad(loss(held), held)
    exact, estimated, smooth = 0.0, [], []
    for _ in range(24):
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        tiny = loss(rounded(weight + 1e-6 * direction)) - loss(rounded(weight))
        exact = max(exact, abs(float(tiny)) / 1e-6)
        dither = step * (torch.rand(64, *weight.shape, generator=generator).double() - 0.5)
        width = step / 2
        ends = [
            loss(rounded(weight + d + sign * width * direction)) for sign in (1, -1) for d in dither
        ]
        upper, lower = torch.stack(ends).chunk(2)
        smooth.append(float((upper - lower).mean() / (2 * width)))
        estimated.append(float((estimate * direction).sum()))
    a, b = np.array(estimated), np.array(smooth)
    return {
        "exact_slope": exact,
        "slope_correlation": float(np.corrcoef(a, b)[0, 1]),
        "estimate_norm": float(np.linalg.norm(a)),
        "bias": float(np.linalg.norm(a - b)),
    }
