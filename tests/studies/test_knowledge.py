"""The measures of knowledge against closed forms."""

from __future__ import annotations

import pytest
import torch

from limbeck.studies.measures import analytic, knowledge


def test_cka_sees_no_rotation_and_no_scale() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    assert knowledge.linear_cka(x, 3 * x @ rotation) == pytest.approx(1)
    assert knowledge.linear_cka(x, torch.randn(50, 6, dtype=torch.float64)) < 0.5


def test_recall_counts_the_nearest_other_sample() -> None:
    found = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    assert knowledge.recall_at_1(found, torch.tensor([0, 0, 1, 1])) == 1
    assert knowledge.recall_at_1(found, torch.tensor([0, 1, 0, 1])) == 0


@pytest.mark.parametrize("change", ["wrong_classes", "within_class"])
def test_changed_targets_keep_the_predicted_class(change: str) -> None:
    targets = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    changed = knowledge._CHANGES[change](targets, torch.Generator().manual_seed(1))
    assert not torch.equal(changed, targets)
    torch.testing.assert_close(changed.argmax(1), targets.argmax(1))
    torch.testing.assert_close(changed.flatten().sort().values, targets.flatten().sort().values)


def test_an_attack_stays_within_its_size_and_raises_the_loss() -> None:
    on = knowledge.load("textures")
    test = on.test.take(torch.arange(32))
    inputs = test.inputs.sigmoid()
    test = knowledge.Split(inputs, test.labels)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 8))
    moved = knowledge.attacked(net, test, 0.05)
    assert (moved - inputs).abs().max() <= 0.05 + 1e-6
    loss = torch.nn.functional.cross_entropy
    assert loss(net(moved), test.labels) > loss(net(inputs), test.labels)


def test_a_hint_helps_exactly_below_its_threshold() -> None:
    settings = {"weight": 2.0, "rows": 50, "width": 10, "label_noise": 1.0}
    # λ (2 − 2a) = (2 + λ) d σ² / n at a = 0.8
    assert analytic.hint_gain(alignment=0.8, noise=0.0, **settings) == pytest.approx(0)
    assert analytic.hint_gain(alignment=0.81, noise=0.0, **settings) > 0
    assert analytic.hint_gain(alignment=0.81, noise=0.1, **settings) < 0


def test_the_parity_of_the_columns_is_balanced() -> None:
    on = knowledge.load("parity")
    assert on.test.labels.float().mean() == pytest.approx(0.5, abs=0.05)
    assert on.train.inputs.shape == (2000, 8)
