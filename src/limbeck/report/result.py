"""What a run found, typed: `run.json` is this and nothing else, and every page is drawn from it."""

from __future__ import annotations

from typing import Any, Literal

from limbeck.evaluate.accuracy import Accuracy
from limbeck.evaluate.calibration import Calibration
from limbeck.evaluate.cost import Cost
from limbeck.evaluate.evaluation import Evaluation
from limbeck.evaluate.fidelity import Fidelity, Parity
from limbeck.evaluate.hardware import Hardware
from limbeck.evaluate.interval import Result, Summary

Role = Literal["teacher", "student", "baseline"]


class DataFacts(Result):
    """Which data a run saw, and how it was divided."""

    source: str
    name: str
    licence: str
    fingerprint: str
    classes: tuple[str, ...]
    train: int
    validation: int
    test: int
    notes: tuple[str, ...] = ()


class Measured(Result):
    """One artefact of one seed, measured as it ships; accuracy is that on the test set.

    `right` says of every test sample whether the answer was right, packed by `pack_right`.
    """

    seed: int
    file: str
    digest: str
    validation_accuracy: float
    accuracy: Accuracy
    fidelity: Fidelity | None
    calibration: Calibration
    cost: Cost
    parity: Parity | None
    confusion: tuple[tuple[int, ...], ...]
    right: str = ""


class Link(Result):
    """One link of the chain from teacher to shipped student: a stage, and every seed's figures."""

    stage: str
    label: str
    role: Role
    what: str
    seconds: Summary
    measured: tuple[Measured, ...]
    accuracy: Summary
    notes: tuple[str, ...] = ()


class Comparison(Result):
    """The student against its twin on labels alone, seed by seed: student less baseline."""

    student: Summary
    baseline: Summary
    difference: Summary


class BudgetCheck(Result):
    """One line of the budget: what was allowed, what was measured, and whether it fits.

    `conclusive` is false where the measurement varies so much that its median decides nothing.
    """

    name: str
    allowed: float
    measured: float
    unit: str
    met: bool
    conclusive: bool = True

    @property
    def word(self) -> str:
        """The outcome in one word: met, missed or inconclusive."""
        return ("met" if self.met else "missed") if self.conclusive else "inconclusive"


class Curve(Result):
    """One training: an epoch a row (epoch, train/…, validation/…); whose, and which seed."""

    label: str
    role: Role = "student"
    seed: int | None = None
    rows: tuple[dict[str, float], ...]


class Disagreement(Result):
    """A test sample to which teacher and shipped student answer differently.

    `picture` is a PNG in base64 for images; `text` the sentence for text.
    """

    index: int
    label: int
    teacher: tuple[float, ...]
    student: tuple[float, ...]
    picture: str | None = None
    text: str | None = None


class Environment(Result):
    """Where and with what the run was made."""

    hardware: Hardware
    versions: dict[str, str]
    git_commit: str | None
    command: str
    started: str
    seconds: float


class RunResult(Result):
    """Everything a run found.

    The last link of `chain` is what ships. `chain[0]` is the teacher when the run has one. Lists
    that hold one entry a seed follow the order of `seeds`; what ships is the first seed's student,
    and `evaluation` is of that one.
    """

    schema_version: Literal[1] = 1
    name: str
    task: str
    recipe: dict[str, Any]
    seeds: tuple[int, ...]
    data: DataFacts
    chain: tuple[Link, ...]
    baseline: Link | None
    comparison: Comparison | None
    budget: tuple[BudgetCheck, ...]
    curves: tuple[Curve, ...]
    class_similarity: tuple[tuple[float, ...], ...] | None
    similarity_temperature: float
    disagreements: tuple[Disagreement, ...]
    disagreement_count: int
    environment: Environment
    evaluation: Evaluation | None = None
    notes: tuple[str, ...] = ()

    @property
    def teacher(self) -> Link | None:
        """The link that holds the teacher, or none if the run had no teacher."""
        return next((link for link in self.chain if link.role == "teacher"), None)

    @property
    def shipped(self) -> Link:
        """The link that ships: the last of the chain."""
        return self.chain[-1]

    @property
    def within_budget(self) -> bool:
        """Whether every line of the budget is met, conclusively (true when there is no budget)."""
        return all(check.met and check.conclusive for check in self.budget)
