"""Students and their teachers: accuracy, fidelity, errors, sharpness, gradients, attributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from limbeck import losses
from limbeck.evaluate.attribution import maps, similarity
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.fidelity.error_overlap import error_overlap
from limbeck.export.predictor import Predictions
from limbeck.objective import Objective
from limbeck.objective.objective import ObjectiveLike
from limbeck.studies.measures import bench, pairs

Array = NDArray[np.float64]


def student(
    *, seed: int, input_noise: float = 0.25, shift: int = 1, **settings: Any
) -> dict[str, float]:
    """Train a student and compare it with its teacher on the test samples.

    Args:
        seed: The seed.
        input_noise: The deviation of Gaussian noise on the inputs, for `noisy_...`.
        shift: By how many pixels images are moved to the right, for `shifted_...`.
        settings: See `pairs.trained`.

    Returns:
        What `bench.describe` computes; `train_accuracy` and `train_loss` on the training samples,
        `accuracy_gap` and `loss_gap` between training and test; `noisy_accuracy` and `noisy_drop`;
        `shifted_accuracy` and `shifted_drop` of images; `parameters`. With a teacher its values as
        `teacher_...`, `margin`, the accuracy minus the teacher's, `retention`, their quotient,
        `cut`, the share of the teacher's parameters that the student lacks,
        `same_error`, the share of the student's errors in which the teacher predicts the same
        class, and `consistency`, the error consistency (kappa).
    """
    pair = pairs.trained(seed=seed, **settings)
    test, train = pair.on.test, pair.on.train
    answers = pair.predict(test.inputs)
    values = bench.describe(answers, test, pair.teacher_test)
    seen = bench.describe(pair.predict(train.inputs), train)
    values["train_accuracy"], values["train_loss"] = seen["accuracy"], seen["loss"]
    values["accuracy_gap"] = seen["accuracy"] - values["accuracy"]
    values["loss_gap"] = values["loss"] - seen["loss"]
    values["parameters"] = bench.parameters(pair.net)
    for name, inputs in _corrupted(test.inputs, seed, input_noise, shift).items():
        accuracy = bench.describe(pair.predict(inputs), test)["accuracy"]
        values[f"{name}_accuracy"] = accuracy
        values[f"{name}_drop"] = values["accuracy"] - accuracy
    if pair.teacher_test is not None:
        found = bench.describe(pair.teacher_test, test)
        values |= {f"teacher_{name}": value for name, value in found.items()}
        values["margin"] = values["accuracy"] - found["accuracy"]
        values["retention"] = values["accuracy"] / found["accuracy"]
        values["teacher_parameters"] = sum(bench.parameters(one) for one in pair.models)
        values["cut"] = 1 - values["parameters"] / values["teacher_parameters"]
        values |= _errors(answers, pair.teacher_test, test.labels)
    return values


def _corrupted(inputs: Tensor, seed: int, noise: float, shift: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {"noisy": inputs + noise * torch.randn(inputs.shape, generator=generator)}
    if inputs.ndim == 4:
        found["shifted"] = functional.pad(inputs, (shift, 0))[..., : inputs.shape[-1]]
    return found


def _errors(answers: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, float]:
    both = [Predictions(one.double().numpy(), labels.numpy()) for one in (answers, teacher)]
    found = error_overlap(*both, resamples=Resamples(len(labels), n_resamples=2, seed=0))
    values = {"same_error": found.same_prediction, "consistency": found.consistency}
    return {name: one.value for name, one in values.items() if one is not None}


def gain(*, seed: int, objective: ObjectiveLike, **settings: Any) -> dict[str, float]:
    """Measure how much a distilled student is better than one trained on labels alone.

    Args:
        seed: The seed.
        objective: The objective of the distilled student.
        settings: See `pairs.trained`; both students have them.

    Returns:
        `gain`, the difference of the accuracies; `gap_closed`, the gain over the accuracy that the
        student on labels lacks to the teacher; `labels_accuracy`, `accuracy`, `teacher_accuracy`.
    """
    distilled = student(seed=seed, objective=objective, **settings)
    alone = student(seed=seed, objective="label_only", **settings)
    found = distilled["accuracy"] - alone["accuracy"]
    missing = distilled["teacher_accuracy"] - alone["accuracy"]
    return {
        "gain": found,
        "gap_closed": found / missing if missing else 0.0,
        "error_reduction": found / max(1 - alone["accuracy"], 1e-9),
        "labels_accuracy": alone["accuracy"],
        "accuracy": distilled["accuracy"],
        "teacher_accuracy": distilled["teacher_accuracy"],
        "teacher_entropy": distilled["teacher_entropy"],
    }


def sharpness(
    *, seed: int, samples: int = 256, iterations: int = 15, noise: float = 0.05, **settings: Any
) -> dict[str, float]:
    r"""Measure the sharpness of a student's minimum, on the training samples.

    The loss is the cross-entropy with the labels, for every student, so that minima of different
    objectives are compared on one surface. $\lambda$ is the top eigenvalue of its Hessian in the
    weights, by power iteration; `loss_increase` is the mean increase of the loss under weights
    $w + \epsilon\,\lVert w\rVert\,u$ with a random direction u of norm 1 per tensor.

    Args:
        seed: The seed.
        samples: Training samples of the loss.
        iterations: Power iterations.
        noise: The relative size $\epsilon$ of the perturbation.
        settings: See `pairs.trained`.

    Returns:
        `top_eigenvalue`, `loss_increase`, `accuracy`, `train_loss`.

    Source: Yao et al. 2020, "PyHessian" (power iteration); Li et al. 2018, "Visualizing the loss
    landscape of neural nets" (relative perturbations).
    """
    pair = pairs.trained(seed=seed, **settings)
    rows = pair.on.train.take(torch.arange(min(samples, len(pair.on.train))))
    net, generator = pair.net, torch.Generator().manual_seed(seed)
    weights = [one for one in net.parameters() if one.requires_grad]

    def loss() -> Tensor:
        return functional.cross_entropy(net(rows.inputs), rows.labels)

    top = top_eigenvalue(loss(), weights, iterations=iterations, generator=generator)
    with torch.no_grad():
        before = float(loss())
        increases = [_increase(weights, loss, before, noise, generator) for _ in range(10)]
    values = bench.describe(pair.predict(pair.on.test.inputs), pair.on.test)
    return {
        "top_eigenvalue": top,
        "loss_increase": float(np.mean(increases)),
        "accuracy": values["accuracy"],
        "train_loss": before,
    }


def top_eigenvalue(
    loss: Tensor, weights: Sequence[Tensor], *, iterations: int, generator: torch.Generator
) -> float:
    """Compute the eigenvalue of largest magnitude of a loss's Hessian, by power iteration.

    Example:
        >>> w = torch.ones(2, requires_grad=True)
        >>> loss = (w.pow(2) * torch.tensor([3.0, 0.5])).sum()
        >>> round(top_eigenvalue(loss, [w], iterations=20, generator=torch.Generator()), 3)
        6.0
    """
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    vector = [torch.randn(one.shape, generator=generator) for one in weights]
    top = 0.0
    for _ in range(iterations):
        norm = _norm(vector)
        vector = [one / norm for one in vector]
        product = torch.autograd.grad(gradients, weights, vector, retain_graph=True)
        top = float(sum((a * b).sum() for a, b in zip(vector, product, strict=True)))
        vector = list(product)
    return top


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([one.pow(2).sum() for one in tensors]).sum().sqrt().clamp_min(1e-30)


def _increase(
    weights: Sequence[Tensor],
    loss: Callable[[], Tensor],
    before: float,
    noise: float,
    generator: torch.Generator,
) -> float:
    kept = [one.clone() for one in weights]
    for one in weights:
        direction = torch.randn(one.shape, generator=generator)
        one.add_(noise * one.norm() * direction / direction.norm())
    after = float(loss())
    for one, former in zip(weights, kept, strict=True):
        one.copy_(former)
    return after - before


def alignment(
    *, seed: int, temperature: float, samples: int = 300, **settings: Any
) -> dict[str, float]:
    """Compare the saliency maps of student and teacher for the class that the teacher predicts.

    Args:
        seed: The seed.
        temperature: The temperature of the distillation, with no other term.
        samples: Test samples explained.
        settings: See `pairs.trained`.

    Returns:
        `alignment`, the mean cosine of the two maps; `rank_alignment`, the mean of Spearman's
        correlation; `accuracy`, `agreement`, `kl`.
    """
    objective = [{"soft_target_kl": {"temperature": temperature}}]
    pair = pairs.trained(seed=seed, objective=objective, **settings)
    inputs = pair.on.test.inputs[:samples]
    classes = pair.teach(inputs).argmax(1)
    found = [
        maps.saliency(model, inputs, classes).reshape(len(inputs), -1)
        for model in (pair.net, pairs.Mean(pair.models))
    ]
    values = bench.describe(pair.predict(pair.on.test.inputs), pair.on.test, pair.teacher_test)
    return {
        "alignment": float(np.nanmean(similarity.cosine(*found))),
        "rank_alignment": float(np.nanmean(similarity.spearman(*found))),
        **{name: values[name] for name in ("accuracy", "agreement", "kl")},
    }


def gradient_noise(
    *,
    seed: int,
    squared: bool,
    temperatures: tuple[float, float],
    batches: Sequence[int] = (16, 32, 64, 128, 256),
    draws: int = 400,
    **settings: Any,
) -> dict[str, float]:
    r"""Fit how the temperature must change with the batch size for a constant gradient variance.

    The gradient of a batch's mean loss $KL(p_T \,\|\, q_T)$ in the logits, times T² or not; its
    variance $V(B, T)$ is the trace of the covariance over random batches. For every B, the
    temperature is solved for which V equals that of the middle B at the middle temperature.

    Args:
        seed: The seed.
        squared: Whether the loss is multiplied by T².
        temperatures: The range of temperatures, on whose geometric mean the solution is centred.
        batches: Batch sizes.
        draws: Random batches per size.
        settings: See `pairs.trained`: student and teacher whose logits are taken.

    Returns:
        `exponent` of $T \propto B^{e}$ by least squares; `slope`, $d \log V / d \log T$; `solved`,
        the share of batch sizes for which a temperature in the range solves it.
    """
    pair = pairs.trained(seed=seed, **settings)
    inputs = pair.on.train.inputs
    own, teacher = (
        one.double() - one.double().mean(1, keepdim=True)
        for one in (pair.predict(inputs), pair.teach(inputs))
    )
    grid = np.geomspace(*temperatures, 41)
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(len(inputs), (draws, size), generator=generator) for size in batches]
    table = np.array([_variances(own, teacher, float(t), rows, squared) for t in grid])
    log_t, log_v = np.log(grid), np.log(table)
    slope = float(np.polyfit(log_t, log_v, 1)[0].mean())
    target = log_v[len(grid) // 2, len(batches) // 2]
    solved = [_crossing(log_t, column, target) for column in log_v.T]
    kept = [(math.log(b), t) for b, t in zip(batches, solved, strict=True) if t is not None]
    values = {"slope": slope, "solved": len(kept) / len(batches)}
    if len(kept) > 1:
        x, y = np.array(kept).T
        values["exponent"] = float(np.polyfit(x, y, 1)[0])
    return values


def _variances(
    own: Tensor, teacher: Tensor, temperature: float, rows: Sequence[Tensor], squared: bool
) -> list[float]:
    leaf = own.clone().requires_grad_()
    loss = losses.soft_target_kl(leaf, teacher, temperature=temperature).sum()
    [gradient] = torch.autograd.grad(loss, leaf)
    if not squared:
        gradient = gradient / temperature**2
    return [float(gradient[one].mean(1).var(0).sum()) for one in rows]


def _crossing(x: Array, y: Array, target: float) -> float | None:
    """Return where a curve first crosses a value, by linear interpolation; None if it does not."""
    sign = np.sign(y - target)
    places = np.flatnonzero(sign[:-1] * sign[1:] <= 0)
    if not len(places):
        return None
    i = int(places[0])
    share = 0.0 if y[i + 1] == y[i] else (target - y[i]) / (y[i + 1] - y[i])
    return float(x[i] + share * (x[i + 1] - x[i]))


def label_gradients(
    *, seed: int, soft: bool, temperature: float = 1.0, samples: int = 400, **settings: Any
) -> dict[str, float]:
    r"""Measure the variance of the gradient between training samples, for hard or soft labels.

    Of the gradients $g_i$ of the cross-entropy in the weights of one student, in evaluation mode:
    `variance` is the trace of their covariance, `signal_to_noise` is
    $\lVert \bar g \rVert^2 / \mathrm{variance}$.

    Args:
        seed: The seed.
        soft: Whether the labels are the teacher's probabilities.
        temperature: Of the soft labels and the student; the gradient is multiplied by T².
        samples: Training samples.
        settings: See `pairs.trained`; `training` says how far the student is.
    """
    pair = pairs.trained(seed=seed, **settings)
    rows = pair.on.train.take(torch.arange(samples))
    if pair.teacher_train is None:
        raise ValueError("a teacher is required")
    targets = (
        pair.teacher_train[:samples].div(temperature).softmax(-1)
        if soft
        else functional.one_hot(rows.labels, pair.on.classes).float()
    )
    scale = temperature if soft else 1.0
    weights = {name: one.detach() for name, one in pair.net.named_parameters()}
    buffers = dict(pair.net.named_buffers())

    def loss(parameters: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
        answer = torch.func.functional_call(pair.net, (parameters, buffers), (image[None],))
        return -(scale**2) * (target * (answer[0] / scale).log_softmax(-1)).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    found = each(weights, rows.inputs, targets)
    gradients = torch.cat([one.flatten(1) for one in found.values()], dim=1).double()
    variance = float(gradients.var(0).sum())
    mean = float(gradients.mean(0).pow(2).sum())
    return {"variance": variance, "signal": mean, "signal_to_noise": mean / variance}


def speed(
    *, seed: int, reach: Sequence[float] = (0.8, 0.9), every: int = 4, **settings: Any
) -> dict[str, float]:
    """Count the optimiser steps until the test accuracy first reaches given values.

    Args:
        seed: The seed.
        reach: Accuracies.
        every: Steps between evaluations.
        settings: See `pairs.trained`, with `training.steps`.

    Returns:
        `steps_to_80` for 0.8, and so on; the number of all steps if it is never reached; the last
        `accuracy`.
    """
    settings = dict(settings)
    training, objective = settings.pop("training"), settings.pop("objective", "label_only")
    pair = pairs.trained(seed=seed, training={"steps": 1}, **settings)
    aim = Objective.of(objective)
    net, test, curve = pairs.build(settings["student"], pair.on, seed=seed), pair.on.test, []

    def evaluate(model: nn.Module, step: int) -> None:
        if step % every == 0:
            right = bench.logits(model, test.inputs).argmax(1) == test.labels
            curve.append((step, float(right.float().mean())))
            model.train()

    given = pair.teacher_train if aim.needs_teacher else None
    bench.train(net, pair.on, aim, seed=seed, teacher=given, after_step=evaluate, **training)
    last = training["steps"]
    return {
        **{
            f"steps_to_{100 * one:g}": min((s for s, a in curve if a >= one), default=last)
            for one in reach
        },
        "accuracy": curve[-1][1],
    }


def likelihood(*, seed: int, classes: int = 10, samples: int = 256) -> dict[str, float]:
    r"""Compare the soft-target loss with the likelihood of labels that the teacher draws.

    $E_{y \sim p}[-\log q(y)] = KL(p \,\|\, q) + H(p)$, so that both have one gradient in q.

    Returns:
        `value_error`, the largest difference of the two sides; `gradient_error`, that of the
        gradients in the logits.
    """
    generator = torch.Generator().manual_seed(seed)
    own, teacher = 3 * torch.randn(2, samples, classes, generator=generator, dtype=torch.float64)
    own.requires_grad_()
    p = teacher.softmax(-1)
    nll = sum(
        p[:, y] * functional.cross_entropy(own, torch.full((samples,), y), reduction="none")
        for y in range(classes)
    )
    kl = losses.soft_target_kl(own, teacher, temperature=1.0)
    entropy = -(p * p.log()).sum(-1)
    [first] = torch.autograd.grad(torch.as_tensor(nll).sum(), own, retain_graph=True)
    [second] = torch.autograd.grad(kl.sum(), own)
    return {
        "value_error": float((nll - kl - entropy).detach().abs().max()),
        "gradient_error": float((first - second).abs().max()),
    }


def rate_curve(*, seed: int, widths: Sequence[int], **settings: Any) -> dict[str, float]:
    """Measure the distortion of students of several widths, each about twice the one before.

    Args:
        seed: The seed.
        widths: Widths of the students, ascending, at least four.
        settings: See `pairs.trained`, without the student's width.

    Returns:
        `kl_...` in nats by width; `rise_low` and `rise_high`, by how much the divergence rises at
        the last and at the first halving of the width; `excess`, their difference.
    """
    found = []
    for width in widths:
        pair = pairs.trained(
            seed=seed, **{**settings, "student": {**settings["student"], "width": width}}
        )
        values = bench.describe(pair.predict(pair.on.test.inputs), pair.on.test, pair.teacher_test)
        found.append(values["kl"])
    low, high = found[0] - found[1], found[-2] - found[-1]
    named = {f"kl_{width}": one for width, one in zip(widths, found, strict=True)}
    return {"excess": low - high, "rise_low": low, "rise_high": high, **named}


def rate(*, seed: int, bits: int, **settings: Any) -> dict[str, float]:
    """Measure the distortion of a student whose weights are rounded to some bits.

    Every matrix and kernel is rounded to the symmetric grid of its largest absolute value.

    Args:
        seed: The seed.
        bits: Bits per weight, at least 2.
        settings: See `pairs.trained`.

    Returns:
        `kl`, KL(teacher || student) in nats; `log_kl`, its logarithm; `accuracy`; `kilobits` of
        the student.
    """
    pair = pairs.trained(seed=seed, **settings)
    highest = 2 ** (bits - 1) - 1
    kept = {name: one.clone() for name, one in pair.net.state_dict().items()}
    count = 0
    with torch.no_grad():
        for weight in pair.net.parameters():
            count += weight.numel() * (bits if weight.ndim > 1 else 32)
            if weight.ndim > 1:
                step = weight.abs().max() / highest
                weight.copy_((weight / step).round() * step)
    values = bench.describe(pair.predict(pair.on.test.inputs), pair.on.test, pair.teacher_test)
    pair.net.load_state_dict(kept)
    return {
        "kl": values["kl"],
        "log_kl": float(np.log(values["kl"])),
        "accuracy": values["accuracy"],
        "kilobits": count / 1000,
    }
