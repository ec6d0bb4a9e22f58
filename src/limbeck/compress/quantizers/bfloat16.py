"""Weights as bfloat16 in the file: half the size, float32's range, 8 significant bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.compress.files.half import BFLOAT16_LARGEST, quantize_halves
from limbeck.compress.files.record import QuantizeRecord
from limbeck.compress.method import FileMethod, Tolerance

BFLOAT16 = 16
"""ONNX's number of the type."""


class Bfloat16(FileMethod):
    """Weights as bfloat16 in the file; the same answers to about two digits, at the same speed."""

    tolerance: Tolerance = 0.05

    def write(
        self, source: Path, target: Path, *, calibration: Iterable[Mapping[str, Any]]
    ) -> QuantizeRecord:
        """Write the file with weights in bfloat16; no sample is needed."""
        return quantize(source, target)


def quantize(
    source: Path,
    target: Path,
    *,
    calibration: Iterable[Mapping[str, NDArray[Any]]] = (),
) -> QuantizeRecord:
    """Store weights as bfloat16; they are made float32 when the file is loaded.

    A value loses at most one part in 256. Answers take as long as before.

    Args:
        source: A float ONNX file, as `to_onnx` writes it.
        target: Where the new file goes, whole or not at all.
        calibration: Not used; it is taken so that every method is called alike.

    Raises:
        InputError: A weight is within one part in 256 of the largest float32.
        QuantizeError: The graph has no weight that gains.
        WriteError: The target cannot be written to.
    """
    del calibration
    return quantize_halves(
        source,
        target,
        method="bfloat16",
        kind=BFLOAT16,
        largest=BFLOAT16_LARGEST,
        round_words=to_bfloat16,
    )


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16, ties to even; its bits, the upper half of a float32's.

    Example:
        >>> [hex(word) for word in to_bfloat16(np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8], "f4"))]
        ['0x3f80', '0x3f80', '0x3f82']
    """
    words = values.view(np.uint32)
    # Half a unit of what is kept, less one if what is kept is even, so that ties go to even.
    rounded = (words + np.uint32(0x7FFF) + ((words >> 16) & 1)) >> 16
    # Rounding may carry a NaN's bits into infinity's; a quiet NaN stays one.
    return np.where(np.isnan(values), (words >> 16) | 0x40, rounded).astype(np.uint16)
