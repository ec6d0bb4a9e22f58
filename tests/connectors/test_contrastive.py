"""The connector of crd: embeddings, memory bank and class order."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck import losses
from limbeck.connectors import build_connector
from limbeck.connectors.contrastive import Embeddings, MemoryBank, build
from limbeck.errors import InputError

SHAPES = [
    ((4, 8), (4, 16)),
    ((4, 8, 3, 5), (4, 16, 2, 2)),
    ((4, 6, 8), (4, 3, 16)),
    ((4, 8, 4, 4), (4, 16)),
    ((4, 7, 7, 8), (4, 16, 7, 7)),  # channels last, as in Swin
]


def normalized(samples, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(samples, width, generator=generator))


def bank_of(samples=40, dimension=8, negatives=64, **settings):
    torch.manual_seed(0)
    return MemoryBank(samples, dimension, negatives=negatives, **settings)


def negatives(arguments, side):
    """Return the negatives of each sample, from rows or from indices."""
    rows = arguments[f"{side}negatives"]
    return rows[arguments["drawn"]] if "drawn" in arguments else rows


def batches(samples, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(samples, generator=generator).split(size)


@pytest.mark.parametrize(("student", "teacher"), SHAPES)
def test_features_of_any_layout_are_embedded(student, teacher):
    connector = build(torch.zeros(student), torch.zeros(teacher), dimension=32)
    features = torch.randn(student, requires_grad=True)
    output = connector(features, torch.randn(teacher), {})
    assert output.student.shape == output.teacher.shape == (4, 32)
    torch.testing.assert_close(output.student.norm(dim=1), torch.ones(4))
    losses.crd(output.student, output.teacher, **output.arguments).backward()
    assert features.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in connector.parameters())


def test_maps_with_channels_first_or_last_are_averaged():
    first, last = torch.randn(2, 6, 5, 5), torch.zeros(2, 5, 5, 6)
    connector = build(first, last)
    assert connector.student.places == (2, 3)
    assert connector.teacher.places == (1, 2)
    torch.testing.assert_close(connector.student(first), connector.student(first.roll(1, dims=3)))


def test_padding_has_no_effect():
    connector = build(torch.zeros(2, 5, 6), torch.zeros(2, 5, 6))
    tokens, mask = torch.randn(2, 5, 6), torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    changed = tokens.masked_fill(~mask.unsqueeze(-1), 1e4)
    assert torch.equal(connector.student(tokens, mask)[0], connector.student(changed, mask)[0])
    assert connector.student(tokens, mask).isfinite().all()


def test_half_precision_is_embedded_in_float32():
    connector = build(torch.zeros(2, 8), torch.zeros(2, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = connector(torch.randn(2, 8).bfloat16(), torch.randn(2, 8), {})
    assert output.student.dtype == output.teacher.dtype == torch.float32


def test_weights_are_reproducible():
    def weights():
        torch.manual_seed(3)
        return build(torch.zeros(2, 8), torch.zeros(2, 4), samples=10).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    "settings", [{"samples": None}, {"samples": 100, "negatives": 0}], ids=["unknown", "none"]
)
def test_negatives_of_the_batch_without_a_bank(settings):
    connector = build(torch.zeros(4, 8), torch.zeros(4, 6), **settings)
    assert connector.bank is None
    student, teacher = torch.randn(4, 8), torch.randn(4, 6)
    output = connector(student, teacher, {"labels": torch.tensor([0, 1, 1, 2])})
    assert list(output.arguments) == ["trained_teacher"]
    embeddings = connector.student(student), connector.teacher(teacher)
    value = losses.crd(output.student, output.teacher, **output.arguments)
    torch.testing.assert_close(value, losses.crd(*embeddings))


@pytest.mark.parametrize("samples", [20, 29])  # few, and more than are drawn for a batch
def test_a_bank_returns_its_rows_before_the_update(samples):
    connector = build(
        torch.zeros(4, 8), torch.zeros(4, 6), samples=samples, dimension=5, negatives=7
    )
    assert isinstance(connector, Embeddings)
    before = {name: part.clone() for name, part in connector.bank.named_buffers()}
    index = torch.tensor([3, 0, 19, 7])
    output = connector(torch.randn(4, 8), torch.randn(4, 6), {"index": index})
    arguments = output.arguments
    assert torch.equal(arguments["positives"], before["teacher"][index])
    assert torch.equal(arguments["student_positives"], before["student"][index])
    assert ("drawn" in arguments) == (samples == 20)
    for side, bank in (("", before["teacher"]), ("student_", before["student"])):
        found = negatives(arguments, side)
        assert found.shape == (4, 7, 5)
        assert (found.unsqueeze(2) == bank).all(-1).any(-1).all()
    new = torch.nn.functional.normalize(before["student"][index] + output.student.detach())
    torch.testing.assert_close(connector.bank.student[index], new)
    new = torch.nn.functional.normalize(before["teacher"][index] + output.teacher)
    torch.testing.assert_close(connector.bank.teacher[index], new)
    rest = torch.ones(samples, dtype=torch.bool).index_fill(0, index, value=False)
    assert torch.equal(connector.bank.student[rest], before["student"][rest])


def test_indices_and_copies_of_rows_give_equal_losses(monkeypatch):
    def step(few):
        monkeypatch.setattr("limbeck.connectors.contrastive._FEW", few)
        bank, index = bank_of(), torch.arange(8)
        student, teacher = normalized(8, 8, 1).requires_grad_(), normalized(8, 8, 2)
        for _ in range(2):
            arguments = bank(student, teacher, {"index": index})
            value = losses.crd(student, teacher, **arguments)
        assert ("drawn" in arguments) == bool(few)
        return value, torch.autograd.grad(value, student)[0], arguments["first_cosines"]

    for one, other in zip(step(32), step(0), strict=True):
        torch.testing.assert_close(one, other)


def test_first_cosines_are_those_of_the_first_batch():
    bank = bank_of()
    index, student, teacher = torch.arange(8), normalized(8, 8, 1), normalized(8, 8, 2)
    arguments = bank(student, teacher, {"index": index})
    for row, anchors, side in ((0, student, ""), (1, teacher, "student_")):
        compared = torch.cat(
            [arguments[f"{side}positives"].unsqueeze(1), negatives(arguments, side)], 1
        )
        cosines = torch.einsum("nd,nkd->nk", anchors, compared)
        mean = (cosines / 0.5).exp().mean()
        kept = (arguments["first_cosines"][row] / 0.5).exp().mean()
        torch.testing.assert_close(kept, mean, rtol=2e-2, atol=0)
    before = arguments["first_cosines"].clone()
    arguments = bank(student, teacher, {"index": index})
    assert torch.equal(arguments["first_cosines"], before)


def test_a_loss_with_a_bank_can_be_used_twice_in_one_graph():
    connector = build(torch.zeros(4, 8), torch.zeros(4, 6), samples=20, negatives=7)
    inputs = {"index": torch.arange(4), "labels": torch.tensor([0, 1, 2, 0])}
    student = torch.randn(4, 8, requires_grad=True)
    output = [connector(student, torch.randn(4, 6), inputs) for _ in range(2)]
    total = sum(losses.crd(one.student, one.teacher, **one.arguments) for one in output)
    total.backward()
    assert student.grad.isfinite().all()
    assert not any(part.requires_grad for part in connector.bank.buffers())


def test_evaluation_mode_does_not_update_the_bank():
    bank = bank_of().eval()
    before = {name: part.clone() for name, part in bank.state_dict().items()}
    inputs = {"index": torch.arange(8), "labels": torch.arange(8) % 3}
    arguments = bank(normalized(8, 8), normalized(8, 8), inputs)
    assert "first_cosines" not in arguments
    assert all(torch.equal(part, before[name]) for name, part in bank.state_dict().items())


def test_a_sample_is_never_its_own_negative():
    bank = bank_of(samples=5, negatives=2000)
    index = torch.tensor([0, 2, 4])
    drawn = bank.draw(index)
    for row, sample in enumerate(index.tolist()):
        others = [other for other in range(5) if other != sample]
        found, counts = drawn[row].unique(return_counts=True)
        assert found.tolist() == others
        assert (counts / 2000 - 1 / 4).abs().max() < 5 * math.sqrt(1 / 4 * 3 / 4 / 2000)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_negatives_are_never_of_the_samples_class(classes):
    bank = bank_of(samples=40)
    labels = torch.randint(classes, (40,))
    labels[:2] = torch.tensor([0, 1])
    for epoch in range(3):
        for index in batches(40, seed=epoch):
            drawn = bank.draw(index, labels[index])
            assert (drawn != index.unsqueeze(1)).all()
            if bank.order.has_classes():
                assert (labels[drawn] != labels[index].unsqueeze(1)).all()


def test_samples_of_other_classes_are_drawn_uniformly():
    bank = bank_of(samples=12, negatives=4000)
    labels = torch.tensor([0, 1, 2] * 4)
    for _ in range(3):
        for index in batches(12):
            bank.draw(index, labels[index])
    index = torch.tensor([5])
    found, counts = bank.draw(index, labels[index])[0].unique(return_counts=True)
    assert found.tolist() == [place for place in range(12) if labels[place] != labels[5]]
    assert (counts / 4000 - 1 / 8).abs().max() < 5 * math.sqrt(1 / 8 * 7 / 8 / 4000)


def test_samples_of_unknown_class_are_drawn_while_one_class_is_known():
    bank = bank_of(samples=40)
    for index in torch.arange(24).split(8):
        drawn = bank.draw(index, torch.zeros(8, dtype=torch.long))
        assert (drawn > index.max()).all()
    rest = torch.arange(24, 40)
    with pytest.raises(InputError, match="at least two classes"):
        bank.draw(rest, torch.zeros_like(rest))


@pytest.mark.parametrize("labels", [torch.rand(8), torch.zeros(16).long()], ids=["real", "tokens"])
def test_labels_that_are_not_one_class_per_sample_are_ignored(labels):
    bank = bank_of(samples=10)
    drawn = bank.draw(torch.arange(8), labels)
    assert (drawn != torch.arange(8).unsqueeze(1)).all()
    assert not bank.order.has_classes()


class Counted(TorchDispatchMode):
    """Count the values that operations write; an operation in place writes its source only."""

    def __init__(self):
        super().__init__()
        self.written = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        in_place = function._schema.name.endswith("_")
        written = args[2] if in_place and len(args) > 2 else result
        for one in written if isinstance(written, tuple | list) else [written]:
            self.written += one.numel() if isinstance(one, torch.Tensor) else 1
        return result


@pytest.mark.parametrize("labelled", [False, True])
def test_the_cost_of_a_step_is_independent_of_the_number_of_samples(labelled):
    def cost(samples):
        bank = bank_of(samples=samples, negatives=32)
        labels = torch.arange(samples) % 10
        student, teacher = normalized(8, 8, 1), normalized(8, 8, 2)
        for index in (*torch.arange(samples).split(samples // 4), torch.arange(8)) * 3:
            bank.order.update(index, labels[index])
        index = torch.arange(8)
        inputs = {"index": index} | ({"labels": labels[index]} if labelled else {})
        bank(student, teacher, inputs)  # not measured: the first step stores its cosines
        with Counted() as counted:
            bank(student, teacher, inputs)
        return counted.written

    small, large = cost(1000), cost(100_000)
    assert small > 8 * 32
    assert large == small


def test_samples_are_sorted_when_their_number_has_doubled():
    bank = bank_of(samples=512)
    sorted_at = []
    original = type(bank.order)._sort

    def noted(order, passed):
        sorted_at.append(passed)
        original(order, passed)

    type(bank.order)._sort = noted
    try:
        for epoch in range(4):
            for index in batches(512, seed=epoch):
                bank.draw(index, index % 5)
    finally:
        type(bank.order)._sort = original
    assert sorted_at == [8, 16, 32, 64, 128, 256, 512]


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("steps", [0, 3, 20])
def test_a_bank_resumes_from_its_state_bit_for_bit(labelled, steps):
    def connector():
        return build(torch.zeros(4, 8), torch.zeros(4, 6), samples=40, negatives=7)

    def step(connector, number):
        generator = torch.Generator().manual_seed(number)
        index = torch.randperm(40, generator=generator)[:4]
        student, teacher = (torch.randn(4, width, generator=generator) for width in (8, 6))
        labels = {"labels": index % 3} if labelled else {}
        output = connector(student, teacher, {"index": index, **labels})
        return losses.crd(output.student, output.teacher, **output.arguments).item()

    torch.manual_seed(0)
    first = connector()
    for number in range(steps):
        step(first, number)
    state = {name: part.clone() for name, part in first.state_dict().items()}
    random = torch.get_rng_state()
    expected = [step(first, steps + number) for number in range(30)]
    second = connector()
    step(second, 99)  # replaced by the loaded state
    second.load_state_dict(state)
    torch.set_rng_state(random)
    assert [step(second, steps + number) for number in range(30)] == expected
    left = second.state_dict()
    assert all(torch.equal(part, left[name]) for name, part in first.state_dict().items())


def test_embeddings_of_the_same_sample_become_nearest():
    """The student features are a rotation of the teacher features."""
    torch.manual_seed(0)
    features = torch.randn(64, 8)
    turned = features @ torch.linalg.qr(torch.randn(8, 8)).Q
    connector = build(turned, features, samples=64, dimension=16, negatives=128)
    optimizer = torch.optim.Adam(connector.parameters(), lr=1e-2)
    values = []
    for _ in range(300):
        index = torch.randperm(64)[:16]
        output = connector(turned[index], features[index], {"index": index})
        loss = losses.crd(output.student, output.teacher, **output.arguments)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] / 2
    output = connector.eval()(turned, features, {"index": torch.arange(64)})
    nearest = (output.student @ output.teacher.T).argmax(1)
    assert (nearest == torch.arange(64)).float().mean() > 0.8


@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        ({}, "nothing"),
        ({"index": torch.arange(3)}, "(3,)"),
        ({"index": torch.rand(4)}, "float32"),
        ({"index": torch.tensor([0, 1, 2, 40])}, "40"),
        ({"index": torch.tensor([0, 1, 2, -1])}, "-1"),
    ],
)
def test_a_bank_requires_sample_indices(inputs, given):
    with pytest.raises(InputError, match="from 0 to 39") as caught:
        bank_of()(normalized(4, 8), normalized(4, 8), inputs)
    assert given in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"samples": 1}, "samples"),
        ({"samples": 9, "negatives": -1}, "connector.negatives"),
        ({"samples": 9, "momentum": 1.0}, "connector.momentum"),
        ({"dimension": 0}, "connector.dimension"),
        ({"dimensions": 8}, "connector.dimensions"),
    ],
)
def test_invalid_settings_raise(settings, where):
    with pytest.raises(InputError) as caught:
        build_connector("crd", torch.zeros(2, 3), torch.zeros(2, 3), **settings)
    assert [problem.where for problem in caught.value.problems] == [where]


@pytest.mark.parametrize(
    ("student", "teacher", "where"),
    [
        (torch.zeros(2), torch.zeros(2, 3), "contrastive.student"),
        (torch.zeros(2, 3), [torch.zeros(2, 3)], "contrastive.teacher"),
        (torch.zeros(2, 3).long(), torch.zeros(2, 3), "contrastive.student"),
    ],
)
def test_unsupported_features_raise(student, teacher, where):
    with pytest.raises(InputError) as caught:
        build(student, teacher)
    assert [problem.where for problem in caught.value.problems] == [where]


def test_an_empty_batch_does_not_update_the_bank():
    connector = build(torch.zeros(4, 8), torch.zeros(4, 6), samples=20, negatives=7)
    before = {name: part.clone() for name, part in connector.state_dict().items()}
    inputs = {"index": torch.zeros(0, dtype=torch.long), "labels": torch.zeros(0).long()}
    output = connector(torch.zeros(0, 8), torch.zeros(0, 6), inputs)
    assert losses.crd(output.student, output.teacher, **output.arguments) == 0
    assert all(torch.equal(part, before[name]) for name, part in connector.state_dict().items())
