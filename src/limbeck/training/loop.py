"""The one loop. It knows a scheme's `step` and nothing of what is inside."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from limbeck.training import checkpoint, order, randomness
from limbeck.training.log import Log
from limbeck.training.optimizer import build_optimizer, rate
from limbeck.training.record import Progress, Tally
from limbeck.training.settings import Training

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.schemes import Scheme

Validate = Callable[[nn.Module], Mapping[str, float]]


class Examples(Protocol):
    """Samples that can be asked for by number; a batch is a mapping of tensors."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]: ...

    def set_epoch(self, epoch: int) -> None: ...


class Ticker(Protocol):
    """Somebody who watches: a progress bar, a log, or nobody."""

    def tick(self, done: int, total: int, note: str) -> None:
        """Hear that `done` of `total` steps are done."""
        ...


class Silent:
    """Nobody watches."""

    def tick(self, done: int, total: int, note: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class History:
    """What a training was like.

    Attributes:
        rows: One row an epoch: losses by term, raw and weighted, and validation metrics.
        best_epoch: The epoch, from 1, whose weights were kept.
        steps: Optimiser steps taken.
        stopped_early: Whether validation stopped getting better before the last epoch.
    """

    rows: tuple[dict[str, float], ...]
    best_epoch: int
    steps: int
    stopped_early: bool


def fit(
    scheme: Scheme,
    *,
    train: Examples,
    validate: Validate,
    settings: Training,
    folder: Path,
    seed: int,
    accelerator: Accelerator,
    resume: bool = True,
    ticker: Ticker | None = None,
) -> History:
    """Train a scheme's student, and leave in it the weights that validation chose.

    Args:
        scheme: What one step is.
        train: The training samples.
        validate: Measures a model on the validation samples; its first number decides, higher is better.
        settings: How to train.
        folder: Where `log.jsonl` and `checkpoint/` go.
        seed: Decides the order of samples; initial weights are the caller's.
        accelerator: The device, the processes and the precision.
        resume: Go on from the newest sound checkpoint in `folder`, to the same bits as if undisturbed.
        ticker: Hears of every step.

    Raises:
        KeyboardInterrupt: Somebody interrupted; a checkpoint was saved first.
        LimbeckError: A term became NaN or infinite, or a checkpoint could not be written.
    """
    loop = _Loop(scheme, train, validate, settings, folder, seed, accelerator, ticker or Silent())
    state = checkpoint.latest(folder / "checkpoint") if resume else None
    if state is None:
        loop.log.truncate(0)
    else:
        loop.restore(state)
    return loop.run()


class _Loop:
    """A training under way: what `fit` was given, and all that changes from step to step."""

    def __init__(
        self,
        scheme: Scheme,
        train: Examples,
        validate: Validate,
        settings: Training,
        folder: Path,
        seed: int,
        accelerator: Accelerator,
        ticker: Ticker,
    ) -> None:
        self.scheme, self.train, self.validate = scheme, train, validate
        self.settings, self.folder, self.seed = settings, folder, seed
        self.accelerator, self.ticker = accelerator, ticker
        self.processes, self.rank = accelerator.num_processes, accelerator.process_index
        for module in scheme.modules().values():
            module.to(accelerator.device)
        self._share_between_processes()
        self.parameters = list(scheme.trainable())
        self.optimizer = accelerator.prepare(build_optimizer(scheme.modules(), settings))
        if settings.compile:
            scheme.student.compile()
        self.ema = self._moving_average()
        self.best: dict[str, Tensor] = {}
        self.progress = Progress()
        self.tally = Tally(accelerator.device)
        self.log = Log(folder / "log.jsonl", accelerator)
        self.steps_an_epoch = -(-len(self._batches(0)) // settings.accumulate)
        self.total = self.steps_an_epoch * settings.epochs
        self.saved_at = time.monotonic()

    # -- what surrounds the steps ---------------------------------------------------------------------------------

    def run(self) -> History:
        with _deferred_interrupt() as interrupted:
            while self.progress.epoch < self.settings.epochs and not self._out_of_patience():
                self._epoch(interrupted)
        self._keep()
        return History(
            rows=tuple(self.progress.rows),
            best_epoch=self.progress.best_epoch if self.settings.keep == "best" else self.progress.epoch,
            steps=self.progress.step,
            stopped_early=self.progress.epoch < self.settings.epochs,
        )

    def _epoch(self, interrupted: Callable[[], bool]) -> None:
        started = time.monotonic()
        self.train.set_epoch(self.progress.epoch)
        for module in self.scheme.modules().values():
            module.train()
        for micro_batches in self._optimizer_steps():
            self._step(micro_batches)
            self.progress.step += 1
            every = self.settings.log_every
            if every and self.progress.step % every == 0:
                self.log.write(self._row(self.tally.recent(self.accelerator)))
            self.ticker.tick(self.progress.step, self.total, f"epoch {self.progress.epoch + 1}")
            self._save_if_due(interrupted())
        metrics = dict(self.validate(self._model()))
        row = self._row(self.tally.epoch(self.accelerator)) | {
            f"validation/{name}": value for name, value in metrics.items()
        }
        self.progress.epoch += 1
        self._choose(next(iter(metrics.values())))
        self.progress.rows.append(row | {"seconds": time.monotonic() - started})
        self.log.write(self.progress.rows[-1])
        self._save_if_due(interrupted())

    def _row(self, losses: Mapping[str, float]) -> dict[str, float]:
        epoch = self.progress.step / self.steps_an_epoch
        learning_rate = rate(max(self.progress.step - 1, 0) / self.total, self.settings)
        return {"epoch": epoch, "step": self.progress.step, "learning_rate": learning_rate, **losses}

    # -- one optimiser step ----------------------------------------------------------------------------------------

    def _step(self, micro_batches: list[Mapping[str, Tensor]]) -> None:
        progress = self.progress.step / self.total
        shares = self._shares(micro_batches)
        for batch, share in zip(micro_batches, shares, strict=True):
            with self._autocast():
                losses = self.scheme.step(batch, progress)
            losses.check()
            self.tally.add(losses, share)
            total = losses.total if share is None else losses.total * share
            self.accelerator.backward(total)
        self._sum_gradients()
        if self.settings.clip is not None:
            self.accelerator.clip_grad_norm_(self.parameters, self.settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(progress, self.settings)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update_parameters(self.scheme.student)

    def _shares(self, micro_batches: list[Mapping[str, Tensor]]) -> list[Tensor | None]:
        """Give each micro-batch its part in the whole step's mean, over all processes."""
        if len(micro_batches) == 1 and self.processes == 1:
            return [None]
        masses = torch.stack([self.scheme.mass(batch) for batch in micro_batches])
        total = self.accelerator.reduce(masses.sum(), reduction="sum").clamp(min=torch.finfo(masses.dtype).tiny)
        return list(masses / total)

    def _sum_gradients(self) -> None:
        """Add the gradients up over all processes, once a step and in one message.

        Not DistributedDataParallel: a scheme may run several modules, twice or in parts, through taps and
        connectors, and every one of these is more than a wrapper around one `forward` can follow.
        """
        if self.processes == 1:
            return
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.parameters
        ]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        flat = self.accelerator.reduce(flat, reduction="sum")
        parts = flat.split([gradient.numel() for gradient in gradients])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.settings.precision == "float32" else self.accelerator.autocast()

    # -- data ------------------------------------------------------------------------------------------------------

    def _batches(self, epoch: int) -> list[list[int]]:
        return order.batches(
            len(self.train),
            size=self.settings.batch_size,
            seed=self.seed,
            epoch=epoch,
            processes=self.processes,
        )

    def _optimizer_steps(self) -> Iterator[list[Mapping[str, Tensor]]]:
        """Load the rest of the epoch, from where the training stands."""
        done = self.progress.step - self.progress.epoch * self.steps_an_epoch
        batches = self._batches(self.progress.epoch)[done * self.settings.accumulate :]
        loader = DataLoader(
            self.train,  # type: ignore[arg-type]  # torch asks __getitems__ for whole batches
            batch_sampler=[order.share(batch, rank=self.rank, processes=self.processes) for batch in batches],
            collate_fn=_as_is,
            num_workers=self.settings.workers,
            # A generator of its own: the loader draws a number at each start, and a resumed run starts more often.
            generator=torch.Generator(),
        )
        gathered: list[Mapping[str, Tensor]] = []
        device = self.accelerator.device
        for number, batch in enumerate(loader, start=1):
            if device.type != "cpu":
                batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            gathered.append(batch)
            if len(gathered) == self.settings.accumulate or number == len(batches):
                yield gathered
                gathered = []

    # -- what is kept ----------------------------------------------------------------------------------------------

    def _model(self) -> nn.Module:
        return self.scheme.student if self.ema is None else self.ema.module

    def _choose(self, score: float) -> None:
        progress = self.progress
        progress.since_better = 0 if score > progress.best_score else progress.since_better + 1
        # At least as good counts: of equal epochs the later one has the smaller learning rate behind it.
        if score >= progress.best_score:
            progress.best_score, progress.best_epoch = score, progress.epoch
            if self.settings.keep == "best":
                self.best = {name: value.clone() for name, value in self._model().state_dict().items()}

    def _out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.progress.since_better >= self.settings.patience

    def _keep(self) -> None:
        chosen = self.best if self.settings.keep == "best" else self._model().state_dict()
        self.scheme.student.load_state_dict(chosen)
        self.scheme.student.eval()

    def _moving_average(self) -> Any:
        if self.settings.ema is None:
            return None
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        return AveragedModel(self.scheme.student, multi_avg_fn=get_ema_multi_avg_fn(self.settings.ema))

    def _share_between_processes(self) -> None:
        if self.processes == 1:
            return
        from accelerate.utils import broadcast

        from limbeck.training.synchronized_norm import synchronize

        for module in self.scheme.modules().values():
            synchronize(module)
            for tensor in module.state_dict().values():
                broadcast(tensor)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _save_if_due(self, interrupted: bool) -> None:
        due = time.monotonic() - self.saved_at >= self.settings.checkpoint_every
        if self.processes > 1:  # every process must decide alike; the first one's clock counts
            flags = torch.tensor([due, interrupted], device=self.accelerator.device, dtype=torch.int32)
            due, interrupted = (bool(flag) for flag in self.accelerator.reduce(flags, reduction="sum"))
        if due or interrupted:
            self._save()
        if interrupted:
            raise KeyboardInterrupt

    def _save(self) -> None:
        tensors, random_states = randomness.capture()
        processes = _gather({"tensors": tensors, "plain": random_states}, self.accelerator)
        self.tally.merge(self.accelerator)
        if self.accelerator.is_main_process:
            named = {f"random/{rank}/{name}": value for rank, one in enumerate(processes) for name, value in one["tensors"].items()}
            named |= {f"{owner}/{name}": value for owner, state in self._stateful().items() for name, value in state.items()}
            optimizer, described = _flatten(self.optimizer.state_dict())
            plain = {
                "progress": self.progress.as_dict(),
                "random": [one["plain"] for one in processes],
                "optimizer": described,
                "log_lines": self.log.lines,
                "tally": self.tally.names,
                "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            }
            state = checkpoint.State(named | optimizer, plain)
            checkpoint.save(self.folder / "checkpoint", state, step=self.progress.step)
        self.accelerator.wait_for_everyone()
        self.saved_at = time.monotonic()

    def _stateful(self) -> dict[str, dict[str, Tensor]]:
        states = {f"module/{name}": dict(module.state_dict()) for name, module in self.scheme.modules().items()}
        states["best"] = self.best
        states["tally"] = self.tally.state()
        if self.ema is not None:
            states["ema"] = dict(self.ema.state_dict())
        return states

    def restore(self, state: checkpoint.State) -> None:
        """Take up a saved training where it stood."""
        tensors, plain = state.tensors, state.plain
        if len(plain["random"]) != self.processes:
            raise checkpoint.CheckpointError(
                f"{self.folder}: saved by {len(plain['random'])} processes, resumed by {self.processes}; "
                "resume with as many, or start anew without --resume."
            )
        for name, module in self.scheme.modules().items():
            module.load_state_dict(_under(tensors, f"module/{name}/"))
        if self.ema is not None:
            self.ema.load_state_dict(_under(tensors, "ema/"))
        self.best = {name: value.to(self.accelerator.device) for name, value in _under(tensors, "best/").items()}
        self.optimizer.load_state_dict(_unflatten(tensors, plain["optimizer"]))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(plain["scaler"])
        self.progress = Progress(**plain["progress"])
        sums = _under(tensors, "tally/")
        self.tally.restore(plain["tally"], sums, first=self.accelerator.is_main_process)
        self.log.truncate(plain["log_lines"])
        randomness.restore(_under(tensors, f"random/{self.rank}/"), plain["random"][self.rank])


def _as_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _gather(item: dict[str, Any], accelerator: Accelerator) -> list[dict[str, Any]]:
    if accelerator.num_processes == 1:
        return [item]
    from accelerate.utils import gather_object

    gathered: list[dict[str, Any]] = gather_object([item])
    return gathered


def _flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Part an optimiser's state into named tensors and plain data."""
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


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Let a first interrupt wait until the step is whole; a second one does not wait."""
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def hear(number: int, frame: object) -> None:
        if heard:
            raise KeyboardInterrupt
        heard.append(number)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(heard)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
