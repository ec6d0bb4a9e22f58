from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limbeck.data.load import Data, load
from limbeck.data.spec import DataSpec


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return load(DataSpec(source="sklearn", name="digits"), workdir=tmp_path_factory.mktemp("work"))


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Data]:
    """Load a spec given as keywords, with relative files in the test's own folder."""
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))

    def load_it(**settings: Any) -> Data:
        # Drawn rows are few, and often equal.
        return load(DataSpec(**{"max_overlap": 1, **settings}), workdir=tmp_path / "work")

    return load_it


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Return a function that encodes an image with random pixels of a seed."""

    def make(seed: int, size: tuple[int, int] = (6, 5), channels: int = 3) -> bytes:
        shape = size if channels == 1 else (*size, channels)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return make
