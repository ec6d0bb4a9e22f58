import dataclasses

import pytest
import torch

from limbeck.errors import InputError
from limbeck.targets import DenseTargets, HeadTargets, SampledTargets, TopKTargets

LOGITS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IDS, LOGS = torch.tensor([[0, 1], [2, 3]]), torch.zeros(2, 2)


def test_targets_are_immutable():
    targets = DenseTargets(torch.zeros(2, 3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        targets.logits = torch.ones(2, 3)


def test_targets_compare_by_identity():
    logits = torch.zeros(2, 3)
    assert DenseTargets(logits) != DenseTargets(logits)


FORMS = [
    DenseTargets(LOGITS),
    TopKTargets.of(LOGITS, 2),
    SampledTargets.draw(LOGITS, draws=3, generator=torch.Generator().manual_seed(0)),
    SampledTargets.draw(
        LOGITS, draws=3, proposal_power=0.5, generator=torch.Generator().manual_seed(0)
    ),
    HeadTargets(LOGITS, torch.eye(6, dtype=torch.float64)),
]


@pytest.mark.parametrize("targets", FORMS)
@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([3, 0])])
def test_units_classes_and_take(targets, rows):
    assert (targets.elements, targets.classes) == (4, 6)
    some = targets.take(rows)
    assert (some.elements, some.classes) == (2, 6)
    expected = targets.take(slice(0, 4))
    for field in dataclasses.fields(some):
        taken, whole = getattr(some, field.name), getattr(expected, field.name)
        assert torch.equal(taken, whole[rows]) if torch.is_tensor(taken) else taken == whole


def test_top_k_log_probabilities():
    targets = TopKTargets.of(LOGITS.bfloat16(), 3)
    logs = LOGITS.bfloat16().float().log_softmax(1)
    assert targets.log_probabilities.dtype == torch.float32
    torch.testing.assert_close(targets.log_probabilities, logs.gather(1, targets.ids))
    assert torch.equal(targets.ids, logs.topk(3).indices)


def test_draws_are_merged_per_class_and_sum_to_their_number():
    targets = SampledTargets.draw(
        LOGITS, draws=50, temperature=2.0, generator=torch.Generator().manual_seed(1)
    )
    assert (targets.counts.sum(1) == 50).all()
    for ids, counts in zip(targets.ids, targets.counts, strict=True):
        drawn = ids[counts > 0]
        assert len(drawn.unique()) == len(drawn)
    expected = (LOGITS / 2).log_softmax(1).gather(1, targets.ids)
    torch.testing.assert_close(targets.log_probabilities, expected)
    assert targets.temperature == 2.0


def test_draws_follow_the_proposal():
    logits = LOGITS[:1].expand(2000, 6)
    for power in (1.0, 0.5):
        targets = SampledTargets.draw(
            logits, draws=5, proposal_power=power, generator=torch.Generator().manual_seed(2)
        )
        counted = torch.zeros_like(logits).scatter_add(1, targets.ids, targets.counts)
        expected = (LOGITS[0] * power).softmax(0)
        torch.testing.assert_close(counted.sum(0) / 10_000, expected, rtol=0, atol=0.02)
        assert (targets.log_proposal is None) == (power == 1.0)


def test_draws_are_reproducible_and_accept_an_empty_batch():
    a, b = (
        SampledTargets.draw(LOGITS, draws=9, generator=torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert torch.equal(a.ids, b.ids)
    assert SampledTargets.draw(LOGITS[:0], draws=9).elements == 0
    assert TopKTargets.of(LOGITS[:0], 2).elements == 0


def test_head_logits_equal_the_linear_layer_with_softcap():
    hidden, weight = torch.randn(3, 4), torch.randn(5, 4)
    bias = torch.randn(5)
    logits = HeadTargets(hidden, weight, bias, softcap=2.0).take(slice(0, 3)).logits
    expected = 2 * torch.tanh((hidden @ weight.T + bias) / 2)
    torch.testing.assert_close(logits, expected)
    last = HeadTargets(hidden, weight, bias, softcap=2.0).cut(2).take(torch.tensor([2])).logits
    torch.testing.assert_close(last, expected[2:, :2])


@pytest.mark.parametrize(
    ("make", "places"),
    [
        (lambda: TopKTargets(IDS.float(), LOGS, 4), ["TopKTargets.ids"]),
        (lambda: TopKTargets(IDS[0], LOGS[0], 4), ["TopKTargets.ids"]),
        (lambda: TopKTargets(IDS, LOGS[:1], 4), ["TopKTargets.log_probabilities"]),
        (lambda: TopKTargets(IDS, LOGS.long(), 4), ["TopKTargets.log_probabilities"]),
        (lambda: TopKTargets(IDS, LOGS, 0), ["TopKTargets.classes"]),
        (
            lambda: TopKTargets(IDS, LOGS[:1], 0),
            ["TopKTargets.log_probabilities", "TopKTargets.classes"],
        ),
        (lambda: TopKTargets(IDS, LOGS, 4, log_tail=LOGS), ["TopKTargets.log_tail"]),
        (lambda: TopKTargets.of(LOGITS, 7), ["TopKTargets.of.k"]),
        (lambda: TopKTargets.of(LOGITS, 0), ["TopKTargets.of.k"]),
        (lambda: TopKTargets.of(LOGITS.long(), 2), ["TopKTargets.of.logits"]),
        (lambda: SampledTargets(IDS, LOGS, LOGS[:, :1]), ["SampledTargets.log_probabilities"]),
        (lambda: SampledTargets(IDS, LOGS[:1], LOGS), ["SampledTargets.counts"]),
        (lambda: SampledTargets(IDS, LOGS, LOGS, LOGS[0]), ["SampledTargets.log_proposal"]),
        (
            lambda: SampledTargets.draw(LOGITS, draws=0, temperature=-1.0),
            ["SampledTargets.draw.draws", "SampledTargets.draw.temperature"],
        ),
        (
            lambda: SampledTargets.draw(LOGITS, draws=1, proposal_power=0.0),
            ["SampledTargets.draw.proposal_power"],
        ),
        (lambda: HeadTargets(LOGITS[0], LOGITS), ["HeadTargets.hidden"]),
        (lambda: HeadTargets(LOGITS, LOGITS[:, :5]), ["HeadTargets.weight"]),
        (lambda: HeadTargets(LOGITS, LOGITS, LOGITS[0]), ["HeadTargets.bias"]),
        (lambda: HeadTargets(LOGITS, LOGITS, softcap=0.0), ["HeadTargets.softcap"]),
    ],
)
def test_inconsistent_arguments_raise(make, places):
    with pytest.raises(InputError) as caught:
        make()
    assert [problem.where for problem in caught.value.problems] == places
