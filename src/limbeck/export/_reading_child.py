"""Child process that loads an ONNX file under a memory limit and predicts one sample.

Imports numpy and ONNX Runtime only.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np
import onnxruntime


def main(path: str, memory: int) -> None:
    """Load and run a file; exit with a one-line error if either fails."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session.run(None, {value.name: _one(value) for value in session.get_inputs()})
    # ONNX Runtime's exceptions have no common base class.
    except Exception as error:
        reason = " ".join(str(error).split()) or "out of memory"
        sys.exit(f"{type(error).__name__}: {reason[:300]}")


def _one(value: Any) -> Any:
    """Return one sample of zeros; dynamic sizes are one, and that of a key-value cache zero."""
    kinds = {"float": "float32", "double": "float64", "bool": "bool_"}
    name = value.type.removeprefix("tensor(").removesuffix(")")
    least = {"past": 0}
    shape = [size if isinstance(size, int) else least.get(size, 1) for size in value.shape]
    return np.zeros(shape, dtype=getattr(np, kinds.get(name, name)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
