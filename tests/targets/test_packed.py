"""Records of token targets: all forms are read as they were written, in few bytes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.losses import divergence
from limbeck.targets import DenseTargets, HeadTargets, PackedLayout, SampledTargets, TopKTargets
from limbeck.targets.packed import expanded, pack_bits, unpack_bits

SAMPLES, ELEMENTS, CLASSES = 3, 12, 300


@given(st.data())
def test_bits_are_read_as_they_were_written(data: st.DataObject) -> None:
    bits = data.draw(st.integers(1, 20))
    numbers = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    values = torch.tensor(numbers, dtype=torch.int64).numpy()
    content = pack_bits(values, bits)
    assert len(content) == -(-len(numbers) * bits // 8)
    read = unpack_bits(torch.tensor(list(content), dtype=torch.uint8).numpy(), len(numbers), bits)
    assert read.tolist() == numbers


def logits(seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(ELEMENTS, CLASSES, generator=torch.Generator().manual_seed(seed))


def kept() -> torch.Tensor:
    """No element of the second sample, and some of the others."""
    return torch.tensor([1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1, 0], dtype=torch.bool)


def all_forms() -> dict[str, object]:
    teacher, generator = logits(), torch.Generator().manual_seed(1)
    drawn = SampledTargets.draw(teacher, draws=20, generator=generator)
    flat = SampledTargets.draw(teacher, draws=20, proposal_power=0.5, generator=generator)
    hidden, weight = torch.randn(ELEMENTS, 8), torch.randn(CLASSES, 8)
    return {
        "dense": DenseTargets(teacher),
        "top_k": TopKTargets.of(teacher, 5),
        "renormalised": TopKTargets.of(teacher, 5, tail="renormalize"),
        "sampled": drawn,
        "means": drawn.mean_only(),
        "flatter": flat,
        "head": HeadTargets(hidden, weight, torch.randn(CLASSES), softcap=5.0),
    }


@pytest.mark.parametrize("name", all_forms())
def test_value_and_gradient_are_those_of_the_targets_in_memory(name: str) -> None:
    targets, rows = all_forms()[name], kept()
    layout = PackedLayout.of({"logits": targets})
    records = layout.pack({"logits": targets}, {"logits": rows}, samples=SAMPLES)
    assert len(records) == SAMPLES
    read = expanded(layout.unpack(records)["logits"], rows)
    results = []
    for one in (targets, read):
        student = logits(7).requires_grad_()
        values = divergence(student, one, kind="forward_kl", temperature=1.0)[rows]
        [gradient] = torch.autograd.grad(values.sum(), student)
        results.append((values.detach(), gradient))
    for found, expected in zip(results[1], results[0], strict=True):
        # 16-bit log-probabilities have three digits.
        assert torch.allclose(found, expected, rtol=2e-3, atol=2e-2)


def test_any_order_of_records_can_be_read() -> None:
    targets = {"logits": DenseTargets(logits())}
    layout = PackedLayout.of(targets)
    records = layout.pack(targets, {"logits": kept()}, samples=SAMPLES)
    read = layout.unpack([records[2], records[0]])["logits"]
    assert isinstance(read, DenseTargets)
    assert torch.equal(read.logits, logits()[[9, 10, 0, 1, 3]])


def test_bytes_of_a_token() -> None:
    teacher = 4 * torch.randn(64, 151_936, generator=torch.Generator().manual_seed(0))
    every = {"logits": torch.ones(64, dtype=torch.bool)}

    def size(targets: object) -> float:
        layout = PackedLayout.of({"logits": targets})
        return sum(map(len, layout.pack({"logits": targets}, every, samples=1))) / 64

    generator = torch.Generator().manual_seed(0)
    drawn = SampledTargets.draw(teacher, draws=50, generator=generator)
    distinct = float((drawn.counts > 0).sum() / 64)
    # 18 bits of id and 6 of count per distinct class, a count of them, and one or more real number.
    assert size(drawn.mean_only()) == pytest.approx(3 * distinct + 4, abs=0.2)
    assert size(drawn) == pytest.approx(5 * distinct + 2, abs=0.2)
    assert size(TopKTargets.of(teacher, 32)) == pytest.approx(32 * (18 / 8 + 2) + 2, abs=0.2)
    assert size(HeadTargets(torch.randn(64, 896), torch.zeros(10, 896))) == pytest.approx(
        1792, 0.01
    )


def test_numbers_that_cannot_be_stored_are_refused() -> None:
    weight = torch.zeros(CLASSES, 2)
    targets = {"logits": HeadTargets(torch.full((3, 2), 1e6), weight)}
    layout = PackedLayout.of(targets)
    with pytest.raises(InputError, match="finite numbers that float16 holds"):
        layout.pack(targets, {"logits": torch.ones(3, dtype=torch.bool)}, samples=1)
    other = {"logits": HeadTargets(torch.zeros(3, 2), torch.zeros(CLASSES + 1, 2))}
    with pytest.raises(InputError, match="as in the first batch"):
        layout.pack(other, {"logits": torch.ones(3, dtype=torch.bool)}, samples=1)


def test_means_serve_the_forward_divergence_only() -> None:
    drawn = SampledTargets.draw(logits(), draws=20, generator=torch.Generator().manual_seed(1))
    student = logits(3)
    exact, means = (
        divergence(student, one, kind="forward_kl", temperature=1.0)
        for one in (drawn, drawn.mean_only())
    )
    assert torch.allclose(exact, means, atol=1e-5)
    with pytest.raises(InputError, match="exact: true"):
        divergence(student, drawn.mean_only(), kind="reverse_kl", temperature=1.0)
