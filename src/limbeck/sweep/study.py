"""File locks held by one process; the operating system releases them when it dies."""

from __future__ import annotations

import os
import random
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.core import fingerprint
from limbeck.core.imports import require
from limbeck.errors import InputError, Problem
from limbeck.report.sweep import Figures, Trial
from limbeck.sweep.plan import LOCK, NEUTRAL, STUDY, Plan, directions, values
from limbeck.sweep.sampler import Sampler
from limbeck.sweep.space import coded, grid, key, size


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a file, waiting until it is free, and release it at the end of the block.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "lock"
        >>> with held(path):
        ...     is_held(path)
        True
        >>> is_held(path)
        False
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        _lock(file.fileno(), wait=True)
        yield


def is_held(path: Path) -> bool:
    """Return whether a living process holds the lock of a file."""
    try:
        with path.open("r+") as file:
            return not _lock(file.fileno(), wait=False)
    except FileNotFoundError:
        return False


def _lock(descriptor: int, *, wait: bool) -> bool:
    if sys.platform == "win32":  # pragma: no cover - no advisory locks of this kind there
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


NAME = "sweep"
WORKERS = ".workers"
BEGUN, ENDED = "begun", "ended"
LISTED = 100_000
"""The most settings searched for one that was not tried yet."""

GENERATION = 12
"""The NSGA-II population size: a sweep has tens of trials, not thousands."""


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

    Args:
        plan: The plan of the sweep.

    Raises:
        InputError: Optuna is not installed, or the folder holds a sweep with another plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._optuna = require("optuna", extra="sweep")
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        self._plan = plan
        self._me = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with held(plan.out / LOCK):
            self._study = self._opened()
        self._check()

    @contextmanager
    def worked(self) -> Iterator[None]:
        """Register this worker as alive during the block."""
        place = self._place(self._me)
        with held(place):
            yield
        place.unlink(missing_ok=True)

    def take(self) -> Taken | None:
        """Return the next trial; `None` if the number is reached or all settings were tried."""
        with held(self._plan.out / LOCK):
            self._bury()
            trials = self.trials()
            if not self._waiting():
                if len(trials) >= self._plan.trials or len(trials) == size(self._plan.space):
                    return None
                if self._plan.sampler is Sampler.grid:
                    self._queue(next(self._untried(trials)))
            taken = self._asked(trials)
            noted = {"number": taken.number, "settings": taken.settings, "worker": self._me}
            taken.trial.set_user_attr(BEGUN, noted)
            return taken

    def finish(self, taken: Taken, figures: Figures, seconds: float) -> None:
        """Store the figures of a finished trial.

        Raises:
            LimbeckError: An objective was not measured.
        """
        found = values(figures, self._plan.costs)
        noted = {"figures": figures.model_dump(mode="json"), "seconds": seconds}
        taken.trial.set_user_attr(ENDED, noted)
        self._study.tell(taken.trial, found)

    def fail(self, taken: Taken, reason: str, seconds: float) -> None:
        """Store the reason of a failed trial."""
        taken.trial.set_user_attr(ENDED, {"reason": reason, "seconds": seconds})
        self._study.tell(taken.trial, state=self._optuna.trial.TrialState.FAIL)

    def trials(self) -> list[Trial]:
        """Return the trials by number, each with the state of its last attempt."""
        found = {}
        for one in self._study.get_trials(deepcopy=False):
            if BEGUN in one.user_attrs:
                found[one.user_attrs[BEGUN]["number"]] = self._read(one)
        return [found[number] for number in sorted(found)]

    def _opened(self) -> Any:
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
        asked = {
            "--vary": {path: str(domain) for path, domain in sorted(self._plan.space.items())},
            "--objective": list(self._plan.costs),
            "recipe": fingerprint.of_json(recipe),
        }
        before = self._study.user_attrs.get("asked")
        if before is None:
            self._study.set_user_attr("asked", asked)
            return
        fix = "Give another --out for another sweep."
        problems = [
            Problem(name, asked[name], f"{before[name]}, as the sweep in {self._plan.out} has", fix)
            for name in asked
            if asked[name] != before[name]
        ]
        if problems:
            raise InputError(*problems)

    def _asked(self, trials: Sequence[Trial]) -> Taken:
        """Return a trial suggested by the sampler; replace repeated by random untried settings."""
        taken = self._suggested(trials)
        tried = {key(trial.settings): trial.number for trial in trials}
        duplicate = tried.get(key(taken.settings))
        count = size(self._plan.space)
        if duplicate in (None, taken.number) or count is None or count > LISTED:
            return taken
        self._study.tell(taken.trial, state=self._optuna.trial.TrialState.FAIL)
        self._queue(random.Random(self._seed()).choice(list(self._untried(trials))))
        return self._suggested(trials)

    def _suggested(self, trials: Sequence[Trial]) -> Taken:
        self._study.sampler = self._sampler()
        trial = self._study.ask()
        settings = {path: one.suggest(trial, path) for path, one in self._plan.space.items()}
        again = trial.user_attrs.get(BEGUN)
        fresh = max((one.number for one in trials), default=-1) + 1
        return Taken(again["number"] if again else fresh, settings, trial)

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
        made = len(self._study.get_trials(deepcopy=False))
        return int(fingerprint.of_json([self._plan.seed, made])[:8], 16)

    def _untried(self, trials: Sequence[Trial]) -> Iterator[dict[str, Any]]:
        """Iterate over the settings that no trial has."""
        tried = {key(trial.settings) for trial in trials}
        return (settings for settings in grid(self._plan.space) if key(settings) not in tried)

    def _queue(self, settings: Mapping[str, Any], again: Mapping[str, Any] | None = None) -> None:
        space = self._plan.space
        params = {path: coded(space[path], value) for path, value in settings.items()}
        self._study.enqueue_trial(params, user_attrs={BEGUN: dict(again)} if again else None)

    def _waiting(self) -> bool:
        states = (self._optuna.trial.TrialState.WAITING,)
        return bool(self._study.get_trials(deepcopy=False, states=states))

    def _bury(self) -> None:
        """Mark the trials of dead workers as failed, and queue them again."""
        states = self._optuna.trial.TrialState
        for one in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            begun = one.user_attrs.get(BEGUN)
            if begun is not None and is_held(self._place(begun["worker"])):
                continue
            # Queued first: being killed in between leaves a trial too many, not one too few.
            if begun is not None:
                self._queue(begun["settings"], begun)
            self._study.tell(one.number, state=states.FAIL)
            if begun is not None:
                self._place(begun["worker"]).unlink(missing_ok=True)

    def _place(self, worker: str) -> Path:
        return self._plan.out / WORKERS / worker

    def _read(self, one: Any) -> Trial:
        """Convert an Optuna trial; a killed one, which will be repeated, counts as running."""
        begun, ended = one.user_attrs[BEGUN], one.user_attrs.get(ENDED, {})
        states = self._optuna.trial.TrialState
        state = "running"
        if one.state == states.COMPLETE or (one.state == states.FAIL and ended):
            state = "done" if one.state == states.COMPLETE else "failed"
        noted = ended if state != "running" else {}
        return Trial.model_validate(
            {"number": begun["number"], "settings": begun["settings"], "state": state, **noted}
        )
