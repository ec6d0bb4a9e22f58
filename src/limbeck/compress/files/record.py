"""Record of quantising a file: bytes, operators, and skipped operators with reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.atomic import write_bytes
from limbeck.errors import LimbeckError
from limbeck.evaluate.interval import Result
from limbeck.export import slim

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "Attention", "LSTM"})
"""Operators that hold a model's weights."""


class QuantizeError(LimbeckError):
    """There was nothing to quantise, or ONNX Runtime failed."""


class Skipped(Result):
    """Operators that stay in floating point for one reason, with counts per type."""

    operators: dict[str, int]
    reason: str


class QuantizeRecord(Result):
    """The result of quantising a file.

    Attributes:
        method: The name of the quantiser.
        bytes_before: Size of the float file.
        bytes_after: Size of the quantised file.
        quantized: Counts per operator type of those that compute in, or read weights from, fewer
            bits.
        skipped: Operators that stay in floating point, with the reason.
        calibration_samples: Samples used for activation ranges; 0 if none were needed.
        settings: The settings used.
        note: Why the file did not shrink much, when it did not; empty otherwise.
    """

    method: str
    bytes_before: int
    bytes_after: int
    quantized: dict[str, int]
    skipped: tuple[Skipped, ...]
    calibration_samples: int
    settings: dict[str, str | int | float | bool]
    note: str = ""

    @property
    def ratio(self) -> float:
        """Return the compression ratio, bytes before / bytes after."""
        return self.bytes_before / self.bytes_after


def sort(
    before: ModelProto, is_quantized: Callable[[NodeProto], bool], reasons: Mapping[str, str]
) -> tuple[dict[str, int], tuple[Skipped, ...]]:
    """Sort a graph's computing operators into quantised and skipped ones.

    Args:
        before: The input graph of the quantiser, with node names.
        is_quantized: Predicate of the nodes that were quantised.
        reasons: Reason per operator type for staying in floating point; the key `""` is for every
            other type.

    Raises:
        QuantizeError: Nothing was quantised; the message names what was found.
    """
    done: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for node in before.graph.node:
        (done if is_quantized(node) else left)[node.op_type] += 1
    if not done.keys() & WEIGHTED:
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(left.items())) or "nothing"
        raise QuantizeError(
            f"nothing could be quantised: the graph holds {found}; quantising is for operators "
            "with weights (Conv, Gemm, MatMul). Leave the stage out, or use another method."
        )
    by_reason: dict[str, dict[str, int]] = {}
    for kind, count in sorted(left.items()):
        by_reason.setdefault(reasons.get(kind, reasons[""]), {})[kind] = count
    skipped = (Skipped(operators=kinds, reason=why) for why, kinds in sorted(by_reason.items()))
    return dict(sorted(done.items())), tuple(skipped)


def write(before: ModelProto, after: ModelProto, target: Path) -> str:
    """Shrink a quantised graph and write it atomically.

    Args:
        before: The float graph.
        after: The quantised graph; modified in place.
        target: Path of the new file.

    Returns:
        The reason if the file shrank by a factor of less than two; empty otherwise.
    """
    slim.strip(after)
    slim.shorten(after)
    write_bytes(target, after.SerializeToString())
    size, was = after.ByteSize(), before.ByteSize()
    if was >= 2 * size:
        return ""
    verb = "did not shrink" if size >= was else f"shrank only {was / size:.1f} times"
    left = slim.float_bytes(after)
    if left > size / 2:
        return f"the file {verb}: {left} of its {size} bytes are weights that stay float."
    return (
        f"the file {verb}: the graph dominates, weights were {slim.weight_bytes(before)} "
        f"of {was} bytes before and are {slim.weight_bytes(after)} of {size} after."
    )
