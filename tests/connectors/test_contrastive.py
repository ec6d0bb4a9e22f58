"""What crd learns and remembers."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck import losses
from limbeck.connectors.contrastive import Embeddings, MemoryBank, build
from limbeck.errors import InputError

SHAPES = [
    ((4, 8), (4, 16)),
    ((4, 8, 3, 5), (4, 16, 2, 2)),
    ((4, 6, 8), (4, 3, 16)),
    ((4, 8, 4, 4), (4, 16)),
    ((4, 7, 7, 8), (4, 16, 7, 7)),  # channels last, as Swin has them
]


def unit(samples, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(samples, width, generator=generator))


def bank_of(samples=40, dimension=8, negatives=64, **settings):
    torch.manual_seed(0)
    return MemoryBank(samples, dimension, negatives=negatives, **settings)


def negatives(held, side):
    """Those of each sample, however the bank gives them."""
    rows = held[f"{side}negatives"]
    return rows[held["drawn"]] if "drawn" in held else rows


def batches(samples, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(samples, generator=generator).split(size)


@pytest.mark.parametrize(("student", "teacher"), SHAPES)
def test_features_of_any_kind_are_embedded(student, teacher):
    joint = build(torch.zeros(student), torch.zeros(teacher), dimension=32)
    ours = torch.randn(student, requires_grad=True)
    joined = joint(ours, torch.randn(teacher), {})
    assert joined.student.shape == joined.teacher.shape == (4, 32)
    torch.testing.assert_close(joined.student.norm(dim=1), torch.ones(4))
    losses.crd(joined.student, joined.teacher, **joined.arguments).backward()
    assert ours.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in joint.parameters())


def test_maps_are_averaged_whatever_comes_first():
    first, last = torch.randn(2, 6, 5, 5), torch.zeros(2, 5, 5, 6)
    joint = build(first, last)
    assert joint.student.places == (2, 3)
    assert joint.teacher.places == (1, 2)
    torch.testing.assert_close(joint.student(first), joint.student(first.roll(1, dims=3)))


def test_padding_has_no_say():
    joint = build(torch.zeros(2, 5, 6), torch.zeros(2, 5, 6))
    tokens, mask = torch.randn(2, 5, 6), torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    spoilt = tokens.masked_fill(~mask.unsqueeze(-1), 1e4)
    assert torch.equal(joint.student(tokens, mask)[0], joint.student(spoilt, mask)[0])
    assert joint.student(tokens, mask).isfinite().all()


def test_half_precision_is_embedded_in_float32():
    joint = build(torch.zeros(2, 8), torch.zeros(2, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        joined = joint(torch.randn(2, 8).bfloat16(), torch.randn(2, 8), {})
    assert joined.student.dtype == joined.teacher.dtype == torch.float32


def test_a_seed_decides_the_weights():
    def made():
        torch.manual_seed(3)
        return build(torch.zeros(2, 8), torch.zeros(2, 4), samples=10).state_dict()

    first, second = made(), made()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    "settings", [{"samples": None}, {"samples": 100, "negatives": 0}], ids=["unknown", "none"]
)
def test_without_a_bank_the_batch_gives_the_negatives(settings):
    joint = build(torch.zeros(4, 8), torch.zeros(4, 6), **settings)
    assert joint.bank is None
    student, teacher = torch.randn(4, 8), torch.randn(4, 6)
    joined = joint(student, teacher, {"labels": torch.tensor([0, 1, 1, 2])})
    assert list(joined.arguments) == ["trained_teacher"]
    ours, theirs = joint.student(student), joint.teacher(teacher)
    value = losses.crd(joined.student, joined.teacher, **joined.arguments)
    torch.testing.assert_close(value, losses.crd(ours, theirs))


@pytest.mark.parametrize("samples", [20, 29])  # few, and more than are drawn for a batch
def test_a_bank_gives_what_it_held_before_this_batch(samples):
    joint = build(torch.zeros(4, 8), torch.zeros(4, 6), samples=samples, dimension=5, negatives=7)
    assert isinstance(joint, Embeddings)
    held = {name: part.clone() for name, part in joint.bank.named_buffers()}
    index = torch.tensor([3, 0, 19, 7])
    joined = joint(torch.randn(4, 8), torch.randn(4, 6), {"index": index})
    arguments = joined.arguments
    assert torch.equal(arguments["positives"], held["teacher"][index])
    assert torch.equal(arguments["student_positives"], held["student"][index])
    assert ("drawn" in arguments) == (samples == 20)
    for side, bank in (("", held["teacher"]), ("student_", held["student"])):
        found = negatives(arguments, side)
        assert found.shape == (4, 7, 5)
        assert (found.unsqueeze(2) == bank).all(-1).any(-1).all()
    new = torch.nn.functional.normalize(held["student"][index] + joined.student.detach())
    torch.testing.assert_close(joint.bank.student[index], new)
    new = torch.nn.functional.normalize(held["teacher"][index] + joined.teacher)
    torch.testing.assert_close(joint.bank.teacher[index], new)
    rest = torch.ones(samples, dtype=torch.bool).index_fill(0, index, value=False)
    assert torch.equal(joint.bank.student[rest], held["student"][rest])


def test_all_and_which_are_drawn_say_what_their_copy_says(monkeypatch):
    def step(few):
        monkeypatch.setattr("limbeck.connectors.contrastive._FEW", few)
        bank, index = bank_of(), torch.arange(8)
        ours, theirs = unit(8, 8, 1).requires_grad_(), unit(8, 8, 2)
        for _ in range(2):
            held = bank(ours, theirs, {"index": index})
            value = losses.crd(ours, theirs, **held)
        assert ("drawn" in held) == bool(few)
        return value, torch.autograd.grad(value, ours)[0], held["first_cosines"]

    for one, other in zip(step(32), step(0), strict=True):
        torch.testing.assert_close(one, other)


def test_the_constants_are_those_of_the_first_batch():
    bank = bank_of()
    index, ours, theirs = torch.arange(8), unit(8, 8, 1), unit(8, 8, 2)
    held = bank(ours, theirs, {"index": index})
    for row, anchors, side in ((0, ours, ""), (1, theirs, "student_")):
        compared = torch.cat([held[f"{side}positives"].unsqueeze(1), negatives(held, side)], 1)
        cosines = torch.einsum("nd,nkd->nk", anchors, compared)
        mean = (cosines / 0.5).exp().mean()
        kept = (held["first_cosines"][row] / 0.5).exp().mean()
        torch.testing.assert_close(kept, mean, rtol=2e-2, atol=0)
    before = held["first_cosines"].clone()
    held = bank(ours, theirs, {"index": index})
    assert torch.equal(held["first_cosines"], before)


def test_a_loss_with_a_bank_can_be_used_twice_in_one_graph():
    joint = build(torch.zeros(4, 8), torch.zeros(4, 6), samples=20, negatives=7)
    inputs = {"index": torch.arange(4), "labels": torch.tensor([0, 1, 2, 0])}
    student = torch.randn(4, 8, requires_grad=True)
    joined = [joint(student, torch.randn(4, 6), inputs) for _ in range(2)]
    total = sum(losses.crd(one.student, one.teacher, **one.arguments) for one in joined)
    total.backward()
    assert student.grad.isfinite().all()
    assert not any(part.requires_grad for part in joint.bank.buffers())


def test_nothing_is_remembered_in_evaluation():
    bank = bank_of().eval()
    before = {name: part.clone() for name, part in bank.state_dict().items()}
    inputs = {"index": torch.arange(8), "labels": torch.arange(8) % 3}
    held = bank(unit(8, 8), unit(8, 8), inputs)
    assert "first_cosines" not in held
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


def test_once_all_classes_are_known_every_other_sample_is_drawn_alike():
    bank = bank_of(samples=12, negatives=4000)
    labels = torch.tensor([0, 1, 2] * 4)
    for _ in range(3):
        for index in batches(12):
            bank.draw(index, labels[index])
    index = torch.tensor([5])
    found, counts = bank.draw(index, labels[index])[0].unique(return_counts=True)
    assert found.tolist() == [place for place in range(12) if labels[place] != labels[5]]
    assert (counts / 4000 - 1 / 8).abs().max() < 5 * math.sqrt(1 / 8 * 7 / 8 / 4000)


def test_as_long_as_one_class_was_seen_the_unseen_serve():
    bank = bank_of(samples=40)
    for index in torch.arange(24).split(8):
        drawn = bank.draw(index, torch.zeros(8, dtype=torch.long))
        assert (drawn > index.max()).all()
    rest = torch.arange(24, 40)
    with pytest.raises(InputError, match="at least two classes"):
        bank.draw(rest, torch.zeros_like(rest))


@pytest.mark.parametrize("labels", [torch.rand(8), torch.zeros(16).long()], ids=["real", "tokens"])
def test_labels_that_are_no_classes_of_samples_are_left_alone(labels):
    bank = bank_of(samples=10)
    drawn = bank.draw(torch.arange(8), labels)
    assert (drawn != torch.arange(8).unsqueeze(1)).all()
    assert not bank.order.has_classes()


class Counted(TorchDispatchMode):
    """Count the numbers that operations write; those in place write no more than they are given."""

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
def test_a_step_costs_the_same_for_any_number_of_samples(labelled):
    def cost(samples):
        bank = bank_of(samples=samples, negatives=32)
        labels = torch.arange(samples) % 10
        ours, theirs = unit(8, 8, 1), unit(8, 8, 2)
        for index in (*torch.arange(samples).split(samples // 4), torch.arange(8)) * 3:
            bank.order.see(index, labels[index])
        index = torch.arange(8)
        inputs = {"index": index} | ({"labels": labels[index]} if labelled else {})
        bank(ours, theirs, inputs)  # the first is measured nowhere: it keeps its cosines
        with Counted() as counted:
            bank(ours, theirs, inputs)
        return counted.written

    small, large = cost(1000), cost(100_000)
    assert small > 8 * 32
    assert large == small


def test_sorting_happens_a_handful_of_times():
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
def test_a_bank_goes_on_from_its_state_with_the_same_bits(labelled, steps):
    def joint():
        return build(torch.zeros(4, 8), torch.zeros(4, 6), samples=40, negatives=7)

    def step(joint, number):
        generator = torch.Generator().manual_seed(number)
        index = torch.randperm(40, generator=generator)[:4]
        student, teacher = (torch.randn(4, width, generator=generator) for width in (8, 6))
        labels = {"labels": index % 3} if labelled else {}
        joined = joint(student, teacher, {"index": index, **labels})
        return losses.crd(joined.student, joined.teacher, **joined.arguments).item()

    torch.manual_seed(0)
    first = joint()
    for number in range(steps):
        step(first, number)
    state = {name: part.clone() for name, part in first.state_dict().items()}
    random = torch.get_rng_state()
    expected = [step(first, steps + number) for number in range(30)]
    second = joint()
    step(second, 99)  # what it has seen by itself is forgotten
    second.load_state_dict(state)
    torch.set_rng_state(random)
    assert [step(second, steps + number) for number in range(30)] == expected
    left = second.state_dict()
    assert all(torch.equal(part, left[name]) for name, part in first.state_dict().items())


def test_a_bank_learns_who_belongs_together():
    """A student that sees a rotation of the teacher's features is drawn to them."""
    torch.manual_seed(0)
    features = torch.randn(64, 8)
    turned = features @ torch.linalg.qr(torch.randn(8, 8)).Q
    joint = build(turned, features, samples=64, dimension=16, negatives=128)
    optimizer = torch.optim.Adam(joint.parameters(), lr=1e-2)
    values = []
    for _ in range(300):
        index = torch.randperm(64)[:16]
        joined = joint(turned[index], features[index], {"index": index})
        loss = losses.crd(joined.student, joined.teacher, **joined.arguments)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] / 2
    joined = joint.eval()(turned, features, {"index": torch.arange(64)})
    nearest = (joined.student @ joined.teacher.T).argmax(1)
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
def test_a_bank_has_to_know_which_samples_it_sees(inputs, given):
    with pytest.raises(InputError, match="from 0 to 39") as caught:
        bank_of()(unit(4, 8), unit(4, 8), inputs)
    assert given in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"samples": 1}, "samples"),
        ({"samples": 9, "negatives": -1}, "negatives"),
        ({"samples": 9, "momentum": 1.0}, "momentum"),
        ({"dimension": 0}, "dimension"),
    ],
)
def test_wrong_settings_are_refused(settings, where):
    with pytest.raises(InputError) as caught:
        build(torch.zeros(2, 3), torch.zeros(2, 3), **settings)
    assert [problem.where for problem in caught.value.problems] == [where]


@pytest.mark.parametrize(
    ("student", "teacher", "where"),
    [
        (torch.zeros(2), torch.zeros(2, 3), "contrastive.student"),
        (torch.zeros(2, 3), [torch.zeros(2, 3)], "contrastive.teacher"),
        (torch.zeros(2, 3).long(), torch.zeros(2, 3), "contrastive.student"),
    ],
)
def test_features_of_no_kind_are_refused(student, teacher, where):
    with pytest.raises(InputError) as caught:
        build(student, teacher)
    assert [problem.where for problem in caught.value.problems] == [where]


def test_an_empty_batch_changes_nothing():
    joint = build(torch.zeros(4, 8), torch.zeros(4, 6), samples=20, negatives=7)
    before = {name: part.clone() for name, part in joint.state_dict().items()}
    inputs = {"index": torch.zeros(0, dtype=torch.long), "labels": torch.zeros(0).long()}
    joined = joint(torch.zeros(0, 8), torch.zeros(0, 6), inputs)
    assert losses.crd(joined.student, joined.teacher, **joined.arguments) == 0
    assert all(torch.equal(part, before[name]) for name, part in joint.state_dict().items())
