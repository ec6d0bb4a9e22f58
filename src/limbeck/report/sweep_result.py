"""What a sweep found, typed: `sweep.json` is this and nothing else; its page is drawn from it."""

from __future__ import annotations

from typing import Any, Literal, get_args

from limbeck.evaluate.accuracy import Accuracy
from limbeck.evaluate.interval import Result
from limbeck.report.result import BudgetCheck, Environment

Cost = Literal["size", "latency", "flops", "parameters", "memory", "energy"]
COSTS: tuple[Cost, ...] = get_args(Cost)


class Figures(Result):
    """What the student of one trial is worth, and what its exported file costs.

    Attributes:
        accuracy: Share of right answers on the validation samples, the mean over seeds.
        accuracy_drop: The teacher's less the student's; none without a teacher.
        size: Bytes of the file.
        latency: Median time of one answer in milliseconds, at batch 1 on one thread.
        flops: Operations of one answer; a multiply-add counts as two.
        parameters: Of the network behind the file.
        memory: Peak memory of the runtime in bytes.
        energy: Joules of one answer, an estimate; none if it was not measured.
    """

    accuracy: float
    accuracy_drop: float | None
    size: int
    latency: float
    flops: int
    parameters: int
    memory: int
    energy: float | None


class Trial(Result):
    """One choice of settings, and what came of it.

    Attributes:
        number: Its folder in `trials/`.
        settings: The value at each path of the space.
        state: Whether it is done, failed, or is not at its end yet.
        seconds: How long it took; 0 before its end.
        figures: What was measured, if it is done.
        reason: Why it failed.
        front: Whether no other trial is at least as good in every objective and better in one.
    """

    number: int
    settings: dict[str, Any]
    state: Literal["done", "failed", "running"]
    seconds: float = 0.0
    figures: Figures | None = None
    reason: str = ""
    front: bool = False


class View(Result):
    """Accuracy against one cost: the trials on the front of these two, and its knee."""

    cost: Cost
    front: tuple[int, ...]
    knee: int | None


class Chosen(Result):
    """The trial that a budget picks, or the one that comes nearest to fitting.

    Attributes:
        number: The trial.
        fits: Whether it meets every line.
        checks: The lines of the budget, accuracies on the validation samples.
        test: Its accuracy on the test samples, if it was chosen; no other trial's is looked at.
    """

    number: int
    fits: bool
    checks: tuple[BudgetCheck, ...]
    test: Accuracy | None


class SweepResult(Result):
    """Everything a sweep found.

    Attributes:
        name: The recipe's name.
        task: What a batch means.
        space: Each path with its choices, as written.
        costs: What was minimised, beside accuracy maximised.
        sampler: Who chose the settings.
        trials: By number.
        views: Accuracy against each cost.
        chosen: What the budget picks; none without a budget.
        environment: Where and with what it was made; the time is that of all trials together.
        notes: What a reader must know to judge the numbers.
    """

    schema_version: Literal[1] = 1
    name: str
    task: str
    space: dict[str, str]
    costs: tuple[Cost, ...]
    sampler: str
    trials: tuple[Trial, ...]
    views: tuple[View, ...]
    chosen: Chosen | None
    environment: Environment
    notes: tuple[str, ...] = ()

    @property
    def done(self) -> tuple[Trial, ...]:
        """The trials that came to their end."""
        return tuple(trial for trial in self.trials if trial.state == "done")

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other beats."""
        return tuple(trial for trial in self.trials if trial.front)

    def trial(self, number: int) -> Trial:
        """Find a trial by its number."""
        return next(trial for trial in self.trials if trial.number == number)
