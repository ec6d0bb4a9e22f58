"""`limbeck doctor`: check of the installation."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import typer

from limbeck.cli._options import AsJson


class Check(NamedTuple):
    """The result of one check: whether it passed, what was found, and the fix."""

    well: bool
    name: str
    found: str
    fix: str = ""


CORE = (
    "torch",
    "numpy",
    "datasets",
    "accelerate",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "scikit-learn",
)
EXTRAS = {
    "vision": ("timm", "torchvision"),
    "text": ("transformers", "tokenizers"),
    "audio": ("soundfile",),
    "lightning": ("lightning",),
    "energy": ("codecarbon",),
    "prune": ("torch_pruning",),
    "sweep": ("optuna",),
}


def doctor(as_json: AsJson = False) -> None:
    """Check Python, libraries, processor, data folder and export; exit code 1 for a fix."""
    checks = [*_python(), *_packages(), *_machine(), *_data(), *_export()]
    if as_json:
        typer.echo(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        for check in checks:
            mark = "ok  " if check.well else "FIX " if check.fix else "--  "
            typer.echo(f"{mark}{check.name}: {check.found}")
            if check.fix:
                typer.echo(f"      {check.fix}")
    if any(check.fix and not check.well for check in checks):
        raise typer.Exit(1)


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    well = (3, 11) <= sys.version_info < (3, 14)
    yield Check(well, "Python", version, "" if well else "limbeck runs on Python 3.11 to 3.13.")


def _packages() -> Iterator[Check]:
    for package in CORE:
        version = _version(package)
        fix = "" if version else "pip install limbeck"
        yield Check(version is not None, package, version or "missing", fix)
    for extra, packages in EXTRAS.items():
        for package in packages:
            version = _version(package)
            found = version or f'not installed; optional: pip install "limbeck[{extra}]"'
            yield Check(version is not None, package, found)


def _version(package: str) -> str | None:
    from importlib import metadata  # its import takes a tenth of the time of showing the help

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> Iterator[Check]:
    from limbeck.evaluate.hardware import describe

    hardware = describe()
    flags = ", ".join(hardware.flags) or "none that matter to inference"
    yield Check(True, "processor", f"{hardware.processor}, {hardware.cores} cores ({flags})")
    fast = any("vnni" in flag or "amx" in flag or "dotprod" in flag for flag in hardware.flags)
    slow = "no int8 instructions: int8 models are smaller, maybe not faster"
    yield Check(fast, "int8", "fast" if fast else slow)
    yield Check(True, "memory", f"{hardware.memory_bytes / 2**30:.1f} GiB")
    accelerator = hardware.accelerator or "none; training runs on the CPU"
    yield Check(hardware.accelerator is not None, "accelerator", accelerator)
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    fix = "" if free > 1 else "Free some space, or give --out."
    yield Check(free > 1, "disk", f"{free:.1f} GiB free here", fix)


def _data() -> Iterator[Check]:
    from limbeck.data.files import data_folder

    folder = data_folder().resolve()
    missing = f"{folder} is not there; recipes on sklearn's data run without it"
    yield Check(folder.is_dir(), "LIMBECK_DATA", str(folder) if folder.is_dir() else missing)


def _export() -> Iterator[Check]:
    """Export a net of four weights from torch to ONNX, and run the file."""
    import tempfile

    import torch

    from limbeck.export.onnx import to_onnx
    from limbeck.export.predictor import OnnxPredictor
    from limbeck.tasks import TASKS

    task = TASKS.load("image_classification")(classes=("a", "b"))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    batch = {"image": torch.ones(2, 1, 2, 2)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        to_onnx(model, task, batch, path)
        logits = torch.from_numpy(OnnxPredictor(path).predict(batch)["logits"])
    with torch.no_grad():
        difference = float((logits - model(batch["image"])).abs().max())
    well = difference < 1e-5
    fix = "" if well else "Reinstall onnx, onnxscript and onnxruntime."
    yield Check(well, "torch to ONNX Runtime", f"outputs differ by {difference:.1e}", fix)
