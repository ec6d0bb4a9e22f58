"""Mixup and CutMix: values of torchvision, drawn by seed, row and view, with soft labels."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torch import Tensor, nn

from limbeck.data.cache import key_of
from limbeck.data.load import Data
from limbeck.data.modalities.image import AugmentSpec, ImagePreprocess
from limbeck.data.modalities.image._augment import ImageAugmentation
from limbeck.data.modalities.image._mix import ImageMix, beta_quantile, mixing_of
from limbeck.data.rows import Batch, DenseLabels
from limbeck.data.split import Split
from limbeck.errors import InputError
from limbeck.losses import cross_entropy, label_smoothing
from limbeck.losses._inputs import check_labels
from limbeck.objective import Objective, Term
from limbeck.objective.element_weights import TeacherCorrectness
from limbeck.schemes import Offline
from limbeck.tasks.image_classification import ImageClassification
from limbeck.teachers import FrozenTeacher

v2 = pytest.importorskip("torchvision.transforms.v2")
Read = Callable[..., Data]
ROWS, CLASSES, SIZE = 14, 4, (6, 9)
IMAGES = torch.rand(ROWS, 2, *SIZE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(ROWS) % CLASSES
PREPARE = ImagePreprocess(SIZE, 2, 1.0, (0.0, 0.0), (1.0, 1.0))
ALPHAS = st.none() | st.floats(0.05, 5)
SPECS = st.builds(
    AugmentSpec, flip=st.booleans(), shift=st.integers(0, 1), mixup=ALPHAS, cutmix=ALPHAS
)


def _split(spec: AugmentSpec, labels: DenseLabels | None = None, **settings: Any) -> Split:
    samples = SimpleNamespace(batch=lambda index: {"image": IMAGES.index_select(0, index)})
    augmentation = ImageAugmentation(spec, PREPARE)
    own = labels or DenseLabels(LABELS, classes=CLASSES)
    return Split(samples, own, augmentation=augmentation, **settings)  # type: ignore[arg-type]


def _draw(spec: AugmentSpec, rows: int = ROWS, **words: int) -> ImageMix:
    mixing = mixing_of(spec, SIZE)
    assert mixing is not None
    return mixing.draw(torch.arange(rows), rows=rows, **{"seed": 0, "view": 0, **words})


def _equal(first: Batch, second: Batch) -> bool:
    return list(first) == list(second) and all(
        torch.equal(one, second[name]) for name, one in first.items()
    )


# -- values --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**40), view=st.integers(0, 99), alpha=st.floats(0.1, 4))
def test_images_and_labels_are_those_of_torchvision(seed: int, view: int, alpha: float) -> None:
    for kind in ("mixup", "cutmix"):
        spec = AugmentSpec(**{kind: alpha})
        split = _split(spec)
        split.set_seed(seed)
        split.set_epoch(view)
        found = split.__getitems__(list(range(ROWS)))
        drawn = _draw(spec, seed=seed, view=view)
        for row in range(ROWS):
            pair = torch.stack([IMAGES[row], IMAGES[drawn.partner[row]]])
            labels = torch.stack([LABELS[row], LABELS[drawn.partner[row]]])
            image, target = _reference(kind, pair, labels, drawn, row)
            torch.testing.assert_close(found["image"][row], image)
            torch.testing.assert_close(found["labels"][row], target)


def _reference(
    kind: str, pair: Tensor, labels: Tensor, drawn: ImageMix, row: int
) -> tuple[Tensor, Tensor]:
    """Mix two images by torchvision's transform, with a stated share or window."""
    share = float(drawn.share[row])
    top, bottom, left, right = drawn.windows[row].tolist()
    box = {"box": (left, top, right, bottom), "lam_adjusted": share}
    transform = (v2.MixUp if kind == "mixup" else v2.CutMix)(num_classes=CLASSES)
    transform.make_params = lambda _: {"lam": share} if kind == "mixup" else box
    image, target = transform(pair, labels)
    return image[0], target[0]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**40), alpha=st.floats(0.1, 4))
def test_windows_are_those_of_the_paper(seed: int, alpha: float) -> None:
    drawn = _draw(AugmentSpec(cutmix=alpha), rows=300, seed=seed)
    top, bottom, left, right = drawn.windows.unbind(1)
    height, width = SIZE
    assert (top >= 0).all()
    assert (bottom <= height).all()
    assert (left >= 0).all()
    assert (right <= width).all()
    area = (bottom - top) * (right - left) / (height * width)
    torch.testing.assert_close(drawn.share, (1 - area).float())


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_have_the_distribution_of_the_paper(alpha: float) -> None:
    share = _draw(AugmentSpec(mixup=alpha), rows=4000).share.double().numpy()
    assert stats.kstest(share, stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    numbers = np.linspace(0.01, 0.99, 9)
    expected = stats.beta(alpha, alpha).ppf(numbers)
    np.testing.assert_allclose(beta_quantile(alpha, numbers), expected, rtol=1e-9)


def test_partners_centres_and_kinds_are_drawn_evenly() -> None:
    spec = AugmentSpec(mixup=1.0, cutmix=1.0, mix_probability=0.6)
    drawn = _draw(spec, rows=6000)
    cut = drawn.windows.any(dim=1)
    assert not (cut & drawn.blended).any()
    assert abs(drawn.blended.float().mean() - 0.3) < 0.02
    mixed = drawn.share < 1
    assert abs(mixed.float().mean() - 0.6) < 0.04
    assert torch.equal(drawn.partner[~mixed], torch.arange(6000)[~mixed])
    places = drawn.partner[mixed].double() / 6000
    assert stats.kstest(places.numpy(), "uniform").pvalue > 1e-4


# -- laws ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    spec=SPECS,
    seed=st.integers(0, 2**63 - 1),
    view=st.integers(0, 1000),
    order=st.permutations(range(ROWS)),
    cut=st.integers(1, ROWS - 1),
)
def test_any_order_and_any_batches_have_the_same_bits(
    spec: AugmentSpec, seed: int, view: int, order: list[int], cut: int
) -> None:
    split = _split(spec)
    split.set_seed(seed)
    split.set_epoch(view)
    whole = split.__getitems__(order)
    parts = [split.__getitems__(order[:cut]), split.__getitems__(order[cut:])]
    joined = {name: torch.cat([part[name] for part in parts]) for name in whole}
    assert _equal(joined, whole)


def test_any_cut_of_a_step_gives_the_same_gradient() -> None:
    split = _split(AugmentSpec(mixup=1.0, cutmix=1.0))
    torch.manual_seed(0)
    teacher, student = (
        nn.Sequential(nn.Flatten(), nn.Linear(2 * 54, CLASSES)).double() for _ in range(2)
    )
    task = ImageClassification(tuple("abcd"))

    def gradient(sizes: list[int]) -> Tensor:
        objective = Objective.of([Term("task"), Term("soft_target_kl", temperature=2.0)])
        ends = np.cumsum([0, *sizes])
        batches = [
            split.__getitems__(list(range(start, end))) for start, end in itertools.pairwise(ends)
        ]
        batches = [{**one, "image": one["image"].double()} for one in batches]
        frozen = FrozenTeacher(teacher, task)
        scheme = Offline(student, task, objective, teacher=frozen, probe=batches[0])
        student.zero_grad()
        totals = [scheme.total_weights(one) for one in batches]
        total = {name: sum(one[name] for one in totals) for name in totals[0]}
        for batch in batches:
            scheme.step(batch, 0.0, total).total.backward()  # type: ignore[arg-type]
        grad = student[1].weight.grad
        assert grad is not None
        return grad.clone()

    torch.testing.assert_close(gradient([14]), gradient([3, 6, 5]))


def test_a_cached_answer_is_of_the_mixed_image(digits: Data) -> None:
    spec = AugmentSpec(mixup=1.0, views=2)
    split = digits.train.for_evaluation()
    split.augmentation = ImageAugmentation(spec, digits.preprocess)  # type: ignore[arg-type]
    kept = {}
    for view in range(2):
        split.set_epoch(view)
        for start in (0, 700):
            batch = split.__getitems__(list(range(start, min(start + 700, len(split)))))
            for row, image in zip(batch["index"].tolist(), batch["image"], strict=True):
                kept[row, view] = image.sum()
    for epoch in (2, 5):
        split.set_epoch(epoch)
        batch = split.__getitems__([9, 3, 800])
        for row, view, image in zip(
            batch["index"].tolist(), batch["view"].tolist(), batch["image"], strict=True
        ):
            assert kept[row, view] == image.sum()


def test_the_cache_key_depends_on_the_mixing_if_there_is_one(digits: Data) -> None:
    def identity(**settings: Any) -> dict[str, Any]:
        return ImageAugmentation(AugmentSpec(**settings), PREPARE).identity()

    assert set(identity(flip=True)) == {"crop", "flip", "shift", "views"}
    assert identity(mixup=0.2) != identity(mixup=0.3)
    split = digits.train.for_evaluation()
    split.augmentation = ImageAugmentation(AugmentSpec(mixup=1.0), PREPARE)
    with pytest.raises(InputError, match=r"data.augment.views"):
        key_of(SimpleNamespace(train=split, stream=None), teacher="")  # type: ignore[arg-type]


# -- labels --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**30), epsilon=st.floats(0, 0.9))
def test_the_label_loss_is_the_mixed_cross_entropy(seed: int, epsilon: float) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, 5, generator=random, dtype=torch.float64) * 4
    first, second = (torch.randint(5, (8,), generator=random) for _ in range(2))
    share = torch.rand(8, generator=random, dtype=torch.float64)
    eye = torch.eye(5, dtype=torch.float64)
    soft = share[:, None] * eye[first] + (1 - share)[:, None] * eye[second]
    for loss in (cross_entropy, lambda z, y: label_smoothing(z, y, smoothing=epsilon)):
        expected = share * loss(logits, first) + (1 - share) * loss(logits, second)
        torch.testing.assert_close(loss(logits, soft), expected)
    torch.testing.assert_close(
        cross_entropy(logits, soft), nn.functional.cross_entropy(logits, soft, reduction="none")
    )


def test_a_class_of_probability_zero_and_of_logit_minus_infinity_adds_nothing() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([[0.5, 0.5, 0.0]]))
    assert loss.item() == pytest.approx(np.log(2))
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_independent_labels_are_mixed_too() -> None:
    labels = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).repeat(ROWS // 2, 1)
    spec = AugmentSpec(mixup=1.0)
    batch = _split(spec, DenseLabels(labels)).__getitems__(list(range(ROWS)))
    drawn = _draw(spec)
    expected = drawn.share[:, None] * labels + (1 - drawn.share)[:, None] * labels[drawn.partner]
    torch.testing.assert_close(batch["labels"], expected)


def test_weights_weigh_the_own_part_and_the_partner_s() -> None:
    weights = torch.rand(ROWS, generator=torch.Generator().manual_seed(1))
    weights[2] = 0
    spec = AugmentSpec(mixup=1.0)
    batch = _split(spec, weights=weights).__getitems__(list(range(ROWS)))
    drawn, eye = _draw(spec), torch.eye(CLASSES)
    own, other = drawn.share * weights, (1 - drawn.share) * weights[drawn.partner]
    torch.testing.assert_close(batch["weight"], own + other)
    labels = own[:, None] * eye[LABELS] + other[:, None] * eye[LABELS[drawn.partner]]
    torch.testing.assert_close(batch["labels"] * batch["weight"][:, None], labels)


def test_a_sample_has_a_label_if_both_rows_have_one() -> None:
    labels = LABELS.clone()
    labels[::3] = -100
    spec = AugmentSpec(mixup=1.0, mix_probability=0.7)
    batch = _split(spec, DenseLabels(labels, classes=CLASSES)).__getitems__(list(range(ROWS)))
    drawn = _draw(spec)
    known = (labels >= 0) & ((labels[drawn.partner] >= 0) | (drawn.share == 1))
    assert torch.equal(batch["labelled"], known)
    assert 0 < int(known.sum()) < ROWS
    assert torch.isfinite(batch["labels"]).all()


def test_evaluation_is_of_unmixed_images_and_labels(digits: Data) -> None:
    split = digits.train.for_evaluation()
    split.augmentation = ImageAugmentation(AugmentSpec(mixup=1.0), digits.preprocess)  # type: ignore[arg-type]
    plain, mixed = next(split.batches(50)), split.__getitems__(list(range(50)))
    assert plain["labels"].dtype == torch.int64
    assert mixed["labels"].shape == (50, 10)
    assert not torch.equal(plain["image"], mixed["image"])


# -- refusals ------------------------------------------------------------------------------------


def test_terms_of_one_class_per_sample_are_refused() -> None:
    batch = _split(AugmentSpec(cutmix=1.0)).__getitems__(list(range(ROWS)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 54, CLASSES))
    task = ImageClassification(tuple("abcd"))
    teacher = FrozenTeacher(model, task)
    student = nn.Sequential(nn.Flatten(), nn.Linear(2 * 54, CLASSES))
    term = Term("soft_target_kl", temperature=4.0, weight=TeacherCorrectness(1.0, 0.0))
    scheme = Offline(student, task, Objective.of([term]), teacher=teacher, probe=batch)
    with pytest.raises(InputError, match=r"teacher_correctness: got 'probabilities.*mixup"):
        scheme.check_terms(batch)
    # The hook that checks shapes in tests would refuse a call of such a loss itself, as dkd.
    with pytest.raises(InputError, match=r"dkd.labels: got 'probabilities.*mixup"):
        check_labels(batch["labels"], torch.zeros(ROWS, CLASSES), where="dkd.labels")


@pytest.mark.parametrize("kind", ["targets", "masks", "boxes"])
def test_labels_without_a_mixture_are_refused(
    read: Read, tmp_path: Path, png: Callable[..., bytes], kind: str
) -> None:
    file = io.BytesIO()
    Image.fromarray(np.eye(6, 5, dtype=np.uint8)).save(file, "PNG")
    content: dict[str, Any] = {"image": [{"bytes": png(seed)} for seed in range(20)]}
    content["value"] = [seed / 7 for seed in range(20)]
    content["mask"] = [{"bytes": file.getvalue()}] * 20
    content["boxes"], content["labels"] = [[[0.0, 0.0, 3.0, 3.0]]] * 20, [["a"]] * 20
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "value": datasets.Value("float64"),
            "mask": datasets.Image(),
            "boxes": datasets.List(datasets.List(datasets.Value("float64"))),
            "labels": datasets.List(datasets.Value("string")),
        }
    )
    rows = datasets.Dataset.from_dict(content, features)
    rows.to_parquet(tmp_path / "rows.parquet")
    keys: dict[str, dict[str, Any]] = {
        "targets": {"targets": ["value"]},
        "masks": {"masks": {"column": "mask", "classes": ["a", "b"]}},
        "boxes": {"boxes": {"column": "boxes", "labels": "labels", "classes": ["a"]}},
    }
    with pytest.raises(InputError) as caught:
        read(
            source="parquet",
            files={"train": "rows.parquet"},
            augment={"mixup": 0.2, "cutmix": 1.0},
            **keys[kind],
        )
    found = {"targets": "numeric targets"}.get(kind, kind)
    for name in ("mixup", "cutmix"):
        assert f"data.augment.{name}: got 'with {found}'" in str(caught.value)


@pytest.mark.parametrize("settings", [{"mixup": 0}, {"cutmix": -1}, {"mix_probability": 0.5}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"mix|cut"):
        AugmentSpec(**settings)
