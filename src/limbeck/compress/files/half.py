"""Half-precision weights in an ONNX file, with a Cast to float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.compress.files.record import WEIGHTED, QuantizeRecord
from limbeck.compress.files.weight_only import FLOAT, Values, Weight, quantize_weights
from limbeck.errors import InputError, Problem
from limbeck.export.compact.rebuild import Parts, tensor

BFLOAT16_LARGEST = 2.0**127 * (2 - 2**-7)
"""The largest bfloat16, slightly below the largest float32."""

REASONS = {
    "": "it reads no float32 weight, or one so small that storing it otherwise would not pay",
}


def quantize_halves(
    source: Path,
    target: Path,
    *,
    method: str,
    kind: int,
    largest: float,
    round_words: Callable[[Values], NDArray[np.uint16]],
) -> QuantizeRecord:
    """Store weights in a two-byte type.

    Args:
        source: A float ONNX file.
        target: Path of the new file.
        method: The type's name.
        kind: ONNX's number of the type.
        largest: The largest value of the type.
        round_words: Function that rounds float32 to the type and returns its bits.

    Raises:
        InputError: A finite weight would become infinite.
    """
    infinite = round_words(np.full(1, np.inf, np.float32))[0]

    def store(weight: Weight, parts: Parts) -> str | None:
        words = round_words(weight.values)
        if (np.isfinite(weight.values) & (words & 0x7FFF == infinite)).any():
            _check_mask(weight, method, largest)
            return None
        return parts.cast(parts.piece(tensor(words, kind), weight.name), FLOAT)

    return quantize_weights(
        source,
        target,
        store,
        method=method,
        settings={},
        reasons=REASONS,
        note="Weights take 16 bits in the file; they are made float32 when it is loaded, so that "
        "answers take as long as before.",
    )


def _check_mask(weight: Weight, method: str, largest: float) -> None:
    """Raise if values exceed the type's range, unless they are those of an attention mask."""
    if weight.reader.op_type not in WEIGHTED:
        return
    found = float(np.abs(weight.values[np.isfinite(weight.values)]).max())
    fix = "Use bfloat16, which has float32's range." if found <= BFLOAT16_LARGEST else ""
    allowed = f"at most {largest:.6g} in size for {method}"
    raise InputError(Problem(f"weights.{weight.name}", found, allowed, fix))
