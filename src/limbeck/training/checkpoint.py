"""Checkpoints: the complete training state in one file, written atomically.

A checkpoint is one safetensors file: tensors by name, everything else as JSON in the header, and a
hash of both, so that a corrupt file is detected before any of it is used. The last two are kept.
"""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from limbeck.core import fingerprint
from limbeck.core.files import WriteError, replacing
from limbeck.errors import LimbeckError
from limbeck.training.data import Loader
from limbeck.training.log import Log, Progress, RunningMean
from limbeck.training.prepare import Channel
from limbeck.training.settings import Training
from limbeck.training.sharding import like, whole

if TYPE_CHECKING:
    from accelerate import Accelerator


KEPT = 2


class CheckpointError(LimbeckError):
    """An unusable checkpoint: truncated, corrupt, or of another training."""


@dataclass(frozen=True)
class Content:
    """The content of a checkpoint: named tensors, and plain data."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]


def save(folder: Path, content: Content, *, step: int) -> None:
    """Write a checkpoint, then delete all but the last two.

    Raises:
        WriteError: The disk is full or the folder cannot be written to; older ones are unchanged.
    """
    # One copy per tensor: safetensors rejects shared memory, as of tied weights.
    tensors = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in content.tensors.items()
    }
    plain = json.dumps(content.plain)
    header = {"plain": plain, "sha256": _hash(tensors, plain)}
    path = folder / f"{step:09d}.safetensors"
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            raise WriteError(f"{path}: could not be written ({error}).") from error
    # Also the partial files of processes killed during a write.
    _remove([*_files(folder)[:-KEPT], *folder.glob(".*.partial")])


def load(path: Path) -> Content:
    """Read a checkpoint and verify its hash.

    Raises:
        CheckpointError: The file is truncated or corrupt.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        if header["sha256"] != _hash(tensors, header["plain"]):
            raise CheckpointError(f"{path}: damaged; its contents do not match its hash.")
        return Content(tensors, json.loads(header["plain"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error}).") from error


def latest(folder: Path) -> Content | None:
    """Read the newest valid checkpoint; warn about invalid ones.

    Raises:
        CheckpointError: There are checkpoints, but none is valid.
    """
    problems = []
    for path in reversed(_files(folder)):
        try:
            content = load(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            lost = "\n".join(problems)
            warnings.warn(f"{lost}\nGoing on from {path.name}, the one before it.", stacklevel=2)
        return content
    if problems:
        advice = f"Delete {folder} to train from the beginning."
        raise CheckpointError("\n".join([*problems, advice]))
    return None


def clear(folder: Path) -> None:
    """Remove every checkpoint, so that a new training does not resume from an older one.

    Raises:
        WriteError: A checkpoint cannot be removed.
    """
    _remove(_files(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _remove(paths: list[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(f"{path}: could not be removed ({error.strerror}).") from error


def _hash(tensors: dict[str, Tensor], plain: str) -> str:
    return hashlib.sha256((fingerprint.of_tensors(tensors) + plain).encode()).hexdigest()


def capture() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the random states of torch (every device), numpy and Python.

    Example:
        >>> tensors, plain = capture()
        >>> first = torch.rand(1)
        >>> restore(tensors, plain)
        >>> bool(torch.rand(1) == first)
        True
    """
    version, keys, gauss = random.getstate()
    name, words, position, has_gauss, cached = np.random.get_state()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.array(words, dtype=np.int64)),
    }
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda{index:03d}"] = state
    plain = {
        "python": [version, list(keys), gauss],
        "numpy": [str(name), int(position), int(has_gauss), float(cached)],
    }
    return tensors, plain


def restore(tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Restore the random states."""
    torch.set_rng_state(tensors["torch"])
    devices = [tensors[name] for name in sorted(tensors) if name.startswith("cuda")]
    if devices and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(devices[: torch.cuda.device_count()])
    version, keys, gauss = plain["python"]
    random.setstate((version, tuple(keys), gauss))
    name, position, has_gauss, cached = plain["numpy"]
    words = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, words, position, has_gauss, cached))


VERSION = 3
# Settings that do not change the result of a training.
_INDIFFERENT = {"checkpoint_every", "log_every", "num_workers"}


@dataclass
class Run:
    """The mutable state of a training.

    Attributes:
        modules: The trainable modules, and the EMA of each student that may ship, by name.
        optimizers: The optimisers with their states, by phase.
        scaler: The gradient scaler for float16.
        channel: The channel of synchronised batch normalisation, with its mode.
        log: The log, up to the current step.
        loader: The data, with its position.
        best: The weights of the best validation so far.
        progress: The position of the training.
        interval: The losses since the last validation.
        recent: The losses since they were last logged.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    channel: Channel
    log: Log
    loader: Loader
    best: dict[str, Tensor] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    interval: RunningMean = field(default_factory=RunningMean)
    recent: RunningMean = field(default_factory=RunningMean)


def identity(
    settings: Training,
    *,
    seed: int,
    samples: int | None,
    ship: str,
    phases: Iterable[str],
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Return the settings that must match to resume from a checkpoint."""
    decisive = settings.model_dump(mode="json", exclude=_INDIFFERENT)
    processes = accelerator.num_processes
    return {
        "version": VERSION,
        "processes": processes,
        "seed": seed,
        "samples": samples,
        "phases": list(phases),
        "ship": ship,
        **decisive,
    }


def pack(run: Run, training: dict[str, Any], accelerator: Accelerator) -> Content:
    """Collect a training's state; all processes take part, and each returns all of it.

    Args:
        run: The running training.
        training: Its `identity`.
        accelerator: The processes.
    """
    random_tensors, random_plain = capture()
    own = {
        "random": random_plain,
        "tallies": [run.interval.state(), run.recent.state()],
        "position": run.loader.position(),
        "tensors": random_tensors,
    }
    processes = _gather(own, accelerator)
    tensors = {
        f"process/{rank}/{name}": value
        for rank, one in enumerate(processes)
        for name, value in one.pop("tensors").items()
    }
    for owner, state in _states(run).items():
        tensors |= {f"{owner}/{name}": value for name, value in whole(state).items()}
    optimizers = {}
    for phase, optimizer in run.optimizers.items():
        named, optimizers[phase] = _flatten(optimizer.state_dict())
        tensors |= {f"optimizer/{phase}/{name}": value for name, value in whole(named).items()}
    plain = {
        "training": training,
        "progress": run.progress.as_dict(),
        "processes": processes,
        "optimizers": optimizers,
        "scaler": run.scaler.state_dict(),
        "local_norms": run.channel.local,
        "log": run.log.flush(),
    }
    return Content(tensors, plain)


def unpack(run: Run, content: Content, training: dict[str, Any], accelerator: Accelerator) -> None:
    """Restore a training from a checkpoint's content.

    Raises:
        CheckpointError: The checkpoint is of another training; nothing was changed.
    """
    tensors, plain = content.tensors, content.plain
    _refuse_other(run, content, training)
    for name, module in run.modules.items():
        now = module.state_dict()
        saved = _under(tensors, f"module/{name}/")
        module.load_state_dict({key: like(value, now[key]) for key, value in saved.items()})
    best = _under(tensors, "best/")
    run.best = {name: value.to(accelerator.device) for name, value in best.items()}
    for phase, optimizer in run.optimizers.items():
        state = _unflatten(_under(tensors, f"optimizer/{phase}/"), plain["optimizers"][phase])
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        for number, values in state["state"].items():
            for name, value in values.items():
                values[name] = like(value, parameters[number])
        optimizer.load_state_dict(state)
    run.scaler.load_state_dict(plain["scaler"])
    run.channel.local = plain.get("local_norms", False)
    run.progress = Progress(**plain["progress"])
    run.log.begin(plain["log"])
    own = plain["processes"][accelerator.process_index]
    for tally, state in zip((run.interval, run.recent), own["tallies"], strict=True):
        tally.restore(state)
    run.loader.seek(run.progress.step, own["position"])
    random_tensors = _under(tensors, f"process/{accelerator.process_index}/")
    restore(random_tensors, own["random"])


def _states(run: Run) -> dict[str, dict[str, Tensor]]:
    states = {f"module/{name}": dict(module.state_dict()) for name, module in run.modules.items()}
    return states | {"best": run.best}


def _refuse_other(run: Run, content: Content, training: dict[str, Any]) -> None:
    saved: dict[str, Any] = content.plain.get("training", {})
    differences = [
        f"{name} was {saved.get(name)}, now it is {training.get(name)}"
        for name in dict.fromkeys((*saved, *training))
        if saved.get(name) != training.get(name)
    ]
    for name, module in run.modules.items():
        saved_module = _under(content.tensors, f"module/{name}/")
        differences += _differences(name, saved_module, module.state_dict())
    if differences:
        raise CheckpointError(
            f"the checkpoint is of another training: {'; '.join(differences)}. "
            "Train in another folder, or begin anew (without --resume)."
        )


def _differences(
    name: str, saved: Mapping[str, Tensor], now: Mapping[str, Tensor]
) -> Iterator[str]:
    """Yield the first tensor of a module whose shape differs."""
    for key in dict.fromkeys((*now, *saved)):
        shapes = [tuple(where[key].shape) if key in where else None for where in (saved, now)]
        if shapes[0] != shapes[1]:
            yield f"{name}'s {key} was of shape {shapes[0]}, now it is {shapes[1]}"
            return


def _gather(own: dict[str, Any], accelerator: Accelerator) -> list[dict[str, Any]]:
    if accelerator.num_processes == 1:
        return [own]
    from accelerate.utils import gather_object

    gathered: list[dict[str, Any]] = gather_object([own])
    return gathered


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into named tensors and plain data."""
    tensors, plain = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                plain[f"{index}/{name}"] = value
    return tensors, {"plain": plain, "param_groups": state["param_groups"]}


def _unflatten(tensors: dict[str, Tensor], described: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **described["plain"]}.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": described["param_groups"]}
