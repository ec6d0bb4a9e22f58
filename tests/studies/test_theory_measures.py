"""Measures of theory and efficiency that have a closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.studies.measures import bench, efficiency, pairs, theory


def test_the_top_eigenvalue_is_that_of_the_hessian() -> None:
    """Power iteration on a quadratic form agrees with torch's eigenvalues."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator)
    matrix = root @ root.T
    weights = [torch.randn(4, requires_grad=True), torch.randn(2, requires_grad=True)]
    both = torch.cat(weights)
    found = theory.top_eigenvalue(
        both @ matrix @ both / 2, weights, iterations=300, generator=generator
    )
    assert found == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-4)


def test_soft_targets_are_a_likelihood() -> None:
    """The divergence and the expected likelihood differ by the entropy alone."""
    found = theory.likelihood(seed=0)
    assert max(found.values()) < 1e-10


@pytest.mark.parametrize(
    "net", [{"name": "digits_cnn", "width": 5}, {"name": "pixel_mlp", "width": 5, "depth": 2}]
)
def test_counts_agree_with_their_formulas(net: bench.Spec) -> None:
    """Counted FLOPs and parameters equal the formulas."""
    found = efficiency.counts(seed=0, net=net)
    assert (found["flops_ratio"], found["parameter_ratio"]) == (1, 1)


def test_the_peak_of_activations_is_that_of_the_widest_layer() -> None:
    """Input and output of the widest layer, in bytes."""
    net = nn.Sequential(nn.Linear(3, 50), nn.ReLU(), nn.Linear(50, 2))
    assert efficiency.activation_bytes(net, torch.zeros(7, 3)) == 4 * 7 * (50 + 50)


@pytest.mark.parametrize("name", ["pixel_mlp", "row_lstm", "row_encoder"])
def test_nets_of_images_have_a_logit_per_class(name: str) -> None:
    """The nets beside the reference nets take images, and are drawn by the seed."""
    on = bench.data("digits")
    first, again, other = (
        pairs.build({"name": name, "width": 8, "depth": 2}, on, seed=seed) for seed in (0, 0, 1)
    )
    answers = [bench.logits(one, on.test.inputs[:3]) for one in (first, again, other)]
    assert answers[0].shape == (3, 10)
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


def test_merged_classes_are_remainders() -> None:
    """Class c of merged labels is c modulo the number of groups."""
    fine, coarse = bench.data("digits"), pairs.load("digits", 2)
    assert torch.equal(coarse.test.labels, fine.test.labels % 2)
    assert coarse.classes == 2


def test_the_energy_of_a_device_is_power_times_time() -> None:
    """200 W for a year of 365.25 days."""
    found = efficiency.device_energy(seed=0, watts=200, years=1)["kilowatt_hours"]
    assert math.isclose(found, 0.2 * 24 * 365.25)
