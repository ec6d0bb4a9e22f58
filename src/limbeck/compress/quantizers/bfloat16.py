"""bfloat16 weights in the file: half the size, float32's range, 8 significant bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.compress.method import FileMethod, Tolerance
from limbeck.compress.onnx_weights import BFLOAT16_LARGEST, QuantizeRecord, quantize_halves

BFLOAT16 = 16
"""ONNX's number of the type."""


class Bfloat16(FileMethod):
    """bfloat16 weight storage: the same outputs to about two digits, at the same speed."""

    tolerance: Tolerance = 0.05

    def write(
        self, source: Path, target: Path, *, calibration: Iterable[Mapping[str, Any]]
    ) -> QuantizeRecord:
        """Write the file with bfloat16 weights; no calibration is needed."""
        return quantize(source, target)


def quantize(source: Path, target: Path) -> QuantizeRecord:
    """Store weights as bfloat16, with a cast to float32 when the file is loaded.

    The relative error is at most 1/256. Latency is unchanged.

    Raises:
        InputError: A weight is within a relative 1/256 of the largest float32.
        QuantizeError: No weight becomes smaller.
    """
    kind, largest = BFLOAT16, BFLOAT16_LARGEST
    return quantize_halves(
        source, target, method="bfloat16", kind=kind, largest=largest, round_words=to_bfloat16
    )


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16, ties to even; return its bits, a float32's upper half."""
    words = values.view(np.uint32)
    # Half of the last kept bit, less one if that bit is 0, so that ties go to even.
    rounded = (words + np.uint32(0x7FFF) + ((words >> 16) & 1)) >> 16
    # Rounding may turn a NaN's bits into those of infinity; a quiet NaN stays NaN.
    return np.where(np.isnan(values), (words >> 16) | 0x40, rounded).astype(np.uint16)
