"""Device, processes, precision and trackers of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.imports import available, deferred
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.pipeline.recipe import Recipe

BOARDS = ("tensorboard", "tensorboardX")
MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Set the number of torch threads during the block; None keeps it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def accelerator_of(recipe: Recipe, out: Path) -> Accelerator:
    """Build the Accelerator, which manages device and processes.

    Raises:
        InputError: A tracker is not installed, or the device does not support the precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    _check_trackers(recipe)
    precision = _precision(recipe)
    # Accelerate keeps its state for the whole process; a second run may have another precision.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        # Other processes wait during test and evaluation of the first, for as long as that takes.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=30))],
        cpu=recipe.device == "cpu" or _share_cpu(),
        mixed_precision=MIXED[precision],
        log_with=list(recipe.trackers) or None,
        project_dir=str(out),
    )
    if precision == "float16" and accelerator.device.type == "cpu":
        # It would run many times slower than float32, and without the loss scaling it needs.
        raise InputError(Problem("precision", precision, "float32 or bfloat16, on a CPU"))
    return accelerator


def _share_cpu() -> bool:
    """Return whether several processes on this machine share its CPU.

    Accelerate connects processes on a CPU only if the CPU is requested; otherwise each would run
    alone.

    Raises:
        InputError: There are fewer accelerators than processes.
    """
    import torch

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    if processes == 1:
        return False
    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if 0 < devices < processes:
        allowed = f"at most {devices}, one for each accelerator of this machine"
        fix = "Start fewer processes, or set `device: cpu` in the recipe."
        raise InputError(Problem("processes on this machine", processes, allowed, fix))
    return devices == 0


def _precision(recipe: Recipe) -> str:
    with deferred():
        found = {getattr(stage, "precision", "float32") for _, stage in recipe.parsed_stages()}
    return next(iter(sorted(found - {"float32"})), "float32")


def _check_trackers(recipe: Recipe) -> None:
    """Raise if a tracker is not installed, which Accelerate would silently skip."""
    problems = []
    for number, tracker in enumerate(recipe.trackers):
        packages = BOARDS if tracker == "tensorboard" else (tracker,)
        if not any(map(available, packages)):
            allowed, fix = "a tracker that is installed", f"Install it: pip install {packages[0]}"
            problems.append(Problem(f"trackers.{number}", tracker, allowed, fix))
    if problems:
        raise InputError(*problems)
