"""What a source hands over, before it is checked, divided and turned into tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Loaded:
    """The splits that a source has.

    Attributes:
        splits: `train`, and `validation` and `test` where the source has them.
        files: The files they were read from, by split; empty if there are none to hash.
        divide_by: What pixel values are divided by to lie in [0, 1]; by the pixels' type if None.
        licence: The licence that the source itself knows of.
        notes: What the source left out or changed, for the report.
    """

    splits: dict[str, datasets.Dataset]
    files: dict[str, list[Path]] = field(default_factory=dict)
    divide_by: float | None = None
    licence: str = ""
    notes: tuple[str, ...] = ()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars of `datasets` silent when nobody watches a terminal."""
    import sys

    import datasets

    silence = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if silence:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if silence:
            datasets.enable_progress_bars()
