"""The training loop, independent of the scheme's `step`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from limbeck.core.process import SignalGuard
from limbeck.errors import InputError, Problem
from limbeck.tasks import Batch
from limbeck.training import checkpoint, data
from limbeck.training.data import Examples, load
from limbeck.training.log import History, Log
from limbeck.training.optimizer import moving_average, rate
from limbeck.training.prepare import Channel, prepared
from limbeck.training.settings import Training
from limbeck.training.step import Stepper

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.schemes.scheme import Scheme

Validate = Callable[[nn.Module], Mapping[str, float]]


class ProgressBar(Protocol):
    """The protocol of progress reporters: a progress bar, log lines, or nothing."""

    def update(self, done: int, total: int, note: str, *, milestone: bool = False) -> None:
        """Report that `done` of `total` steps are done.

        Args:
            done: The number of finished steps.
            total: The total number of steps.
            note: Epoch, losses and scores, as text.
            milestone: Whether a part such as an epoch is complete, for which a log writes a line.
        """
        ...


class NullProgressBar:
    """A progress reporter without output."""

    def update(self, done: int, total: int, note: str, *, milestone: bool = False) -> None:
        """Do nothing."""


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
    progress_bar: ProgressBar | None = None,
    greater_is_better: bool = True,
) -> History:
    """Train a scheme, and leave its first student with the weights of the best validation epoch.

    Other students keep their last weights. All are left in evaluation mode, and every module on its
    original device.

    Args:
        scheme: The scheme that computes one step.
        train: The training samples.
        validate: A function that evaluates a model on the validation samples; its first metric
            selects the best epoch. NaN is worse than any value.
        settings: The training settings.
        folder: The folder of `log.jsonl` and `checkpoint/`.
        seed: The seed of the sample order; initial weights are the caller's.
        accelerator: The device and the processes. The precision is that of the settings.
        resume: Whether to resume from the newest valid checkpoint in `folder`, with bit-identical
            results. Otherwise older checkpoints are removed.
        progress_bar: The progress reporter, called every step and every epoch.
        greater_is_better: Whether a higher value of the first metric is better.

    Raises:
        KeyboardInterrupt: The user interrupted; a checkpoint was saved first.
        InputError: There are no training samples, or no trainable parameters.
        CheckpointError: No checkpoint is valid, or they are of another training.
        LimbeckError: A loss term is NaN or infinite, or a checkpoint could not be written.
    """
    _check(train, settings, accelerator)
    with prepared(scheme, compiles=settings.compile, accelerator=accelerator) as channel:
        loop = _Loop(
            scheme, train, validate, settings, folder, seed, accelerator, progress_bar, channel
        )
        loop.sign = 1.0 if greater_is_better else -1.0
        loop.begin(resume=resume)
        with SignalGuard() as signals:
            history = loop.run(signals)
        loop.keep()
    return history


def _check(train: Examples, settings: Training, accelerator: Accelerator) -> None:
    processes = accelerator.num_processes
    wanted = f"at least {processes}, one for each process"
    sizes = {"batch_size": settings.batch_size, "training samples": len(train)}
    problems = [Problem(name, size, wanted) for name, size in sizes.items() if size < processes]
    if problems:
        raise InputError(*problems)


class _Loop:
    """The state of a running training, with the arguments of `fit`."""

    def __init__(
        self,
        scheme: Scheme,
        train: Examples,
        validate: Validate,
        settings: Training,
        folder: Path,
        seed: int,
        accelerator: Accelerator,
        progress_bar: ProgressBar | None,
        channel: Channel,
    ) -> None:
        self.scheme, self.train, self.validate = scheme, train, validate
        self.settings, self.seed, self.accelerator = settings, seed, accelerator
        self.folder, self.progress_bar = folder / "checkpoint", progress_bar or NullProgressBar()
        self.stepper = Stepper(scheme, settings, accelerator, channel)
        decay = settings.ema_decay
        self.average = None if decay is None else moving_average(self.student, decay=decay)
        self.model = self.student if self.average is None else self.average.module
        self.training = checkpoint.identity(
            settings,
            seed=seed,
            samples=len(train),
            phases=self.stepper.optimizers,
            accelerator=accelerator,
        )
        self.state = checkpoint.Run(
            modules={
                **scheme.modules_to_save(),
                **({} if self.average is None else {"average": self.average}),
            },
            optimizers=self.stepper.optimizers,
            scaler=self.stepper.scaler,
            channel=channel,
            log=Log(folder / "log.jsonl", accelerator),
        )
        batches = data.number_of_batches(
            len(train), size=settings.batch_size, processes=accelerator.num_processes
        )
        self.steps_per_epoch = -(-batches // settings.gradient_accumulation_steps)
        self.total = self.steps_per_epoch * settings.epochs
        self.saved_at = time.monotonic()
        self.sign = 1.0

    @property
    def student(self) -> nn.Module:
        """Return the student that is validated and ships."""
        return next(iter(self.scheme.students.values()))

    # -- from beginning to end --------------------------------------------------------------------

    def begin(self, *, resume: bool) -> None:
        content = checkpoint.latest(self.folder) if resume else None
        # No process may write while another one reads.
        self.accelerator.wait_for_everyone()
        if content is not None:
            checkpoint.unpack(self.state, content, self.training, self.accelerator)
            return
        self.state.log.begin()
        if self.accelerator.is_main_process:
            checkpoint.clear(self.folder)

    def run(self, signals: SignalGuard) -> History:
        progress, settings = self.state.progress, self.settings
        while progress.epoch < settings.epochs and not self._out_of_patience():
            self._epoch(signals)
        return History(
            rows=tuple(progress.rows),
            best_epoch=progress.best_epoch if settings.keep == "best" else progress.epoch,
            steps=progress.step,
            stopped_early=progress.epoch < settings.epochs,
        )

    def keep(self) -> None:
        chosen = self.state.best if self.settings.keep == "best" else self.model.state_dict()
        self.student.load_state_dict(chosen)
        for student in self.scheme.students.values():
            student.eval()

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.state.progress.since_better >= patience

    # -- one epoch --------------------------------------------------------------------------------

    def _epoch(self, signals: SignalGuard) -> None:
        started, progress = time.monotonic(), self.state.progress
        self.train.set_epoch(progress.epoch)
        self.scheme.begin_epoch(progress.epoch)
        for module in self.scheme.modules_to_save().values():
            module.train()
        for micro_batches in self._steps():
            self._step(micro_batches)
            self.progress_bar.update(progress.step, self.total, self._note())
            self._save_if_due(signals.received)
        metrics = self._validate()
        row = self._row(self.state.epoch.pop(self.accelerator)) | {
            f"validation/{name}": value for name, value in metrics.items() if math.isfinite(value)
        }
        row["seconds"] = time.monotonic() - started
        progress.epoch += 1
        progress.rows.append(row)
        if (
            progress.choose(self.sign * next(iter(metrics.values()), math.nan))
            and self.settings.keep == "best"
        ):
            weights = self.model.state_dict()
            self.state.best = {name: value.clone() for name, value in weights.items()}
        self.state.log.write(row)
        self.progress_bar.update(progress.step, self.total, self._summary(row), milestone=True)
        self._save_if_due(signals.received)

    def _step(self, micro_batches: list[Batch]) -> None:
        progress, every = self.state.progress, self.settings.log_every
        losses = self.stepper.train_step(micro_batches, progress.step / self.total)
        if self.average is not None:
            self.average.update_parameters(self.student)
        progress.step += 1
        self.scheme.after_step(progress.step)
        self.state.epoch.add(losses)
        if every is not None:
            self.state.recent.add(losses)
            if progress.step % every == 0:
                self.state.log.write(self._row(self.state.recent.pop(self.accelerator)))

    def _row(self, losses: Mapping[str, float]) -> dict[str, float]:
        step = self.state.progress.step
        return {
            "epoch": step / self.steps_per_epoch,
            "step": step,
            "learning_rate": rate((step - 1) / self.total, self.settings),
            **losses,
        }

    # -- what is reported -------------------------------------------------------------------------

    def _note(self) -> str:
        """Describe a step: the epoch, this step's loss, and the score of the epoch before."""
        progress = self.state.progress
        note = f"epoch {progress.epoch + 1}/{self.settings.epochs}, loss {self.stepper.loss:.4g}"
        scores = _scores(progress.rows[-1]) if progress.rows else []
        return ", ".join([note, *scores[:1]])

    def _summary(self, row: Mapping[str, float]) -> str:
        """Describe an epoch: the mean loss, its terms as weighted, and the validation scores."""
        terms = {
            name.removeprefix("train/").removesuffix("/weighted"): value
            for name, value in row.items()
            if name.endswith("/weighted")
        }
        loss = f"loss {row['train/loss']:.4g}"
        if len(terms) > 1:
            loss += f" ({', '.join(f'{name} {value:.4g}' for name, value in terms.items())})"
        epoch = f"epoch {self.state.progress.epoch}/{self.settings.epochs}"
        learning_rate = f"learning rate {row['learning_rate']:.3g}"
        return ", ".join([epoch, loss, *_scores(row), learning_rate])

    def _validate(self) -> dict[str, float]:
        metrics = {name: float(value) for name, value in self.validate(self.model).items()}
        if self.accelerator.num_processes == 1:
            return metrics
        from accelerate.utils import broadcast_object_list

        # Every process must decide alike, so the main process's metrics are broadcast.
        first: list[dict[str, float]] = broadcast_object_list([metrics])
        return first[0]

    # -- data and checkpoints ---------------------------------------------------------------------

    def _batches(self, epoch: int) -> list[list[int]]:
        return data.batches(
            len(self.train),
            size=self.settings.batch_size,
            seed=self.seed,
            epoch=epoch,
            processes=self.accelerator.num_processes,
        )

    def _steps(self) -> Iterator[list[Batch]]:
        """Yield the batches of each remaining optimiser step of the epoch."""
        progress, accumulate = self.state.progress, self.settings.gradient_accumulation_steps
        done = progress.step - progress.epoch * self.steps_per_epoch
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        rest = self._batches(progress.epoch)[done * accumulate :]
        batches = load(
            self.train,
            [data.share(batch, rank=rank, processes=processes) for batch in rest],
            workers=self.settings.num_workers,
            device=self.accelerator.device,
        )
        for _ in range(done, self.steps_per_epoch):
            yield list(islice(batches, accumulate))

    def _save_if_due(self, interrupted: bool) -> None:
        due = time.monotonic() - self.saved_at >= self.settings.checkpoint_every
        if self.accelerator.num_processes > 1:
            # Every process must decide alike: due for one process is due for all.
            flags = torch.tensor([due, interrupted], device=self.accelerator.device).int()
            due, interrupted = self.accelerator.reduce(flags, reduction="sum").bool().tolist()
        if due or interrupted:
            content = checkpoint.pack(self.state, self.training, self.accelerator)
            if self.accelerator.is_main_process:
                checkpoint.save(self.folder, content, step=self.state.progress.step)
            self.saved_at = time.monotonic()
        if interrupted:
            self.accelerator.wait_for_everyone()
            raise KeyboardInterrupt


def _scores(row: Mapping[str, float]) -> list[str]:
    """Format the validation scores of an epoch's row, the selecting metric first."""
    return [
        f"{name.replace('/', ' ')} {value:.4f}"
        for name, value in row.items()
        if name.startswith("validation/")
    ]
