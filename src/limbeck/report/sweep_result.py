"""The typed result of a sweep: the schema of `sweep.json`, from which its page is drawn."""

from __future__ import annotations

from typing import Any, Literal, get_args

from limbeck.evaluate.accuracy import Accuracy
from limbeck.evaluate.interval import Result
from limbeck.report.result import BudgetCheck, Environment

Cost = Literal["size", "latency", "flops", "parameters", "memory", "energy"]
COSTS: tuple[Cost, ...] = get_args(Cost)


class Figures(Result):
    """The quality of one trial's student, and the cost of its exported file.

    Attributes:
        accuracy: Accuracy on the validation samples, the mean over seeds.
        accuracy_drop: Teacher minus student; `None` without a teacher.
        size: Bytes of the file.
        latency: Median time per inference in milliseconds, at batch 1 on one thread.
        flops: Operations per inference; a multiply-add counts as two.
        parameters: Parameters of the network behind the file.
        memory: Peak memory of the runtime in bytes.
        energy: Estimated joules per inference; `None` if not measured.
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
    """A choice of settings and its outcome.

    Attributes:
        number: Its folder in `trials/`.
        settings: The value at each path of the space.
        state: Whether it is done, failed, or not finished yet.
        seconds: Its duration; 0 until it ends.
        figures: The measurements, if it is done.
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
    """The trial that a budget selects, or the one nearest to meeting it.

    Attributes:
        number: The trial.
        fits: Whether it meets every line.
        checks: The lines of the budget, accuracies on the validation samples.
        test: Its accuracy on the test samples, if it was chosen; no other trial is tested.
    """

    number: int
    fits: bool
    checks: tuple[BudgetCheck, ...]
    test: Accuracy | None


class SweepResult(Result):
    """The result of a sweep.

    Attributes:
        name: The recipe's name.
        task: The recipe's task.
        space: Each path with its choices, as written.
        costs: The minimised costs; accuracy is maximised.
        sampler: The sampler of the settings.
        trials: By number.
        views: Accuracy against each cost.
        chosen: The trial that the budget selects; `None` without a budget.
        environment: Hardware and software; the time is that of all trials together.
        notes: Notes that a reader needs to judge the figures.
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
        """Return the finished trials."""
        return tuple(trial for trial in self.trials if trial.state == "done")

    @property
    def front(self) -> tuple[Trial, ...]:
        """Return the trials on the Pareto front."""
        return tuple(trial for trial in self.trials if trial.front)

    def trial(self, number: int) -> Trial:
        """Return a trial by its number."""
        return next(trial for trial in self.trials if trial.number == number)
