"""Versions of a run: Python, packages and the commit of the working tree."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata

PACKAGES = (
    *("limbeck", "torch", "numpy", "safetensors", "datasets", "accelerate", "torchmetrics"),
    *("onnx", "onnxscript", "onnxruntime", "scikit-learn", "torchvision", "timm"),
    *("transformers", "tokenizers", "codecarbon"),
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the relevant installed packages."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the current working tree; None outside one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
