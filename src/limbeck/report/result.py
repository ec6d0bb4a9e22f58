"""The typed result of a run: the schema of `run.json`, from which every page is drawn."""

from __future__ import annotations

from typing import Any, Literal

from limbeck.core.measurement import Metric, Result, ScoreValue
from limbeck.evaluate.calibration.metrics import Calibration
from limbeck.evaluate.costs import Cost
from limbeck.evaluate.detail_results import TaskDetails
from limbeck.evaluate.evaluation import Evaluation
from limbeck.evaluate.hardware import Hardware
from limbeck.evaluate.intervals import Summary
from limbeck.evaluate.metrics import Fidelity, Parity

Role = Literal["teacher", "student", "baseline"]


class DataFacts(Result):
    """The data of a run, and its splits."""

    modality: str
    source: str
    name: str
    licence: str
    fingerprint: str
    classes: tuple[str, ...]
    targets: tuple[str, ...] = ()
    train: int
    validation: int
    test: int
    notes: tuple[str, ...] = ()


class Measured(Result):
    """The measurements of one seed's artefact as exported; scores are those on the test set.

    The first score is the primary one. `majority` is the share of the most frequent class, by the
    weights of the samples. `right` holds whether the prediction of each test sample is
    correct, packed by `pack_right`.
    """

    seed: int
    file: str
    digest: str
    validation_score: float
    scores: tuple[ScoreValue, ...]
    fidelity: Fidelity | None
    calibration: Calibration | None
    cost: Cost
    parity: Parity | None
    confusion: tuple[tuple[int, ...], ...]
    right: str = ""
    majority: float | None = None

    @property
    def score(self) -> ScoreValue:
        """Return the primary score."""
        return self.scores[0]


class Link(Result):
    """A stage of the chain from teacher to exported student, with every seed's figures."""

    stage: str
    label: str
    role: Role
    what: str
    seconds: Summary
    measured: tuple[Measured, ...]
    score: Summary
    notes: tuple[str, ...] = ()


class Comparison(Result):
    """The student compared with the label-only baseline, seed by seed.

    `difference` is the gain of the student: positive where it is better.
    """

    student: Summary
    baseline: Summary
    difference: Summary


class BudgetCheck(Result):
    """A line of the budget: the allowed value, the measured value, and whether it is met.

    `metric` is that of a line about a score; with `at_least` the allowed value is a minimum.
    `conclusive` is false where the measurement varies so much that its median decides
    nothing.
    """

    name: str
    allowed: float
    measured: float
    unit: str
    met: bool
    conclusive: bool = True
    metric: Metric | None = None
    at_least: bool = False

    @property
    def word(self) -> str:
        """Return the outcome: met, missed or inconclusive."""
        return ("met" if self.met else "missed") if self.conclusive else "inconclusive"


class Curve(Result):
    """A training curve: a row per epoch (epoch, train/…, validation/…), with its role and seed."""

    label: str
    role: Role = "student"
    seed: int | None = None
    rows: tuple[dict[str, float], ...]


class Disagreement(Result):
    """A test sample for which teacher and exported student predict different classes.

    `image` is a PNG in base64 for images; `text` the sentence for text.
    """

    index: int
    label: int
    teacher: tuple[float, ...]
    student: tuple[float, ...]
    image: str | None = None
    text: str | None = None


class Environment(Result):
    """The hardware and the software of a run."""

    hardware: Hardware
    versions: dict[str, str]
    git_commit: str | None
    command: str
    started: str
    seconds: float


class RunResult(Result):
    """The result of a run.

    The last link of `chain` is the exported file. `chain[0]` is the teacher when the run has one.
    Lists with one entry per seed follow the order of `seeds`; the exported file is the first seed's
    student, and `evaluation` and `details` describe that one; `details` is None for tasks that have
    none, such as classification.
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
    details: TaskDetails | None = None
    environment: Environment
    evaluation: Evaluation | None = None
    notes: tuple[str, ...] = ()

    @property
    def metric(self) -> Metric:
        """Return the primary score's metric."""
        return self.shipped.measured[0].score.metric

    @property
    def teacher(self) -> Link | None:
        """Return the link of the teacher, or `None` if the run had no teacher."""
        return next((link for link in self.chain if link.role == "teacher"), None)

    @property
    def shipped(self) -> Link:
        """Return the link of the exported file: the last of the chain."""
        return self.chain[-1]

    @property
    def within_budget(self) -> bool:
        """Return whether every line of the budget is met, conclusively (true without a budget)."""
        return all(check.met and check.conclusive for check in self.budget)
