"""Weights as float16 in the file: half the size, the same operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.compress.files.half import quantize_halves
from limbeck.compress.files.record import QuantizeRecord
from limbeck.compress.method import FileMethod, Tolerance

FLOAT16 = 10
"""ONNX's number of the type."""

LARGEST = 65504.0
"""The largest float16."""


class Float16(FileMethod):
    """Weights as float16 in the file; the same answers to about three digits, at the same speed."""

    tolerance: Tolerance = 0.02

    def write(
        self, source: Path, target: Path, *, calibration: Iterable[Mapping[str, Any]]
    ) -> QuantizeRecord:
        """Write the file with weights in float16; no sample is needed."""
        return quantize(source, target)


def quantize(
    source: Path,
    target: Path,
    *,
    calibration: Iterable[Mapping[str, NDArray[Any]]] = (),
) -> QuantizeRecord:
    """Store weights as float16; they are made float32 when the file is loaded.

    A value loses at most one part in 2048 (11 significant bits), or 3e-8 below 6e-5. Answers take
    as long as before, since ONNX Runtime computes in float32 on a CPU anyway.

    Args:
        source: A float ONNX file, as `to_onnx` writes it.
        target: Where the new file goes, whole or not at all.
        calibration: Not used; it is taken so that every method is called alike.

    Raises:
        InputError: A weight is larger than float16 can be; `bfloat16` has float32's range.
        QuantizeError: The graph has no weight that gains.
        WriteError: The target cannot be written to.
    """
    del calibration
    return quantize_halves(
        source, target, method="float16", kind=FLOAT16, largest=LARGEST, round_words=to_float16
    )


def to_float16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to the nearest float16, ties to even; its bits.

    Example:
        >>> to_float16(np.array([1.0, -0.0, 65519.0], np.float32)).view(np.float16)
        array([ 1.00e+00, -0.00e+00,  6.55e+04], dtype=float16)
    """
    with np.errstate(over="ignore"):
        return values.astype(np.float16).view(np.uint16)
