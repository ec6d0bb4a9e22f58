from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.random import below, random_bits
from limbeck.data.load import Data
from limbeck.data.modalities.image import AugmentSpec, ImagePreprocess
from limbeck.data.modalities.image._augment import ImageAugmentation
from limbeck.data.split import Split

SPECS = st.builds(AugmentSpec, crop=st.integers(0, 3), flip=st.booleans(), shift=st.integers(0, 2))
ROWS = 12
IMAGES = torch.rand(ROWS, 2, 5, 6, generator=torch.Generator().manual_seed(0))
BLACK = torch.tensor([-1.0, -2.0])
TWO_CHANNELS = ImagePreprocess((5, 6), 2, 1.0, (1.0, 2.0), (1.0, 1.0))
GREY = ImagePreprocess((8, 8), 1, 1.0, (0.0,), (1.0,))


def _augment(index: list[int], seed: int, view: int, spec: AugmentSpec) -> torch.Tensor:
    rows = torch.tensor(index)
    augmentation = ImageAugmentation(spec, TWO_CHANNELS)
    batch = {"image": IMAGES[rows]}
    return augmentation(batch, rows, seed=seed, view=view, spatial=())["image"]


@settings(deadline=None)
@given(
    spec=SPECS,
    seed=st.integers(-(2**63), 2**64),
    view=st.integers(0, 1000),
    order=st.permutations(range(ROWS)),
    cut=st.integers(1, ROWS - 1),
)
def test_any_order_and_any_batches_have_the_same_pixels(
    spec: AugmentSpec, seed: int, view: int, order: list[int], cut: int
) -> None:
    whole = _augment(list(range(ROWS)), seed, view, spec)
    parts = [_augment(order[:cut], seed, view, spec), _augment(order[cut:], seed, view, spec)]
    assert torch.equal(torch.cat(parts), whole[torch.tensor(order)])


@settings(deadline=None, max_examples=15)
@given(spec=SPECS, seed=st.integers(0, 2**32))
def test_each_image_is_moved_and_mirrored_as_a_whole(spec: AugmentSpec, seed: int) -> None:
    reach = spec.crop + spec.shift
    varied = _augment(list(range(ROWS)), seed, 0, spec)
    for before, after in zip(IMAGES, varied, strict=True):
        assert any(
            torch.equal(after, candidate)
            for down in range(-reach, reach + 1)
            for right in range(-reach, reach + 1)
            for candidate in _variants(before, down, right, mirror=spec.flip)
        )


def _variants(image: torch.Tensor, down: int, right: int, *, mirror: bool) -> list[torch.Tensor]:
    """Move an image pixel by pixel: the definition."""
    _, height, width = image.shape
    moved = BLACK[:, None, None].repeat(1, height, width)
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                moved[:, row, column] = image[:, row + down, column + right]
    return [moved, moved.flip(-1)] if mirror else [moved]


def test_the_input_and_the_global_random_state_are_unchanged() -> None:
    kept, state, numpy_state = IMAGES.clone(), torch.get_rng_state(), np.random.get_state()[1]
    for spec in (AugmentSpec(flip=True), AugmentSpec(crop=1, flip=True), AugmentSpec(shift=1)):
        _augment(list(range(ROWS)), 0, 0, spec)
    assert torch.equal(IMAGES, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_offsets_and_mirrors_are_drawn_evenly() -> None:
    rows = torch.arange(9000)
    ramp = torch.arange(49, dtype=torch.float32).view(1, 1, 7, 7).repeat(9000, 1, 1, 1)
    spec = AugmentSpec(crop=1, flip=True)
    augmentation = ImageAugmentation(spec, GREY)
    varied = augmentation({"image": ramp}, rows, seed=3, view=5, spatial=())["image"]
    # The value in the middle of the ramp is the offset; the sign of its slope is the mirror.
    counts = torch.unique(varied[:, 0, 3, 3], return_counts=True)[1]
    assert len(counts) == 9
    assert (counts - 1000).abs().max() < 150
    mirrored = (varied[:, 0, 3, 2] > varied[:, 0, 3, 4]).sum()
    assert abs(int(mirrored) - 4500) < 250


def test_random_bits_differ_by_every_word_and_row() -> None:
    drawn = {
        int(bits)
        for seed in range(4)
        for view in range(4)
        for bits in random_bits(seed, view, index=range(100))
    }
    assert len(drawn) == 4 * 4 * 100


def test_random_bits_are_pinned() -> None:
    """Cached logits are looked up by view: with another hash they would be of other images."""
    pinned = [1321962074176129191, 11997311547471286909]
    assert random_bits(1, 2, 3, index=[0, 1]).tolist() == pinned


@given(st.integers(1, 10_000))
def test_below_stays_below(bound: int) -> None:
    bits = np.array([0, 2**64 - 1], dtype=np.uint64)
    assert below(bound, bits).tolist() == [0, bound - 1]


def _split(digits: Data, **settings: int | bool) -> Split:
    split = digits.train.for_evaluation()
    split.augmentation = ImageAugmentation(AugmentSpec(**settings), GREY)
    return split


def test_epochs_cycle_through_the_views(digits: Data) -> None:
    split = _split(digits, shift=1, views=3)
    seen = []
    for epoch in range(6):
        split.set_epoch(epoch)
        batch = split.__getitems__(list(range(20)))
        assert batch["view"].tolist() == [epoch % 3] * 20
        seen.append(batch["image"])
    assert torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[0], seen[1])


def test_without_a_number_of_views_every_epoch_is_new(digits: Data) -> None:
    split = _split(digits, shift=1)
    split.set_epoch(7)
    assert split.view == 7
    assert split.views is None


@pytest.mark.parametrize("other", ["seed", "epoch"])
def test_seed_and_epoch_change_the_images(digits: Data, other: str) -> None:
    split = _split(digits, shift=1)
    before = split.__getitems__(list(range(20)))["image"]
    split.set_seed(1) if other == "seed" else split.set_epoch(1)
    assert not torch.equal(split.__getitems__(list(range(20)))["image"], before)


def test_a_number_of_views_is_the_same_for_every_seed(digits: Data) -> None:
    split = _split(digits, shift=1, views=2)
    before = split.__getitems__(list(range(20)))["image"]
    split.set_seed(1)
    assert torch.equal(split.__getitems__(list(range(20)))["image"], before)
    split.set_epoch(1)
    assert not torch.equal(split.__getitems__(list(range(20)))["image"], before)


def test_only_training_rows_are_augmented_and_not_in_evaluation(digits: Data) -> None:
    split = _split(digits, shift=1)
    plain = next(split.batches(20))
    assert torch.equal(plain["image"], next(digits.train.batches(20))["image"])
    assert plain["view"].tolist() == [0] * 20
