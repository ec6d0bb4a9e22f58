"""A file's weights in the form that takes the fewest bytes."""

from __future__ import annotations

from pathlib import Path

from limbeck.atomic import write_bytes
from limbeck.export.compact.graph import compact
from limbeck.export.compact.record import CompactRecord
from limbeck.export.reading import read_model


def pack(path: Path) -> CompactRecord:
    """Store an ONNX file's weights in fewer bytes where that can be had, without any loss.

    Raises:
        InputError: It is no ONNX file, or one that is not complete in itself.
        WriteError: The file cannot be written to.
    """
    model = read_model(path)
    record = compact(model)
    if record.tensors:
        write_bytes(path, model.SerializeToString())
    return record
