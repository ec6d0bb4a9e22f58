"""Lossless compaction of the weights of an ONNX file."""

from __future__ import annotations

from pathlib import Path

from limbeck.atomic import write_bytes
from limbeck.export.compact.graph import compact
from limbeck.export.compact.record import CompactRecord
from limbeck.export.reading import read_model


def pack(path: Path) -> CompactRecord:
    """Store an ONNX file's weights in fewer bytes where possible, without any loss.

    Raises:
        InputError: The file is not ONNX, or not self-contained.
        WriteError: The file cannot be written.
    """
    model = read_model(path)
    record = compact(model)
    if record.tensors:
        write_bytes(path, model.SerializeToString())
    return record
