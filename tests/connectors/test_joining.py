import importlib

import pytest
import torch
from torch import nn

from limbeck import losses
from limbeck.connectors import BUILDERS, UNJOINED, Connector, PairConnector, StudentConnector, join
from limbeck.errors import InputError

MAPS = torch.zeros(4, 8, 4, 4), torch.zeros(4, 16, 8, 8)


def test_every_loss_with_parts_has_a_builder_that_is_there():
    for name, place in BUILDERS.items():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert name in losses.__all__


def test_every_loss_that_gets_nothing_is_a_loss():
    assert set(losses.__all__) >= UNJOINED


@pytest.mark.parametrize("name", ["fitnet_hint", "info_nce", "my_own_loss"])
def test_most_losses_get_a_connector_on_the_students_side(name):
    joint = join(name, *MAPS)
    student, teacher = torch.randn(3, 8, 4, 4), torch.randn(3, 16, 8, 8)
    joined = joint(student, teacher, {})
    assert joined.student.shape == teacher.shape
    assert joined.teacher is teacher
    assert joined.arguments == {}
    assert joined.aux_loss is None


@pytest.mark.parametrize("name", sorted(UNJOINED))
def test_losses_that_cope_with_other_shapes_get_nothing(name):
    joint = join(name, *MAPS)
    assert not list(joint.parameters())
    joined = joint(*MAPS, {})
    assert joined.student is MAPS[0]
    assert joined.teacher is MAPS[1]


@pytest.mark.parametrize("name", ["gram", "fsp"])
def test_losses_that_pool_get_channels_only(name):
    joint = join(name, *MAPS)
    assert joint(*MAPS, {}).student.shape == (4, 16, 4, 4)


def test_several_features_are_joined_pair_by_pair():
    student = [torch.zeros(4, 8), torch.zeros(4, 6)]
    teacher = (torch.zeros(4, 16), torch.zeros(4, 6))
    joint = join("fitnet_hint", student, teacher)
    joined = joint(student, teacher, {})
    assert [tuple(feature.shape) for feature in joined.student] == [(4, 16), (4, 6)]
    assert joined.teacher == teacher
    assert len(list(joint.parameters())) == 2


@pytest.mark.parametrize(
    "teacher", [[torch.zeros(4, 8)], [], torch.zeros(4, 8)], ids=["one", "none", "a tensor"]
)
def test_other_numbers_of_features_are_an_error(teacher):
    with pytest.raises(InputError, match="student 2 features"):
        join("fitnet_hint", [torch.zeros(4, 8)] * 2, teacher)


def test_sizes_follow_the_teachers_batch():
    joint = join("fitnet_hint", *MAPS)
    joined = joint(torch.zeros(2, 8, 6, 6), torch.zeros(2, 16, 12, 12), {})
    assert joined.student.shape == (2, 16, 12, 12)


def test_a_module_of_the_user_is_applied_as_it_is():
    joint = StudentConnector(nn.Flatten())
    assert isinstance(joint, PairConnector)
    assert joint(torch.zeros(2, 3, 4), torch.zeros(2, 12), {}).student.shape == (2, 12)


def test_settings_that_nobody_takes_are_an_error():
    with pytest.raises(InputError, match="no settings for this loss"):
        join("fitnet_hint", *MAPS, heads=4)


def test_a_loss_with_parts_gets_those():
    joint = join("variational_information", *MAPS[:1], torch.zeros(4, 16, 4, 4), samples=50)
    assert not isinstance(joint, StudentConnector | Connector)
    joined = joint(MAPS[0], torch.zeros(4, 16, 4, 4), {})
    assert "variance" in joined.arguments
