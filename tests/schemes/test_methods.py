"""Every named method on real nets: it trains, and leaves nothing of its own in the student."""

import pytest
import torch
from torch import nn

from limbeck.models.nets.digits_cnn import digits_cnn
from limbeck.objective import Objective, TrainingSet, methods
from limbeck.schemes import Offline
from limbeck.tasks.image_classification import ImageClassification
from limbeck.tasks.text_classification import TextClassification
from limbeck.teachers import FrozenTeacher

CLASSES = tuple("0123456789")
SAMPLES = 40


def maps():
    """The paths of the digits' blocks, shallow to deep, before and after the activation."""
    net = digits_cnn(10, width=4)
    convolutions = [path for path, part in net.named_modules() if isinstance(part, nn.Conv2d)]
    norms = [path for path, part in net.named_modules() if isinstance(part, nn.BatchNorm2d)]
    return convolutions, norms


CONVOLUTIONS, NORMS = maps()
DEEP = CONVOLUTIONS[-1]
ON_IMAGES = {
    "ab": (NORMS[:2], NORMS[:2]),
    "at": (CONVOLUTIONS[:2], CONVOLUTIONS[:2]),
    "cc": (DEEP, DEEP),
    "crd": (DEEP, DEEP),
    "dist": (),
    "dkd": (),
    "fitnets": (DEEP, DEEP),
    "ft": (DEEP, DEEP),
    "hinton": (),
    "label_only": (),
    "logit_standardization": (),
    "mlkd": (),
    "nst": (CONVOLUTIONS[:2], CONVOLUTIONS[:2]),
    "ofd": (NORMS[:2], NORMS[:2]),
    "pkt": (DEEP, DEEP),
    "review_kd": (CONVOLUTIONS[:2], CONVOLUTIONS[:2]),
    "rkd": (DEEP, DEEP),
    "sp": (DEEP, DEEP),
    "ttm": (),
    "vid": (DEEP, DEEP),
    "wttm": (),
}
SETTINGS = {"crd": {"negatives": 16}}


def batch():
    return {
        "image": torch.rand(6, 1, 8, 8),
        "labels": torch.tensor([0, 1, 2, 0, 1, 2]),
        "index": torch.arange(6),
    }


def learn(scheme, inputs, steps=3):
    optimizer = torch.optim.SGD(scheme.trainable(), lr=1e-5)
    scheme.student.train()
    results = []
    for step in range(steps):
        losses = scheme.step(inputs, step / steps)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        results.append(losses)
    return results


def check(name, scheme, student, teacher, inputs):
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    keys = list(student.state_dict())
    for losses in learn(scheme, inputs):
        losses.check()
        assert all(term.raw.isfinite() for term in losses.terms.values()), losses.terms
    assert list(student.state_dict()) == keys
    assert any(
        parameter.grad.any() for parameter in student.parameters() if parameter.requires_grad
    )
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, before[key])
    learned = list(scheme.modules_to_save()["connectors"].parameters())
    assert {id(one) for one in learned} <= {id(one) for one in scheme.trainable()}
    assert all(one.grad is not None for one in learned), name
    assert {id(one) for one in learned}.isdisjoint(id(one) for one in student.parameters())


@pytest.mark.parametrize("name", ON_IMAGES)
def test_a_method_trains_a_net_of_other_width(name):
    torch.manual_seed(0)
    teacher, student = digits_cnn(10, width=8), digits_cnn(10, width=4)
    task = ImageClassification(CLASSES)
    objective = Objective(methods.find(name)(*ON_IMAGES[name], **SETTINGS.get(name, {})))
    scheme = Offline(
        student,
        task,
        objective,
        teacher=FrozenTeacher(teacher, task, objective.teacher_taps),
        probe=batch(),
        training_set=TrainingSet(SAMPLES, (4,) * 10),
    )
    check(name, scheme, student, teacher, batch())


def test_flows_need_as_many_channels():
    torch.manual_seed(0)
    teacher, student = digits_cnn(10, width=4), digits_cnn(10, width=4)
    task = ImageClassification(CLASSES)
    objective = Objective(methods.fsp(CONVOLUTIONS, CONVOLUTIONS))
    scheme = Offline(
        student,
        task,
        objective,
        teacher=FrozenTeacher(teacher, task, objective.teacher_taps),
        probe=batch(),
    )
    check("fsp", scheme, student, teacher, batch())


ATTENTION = "bert.encoder.layer.{}.attention.self"
ON_TEXTS = {
    "distilbert": {"student": "bert.encoder.layer.1", "teacher": "bert.encoder.layer.3"},
    "minilm": {"student": ATTENTION.format(1), "teacher": ATTENTION.format(3), "heads": 2},
    "tinybert": {"student_layers": 2, "teacher_layers": 4, "student_heads": 2, "teacher_heads": 2},
}


def bert(layers, width):
    transformers = pytest.importorskip("transformers", reason="needs the extra `text`")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=16,
        num_labels=2,
    )
    return transformers.BertForSequenceClassification(config)


@pytest.mark.parametrize("name", ON_TEXTS)
def test_a_method_trains_a_transformer(name):
    torch.manual_seed(0)
    teacher, student = bert(4, 16), bert(2, 8)
    task = TextClassification(("no", "yes"))
    inputs = {
        "input_ids": torch.randint(1, 50, (4, 9)),
        "attention_mask": torch.ones(4, 9, dtype=torch.long),
        "labels": torch.tensor([0, 1, 0, 1]),
        "index": torch.arange(4),
    }
    inputs["attention_mask"][:, 6:] = 0
    objective = Objective(methods.find(name)(**ON_TEXTS[name]))
    scheme = Offline(
        student,
        task,
        objective,
        teacher=FrozenTeacher(teacher, task, objective.teacher_taps),
        probe=inputs,
    )
    check(name, scheme, student, teacher, inputs)
    # What lies on padding must not matter.
    objective_of = [scheme.step(inputs, 0.5).total]
    inputs["input_ids"][:, 6:] = 7
    scheme.student.eval()
    objective_of = [scheme.step(inputs, 0.5).total]
    inputs["input_ids"][:, 6:] = 11
    objective_of.append(scheme.step(inputs, 0.5).total)
    torch.testing.assert_close(*objective_of)


def test_every_method_is_tried():
    assert {*ON_IMAGES, *ON_TEXTS, "fsp"} == set(methods.__all__)
