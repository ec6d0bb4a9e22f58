"""The arithmetic of a step, against references written here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck.errors import InputError
from limbeck.training import Training
from limbeck.training.optimizer import build_optimizer, rate
from limbeck.training.step import Stepper


def doubled(tiny, **more):
    """A training in float64 in which nothing depends on how a batch is divided."""
    dataset = tiny.Images(noise=0)
    dataset.images, dataset.weights = dataset.images.double(), dataset.weights.double()
    subject = tiny.scheme(dropout=0, norm=False, **more)
    subject.student.double()
    subject.teacher.model.double()
    return dataset, subject


def by_hand(dataset, subject, *, rates, clip=None):
    """Weighted means over all samples, in steps of plain gradient descent."""
    student, teacher = subject.student, subject.teacher.model
    weights = dataset.weights / dataset.weights.sum()
    for learning_rate in rates:
        student.train()
        student_logits, teacher_logits = student(dataset.images), teacher(dataset.images).detach()
        hard = F.cross_entropy(student_logits, dataset.labels, reduction="none")
        p, q = (F.softmax(logits / 4, 1) for logits in (teacher_logits, student_logits))
        soft = 16 * (p * (p.log() - q.log())).sum(1)
        loss = (weights * (0.1 * hard + 0.9 * soft)).sum()
        gradients = torch.autograd.grad(loss, list(student.parameters()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        # Torch clips to this; without its 1e-6 a gradient of zero would be divided by zero.
        scale = 1 if clip is None else min(1, clip / (norm.item() + 1e-6))
        with torch.no_grad():
            for parameter, gradient in zip(student.parameters(), gradients, strict=True):
                parameter -= learning_rate * scale * gradient
    return list(student.parameters())


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize(
    ("batch_size", "accumulate"), [(22, 1), (11, 2), (5, 5), (4, 6), (3, 8), (1, 22)]
)
def test_accumulated_micro_batches_are_the_big_batch(
    tiny, tmp_path, accelerator, batch_size, accumulate, clip
):
    dataset, subject = doubled(tiny)
    plain = {
        "optimizer": "sgd",
        "momentum": 0,
        "warmup_ratio": 0,
        "learning_rate": 0.5,
        "keep": "last",
    }
    settings = {
        **plain,
        "batch_size": batch_size,
        "gradient_accumulation_steps": accumulate,
        "max_grad_norm": clip,
    }
    tiny.train(
        tmp_path, subject=subject, train=dataset, accelerator=accelerator, epochs=3, **settings
    )
    rates = [0.5 * 0.5 * (1 + math.cos(math.pi * step / 3)) for step in range(3)]
    expected = by_hand(*doubled(tiny), rates=rates, clip=clip)
    for actual, reference in zip(subject.student.parameters(), expected, strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-9, atol=1e-12)


def test_losses_of_a_step_are_its_weighted_means(tiny, accelerator):
    dataset, subject = doubled(tiny)
    stepper = Stepper(subject, Training(epochs=1), accelerator)
    batches = [dataset.__getitems__(list(rows)) for rows in (range(10), range(10, 22))]
    subject.student.train()
    whole = subject.step(dataset.__getitems__(list(range(22))), 0.0)
    row = stepper.train_step(batches, 0.0)
    assert row["train/loss"] == pytest.approx(whole.total.item())
    for name, term in whole.terms.items():
        assert row[f"train/{name}/raw"] == pytest.approx(term.raw.item())
        assert row[f"train/{name}/weighted"] == pytest.approx(term.weighted.item())
    assert row["train/task/weighted"] == pytest.approx(0.1 * row["train/task/raw"])


def test_a_step_in_which_nothing_counts_moves_nothing(tiny, accelerator):
    dataset, subject = doubled(tiny)
    dataset.weights.zero_()
    stepper = Stepper(subject, Training(epochs=1, warmup_ratio=0), accelerator)
    before = [parameter.clone() for parameter in subject.trainable()]
    row = stepper.train_step([dataset.__getitems__([0, 1]), dataset.__getitems__([2])], 0.5)
    assert row["train/loss"] == 0
    assert all(map(torch.equal, before, subject.trainable()))


def test_the_accelerators_own_accumulation_changes_nothing(tiny, tmp_path):
    from accelerate import Accelerator

    results = []
    for steps in (1, 4):
        dataset, subject = doubled(tiny)
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=steps)
        tiny.train(tmp_path / str(steps), subject=subject, train=dataset, accelerator=accelerator)
        results.append([parameter.detach() for parameter in subject.trainable()])
    assert all(map(torch.equal, *results))


def test_weight_decay_spares_biases_and_norms():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm((4, 4)), nn.Flatten(), nn.Linear(32, 3)
    )
    for name in ("adamw", "sgd"):
        settings = Training(epochs=1, optimizer=name, weight_decay=0.1)
        optimizer = build_optimizer(model.parameters(), [model], settings)
        decayed = {
            parameter
            for group in optimizer.param_groups
            for parameter in group["params"]
            if group["weight_decay"]
        }
        assert decayed == {model[0].weight, model[4].weight}
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 8


def test_adamw_is_torchs(tiny, tmp_path, accelerator):
    dataset, subject = doubled(tiny)
    rates = []
    settings = {
        "epochs": 4,
        "batch_size": 22,
        "gradient_accumulation_steps": 1,
        "weight_decay": 0.1,
    }
    tiny.train(tmp_path, subject=subject, train=dataset, keep="last", **settings)
    other, reference = doubled(tiny)
    parameters = list(reference.trainable())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, foreach=False, fused=False)
    for step in range(4):
        reference.student.train()
        losses = reference.step(other.__getitems__(list(range(22))), step / 4)
        optimizer.zero_grad()
        losses.total.backward()
        rates.append(0.0 if step == 0 else 0.005 * (1 + math.cos(math.pi * (step / 4 - 0.1) / 0.9)))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        optimizer.step()
    for actual, same in zip(subject.trainable(), reference.trainable(), strict=True):
        torch.testing.assert_close(actual, same, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_the_rate_rises_then_falls(decay):
    settings = Training(epochs=1, learning_rate=2.0, warmup_ratio=0.25, lr_schedule=decay)
    rates = [rate(step / 100, settings) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[25] == 2.0
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[-1] == pytest.approx(2.0 if decay == "constant" else 0.0)
    assert rate(1.0, Training(epochs=1, warmup_ratio=1.0, learning_rate=2.0)) == 2.0


def test_the_rate_is_a_tenth_after_each_milestone():
    settings = Training(
        epochs=240,
        learning_rate=0.05,
        warmup_ratio=0.0,
        lr_schedule="step",
        milestones=(0.625, 0.75),
    )
    rates = [rate(epoch / 240, settings) for epoch in (0, 149, 150, 179, 180, 239)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005])


def test_a_moving_average_is_what_validates_and_what_is_kept(tiny, tmp_path, accelerator):
    subject, seen, validated = tiny.scheme(), [], []

    class Look:
        def update(self, done, total, note, *, milestone=False):
            if not milestone:
                seen.append({k: v.clone() for k, v in subject.student.state_dict().items()})

    def validate(model):
        validated.append({k: v.clone() for k, v in model.state_dict().items()})
        return tiny.score(model)

    tiny.train(
        tmp_path,
        subject=subject,
        ema_decay=0.8,
        keep="last",
        progress_bar=Look(),
        validate=validate,
    )
    average = {k: v.double() for k, v in seen[0].items()}
    for weights in seen[1:]:
        average = {k: 0.8 * v + 0.2 * weights[k].double() for k, v in average.items()}
    for name, kept in subject.student.state_dict().items():
        expected = average[name] if kept.is_floating_point() else seen[-1][name]
        torch.testing.assert_close(kept, expected.to(kept.dtype), rtol=1e-5, atol=1e-6)
        assert torch.equal(kept, validated[-1][name])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_in_the_models_only(tiny, tmp_path, accelerator, precision):
    subject, seen = tiny.scheme(), set()
    subject.student[-1].register_forward_hook(lambda module, ins, out: seen.add(out.dtype))
    _, history = tiny.train(tmp_path, subject=subject, precision=precision, max_grad_norm=1.0)
    assert getattr(torch, precision) in seen
    assert all(parameter.dtype == torch.float32 for parameter in subject.trainable())
    assert math.isfinite(history.rows[-1]["train/loss"])


def test_nothing_that_trains_is_an_error(tiny, tmp_path, accelerator):
    subject = tiny.scheme()
    subject.student.requires_grad_(False)
    with pytest.raises(InputError, match=r"student: got 'no parameters'.*its own teacher"):
        tiny.train(tmp_path, subject=subject)
