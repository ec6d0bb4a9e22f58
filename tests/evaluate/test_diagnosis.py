"""The diagnosis of a distillation: figures against references, and each rule on figures."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from contexts import digits
from scipy import stats
from sklearn.metrics import mean_squared_error
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from limbeck.core.measurement import Interval
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.context import Distillation, TermGradientNorm, TermGradients, TrainingCurve
from limbeck.evaluate.diagnosis import Diagnosis, evaluate
from limbeck.evaluate.diagnosis.causes import causes, outcome, seeds_needed
from limbeck.evaluate.diagnosis.curves import learning_curves, trend
from limbeck.evaluate.diagnosis.figures import (
    Figures,
    LearningCurve,
    SeedScores,
    SplitScores,
    TargetStatistics,
    TeacherAgreement,
    TermShare,
)
from limbeck.evaluate.diagnosis.predictions import (
    calibration_error,
    predict_split,
    relative_error,
)
from limbeck.evaluate.diagnosis.section import lines, section
from limbeck.evaluate.evaluation import evaluate_one
from limbeck.evaluate.intervals import summarize
from limbeck.tasks.image_segmentation import ImageSegmentation
from limbeck.tasks.scores import ACCURACY
from limbeck.tasks.series_forecasting import SeriesForecasting
from limbeck.tasks.tabular_classification import TabularClassification
from limbeck.tasks.tabular_multilabel import TabularMultilabel
from limbeck.tasks.tabular_regression import TabularRegression


class Fixed:
    """A predictor whose outputs are a part of the batch."""

    def __init__(self, role, name):
        self.role, self.name = role, name

    def predict(self, batch):
        return {self.name: np.asarray(batch[self.role])}


def distillation(task, batch, *, rows=None, **more):
    """Return the distillation of models whose outputs are entries of one batch, in two parts."""
    name = next(iter(task.kinds))
    roles = [role for role in ("teacher", "baseline", "student") if role in batch]
    size = len(batch["labels"])
    parts = [slice(0, size // 2), slice(size // 2, size)]
    given = {
        "task": task,
        "models": {role: Fixed(role, name) for role in roles},
        "samples": lambda split, rows: iter(
            [{key: one[part] for key, one in batch.items()} for part in parts]
        ),
        "sizes": {"train": size, "validation": size, "test": size},
        **more,
    }
    return Distillation(**given)


def test_statistics_of_classes_are_those_of_references():
    torch.manual_seed(0)
    logits = {role: 2 * torch.randn(80, 3) for role in ("teacher", "baseline", "student")}
    labels = torch.randint(0, 3, (80,))
    known = torch.arange(80) % 4 != 0
    hidden = torch.where(known, labels, -100)
    batch = {"features": torch.zeros(80, 1), "labels": hidden, "labelled": known, **logits}
    task = TabularClassification(("a", "b", "c"))
    found = predict_split(distillation(task, batch, temperature=4.0), "train", 100)
    p = {role: one.double().softmax(1) for role, one in logits.items()}
    means = found.means
    assert found.samples == 80
    assert means["teacher/entropy"] == pytest.approx(stats.entropy(p["teacher"], axis=1).mean())
    soft = (logits["teacher"].double() / 4).softmax(1)
    assert means["teacher/softened entropy"] == pytest.approx(stats.entropy(soft, axis=1).mean())
    assert means["teacher/confidence"] == pytest.approx(float(p["teacher"].max(1).values.mean()))
    right = (logits["teacher"].argmax(1) == labels)[known]
    assert means["teacher/accuracy"] == pytest.approx(float(right.double().mean()))
    ece = multiclass_calibration_error(logits["teacher"][known], labels[known], 3, n_bins=15)
    assert calibration_error(means, "teacher") == pytest.approx(float(ece), abs=1e-6)
    same = logits["student"].argmax(1) == logits["teacher"].argmax(1)
    assert means["student/agreement"] == pytest.approx(float(same.double().mean()))
    kl = F.kl_div(p["student"].log(), p["teacher"], reduction="batchmean")
    assert means["student/kl"] == pytest.approx(float(kl))
    score = found.scores["teacher"].values()["accuracy"]
    assert score == pytest.approx(float(right.double().mean())), "unlabelled rows are left out"


def test_pixels_are_elements_and_those_without_a_label_count_nowhere():
    torch.manual_seed(1)
    logits = {role: torch.randn(4, 3, 2, 2) for role in ("teacher", "student")}
    labels = torch.randint(0, 3, (4, 2, 2))
    labels[0, 0, 0] = -100
    kept = labels.flatten() >= 0
    batch = {"image": torch.zeros(4, 3, 2, 2), "labels": labels, **logits}
    task = ImageSegmentation(("a", "b", "c"))
    found = predict_split(distillation(task, batch), "train", 10)
    rows = {role: one.permute(0, 2, 3, 1).reshape(-1, 3)[kept] for role, one in logits.items()}
    entropy = stats.entropy(rows["teacher"].double().softmax(1), axis=1).mean()
    assert found.means["teacher/entropy"] == pytest.approx(entropy)
    right = (rows["teacher"].argmax(1) == labels.flatten()[kept]).double().mean()
    assert found.means["teacher/accuracy"] == pytest.approx(float(right))
    same = (rows["teacher"].argmax(1) == rows["student"].argmax(1)).double().mean()
    assert found.agreements["student"].values() == pytest.approx({"pixel_agreement": float(same)})


def test_labels_are_classes_of_two():
    logits = torch.tensor([[0.0, 3.0], [-3.0, 0.0], [2.0, -1.0], [1.0, 1.0]])
    labels = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    batch = {"features": torch.zeros(4, 1), "labels": labels, "teacher": logits}
    found = predict_split(distillation(TabularMultilabel(("a", "b")), batch), "train", 10)
    p = logits.double().sigmoid().flatten()
    entropy = stats.entropy(np.stack([p, 1 - p]), axis=0).mean()
    assert found.means["teacher/entropy"] == pytest.approx(entropy)


def test_errors_of_values_are_in_deviations_of_the_labels():
    torch.manual_seed(2)
    labels = torch.randn(60, 2) * torch.tensor([1.0, 50.0])
    noise = torch.tensor([0.5, 10.0])
    teacher = labels + noise * torch.randn(60, 2)
    batch = {
        "features": torch.zeros(60, 1),
        "labels": labels,
        "teacher": teacher,
        "student": teacher + noise * torch.randn(60, 2),
    }
    one = torch.ones(2)
    task = TabularRegression(("a", "b"), mean=0 * one, std=one)
    found = predict_split(distillation(task, batch), "train", 100)
    for name, (left, right) in {
        "teacher/squared errors": (labels, batch["teacher"]),
        "student/squared differences": (batch["teacher"], batch["student"]),
    }.items():
        squares = mean_squared_error(left, right, multioutput="raw_values")
        expected = np.sqrt((squares / labels.numpy().var(axis=0)).mean())
        assert relative_error(found.means, name) == pytest.approx(expected, rel=1e-5)
    constant = batch | {"labels": torch.ones(60, 2)}
    flat = predict_split(distillation(task, constant), "train", 100)
    assert relative_error(flat.means, "teacher/squared errors") is None


def test_of_quantiles_the_middle_one_is_compared():
    torch.manual_seed(3)
    labels = torch.randn(10, 4, 1)
    quantiles = torch.stack([labels - 9, labels + 0.5, labels + 9], dim=-1)
    batch = {"series": torch.zeros(10, 8, 1), "labels": labels, "teacher": quantiles}
    task = SeriesForecasting(("load",), horizon=4)
    found = predict_split(distillation(task, batch), "train", 100)
    error = relative_error(found.means, "teacher/squared errors")
    assert error == pytest.approx(0.5 / labels.numpy().std(), rel=1e-5)


def plain(role, values):
    return TrainingCurve(role, tuple(range(1, len(values) + 1)), tuple(values))


def test_a_noisy_level_curve_has_no_trend():
    random = np.random.default_rng(0)
    found = [trend(random.normal(0, 1, 40)) for _ in range(200)]
    assert found.count("level") > 190
    rising = [trend(np.linspace(0, 5, 40) + random.normal(0, 0.3, 40)) for _ in range(50)]
    assert set(rising) == {"rising"}


def test_curves_are_averaged_and_their_direction_counts():
    curves = [
        plain("student", [9, 8, 7, 6, 5, 4, 3, 2]),
        plain("student", [7, 6, 5, 4, 3, 2, 1, 0]),
    ]
    [found] = learning_curves(curves, higher_is_better=False)
    assert (found.trainings, found.epochs, found.best, found.best_epoch) == (2, 8, 1.0, 8.0)
    assert found.trend == "rising"
    [short] = learning_curves([*curves, plain("student", [9])], higher_is_better=False)
    assert (short.epochs, short.trend) == (1, "too short")


def estimate(value, half):
    interval = Interval(low=value - half, high=value + half, method="")
    return Estimate(value=value, interval=interval)


def figures(lead=0.05, gain=0.03, half=0.01, **more):
    """Return figures of a distillation that gains, of which no rule fires but `one_seed`."""
    scores = {"teacher": estimate(0.9 + lead, half), "baseline": estimate(0.9, half)}
    test = SplitScores(
        split="test",
        samples=1000,
        scores={**scores, "student": estimate(0.9 + gain, half)},
        headroom=estimate(lead, half),
        gain=estimate(gain, half),
    )
    given = {
        "splits": (test,),
        "largest_entropy": float(np.log(10)),
        "targets": (
            TargetStatistics(split="train", entropy=0.4, confidence=0.9, accuracy=0.95),
            TargetStatistics(split="test", entropy=0.5, confidence=0.88, accuracy=0.93),
        ),
        "agreements": (
            TeacherAgreement(split="train", role="student", agreement=0.99),
            TeacherAgreement(split="test", role="student", agreement=0.985),
        ),
        "terms": (TermShare(term="task", start=0.3, end=0.2), TermShare(term="kl", start=0.7)),
        **more,
    }
    return Figures(metric=ACCURACY.metric, **given)


def agreements(train, test):
    return {
        "agreements": tuple(
            TeacherAgreement(split=split, role="student", agreement=value)
            for split, value in (("train", train), ("test", test))
            if value is not None
        )
    }


def targets(train, test):
    names = ("entropy", "confidence", "accuracy")
    return {
        "targets": (
            TargetStatistics(split="train", **dict(zip(names, train, strict=True))),
            TargetStatistics(split="test", **dict(zip(names, test, strict=True))),
        )
    }


def errors(train, test):
    return {
        "targets": (
            TargetStatistics(split="train", error=train),
            TargetStatistics(split="test", error=test),
        )
    }


def curves(trend):
    row = {"trainings": 1, "epochs": 20, "best": 0.9, "best_epoch": 5, "last": 0.8}
    return {"curves": (LearningCurve(role="baseline", trend=trend, **row),)}


def of_seeds(lead, gain):
    """Return the scores of several seeds."""
    return {
        "seeds": SeedScores(
            numbers=tuple(range(len(lead))),
            scores={
                "baseline": summarize([0.9] * len(lead)),
                "teacher": summarize([0.9 + one for one in lead]),
                "student": summarize([0.9 + one for one in gain]),
            },
            headroom=summarize(lead),
            gain=summarize(gain),
        )
    }


SILENT = {"terms": (TermShare(term="task", start=0.3, end=0.004), TermShare(term="kl", end=0.996))}


@pytest.mark.parametrize(
    ("made", "rules", "words"),
    [
        (figures(), [], ""),
        (figures(lead=-0.01, gain=-0.01), ["weak_teacher"], "no better than the label-only"),
        (figures(lead=0.005), ["weak_teacher"], "not shown to be better .*90.50 %"),
        (
            figures(**of_seeds([0.05, 0.06, 0.05], [0.045, 0.05, 0.047])),
            ["lead_taken"],
            r"by 5\.33 points, of which the student takes 89 %",
        ),
        (figures(gain=0.01), ["lead_not_taken"], "takes 20 %, although it is close"),
        (figures(**agreements(0.8, 0.79)), ["underfits_teacher"], "80.0 % agreement on the train"),
        (figures(**agreements(0.999, 0.93)), ["few_rows"], "99.9 % .* 93.0 %"),
        (figures(**agreements(None, 0.5)), ["underfits_teacher"], "reads no training rows"),
        (
            figures(**targets((0.01, 0.998, 1.0), (0.2, 0.95, 0.94))),
            ["one_hot_targets"],
            r"0\.0100 nats \(on test 0\.200\) .* nearly one-hot, .*100\.0 % .* 94\.0 %",
        ),
        (figures(**targets((0.1, 0.97, 1.0), (0.3, 0.9, 0.9))), ["one_hot_targets"], "0.100 nats"),
        (figures(**targets((0.1, 0.97, 1.0), (0.15, 0.9, 0.9))), [], ""),
        (figures(**errors(0.1, 0.5)), ["memorised_labels"], "0.10 standard .* 0.50"),
        (figures(**errors(0.4, 0.5)), [], ""),
        (figures(**SILENT), ["silent_term"], "below 1 %: task"),
        (figures(**curves("rising")), ["still_rising"], "label-only student was still improving"),
        (figures(**curves("past its best")), ["past_best"], "in epoch 5 of 20"),
        (figures(**curves("level")), [], ""),
        (figures(**of_seeds([0.05], [0.03])), ["one_seed"], "One seed"),
        (
            figures(**of_seeds([0.05, 0.06, 0.05], [0.06, -0.02, 0.05])),
            ["few_seeds"],
            "over 3 seeds includes zero: .3.00 points",
        ),
    ],
)  # fmt: skip
def test_each_rule_fires_on_its_evidence_alone(made, rules, words):
    fired = causes(made)
    assert [one.rule for one in fired] == rules
    for one in fired:
        assert re.search(words, one.evidence)
        assert one.evidence.endswith(".")
        assert one.advice.endswith(".")


def test_without_a_baseline_or_a_teacher_rules_are_silent():
    for role in ("baseline", "teacher"):
        only = {"student": estimate(0.9, 0.01), role: estimate(0.9, 0.01)}
        split = SplitScores(split="test", samples=10, scores=only)
        assert not causes(Figures(metric=ACCURACY.metric, splits=(split,)))
    assert outcome(Figures(metric=ACCURACY.metric)).startswith("The distillation gain is unknown")


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (0.03, r"^Distillation gains over the label-only student: \+3.00 points .* accuracy\.$"),
        (-0.03, "^Distillation loses to the label-only student: .3.00 points"),
        (0.005, "^No gain over the label-only student is shown: .0.50 points"),
    ],
)
def test_the_outcome_is_one_line(gain, words):
    assert re.search(words, outcome(figures(gain=gain)))


def test_the_number_of_seeds_excludes_zero():
    gain = summarize([0.01, -0.002, 0.006])
    count = seeds_needed(gain)
    deviation = np.std(gain.values, ddof=1)
    half = [stats.t.ppf(0.975, n - 1) * deviation / np.sqrt(n) for n in (count - 1, count)]
    assert half[1] < gain.mean <= half[0]


def test_an_evaluation_has_all_figures_and_its_section_draws_them():
    torch.manual_seed(4)
    labels = torch.randint(0, 3, (60,))
    one_hot = F.one_hot(labels, 3).float()
    scale = {"teacher": 9.0, "baseline": 0.5, "student": 1.5}
    logits = {role: one_hot * size + torch.randn(60, 3) for role, size in scale.items()}
    batch = {"features": torch.zeros(60, 1), "labels": labels, **logits}
    norms = [TermGradientNorm(name, at, norm) for name, at, norm in (
        ("task", "start", 1.0), ("kl", "start", 3.0), ("task", "end", 0.0), ("kl", "end", 2.0),
    )]  # fmt: skip
    context = digits(samples=20)
    object.__setattr__(
        context,
        "distillation",
        distillation(
            TabularClassification(("a", "b", "c")),
            batch,
            seeds=(3, 4),
            scores={"teacher": (0.9, 0.9), "baseline": (0.7, 0.8), "student": (0.8, 0.85)},
            curves=[plain("student", [0.5, 0.6])],
            gradients=lambda: TermGradients(norms, ("One note.",)),
        ),
    )
    found = evaluate_one(context, "diagnosis", {"rows": 60}).result
    assert isinstance(found, Diagnosis)
    assert [one.term for one in found.terms] == ["task", "kl"]
    assert found.terms[0] == TermShare(term="task", start=0.25, end=0.0)
    accuracies = {
        role: float((one.argmax(1) == labels).double().mean()) for role, one in logits.items()
    }
    test = found.split("test")
    assert {role: one.value for role, one in test.scores.items()} == pytest.approx(accuracies)
    assert test.headroom.value == pytest.approx(accuracies["teacher"] - accuracies["baseline"])
    assert found.seeds.gain.mean == pytest.approx(0.075)
    assert found.notes == ("One note.",)
    assert Diagnosis.model_validate_json(found.model_dump_json()) == found
    content = section(found)
    assert [one.title for one in content.tables] == [
        "Accuracy: the teacher's lead and the gain",
        "The teacher's targets",
        "Fidelity to the teacher",
        "Gradient share of the terms",
        "Learning curves",
    ]
    assert len(content.causes) == len(found.causes) > 0
    text = "\n".join(lines(found))
    for word in (found.summary, "test, mean of 2 seeds", "25.00 %", "Note: One note."):
        assert word in text


def test_a_student_without_a_distillation_has_nothing_to_diagnose():
    found = evaluate(digits(samples=20))
    assert found.summary == "The student was not distilled: there is nothing to diagnose."
    assert lines(found)[0] == found.summary
    assert not section(found).tables
