"""Corruptions grow with their severity; accuracies are those counted by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import special

from limbeck.errors import InputError
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.robustness.corruptions import (
    CONTRAST,
    IMAGE_CORRUPTIONS,
    JPEG,
    NOISE,
    TEXT_CORRUPTIONS,
    compare_corruptions,
    corrupt_images,
    corrupt_texts,
    prediction_variance,
)

SAMPLES = (
    "a gripping and quietly funny film about two brothers who never speak of the past again",
    "dull",
    "",
    "two  spaces and a very-long-hyphenated-word , punctuation !",
    "ein schöner Film über Züge",
)


def images(count=12, channels=1, side=16, seed=0):
    random = np.random.default_rng(seed)
    smooth = random.random((count, channels, side // 4, side // 4)).repeat(4, 2).repeat(4, 3)
    return smooth.astype(np.float32)


@pytest.mark.parametrize("kind", list(IMAGE_CORRUPTIONS))
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_image_corruptions_grow_with_severity_and_stay_in_the_box(kind, channels):
    clean = images(channels=channels)
    before = clean.copy()
    worse = [corrupt_images(clean, kind, severity=level, seed=3) for level in range(6)]
    assert np.array_equal(worse[0], clean)
    distances = [float(((one - clean) ** 2).mean()) for one in worse]
    assert distances == sorted(distances)
    assert len(set(distances)) == 6
    for one in worse:
        assert one.dtype == np.float32
        assert one.shape == clean.shape
        assert 0 <= one.min() <= one.max() <= 1
    assert np.array_equal(clean, before)  # the input is not modified


@pytest.mark.parametrize("kind", list(IMAGE_CORRUPTIONS))
def test_image_corruptions_depend_on_the_seed(kind):
    one, same = (corrupt_images(images(), kind, severity=3, seed=5) for _ in range(2))
    other = corrupt_images(images(), kind, severity=3, seed=6)
    assert np.array_equal(one, same)
    assert np.array_equal(one, other) == (kind in {"blur", "contrast", "jpeg"})


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(list(IMAGE_CORRUPTIONS)),
    st.integers(1, 5),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
)
def test_images_of_any_shape_are_corrupted(kind, severity, shape):
    grey = np.random.default_rng(0).random(shape).astype(np.float32)
    worse = corrupt_images(grey, kind, severity=severity)
    assert worse.shape == shape
    assert np.isfinite(worse).all()


def test_noise_has_the_documented_deviation():
    grey = np.full((50, 1, 16, 16), 0.5, dtype=np.float32)
    worse = corrupt_images(grey, "gaussian noise", severity=2)
    assert float((worse - grey).std()) == pytest.approx(NOISE[1], rel=0.02)


def test_contrast_equals_its_formula():
    clean = images(channels=3).astype(np.float64)
    worse = corrupt_images(clean.astype(np.float32), "contrast", severity=4)
    for image, found in zip(clean, worse, strict=True):
        for channel, corrupted in zip(image, found, strict=True):
            expected = channel.mean() + CONTRAST[3] * (channel - channel.mean())
            np.testing.assert_allclose(corrupted, expected, atol=1e-6)


def test_occlusion_is_one_grey_square_of_the_documented_side():
    black = np.zeros((30, 1, 20, 20), dtype=np.float32)
    areas = (corrupt_images(black, "occlusion", severity=5) == 0.5).sum(axis=(1, 2, 3))
    assert areas.max() == 11 * 11  # 0.55 of 20; less where it reaches over the edge
    assert areas.min() >= 5 * 5


def test_blur_has_gaussian_weights():
    clean = np.zeros((1, 1, 33, 33), dtype=np.float32)
    clean[0, 0, 16, 16] = 1
    worse = corrupt_images(clean, "blur", severity=3)[0, 0]
    sigma = 33 / 32
    line = np.exp(-0.5 * (np.arange(-16, 17) / sigma) ** 2)
    expected = np.outer(line, line) / line.sum() ** 2
    np.testing.assert_allclose(worse, expected, atol=2e-4)


def test_jpeg_compresses_colour_channels_together():
    clean = images(count=1, channels=3)
    file = io.BytesIO()
    pixels = np.round(clean[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG[1])
    expected = np.asarray(Image.open(file)).transpose(2, 0, 1) / 255
    worse = corrupt_images(clean, "jpeg", severity=2)[0]
    np.testing.assert_allclose(worse, expected, atol=1e-6)


def test_unknown_kinds_and_severities_are_refused():
    with pytest.raises(InputError, match='did you mean "blur"'):
        corrupt_images(images(), "blurr", severity=1)
    with pytest.raises(InputError, match="severity: got 6"):
        corrupt_images(images(), "blur", severity=6)
    with pytest.raises(InputError, match="severity"):
        corrupt_texts(SAMPLES, "typos", severity=-1)


@pytest.mark.parametrize("kind", list(TEXT_CORRUPTIONS))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_text_corruptions_grow_with_severity(kind, seed):
    assert corrupt_texts(SAMPLES, kind, severity=0, seed=seed) == SAMPLES
    worse = [corrupt_texts(SAMPLES, kind, severity=level, seed=seed) for level in range(6)]
    assert worse[3] == corrupt_texts(SAMPLES, kind, severity=3, seed=seed)
    hit = [changed(SAMPLES[0], one[0]) for one in worse]
    assert hit == sorted(hit)
    assert hit[1] == 1  # 5 % of 16 words, rounded up
    assert hit[5] == 8  # half of them
    assert all(one[2] == "" for one in worse)
    assert all(one[1] for one in worse)  # one word remains


def changed(before: str, after: str) -> int:
    """Count the words of the first text that are not in the second."""
    left = after.split(" ")
    count = 0
    for word in before.split(" "):
        if word in left:
            left.remove(word)
        else:
            count += 1
    return count


def test_a_typo_changes_one_letter():
    worse = corrupt_texts(SAMPLES[:1] * 50, "typos", severity=5)[0].split(" ")
    for before, after in zip(SAMPLES[0].split(" "), worse, strict=True):
        assert abs(len(before) - len(after)) <= 1
        assert len(set(before) ^ set(after)) <= 1


class Threshold:
    """Predicts class 1 if the mean of a sample is above a threshold."""

    def __init__(self, at: float) -> None:
        self.at = at

    def predict(self, batch):
        assert len(batch["image"]) <= 100
        mean = batch["image"].mean(axis=(1, 2, 3)) - self.at
        return {"logits": np.stack([-mean, mean], axis=1)}


def test_accuracies_are_counted_by_hand():
    random = np.random.default_rng(0)
    clean = random.random((230, 1, 3, 3)).astype(np.float32)
    labels = (clean.mean(axis=(1, 2, 3)) > 0.5).astype(np.int64)
    student, teacher = Threshold(0.55), Threshold(0.5)

    def corrupt(kind, severity):
        return {"image": clean + severity * (0.02 if kind == "up" else -0.01)}

    rows, comparisons = compare_corruptions(
        student,
        teacher,
        labels,
        kinds=("up", "down"),
        corrupt=corrupt,
        resamples=Resamples(230, n_resamples=200),
        margin=0.02,
    )
    means = clean.mean(axis=(1, 2, 3), dtype=np.float64)

    def accuracy(kind, severity, at):
        moved = means + severity * (0.02 if kind == "up" else -0.01)
        return np.mean((moved > at) == labels)

    assert len(rows) == 10
    for row in rows:
        assert row.student.value == pytest.approx(accuracy(row.kind, row.severity, 0.55), abs=0.005)
        assert row.teacher.value == pytest.approx(accuracy(row.kind, row.severity, 0.5), abs=0.005)
    by_name = {line.name: line for line in comparisons}
    mean = np.mean([row.student.value for row in rows])
    assert by_name["Mean accuracy under corruption"].student.value == pytest.approx(mean)
    ratio = by_name["Relative accuracy under corruption"]
    assert ratio.student.value == pytest.approx(mean / accuracy("up", 0, 0.55), abs=0.01)
    assert ratio.difference.value == pytest.approx(ratio.student.value - ratio.teacher.value)
    up = np.mean([row.student.value for row in rows if row.kind == "up"])
    assert by_name["Accuracy under up"].student.value == pytest.approx(up)


@pytest.mark.parametrize("right", [0, 1])
def test_one_sample_always_correct_or_always_wrong(right):
    rows, comparisons = compare_corruptions(
        Threshold(0.5),
        None,
        np.array([right]),
        kinds=("none",),
        corrupt=lambda kind, severity: {"image": np.ones((1, 1, 2, 2), dtype=np.float32)},
        resamples=Resamples(1, n_resamples=20),
        margin=0.02,
    )
    assert [row.student.value for row in rows] == [right] * 5
    assert len(comparisons) == 2 + right  # no ratio to an accuracy of 0
    assert all(line.verdict == "no reference" for line in comparisons)


def test_the_prediction_variance_equals_numpys():
    random = np.random.default_rng(1)
    logits = random.normal(size=(4, 7, 3)).astype(np.float32)

    class Fixed:
        def predict(self, batch):
            return {"logits": logits[batch["draw"][0]]}

    noisy = [{"draw": np.full(7, draw)} for draw in range(4)]
    found = prediction_variance(Fixed(), noisy)
    p = special.softmax(logits.astype(float), axis=2)
    expected = [sum(np.var(p[:, i, c], ddof=1) for c in range(3)) for i in range(7)]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(("count", "verdict"), [(20, "inconclusive"), (2000, "non-inferior")])
def test_equal_models_are_inconclusive_on_few_samples(count, verdict):
    clean = np.random.default_rng(0).random((count, 1, 2, 2)).astype(np.float32)
    _, comparisons = compare_corruptions(
        Threshold(0.5),
        Threshold(0.5),
        (clean.mean(axis=(1, 2, 3)) > 0.5).astype(np.int64),
        kinds=("up", "down"),
        corrupt=lambda kind, severity: {"image": clean + severity * 0.01},
        resamples=Resamples(count, n_resamples=50),
        margin=0.02,
    )
    found = {line.name: line.verdict for line in comparisons}
    assert found["Mean accuracy under corruption"] == verdict
    assert found["Accuracy under up"] == verdict
