import importlib

import pytest
import torch
from torch import nn

from limbeck import losses
from limbeck.connectors import (
    BUILDERS,
    LOSSES_WITHOUT_CONNECTOR,
    Connector,
    PairConnector,
    StudentConnector,
    build_connector,
)
from limbeck.errors import InputError

MAPS = torch.zeros(4, 8, 4, 4), torch.zeros(4, 16, 8, 8)


def test_every_builder_exists_and_belongs_to_a_loss():
    for name, place in BUILDERS.items():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert name in losses.__all__


def test_every_loss_without_connector_is_a_loss():
    assert set(losses.__all__) >= LOSSES_WITHOUT_CONNECTOR


@pytest.mark.parametrize("name", ["fitnet_hint", "info_nce", "my_own_loss"])
def test_most_losses_have_a_student_connector(name):
    connector = build_connector(name, *MAPS)
    student, teacher = torch.randn(3, 8, 4, 4), torch.randn(3, 16, 8, 8)
    output = connector(student, teacher, {})
    assert output.student.shape == teacher.shape
    assert output.teacher is teacher
    assert output.arguments == {}
    assert output.aux_loss is None


@pytest.mark.parametrize("name", sorted(LOSSES_WITHOUT_CONNECTOR))
def test_losses_for_any_shapes_have_no_parameters(name):
    connector = build_connector(name, *MAPS)
    assert not list(connector.parameters())
    output = connector(*MAPS, {})
    assert output.student is MAPS[0]
    assert output.teacher is MAPS[1]


@pytest.mark.parametrize("name", ["gram", "fsp"])
def test_losses_that_pool_have_a_connector_of_channels(name):
    connector = build_connector(name, *MAPS)
    assert connector(*MAPS, {}).student.shape == (4, 16, 4, 4)


def test_several_features_are_connected_in_pairs():
    student = [torch.zeros(4, 8), torch.zeros(4, 6)]
    teacher = (torch.zeros(4, 16), torch.zeros(4, 6))
    connector = build_connector("fitnet_hint", student, teacher)
    output = connector(student, teacher, {})
    assert [tuple(feature.shape) for feature in output.student] == [(4, 16), (4, 6)]
    assert output.teacher == teacher
    assert len(list(connector.parameters())) == 2


@pytest.mark.parametrize(
    "teacher", [[torch.zeros(4, 8)], [], torch.zeros(4, 8)], ids=["one", "none", "a tensor"]
)
def test_different_numbers_of_features_raise(teacher):
    with pytest.raises(InputError, match="student 2 features"):
        build_connector("fitnet_hint", [torch.zeros(4, 8)] * 2, teacher)


@pytest.mark.parametrize("name", ["crd", "factor_transfer", "overhaul", "variational_information"])
def test_connectors_of_one_layer_refuse_several(name):
    pairs = [[one] for one in MAPS]
    with pytest.raises(InputError, match="got 'several features'; allowed: one feature"):
        build_connector(name, *pairs)
    size = MAPS[0], torch.zeros(4, 16, 4, 4)
    connector = build_connector(name, *size)
    with pytest.raises(InputError, match="got 'several features'"):
        connector(list(size), size[1], {})


def test_sizes_follow_the_teachers_batch():
    connector = build_connector("fitnet_hint", *MAPS)
    output = connector(torch.zeros(2, 8, 6, 6), torch.zeros(2, 16, 12, 12), {})
    assert output.student.shape == (2, 16, 12, 12)


def test_a_users_module_is_applied_unchanged():
    connector = StudentConnector(nn.Flatten())
    assert isinstance(connector, PairConnector)
    assert connector(torch.zeros(2, 3, 4), torch.zeros(2, 12), {}).student.shape == (2, 12)


def test_unknown_settings_raise():
    with pytest.raises(InputError, match="no settings for this loss"):
        build_connector("fitnet_hint", *MAPS, heads=4)


def test_a_loss_with_learned_arguments():
    connector = build_connector(
        "variational_information", *MAPS[:1], torch.zeros(4, 16, 4, 4), samples=50
    )
    assert not isinstance(connector, StudentConnector | Connector)
    output = connector(MAPS[0], torch.zeros(4, 16, 4, 4), {})
    assert "variance" in output.arguments
