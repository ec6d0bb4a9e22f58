"""float16 weights in the file: half the size, the same operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.compress.method import FileMethod, Tolerance
from limbeck.compress.onnx_weights import (
    FLOAT16,
    FLOAT16_LARGEST,
    QuantizeRecord,
    quantize_halves,
)


class Float16(FileMethod):
    """float16 weight storage: the same outputs to about three digits, at the same speed."""

    tolerance: Tolerance = 0.02

    def write(
        self, source: Path, target: Path, *, calibration: Iterable[Mapping[str, Any]]
    ) -> QuantizeRecord:
        """Write the file with float16 weights; no calibration is needed."""
        return quantize(source, target)


def quantize(source: Path, target: Path) -> QuantizeRecord:
    """Store weights as float16, with a cast to float32 when the file is loaded.

    The relative error is at most 1/2048 (11 significant bits), or 3e-8 absolute below 6e-5. Latency
    is unchanged, since ONNX Runtime computes in float32 on a CPU.

    Raises:
        InputError: A weight exceeds the range of float16; `bfloat16` has float32's range.
        QuantizeError: No weight becomes smaller.
    """
    kind, largest = FLOAT16, FLOAT16_LARGEST
    return quantize_halves(
        source, target, method="float16", kind=kind, largest=largest, round_words=to_float16
    )


def to_float16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to the nearest float16, ties to even; return its bits."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).view(np.uint16)
