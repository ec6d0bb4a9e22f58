"""The training loop, independent of the scheme's `step`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from limbeck.core.process import SignalGuard
from limbeck.errors import InputError, Problem
from limbeck.tasks import Batch
from limbeck.training import checkpoint
from limbeck.training.log import History, Log
from limbeck.training.optimizer import moving_average, rate
from limbeck.training.prepare import Channel, prepared
from limbeck.training.settings import Training
from limbeck.training.sharding import like
from limbeck.training.step import Stepper
from limbeck.training.stream import Data, Stream, build_loader

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.schemes.scheme import Scheme

Validate = Callable[[nn.Module], Mapping[str, float]]
TENTH = 10  # validations of data without a length


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
    train: Data | Stream | None,
    validate: Validate,
    settings: Training,
    folder: Path,
    seed: int,
    accelerator: Accelerator,
    resume: bool = True,
    progress_bar: ProgressBar | None = None,
    greater_is_better: bool = True,
    ship: str | None = None,
) -> History:
    """Train a scheme, and leave the student that ships with the weights of the best validation.

    Other students keep their last weights. All are left in evaluation mode, and every module on its
    original device.

    Args:
        scheme: The scheme that computes one step.
        train: The training data: a map-style data set, an iterable of batches or of samples (see
            `Stream`), or None for a scheme that draws its own batches.
        validate: A function that evaluates a model on the validation samples; its first metric
            selects the best weights. NaN is worse than any value.
        settings: The training settings.
        folder: The folder of `log.jsonl` and `checkpoint/`.
        seed: The seed of the sample order; initial weights are the caller's.
        accelerator: The device and the processes. The precision is that of the settings.
        resume: Whether to resume from the newest valid checkpoint in `folder`, with bit-identical
            results. Otherwise older checkpoints are removed.
        progress_bar: The progress reporter, called every step and every validation.
        greater_is_better: Whether a higher value of the first metric is better.
        ship: The name of the student that is validated and ships, by default the first; `"best"`
            validates all and chooses the best one.

    Raises:
        KeyboardInterrupt: The user interrupted; a checkpoint was saved first.
        InputError: There are no training samples, no trainable parameters, no such student, or
            `epochs` for data without a length.
        CheckpointError: No checkpoint is valid, or they are of another training.
        LimbeckError: A loss term is NaN or infinite, or a checkpoint could not be written.
    """
    with prepared(scheme, settings=settings, accelerator=accelerator) as channel:
        loop = _Loop(
            scheme,
            train,
            validate,
            settings,
            folder,
            seed,
            accelerator,
            progress_bar or NullProgressBar(),
            channel,
            sign=1.0 if greater_is_better else -1.0,
            ship=ship,
        )
        loop.begin(resume=resume)
        with SignalGuard() as signals:
            history = loop.run(signals)
        loop.keep()
    return history


BEST = "best"
"""The name that chooses the student that ships by validation."""


def _candidates(scheme: Scheme, ship: str | None) -> list[str]:
    """Return the names of the students that are validated.

    Raises:
        InputError: There is no student of this name.
    """
    names = list(scheme.students)
    if ship in (None, BEST):
        return names[:1] if ship is None else names
    if ship not in names:
        raise InputError(Problem("ship", ship, f"{BEST}, {', '.join(names)}"))
    return [ship]


class _Loop:
    """The state of a running training, with the arguments of `fit`."""

    def __init__(
        self,
        scheme: Scheme,
        train: Data | Stream | None,
        validate: Validate,
        settings: Training,
        folder: Path,
        seed: int,
        accelerator: Accelerator,
        progress_bar: ProgressBar,
        channel: Channel,
        *,
        sign: float,
        ship: str | None,
    ) -> None:
        self.scheme, self.validate, self.sign = scheme, validate, sign
        self.settings, self.accelerator = settings, accelerator
        self.folder, self.progress_bar = folder / "checkpoint", progress_bar
        self.candidates = _candidates(scheme, ship)
        self.loader = build_loader(
            train,
            scheme,
            settings,
            seed=seed,
            accelerator=accelerator,
            begin_epoch=self._begin_epoch,
        )
        self.stepper = Stepper(scheme, settings, accelerator, channel)
        self.averages = {}
        if settings.ema_decay is not None:
            self.averages = {
                name: moving_average(scheme.students[name], decay=settings.ema_decay)
                for name in self.candidates
            }
        self.training = checkpoint.identity(
            settings,
            seed=seed,
            samples=self.loader.samples,
            ship=ship or self.candidates[0],
            phases=self.stepper.optimizers,
            accelerator=accelerator,
        )
        self.state = checkpoint.Run(
            modules={
                **scheme.modules_to_save(),
                **{f"average/{name}": average for name, average in self.averages.items()},
            },
            optimizers=self.stepper.optimizers,
            scaler=self.stepper.scaler,
            channel=channel,
            log=Log(folder / "log.jsonl", accelerator),
            loader=self.loader,
        )
        per_epoch = self.loader.steps_per_epoch
        self.total = settings.steps or (settings.epochs or 0) * (per_epoch or 0)
        self.interval = settings.validate_every or per_epoch or -(-self.total // TENTH)
        self.saved_at = time.monotonic()
        self.trains = False

    def _model(self, name: str) -> nn.Module:
        """Return what is validated of a student: its average, or itself."""
        average = self.averages.get(name)
        return self.scheme.students[name] if average is None else average.module

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
        progress, started = self.state.progress, time.monotonic()
        while not (self._ended() and progress.validated == progress.step):
            if self._validation_is_due():
                self._end_interval(started)
                started = time.monotonic()
            else:
                self._step(self.loader.next_step())
                self.progress_bar.update(progress.step, self.total, self._note())
            self._save_if_due(signals.received)
        best = self.settings.keep == "best"
        return History(
            rows=tuple(progress.rows),
            best_step=progress.best_step if best else progress.step,
            steps=progress.step,
            stopped_early=progress.step < self.total,
            student=self._chosen(),
        )

    def keep(self) -> None:
        name = self._chosen()
        best = self.settings.keep == "best"
        weights = self.state.best if best else self._model(name).state_dict()
        student = self.scheme.students[name]
        now = student.state_dict()  # of shards, where the best weights may be those of a checkpoint
        student.load_state_dict({key: like(value, now[key]) for key, value in weights.items()})
        for student in self.scheme.students.values():
            student.eval()

    def _chosen(self) -> str:
        """Return the name of the student that ships."""
        chosen = self.state.progress.best_student
        return chosen if chosen in self.candidates else self.candidates[0]

    def _ended(self) -> bool:
        progress, patience = self.state.progress, self.settings.patience
        return progress.step == self.total or (
            patience is not None and progress.since_better >= patience
        )

    # -- one step, and one interval ---------------------------------------------------------------

    def _begin_epoch(self, epoch: int) -> None:
        self.scheme.begin_epoch(epoch)
        self.trains = False

    def _step(self, micro_batches: list[Batch]) -> None:
        progress, every = self.state.progress, self.settings.log_every
        if not self.trains:  # after a validation, and after what a scheme does between epochs
            for module in self.scheme.modules_to_save().values():
                module.train()
            self.trains = True
        losses = self.stepper.train_step(micro_batches, progress.step / self.total)
        for name, average in self.averages.items():
            average.update_parameters(self.scheme.students[name])
        progress.step += 1
        self.scheme.after_step(progress.step)
        self.state.interval.add(losses)
        if every is not None:
            self.state.recent.add(losses)
            if progress.step % every == 0:
                self.state.log.write(self._row(self.state.recent.pop(self.accelerator)))

    def _validation_is_due(self) -> bool:
        step, validated = self.state.progress.step, self.state.progress.validated
        return step > validated and (step % self.interval == 0 or step == self.total)

    def _end_interval(self, started: float) -> None:
        """Validate, choose the best weights, and log."""
        progress, self.trains = self.state.progress, False
        found = self._validate()
        row = self._row(self.state.interval.pop(self.accelerator)) | {
            f"validation/{name}": value for name, value in found.items() if math.isfinite(value)
        }
        row["seconds"] = time.monotonic() - started
        progress.validated = progress.step
        progress.rows.append(row)
        self.state.log.write(row)
        self.progress_bar.update(progress.step, self.total, self._summary(row), milestone=True)

    def _row(self, losses: Mapping[str, float]) -> dict[str, float]:
        step, per_epoch = self.state.progress.step, self.loader.steps_per_epoch
        return {
            **({} if per_epoch is None else {"epoch": step / per_epoch}),
            "step": step,
            "learning_rate": rate((step - 1) / self.total, self.settings),
            **losses,
        }

    # -- what is reported -------------------------------------------------------------------------

    def _where(self) -> str:
        """Describe the position: the epoch, or the step."""
        step, per_epoch = self.state.progress.step, self.loader.steps_per_epoch
        if self.settings.epochs is None or per_epoch is None:
            return f"step {step}/{self.total}"
        return f"epoch {-(-step // per_epoch)}/{self.settings.epochs}"

    def _note(self) -> str:
        """Describe a step: the position, this step's loss, and the score of the last validation."""
        rows = self.state.progress.rows
        note = f"{self._where()}, loss {self.stepper.loss:.4g}"
        scores = _scores(rows[-1]) if rows else []
        return ", ".join([note, *scores[:1]])

    def _summary(self, row: Mapping[str, float]) -> str:
        """Describe an interval: the mean loss, its terms as weighted, and the validation scores."""
        terms = {
            name.removeprefix("train/").removesuffix("/weighted"): value
            for name, value in row.items()
            if name.endswith("/weighted")
        }
        loss = f"loss {row['train/loss']:.4g}"
        if len(terms) > 1:
            loss += f" ({', '.join(f'{name} {value:.4g}' for name, value in terms.items())})"
        learning_rate = f"learning rate {row['learning_rate']:.3g}"
        return ", ".join([self._where(), loss, *_scores(row), learning_rate])

    def _validate(self) -> dict[str, float]:
        """Validate every student that may ship; return the metrics, the best student's first."""
        progress, found = self.state.progress, dict[str, dict[str, float]]()
        for name in self.candidates:
            found[name] = self._metrics(self._model(name))

        def score(name: str) -> float:
            value = self.sign * next(iter(found[name].values()), math.nan)
            return -math.inf if math.isnan(value) else value

        best = max(self.candidates, key=score)
        if progress.choose(score(best), best) and self.settings.keep == "best":
            weights = self._model(best).state_dict()
            self.state.best = {name: value.clone() for name, value in weights.items()}
        if len(found) == 1:
            return found[best]
        others = {f"{name}/{key}": one for name in found for key, one in found[name].items()}
        return found[best] | others

    def _metrics(self, model: nn.Module) -> dict[str, float]:
        metrics = {name: float(value) for name, value in self.validate(model).items()}
        if self.accelerator.num_processes == 1:
            return metrics
        from accelerate.utils import broadcast_object_list

        # Every process must decide alike, so the main process's metrics are broadcast.
        first: list[dict[str, float]] = broadcast_object_list([metrics])
        return first[0]

    # -- checkpoints ------------------------------------------------------------------------------

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
    """Format the validation scores of a validation's row, the selecting metric first."""
    return [
        f"{name.replace('/', ' ')} {value:.4f}"
        for name, value in row.items()
        if name.startswith("validation/")
    ]
