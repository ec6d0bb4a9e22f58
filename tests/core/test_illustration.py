"""Illustrations: encoded images within their bound, colours of classes, and refused values."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from limbeck.core.illustration import (
    LARGEST_SIDE,
    MOST_BYTES,
    Key,
    Raster,
    encode_mask,
    encode_photo,
    legend,
    thinned,
)


def decoded(url: str) -> Image.Image:
    content = base64.b64decode(url.partition(",")[2])
    assert len(content) <= MOST_BYTES
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("RGBA", 4), ("CMYK", 4)])
def test_a_photo_of_any_size_and_mode_fits_the_bound(mode: str, channels: int) -> None:
    shape = (700, 500, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    photo = Image.fromarray(pixels if channels > 1 else pixels[..., 0], mode)
    shown = decoded(encode_photo(photo))
    assert max(shown.size) <= LARGEST_SIDE
    assert photo.size == (500, 700)  # not changed
    assert shown.width / shown.height == pytest.approx(5 / 7, abs=0.02)


def test_a_small_photo_is_stored_without_loss() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    shown = decoded(encode_photo(Image.fromarray(pixels)))
    np.testing.assert_array_equal(np.asarray(shown), pixels)


def test_a_mask_has_the_colours_of_its_classes_and_hatched_pixels() -> None:
    keys = legend(("sky", "street"))
    shown = np.asarray(decoded(encode_mask(np.array([[0, 1], [-100, 1]]), keys)))
    colours = ["#" + "".join(f"{part:02x}" for part in pixel) for row in shown for pixel in row]
    assert colours == [keys[0].colour, keys[1].colour, "#8a8a8a", keys[1].colour]


def test_a_large_mask_of_noise_fits_the_bound() -> None:
    mask = np.random.default_rng(0).integers(-1, 200, (900, 1300))
    shown = decoded(encode_mask(mask, legend([str(number) for number in range(200)])))
    assert max(shown.size) <= LARGEST_SIDE
    assert np.unique(np.asarray(shown).reshape(-1, 3), axis=0).shape[0] > 100


def test_classes_have_different_colours() -> None:
    keys = legend([str(number) for number in range(150)])
    assert len({key.colour for key in keys}) > 145
    assert legend(["a", "b"]) == legend(["a", "b", "c"])[:2]


def test_images_from_elsewhere_and_other_colours_are_refused() -> None:
    for source in ("https://example.org/a.png", "data:image/svg+xml;base64,AAAA", "a.png"):
        with pytest.raises(ValueError, match="source"):
            Raster(title="", text="", source=source)
    with pytest.raises(ValueError, match="colour"):
        Key(name="sky", colour="red; background: url(x)")


def test_thinned_positions_include_the_ends() -> None:
    assert thinned(1000, 10).tolist()[::9] == [0, 999]
    assert len(thinned(1000, 10)) == 10
