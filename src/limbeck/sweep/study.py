"""The book of a sweep's trials: an Optuna study in SQLite, and the locks of its workers."""

from __future__ import annotations

import os
import random
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from limbeck.core import fingerprint
from limbeck.core.imports import require
from limbeck.errors import InputError, Problem
from limbeck.report.sweep import Figures, Trial
from limbeck.sweep.plan import LOCK, NEUTRAL, STUDY, Plan, directions, values
from limbeck.sweep.sampler import Sampler
from limbeck.sweep.space import encode, grid, key, size

NAME = "sweep"
WORKERS = ".workers"
BEGUN, ENDED = "begun", "ended"
LISTED = 100_000
"""The most settings searched for one that was not tried yet."""

GENERATION = 12
"""The NSGA-II population size: a sweep has tens of trials, not thousands."""


def lock_of(path: Path) -> FileLock:
    """Return the lock of a file, in a folder that is created; a dead process releases it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "lock"
        >>> with lock_of(path):
        ...     is_held(path)
        True
        >>> is_held(path)
        False
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def is_held(path: Path) -> bool:
    """Return whether a living process holds the lock of a file; the file is not created."""
    if not path.exists():
        return False
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


@dataclass(frozen=True)
class Taken:
    """A trial assigned to a worker."""

    number: int
    settings: dict[str, Any]
    trial: Any


class Study:
    """The Optuna study of a sweep, stored in SQLite for several workers.

    Trials start and end under one lock, so that no two workers run the same one. Each worker holds
    a lock file while it lives: an unfinished trial without a living worker was killed. It is marked
    as failed, and queued again under the same number.

    Raises:
        InputError: Optuna is not installed, or the folder holds a sweep with another plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._optuna = require("optuna", extra="sweep")
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        self._states = self._optuna.trial.TrialState
        self._plan = plan
        self._worker = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with self._lock():
            self._study = self._open()
        self._check()

    @contextmanager
    def registered(self) -> Iterator[None]:
        """Register this worker as alive during the block."""
        path = self._worker_file(self._worker)
        with lock_of(path):
            yield
        path.unlink(missing_ok=True)

    def take(self) -> Taken | None:
        """Return the next trial; `None` if the number is reached or all settings were tried."""
        with self._lock():
            self._requeue_killed()
            trials = self.trials()
            if not self._attempts(self._states.WAITING):
                if len(trials) >= self._plan.trials or len(trials) == size(self._plan.space):
                    return None
                if self._plan.sampler is Sampler.grid:
                    self._queue(next(self._untried(trials)))
            taken = self._untried_suggestion(trials)
            begun = {"number": taken.number, "settings": taken.settings, "worker": self._worker}
            taken.trial.set_user_attr(BEGUN, begun)
            return taken

    def finish(self, taken: Taken, figures: Figures, seconds: float) -> None:
        """Store the figures of a finished trial.

        Raises:
            LimbeckError: An objective was not measured.
        """
        objectives = values(figures, self._plan.costs)
        ended = {"figures": figures.model_dump(mode="json"), "seconds": seconds}
        taken.trial.set_user_attr(ENDED, ended)
        self._study.tell(taken.trial, objectives)

    def fail(self, taken: Taken, reason: str, seconds: float) -> None:
        """Store the reason of a failed trial."""
        taken.trial.set_user_attr(ENDED, {"reason": reason, "seconds": seconds})
        self._study.tell(taken.trial, state=self._states.FAIL)

    def trials(self) -> list[Trial]:
        """Return the trials by number, each with the state of its last attempt."""
        found = {}
        for attempt in self._attempts():
            if BEGUN in attempt.user_attrs:
                found[attempt.user_attrs[BEGUN]["number"]] = self._read(attempt)
        return [found[number] for number in sorted(found)]

    def _lock(self) -> FileLock:
        return lock_of(self._plan.out / LOCK)

    def _worker_file(self, worker: str) -> Path:
        return self._plan.out / WORKERS / worker

    def _attempts(self, *states: Any) -> list[Any]:
        """Return Optuna's trials, in some states or in all; a repeated trial is one more."""
        found: list[Any] = self._study.get_trials(deepcopy=False, states=states or None)
        return found

    def _open(self) -> Any:
        path = (self._plan.out / STUDY).absolute()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            # Another worker may be writing: wait for it rather than fail.
            storage = self._optuna.storages.RDBStorage(
                f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 100}}
            )
            return self._optuna.create_study(
                study_name=NAME,
                storage=storage,
                directions=directions(self._plan.costs),
                load_if_exists=True,
            )

    def _check(self) -> None:
        """Raise an error for a study with another plan, whose trials are not comparable."""
        recipe = {name: part for name, part in self._plan.content.items() if name not in NEUTRAL}
        planned = {
            "--vary": {path: str(domain) for path, domain in sorted(self._plan.space.items())},
            "--minimize": list(self._plan.costs),
            "--select": self._plan.select.value,
            "recipe": fingerprint.of_json(recipe),
        }
        stored = self._study.user_attrs.get("planned")
        if stored is None:
            self._study.set_user_attr("planned", planned)
            return
        fix = "Give another --out for another sweep."
        problems = [
            Problem(name, value, f"{stored.get(name)}, as the sweep in {self._plan.out} has", fix)
            for name, value in planned.items()
            if value != stored.get(name)
        ]
        if problems:
            raise InputError(*problems)

    def _untried_suggestion(self, trials: Sequence[Trial]) -> Taken:
        """Return a trial suggested by the sampler; replace repeated by random untried settings."""
        taken = self._suggestion(trials)
        tried = {key(trial.settings): trial.number for trial in trials}
        duplicate = tried.get(key(taken.settings))
        count = size(self._plan.space)
        if duplicate in (None, taken.number) or count is None or count > LISTED:
            return taken
        self._study.tell(taken.trial, state=self._states.FAIL)
        self._queue(random.Random(self._seed()).choice(list(self._untried(trials))))
        return self._suggestion(trials)

    def _suggestion(self, trials: Sequence[Trial]) -> Taken:
        self._study.sampler = self._sampler()
        trial = self._study.ask()
        settings = {path: one.suggest(trial, path) for path, one in self._plan.space.items()}
        repeated = trial.user_attrs.get(BEGUN)
        fresh = max((one.number for one in trials), default=-1) + 1
        return Taken(repeated["number"] if repeated else fresh, settings, trial)

    def _sampler(self) -> Any:
        # Rebuilt for each trial and seeded by the number of trials, so that a resumed sweep
        # continues as an uninterrupted one.
        samplers = self._optuna.samplers
        if self._plan.sampler is Sampler.nsga2:
            return samplers.NSGAIISampler(population_size=GENERATION, seed=self._seed())
        if self._plan.sampler is Sampler.grid:
            return samplers.RandomSampler(seed=self._seed())
        return samplers.TPESampler(seed=self._seed())

    def _seed(self) -> int:
        return int(fingerprint.of_json([self._plan.seed, len(self._attempts())])[:8], 16)

    def _untried(self, trials: Sequence[Trial]) -> Iterator[dict[str, Any]]:
        tried = {key(trial.settings) for trial in trials}
        return (settings for settings in grid(self._plan.space) if key(settings) not in tried)

    def _queue(self, settings: Mapping[str, Any], begun: Mapping[str, Any] | None = None) -> None:
        space = self._plan.space
        params = {path: encode(space[path], value) for path, value in settings.items()}
        self._study.enqueue_trial(params, user_attrs={BEGUN: dict(begun)} if begun else None)

    def _requeue_killed(self) -> None:
        """Mark the trials of dead workers as failed, and queue them again."""
        for attempt in self._attempts(self._states.RUNNING):
            begun = attempt.user_attrs.get(BEGUN)
            if begun is None:
                self._study.tell(attempt.number, state=self._states.FAIL)
            elif not is_held(self._worker_file(begun["worker"])):
                # Queued first: being killed in between leaves a trial too many, not one too few.
                self._queue(begun["settings"], begun)
                self._study.tell(attempt.number, state=self._states.FAIL)
                self._worker_file(begun["worker"]).unlink(missing_ok=True)

    def _read(self, attempt: Any) -> Trial:
        """Convert an Optuna trial; a killed one, which will be repeated, counts as running."""
        begun, ended = attempt.user_attrs[BEGUN], attempt.user_attrs.get(ENDED, {})
        content = {"number": begun["number"], "settings": begun["settings"], "state": "running"}
        if attempt.state == self._states.COMPLETE:
            content |= {**ended, "state": "done"}
        elif attempt.state == self._states.FAIL and ended:
            content |= {**ended, "state": "failed"}
        return Trial.model_validate(content)
