import dataclasses

import pytest
import torch

from limbeck.targets import DenseTargets


def test_targets_do_not_change():
    targets = DenseTargets(torch.zeros(2, 3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        targets.logits = torch.ones(2, 3)


def test_targets_compare_by_identity_since_tensors_do_not_compare_to_one_truth():
    logits = torch.zeros(2, 3)
    assert DenseTargets(logits) != DenseTargets(logits)
