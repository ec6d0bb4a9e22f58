"""The data that a source returns, before it is checked, split and converted to tensors."""

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
    """The splits of a source.

    Attributes:
        splits: `train`, and `validation` and `test` if the source has them.
        files: The files read, by split; empty if there are none to hash.
        divide_by: The divisor that scales pixel values to [0, 1]; by the pixel dtype if None.
        licence: The licence stated by the source.
        notes: Rows or values that the source left out or changed, for the report.
    """

    splits: dict[str, datasets.Dataset]
    files: dict[str, list[Path]] = field(default_factory=dict)
    divide_by: float | None = None
    licence: str = ""
    notes: tuple[str, ...] = ()


@contextmanager
def quiet() -> Iterator[None]:
    """Disable the progress bars of `datasets` if the output is not a terminal."""
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
