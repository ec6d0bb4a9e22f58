"""`limbeck doctor`: check of the installation."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer


class Finding(NamedTuple):
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
    "torchmetrics",
    "scikit-learn",
)
EXTRAS = {
    "vision": ("timm", "torchvision"),
    "text": ("transformers", "tokenizers"),
    "energy": ("codecarbon",),
    "prune": ("torch_pruning",),
    "sweep": ("optuna",),
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check Python, libraries, processor, data folder and export; exit code 1 for a fix."""
    findings = (*_python(), *_packages(), *_machine(), *_data(), *_export())
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    for finding in () if as_json else findings:
        mark = "ok  " if finding.well else "FIX " if finding.fix else "--  "
        typer.echo(f"{mark}{finding.name}: {finding.found}")
        if finding.fix:
            typer.echo(f"      {finding.fix}")
    if any(finding.fix and not finding.well for finding in findings):
        raise typer.Exit(1)


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    well = (3, 11) <= sys.version_info < (3, 14)
    yield Finding(well, "Python", version, "" if well else "limbeck runs on Python 3.11 to 3.13.")


def _packages() -> Iterator[Finding]:
    for package in CORE:
        version = _version(package)
        yield Finding(
            version is not None,
            package,
            version or "missing",
            "" if version else "pip install limbeck",
        )
    for extra, packages in EXTRAS.items():
        for package in packages:
            version = _version(package)
            found = version or f'not installed; optional: pip install "limbeck[{extra}]"'
            yield Finding(version is not None, package, found)


def _version(package: str) -> str | None:
    from importlib import metadata  # its import takes a tenth of the time of showing the help

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> Iterator[Finding]:
    from limbeck.evaluate.hardware import describe

    hardware = describe()
    flags = ", ".join(hardware.flags) or "none that matter to inference"
    yield Finding(True, "processor", f"{hardware.processor}, {hardware.cores} cores ({flags})")
    fast = any("vnni" in flag or "amx" in flag or "dotprod" in flag for flag in hardware.flags)
    yield Finding(
        fast,
        "int8",
        "fast" if fast else "no int8 instructions: int8 models are smaller, maybe not faster",
    )
    yield Finding(True, "memory", f"{hardware.memory_bytes / 2**30:.1f} GiB")
    yield Finding(
        hardware.accelerator is not None,
        "accelerator",
        hardware.accelerator or "none; training runs on the CPU",
    )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding(
        free > 1,
        "disk",
        f"{free:.1f} GiB free here",
        "" if free > 1 else "Free some space, or give --out.",
    )


def _data() -> Iterator[Finding]:
    from limbeck.data.files import data_folder

    place = data_folder()
    found = (
        str(place)
        if place.is_dir()
        else f"{place} is not there; recipes on sklearn's data run without it"
    )
    yield Finding(place.is_dir(), "LIMBECK_DATA", found)


def _export() -> Iterator[Finding]:
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
        answer = torch.from_numpy(OnnxPredictor(path).predict(batch)["logits"])
    with torch.no_grad():
        difference = float((answer - model(batch["image"])).abs().max())
    well = difference < 1e-5
    yield Finding(
        well, "torch to ONNX Runtime", f"answers differ by {difference:.1e}",
        "" if well else "Reinstall onnx, onnxscript and onnxruntime.",
    )  # fmt: skip
