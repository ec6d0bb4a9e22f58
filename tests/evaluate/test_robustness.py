"""The whole evaluation: every part, and a note wherever one is not possible."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.evaluate import robustness
from limbeck.evaluate.context import (
    EvaluatedModel,
    EvaluationContext,
    Normalization,
    TextInputs,
    TorchModel,
)
from limbeck.evaluate.robustness import Robustness, evaluate
from limbeck.export.predictor import TorchPredictor
from limbeck.tasks.image_classification import ImageClassification

CLASSES = ("left", "right", "<script>")
TASK = ImageClassification(CLASSES)
FAST = {
    "attack_samples": 40,
    "steps": 4,
    "restarts": 1,
    "queries": 5,
    "n_resamples": 100,
    "epsilons": (0.05, 0.2),
}


def model(seed: int, channels: int = 1) -> nn.Module:
    """Build a net that approximately classifies which third of an image is brightest."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(6 * 36, 3))
    columns = torch.arange(6).div(2, rounding_mode="floor").repeat(6).repeat(6)
    net[0].weight.data = net[0].weight.data.abs()
    net[3].weight.data = torch.stack([(columns == c).float() - 1 / 3 for c in range(3)])
    net[3].weight.data += 0.05 * torch.randn(net[3].weight.shape)
    return net.eval().requires_grad_(False)


def side(name: str, seed: int, *, channels: int = 1, torch_model: bool = True) -> EvaluatedModel:
    net = model(seed, channels)
    return EvaluatedModel(
        name, TorchPredictor(net, TASK), TorchModel(net, TASK) if torch_model else None
    )


def context(
    student: EvaluatedModel, teacher: EvaluatedModel | None, *, count: int = 60, channels: int = 1
) -> EvaluationContext:
    random = np.random.default_rng(0)
    labels = random.integers(3, size=count)
    pixels = 0.4 * random.random((count, channels, 6, 6))
    for image, label in zip(pixels, labels, strict=True):
        image[:, :, 2 * label : 2 * label + 2] += 0.3
    inputs = ((pixels - 0.5) / 0.25).astype(np.float32)

    def batches():
        for first in range(0, count, 16):
            rows = slice(first, first + 16)
            yield {"image": inputs[rows], "labels": labels[rows]}

    return EvaluationContext(
        student,
        teacher,
        batches,
        batches,
        CLASSES,
        Normalization((0.5,) * channels, (0.25,) * channels),
        max_samples=50,
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_every_part_has_results(channels):
    pytest.importorskip("foolbox", reason='attacks need the extra "evaluate"')
    sides = side("small", 0, channels=channels), side("large", 1, channels=channels)
    found = evaluate(context(*sides, channels=channels), **FAST)
    assert (found.samples, found.attack_samples) == (50, 40)
    assert len(found.attacks) == 2 * 5
    assert len(found.corruptions) == 5 * 5
    assert len(found.certified) == 3
    assert found.distances.teacher is not None
    assert found.notes == ()
    names = [line.name for line in found.comparisons]
    assert len(set(names)) == len(names) == 2 + 1 + 2 + 5 + 1 + 3 + 1
    for line in found.comparisons:
        assert line.difference.interval is not None
        assert line.difference.value == pytest.approx(line.student.value - line.teacher.value)
        assert line.method.endswith(".")
    robust = next(line for line in found.comparisons if "51/255" in line.name)
    certified = next(line for line in found.comparisons if line.name.startswith("Certified"))
    assert certified.student.value > 0
    assert robust.student.value <= certified.student.value
    assert Robustness.model_validate_json(found.model_dump_json()) == found


def test_no_attack_breaks_a_certificate():
    pytest.importorskip("foolbox", reason='attacks need the extra "evaluate"')
    size = 0.02
    found = evaluate(
        context(side("small", 0), None),
        parts=("attacks", "certified"),
        **FAST | {"epsilons": (size,), "certified_epsilons": (size,), "queries": 50},
    )
    strongest = next(row for row in found.attacks if row.attack == "strongest")
    assert 0 < found.certified[0].student.value <= strongest.student.value
    assert all(line.verdict == "no reference" for line in found.comparisons)


def test_a_student_equal_to_its_teacher_has_no_differences():
    found = evaluate(context(side("a", 0), side("b", 0)), **FAST, parts=("corruption", "distances"))
    assert found.attacks == ()
    assert all(line.difference.value == 0 for line in found.comparisons)
    assert all(row.student == row.teacher for row in found.corruptions)


def test_without_a_torch_model_robust_accuracy_is_measured_and_noted():
    pytest.importorskip("foolbox", reason='attacks need the extra "evaluate"')
    found = evaluate(context(side("small", 0, torch_model=False), side("large", 1)), **FAST)
    assert len(found.notes) == 3
    assert "The student has no PyTorch model" in found.notes[0]
    assert {row.attack for row in found.attacks if row.student} == {
        "transfer",
        "gradients",
        "strongest",
    }
    assert found.certified == ()
    assert found.distances is None
    assert len(found.corruptions) == 25


def test_without_foolbox_the_note_names_the_extra(monkeypatch):
    monkeypatch.setattr(robustness, "available", lambda module: False)
    found = evaluate(context(side("small", 0), None), **FAST)
    assert found.notes == ('Attacks require foolbox: pip install "limbeck[evaluate]".',)
    assert found.attacks == ()
    assert found.certified


def test_one_sample_is_enough():
    pytest.importorskip("foolbox", reason='attacks need the extra "evaluate"')
    found = evaluate(context(side("small", 0), side("large", 1), count=1), **FAST)
    assert (found.samples, found.attack_samples) == (1, 1)
    assert found.warnings == ()


def test_pixels_outside_the_box_are_not_attacked():
    whole = context(side("small", 0), None)
    wrong = replace(whole, normalization=Normalization((0.5,), (1.0,)))
    found = evaluate(wrong, **FAST)
    assert "not from 0 to 1" in found.notes[-1]
    assert found.attacks == ()


class CountsWords:
    """Predicts class 1 for a text of more than six known words."""

    def predict(self, batch):
        known = (np.asarray(batch["input_ids"]) == 1).sum(axis=1) - 6.5
        return {"logits": np.stack([-known, known], axis=1).astype(np.float32)}


def encode(texts):
    known = {"good", "film", "and", "a", "very"}
    length = max(len(one.split()) for one in texts)
    ids = np.zeros((len(texts), length), dtype=np.int64)
    for row, one in zip(ids, texts, strict=True):
        words = one.split()
        row[: len(words)] = [1 if word in known else 2 for word in words]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(ids > 0)}


def test_texts_are_corrupted_by_typos_and_dropped_words():
    raw = ["a very good film and a good film"] * 30 + ["a good film"] * 30
    labels = np.array([1] * 30 + [0] * 30)

    def batches():
        yield {**encode(raw), "labels": labels}

    one = EvaluationContext(
        EvaluatedModel("small", CountsWords()),
        EvaluatedModel("large", CountsWords()),
        batches,
        batches,
        ("bad", "good"),
        texts=TextInputs(raw, encode),
        max_samples=40,
    )
    found = evaluate(one)
    assert {row.kind for row in found.corruptions} == {"typos", "dropped words"}
    assert len(found.corruptions) == 10
    accuracy = [row.student.value for row in found.corruptions if row.kind == "dropped words"]
    # A short text stays below the threshold; one of 8 words loses 1, 1, 2, 3 and 4 of them.
    rows = one.sample["row"]
    short = (rows >= 30).mean()
    assert accuracy == pytest.approx([1, 1, short, short, short])
    assert found.attack_samples == 0
    assert found.notes == (
        "The samples are not images: no attacks, no certificates, no distances.",
    )


def test_inputs_that_are_neither_images_nor_texts_are_noted():
    class Sums:
        def predict(self, batch):
            total = batch["features"].sum(axis=1)
            return {"logits": np.stack([-total, total], axis=1)}

    def batches():
        yield {"features": np.ones((5, 3), dtype=np.float32), "labels": np.ones(5, dtype=np.int64)}

    found = evaluate(
        EvaluationContext(EvaluatedModel("small", Sums()), None, batches, batches, ("no", "yes"))
    )
    assert found.comparisons == ()
    assert len(found.notes) == 2


def test_wrong_settings_are_refused():
    one = context(side("small", 0), None)
    with pytest.raises(InputError, match='did you mean "attacks"'):
        evaluate(one, parts=("attack",))
    with pytest.raises(InputError, match="at most 1"):
        evaluate(one, epsilons=(8,))
    with pytest.raises(InputError, match="attack_samples"):
        evaluate(one, attack_samples=0)


def test_reading_a_result_needs_no_torch():
    code = "import sys, limbeck.evaluate.robustness; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "False"
