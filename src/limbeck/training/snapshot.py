"""Conversion of a training's state to a checkpoint's content, and back without loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.training import randomness
from limbeck.training.average import MovingAverage
from limbeck.training.checkpoint import CheckpointError, Content
from limbeck.training.log import Log
from limbeck.training.record import Progress, Tally
from limbeck.training.settings import Training
from limbeck.training.synchronized_norm import Channel

if TYPE_CHECKING:
    from accelerate import Accelerator

VERSION = 1
# Settings that do not change the result of a training.
_INDIFFERENT = {"checkpoint_every", "log_every", "workers"}


@dataclass
class Run:
    """The mutable state of a training.

    Attributes:
        modules: The trainable modules, by name.
        optimizer: The optimiser, with its state.
        scaler: The gradient scaler for float16.
        average: The EMA of the student, if there is one.
        channel: The channel of synchronised batch normalisation, with its mode.
        log: The log, up to the current step.
        best: The weights of the best epoch so far.
        progress: The position of the training.
        epoch: The losses of the current epoch.
        recent: The losses since they were last logged.
    """

    modules: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    channel: Channel
    log: Log
    best: dict[str, Tensor] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    epoch: Tally = field(default_factory=Tally)
    recent: Tally = field(default_factory=Tally)


def identity(
    settings: Training, *, seed: int, samples: int, accelerator: Accelerator
) -> dict[str, Any]:
    """Return the settings that must match to resume from a checkpoint."""
    decisive = settings.model_dump(mode="json", exclude=_INDIFFERENT)
    processes = accelerator.num_processes
    return {
        "version": VERSION,
        "processes": processes,
        "seed": seed,
        "samples": samples,
        **decisive,
    }


def pack(run: Run, training: dict[str, Any], accelerator: Accelerator) -> Content:
    """Collect a training's state; all processes take part, and each returns all of it.

    Args:
        run: The running training.
        training: Its `identity`.
        accelerator: The processes.
    """
    random_tensors, random_plain = randomness.capture()
    own = {
        "random": random_plain,
        "tallies": [run.epoch.state(), run.recent.state()],
        "tensors": random_tensors,
    }
    processes = _gather(own, accelerator)
    tensors = {
        f"process/{rank}/{name}": value
        for rank, one in enumerate(processes)
        for name, value in one.pop("tensors").items()
    }
    for owner, state in _states(run).items():
        tensors |= {f"{owner}/{name}": value for name, value in state.items()}
    optimizer_tensors, optimizer = _flatten(run.optimizer.state_dict())
    plain = {
        "training": training,
        "progress": run.progress.as_dict(),
        "processes": processes,
        "optimizer": optimizer,
        "scaler": run.scaler.state_dict(),
        "average_steps": 0 if run.average is None else run.average.steps,
        "local_norms": run.channel.local,
        "log": run.log.settle(),
    }
    return Content(tensors | optimizer_tensors, plain)


def unpack(run: Run, content: Content, training: dict[str, Any], accelerator: Accelerator) -> None:
    """Restore a training from a checkpoint's content.

    Raises:
        CheckpointError: The checkpoint is of another training; nothing was changed.
    """
    tensors, plain = content.tensors, content.plain
    _refuse_other(run, content, training)
    for name, module in run.modules.items():
        module.load_state_dict(_under(tensors, f"module/{name}/"))
    if run.average is not None:
        run.average.module.load_state_dict(_under(tensors, "average/"))
        run.average.steps = plain["average_steps"]
    best = _under(tensors, "best/")
    run.best = {name: value.to(accelerator.device) for name, value in best.items()}
    run.optimizer.load_state_dict(_unflatten(tensors, plain["optimizer"]))
    run.scaler.load_state_dict(plain["scaler"])
    run.channel.local = plain.get("local_norms", False)
    run.progress = Progress(**plain["progress"])
    run.log.begin(plain["log"])
    own = plain["processes"][accelerator.process_index]
    for tally, state in zip((run.epoch, run.recent), own["tallies"], strict=True):
        tally.restore(state)
    random_tensors = _under(tensors, f"process/{accelerator.process_index}/")
    randomness.restore(random_tensors, own["random"])


def _states(run: Run) -> dict[str, dict[str, Tensor]]:
    states = {f"module/{name}": dict(module.state_dict()) for name, module in run.modules.items()}
    if run.average is not None:
        states["average"] = dict(run.average.module.state_dict())
    return states | {"best": run.best}


def _refuse_other(run: Run, content: Content, training: dict[str, Any]) -> None:
    saved: dict[str, Any] = content.plain.get("training", {})
    differences = [
        f"{name} was {saved.get(name)}, now it is {training.get(name)}"
        for name in dict.fromkeys((*saved, *training))
        if saved.get(name) != training.get(name)
    ]
    for name, module in run.modules.items():
        theirs = _under(content.tensors, f"module/{name}/")
        differences += _differences(name, theirs, module.state_dict())
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
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                plain[f"{index}/{name}"] = value
    return tensors, {"plain": plain, "param_groups": state["param_groups"]}


def _unflatten(tensors: Mapping[str, Tensor], described: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in (_under(tensors, "optimizer/") | described["plain"]).items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": described["param_groups"]}
