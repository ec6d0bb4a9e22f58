"""Peak resident memory of one prediction."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import LimbeckError

PROBE = Path(__file__).with_name("_memory_probe.py")


def peak_memory(path: Path, feeds: Mapping[str, NDArray[Any]], *, timeout: float = 120.0) -> int:
    """Measure the peak memory growth of a fresh process that loads a file and predicts once.

    The process imports numpy and ONNX Runtime only; their memory is not counted. One thread.

    Args:
        path: The ONNX file.
        feeds: The graph's inputs, by name, in the graph's types.
        timeout: Timeout in seconds.

    Returns:
        Bytes of resident memory over what the process held before it loaded the file.

    Raises:
        LimbeckError: The process failed or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "feeds.npz"
        np.savez(inputs, allow_pickle=False, **dict(feeds))
        command = [sys.executable, "-I", str(PROBE), str(path.resolve()), str(inputs)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=True
            )
        except subprocess.TimeoutExpired as error:
            raise LimbeckError(
                f"{path}: no answer within {timeout:g} s while measuring memory."
            ) from error
        except subprocess.CalledProcessError as error:
            reason = (error.stderr or "").strip().splitlines()[-1:] or ["no message"]
            raise LimbeckError(f"{path}: memory could not be measured: {reason[0]}") from error
    return int(done.stdout)
