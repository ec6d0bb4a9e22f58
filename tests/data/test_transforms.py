"""Transforms of torchvision: named as there, drawn per sample, and moving masks and boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from limbeck.data.label import UNLABELLED, Spatial
from limbeck.data.load import Data
from limbeck.data.modalities.image import AugmentSpec, ImagePreprocess
from limbeck.data.modalities.image._augment import ImageAugmentation
from limbeck.errors import InputError

v2 = pytest.importorskip("torchvision.transforms.v2")
Read = Callable[..., Data]
SIZE, ROWS = (16, 12), 10
PREPARE = ImagePreprocess(SIZE, 3, 255.0, (0.4, 0.5, 0.6), (0.25, 0.3, 0.2))
PIXELS = np.random.default_rng(0).integers(0, 256, (ROWS, 3, *SIZE), dtype=np.uint8)
IMAGES = torch.from_numpy(PREPARE.normalise(PIXELS))
ALL = [
    {"random_resized_crop": {"scale": [0.3, 1.0]}},
    "trivial_augment_wide",
    {"rand_augment": {"num_ops": 1, "magnitude": 5}},
    {"RandomErasing": {"p": 0.7}},
    {"color_jitter": {"brightness": 0.4, "hue": 0.1}},
]
GEOMETRIC = [
    {"random_rotation": {"degrees": 40}},
    {"random_affine": {"degrees": 0, "translate": [0.3, 0.3], "fill": 1}},
    {"random_perspective": {"p": 1.0}},
    {"random_resized_crop": {}},
    {"random_crop": {"padding": 4}},
    {"random_horizontal_flip": {"p": 1.0}},
    {"elastic_transform": {"alpha": 60.0}},
]


def _apply(
    transforms: list[Any], rows: list[int], *, seed: int = 0, view: int = 0, **settings: Any
) -> torch.Tensor:
    augmentation = ImageAugmentation(AugmentSpec(transforms=transforms, **settings), PREPARE)
    batch = {"image": IMAGES[rows]}
    return augmentation(batch, torch.tensor(rows), seed=seed, view=view, spatial=())["image"]


def test_the_values_are_those_of_torchvision() -> None:
    """Compare with the library, called on one image in [0, 1] under the same random state."""
    from limbeck.core.random import random_bits

    reference = v2.Compose([v2.RandomResizedCrop(SIZE), v2.ColorJitter(contrast=0.5)])
    found = _apply(["random_resized_crop", {"color_jitter": {"contrast": 0.5}}], list(range(ROWS)))
    for row in range(ROWS):
        bits = int(random_bits(0, 0, 4, index=[row])[0])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(bits)
            expected = reference(torch.from_numpy(PIXELS[row]).float() / 255)
        mean, std = (torch.tensor(one).view(3, 1, 1) for one in (PREPARE.mean, PREPARE.std))
        torch.testing.assert_close(found[row], (expected - mean) / std, atol=2e-5, rtol=0)


def test_any_order_and_any_batches_have_the_same_bits() -> None:
    whole = _apply(ALL, list(range(ROWS)), flip=True)
    parts = [_apply(ALL, [7, 2, 9], flip=True), _apply(ALL, [0], flip=True)]
    assert torch.equal(torch.cat(parts), whole[[7, 2, 9, 0]])


def test_seed_and_view_change_the_images_and_the_global_state_stays() -> None:
    state = torch.get_rng_state()
    first, rows = _apply(ALL, list(range(ROWS))), list(range(ROWS))
    assert not torch.equal(first, _apply(ALL, rows, seed=1))
    assert not torch.equal(first, _apply(ALL, rows, view=1))
    torch.rand(3)
    assert torch.equal(first, _apply(ALL, rows))
    torch.set_rng_state(state)
    _apply(ALL, rows)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("transform", GEOMETRIC, ids=lambda one: next(iter(one)))
def test_a_mask_moves_with_its_image(transform: dict[str, Any]) -> None:
    """Draw an image of large squares: away from their edges, mask and image stay equal."""
    size = (48, 48)
    prepare = ImagePreprocess(size, 1, 255.0, (0.0,), (1.0,))
    values = torch.zeros(6, *size, dtype=torch.int64)
    for row in range(6):
        values[row, 8 + row : 30, 12:40] = 1
    batch = {"image": values[:, None].float() * 0.5 + 0.25, "labels": values}
    augmentation = ImageAugmentation(AugmentSpec(transforms=[transform]), prepare)
    spatial = [Spatial("labels", "mask")]
    moved = augmentation(batch, torch.arange(6), seed=1, view=0, spatial=spatial)
    image, mask = moved["image"][:, 0], moved["labels"]
    assert mask.dtype == torch.int64
    assert set(mask.unique().tolist()) <= {UNLABELLED, 0, 1}
    assert not torch.equal(mask, values)
    agree = ((mask == 1) & (image > 0.5)) | ((mask == 0) & (image > 0.1) & (image < 0.5))
    outside = mask == UNLABELLED
    assert (agree | outside).float().mean() > 0.93
    assert agree.float().mean() > 0.3


def test_boxes_move_with_their_image_and_those_outside_are_left_out() -> None:
    boxes = torch.tensor([[[1.0, 2, 5, 9], [6, 0, 12, 16], [0, 0, 0, 0]]])
    batch = {"image": IMAGES[:1], "boxes": boxes, "labels": torch.tensor([[2, 0, UNLABELLED]])}
    spatial = [Spatial("boxes", "boxes", classes="labels")]

    def moved(transform: Any) -> dict[str, torch.Tensor]:
        augmentation = ImageAugmentation(AugmentSpec(transforms=[transform]), PREPARE)
        return augmentation(batch, torch.arange(1), seed=0, view=0, spatial=spatial)

    flipped = moved({"random_horizontal_flip": {"p": 1}})
    assert flipped["boxes"][0].tolist() == [[7, 2, 11, 9], [0, 0, 6, 16], [0, 0, 0, 0]]
    assert flipped["labels"].tolist() == [[2, 0, UNLABELLED]]
    far = {"random_affine": {"degrees": 0, "translate": [0.99, 0.0]}}
    shifted = moved(far)
    for box, label in zip(shifted["boxes"][0], shifted["labels"][0], strict=True):
        has_area = bool(box[2] > box[0] and box[3] > box[1])
        assert has_area == (int(label) != UNLABELLED)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (["random_erasin"], "transforms.0: got 'random_erasin'; allowed: a transform of"),
        (["random_erasin"], 'did you mean "random_erasing"'),
        ([{"random_erasing": {"scal": [0, 1]}}], "random_erasing.scal: got [0, 1]; allowed: p, "),
        ([{"random_erasing": {"scal": [0, 1]}}], 'did you mean "scale"?'),
        ([{"random_rotation": {}}], "random_rotation.degrees: field required"),
        ([{"random_erasing": {"p": 3}}], "transforms.0.random_erasing: got"),
        ([{"pad": {"padding": 10**9}}], "numbers of at most 10,000"),
        ([{"resize": {"size": 7}}], "images of 9x7'; allowed: 16x12"),
        (["mix_up"], "use data.augment.mixup"),
        (["Lambda"], "a transform of torchvision.transforms.v2"),
        ([{"rand_augment": {"interpolation": "nearst"}}], 'did you mean "nearest'),
        ([{"random_apply": {"transforms": ["gausian_blur"]}}], "random_apply.transforms.0: got"),
        ([{"a": {}, "b": {}}], "one transform with its arguments"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(transforms: list[Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _apply(transforms, [0])
    assert message in str(caught.value)


def test_every_problem_is_listed() -> None:
    with pytest.raises(InputError) as caught:
        _apply(["random_erasin", {"random_rotation": {"degree": 3}}], [0])
    assert len(caught.value.problems) == 2


def test_nested_transforms_and_names_of_classes() -> None:
    nested = [{"RandomApply": {"transforms": [{"GaussianBlur": {"kernel_size": 3}}], "p": 1.0}}]
    plain = [{"gaussian_blur": {"kernel_size": 3}}]
    found, expected = _apply(nested, [0, 1]), _apply(plain, [0, 1])
    assert found.shape == expected.shape
    assert not torch.equal(found, IMAGES[:2])


def test_a_recipe_applies_them_to_training_rows_in_any_number_of_workers(
    tmp_path: Path, read: Read, png: Callable[..., bytes]
) -> None:
    rows = {"image": [png(row, (8, 8)) for row in range(40)], "label": [0, 1] * 20}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    augment = {"transforms": ["random_resized_crop", "trivial_augment_wide"], "views": 2}
    data = read(source="parquet", files={"train": "a.parquet"}, augment=augment)
    data.train.set_seed(5)
    batch = data.train.__getitems__([3, 1, 4])
    assert batch["image"].shape == (3, 3, 8, 8)
    assert not torch.equal(
        batch["image"], data.train.for_evaluation().__getitems__([3, 1, 4])["image"]
    )
    data.train.set_epoch(2)
    assert torch.equal(data.train.__getitems__([3, 1, 4])["image"], batch["image"])
    sampler = [[3, 1, 4]]
    loader = torch.utils.data.DataLoader(
        data.train, batch_sampler=sampler, num_workers=1, collate_fn=lambda found: found
    )
    assert torch.equal(next(iter(loader))["image"], batch["image"])
    identity = data.train.augmentation.identity()
    assert identity["transforms"] == augment["transforms"]
    assert "torchvision" in identity


def test_augmentation_without_transforms_keeps_its_identity() -> None:
    spec = AugmentSpec(crop=1, views=2)
    expected = {"crop": 1, "flip": False, "shift": 0, "views": 2}
    assert ImageAugmentation(spec, PREPARE).identity() == expected


def test_without_torchvision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(InputError, match=r"torchvision.*limbeck\[vision\]"):
        _apply(["random_erasing"], [0])
