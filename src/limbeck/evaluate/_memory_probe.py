"""Peak-memory probe: a process that loads an ONNX file, predicts once, and prints its growth.

Imports only numpy and ONNX Runtime, since other memory in use would hide the growth.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(path: str, inputs: str) -> None:
    """Print the growth in bytes."""
    with np.load(inputs) as archive:
        feeds = {name: archive[name] for name in archive.files}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    before = _resident()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, feeds)
    sys.stdout.write(str(max(0, _peak() - before)))


def _resident() -> int:
    """Return the resident bytes; reset the peak to them where the system allows it (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    # Not ru_maxrss on Linux: a child process inherits the peak of its parent.
    try:
        return _status("VmHWM")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
