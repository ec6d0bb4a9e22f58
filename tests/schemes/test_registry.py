"""The contract of every scheme: students, phases, gradients, and its control.

That of `on_policy`, for language models only, is in test_on_policy.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.models.nets.early_exit_cnn import early_exit_cnn
from limbeck.objective import Objective, Term, methods
from limbeck.schemes import SCHEMES, SchemeInputs
from limbeck.tasks.image_classification import ImageClassification
from limbeck.teachers import FrozenTeacher

TASK = ImageClassification(classes=("a", "b", "c"))
GENERATOR = torch.Generator().manual_seed(0)
BATCH = {"image": torch.randn(8, 1, 4, 4, generator=GENERATOR), "labels": torch.arange(8) % 3}
EXAMPLES = {
    "offline": {},
    "early_exit": {"exit_weight": 0.5},
    "mutual": {"copies": 3},
    "data_free": {"latent": 4, "generator_width": 4, "student_steps": 2, "batch_norm": 1.0},
}
OBJECTIVES = {"data_free": [Term("logit_mse"), Term("soft_target_kl", temperature=4.0)]}
CONTROLS = {"data_free": ["logit_mse", "soft_target_kl"]}  # under the teacher, on random inputs


def student_of(name):
    torch.manual_seed(0)
    return early_exit_cnn(3, width=2, depth=1) if name == "early_exit" else net(0)


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


@pytest.fixture(params=[name for name in SCHEMES.names() if name != "on_policy"])
def parts(request):
    """Settings of a scheme, its student and its inputs."""
    settings = SCHEMES.load(request.param)(**EXAMPLES[request.param])
    further = len(settings.further_models())
    inputs = SchemeInputs(
        task=TASK,
        objective=lambda: Objective(OBJECTIVES.get(request.param) or methods.hinton()),
        probe=BATCH,
        teacher=FrozenTeacher(net(9), TASK) if settings.uses_teacher else None,
        models=[net(seed) for seed in range(1, 1 + further)],
    )
    return settings, student_of(request.param), inputs


def batch_of(scheme):
    """Return a batch of the scheme itself, if it draws any."""
    draw = getattr(scheme, "batches", None)
    return BATCH if draw is None else next(iter(draw(epoch=0, size=8)))


def test_a_phase_gives_a_gradient_to_its_parameters_only_and_every_student_has_one(parts):
    settings, student, inputs = parts
    scheme = settings.build_scheme(student, inputs)
    assert next(iter(scheme.students.values())) is student
    for name, module in scheme.students.items():
        assert getattr(scheme, name) is module
    saved = {p for one in scheme.modules_to_save().values() for p in one.parameters()}
    scheme.begin_epoch(0)
    moved = set()
    for name, phase in scheme.phases.items():
        assert set(phase.parameters) <= saved
        for module in scheme.modules_to_save().values():
            module.train().zero_grad()
        losses = scheme.step(batch_of(scheme), 0.0, None, name)
        losses.check()
        losses.total.backward()
        trained = {parameter for parameter in saved if parameter.grad is not None}
        assert trained == set(phase.parameters)
        moved |= trained
    scheme.after_step(1)
    for module in scheme.students.values():
        assert set(module.parameters()) <= moved


def test_a_check_of_the_terms_covers_every_student_and_changes_nothing(parts):
    settings, student, inputs = parts
    scheme = settings.build_scheme(student, inputs)
    modules = scheme.modules_to_save()
    before = {n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in modules.items()}
    found = scheme.check_terms(batch_of(scheme))
    assert len(found) == 2 * len(scheme.students)
    assert all(one.norm > 0 for one in found.values())
    for name, module in modules.items():
        assert all(torch.equal(value, before[name][k]) for k, value in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())


def test_a_control_trains_the_same_student_without_the_scheme(parts, request):
    settings, student, inputs = parts
    control = settings.build_control(student, inputs)
    assert list(control.students.values()) == [student]
    assert len(control.phases) == 1
    name = request.node.callspec.params["parts"]
    assert list(control.step(batch_of(control), 0.0).terms) == CONTROLS.get(name, ["task"])
