"""What a passport is made from: plain facts, filled by whoever made the student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class MetricFacts:
    """One measurement of a model.

    Attributes:
        name: What was measured, such as `accuracy` or `latency_p50`.
        value: The figure.
        low: The lower end of its interval, if it has one.
        high: The upper end of its interval, if it has one.
        unit: The unit, such as `ms`; empty for a share.
        slice: The data it was measured on, such as `test`.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    slice: str = ""


@dataclass(frozen=True)
class DatasetFacts:
    """Data that a model was made with.

    Attributes:
        name: The data's name.
        source: Where it came from: a recipe's source, a path, an address.
        fingerprint: A hash of its contents.
        licence: An SPDX id when there is one, else the licence's name; empty when not stated.
        classes: The names of its classes.
        counts: How many samples each split holds.
        terms: What its terms forbid or ask, of `terms.TERMS`, such as `non-commercial`.
    """

    name: str
    source: str = ""
    fingerprint: str = ""
    licence: str = ""
    classes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    terms: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """A model that the student descends from: a teacher, or a teacher's teacher.

    Attributes:
        name: The model's name.
        source: Where it came from: `taught in this run`, a hub id, an address.
        digest: The SHA-256 of its weights.
        version: Its version, if it has one.
        licence: An SPDX id when there is one, else the licence's name; empty when not stated.
        architecture: What it is built of.
        metrics: What was measured of it.
        data: What it was made with.
        ancestors: The models it descends from, any number of generations.
        owner: Who owns it; empty when not stated.
        terms: What its terms forbid or ask, of `terms.TERMS`, such as `no-distillation`.
        flags: What its export is held to, of `terms.FLAGS`, such as `dual-use`.
        risk: Its class under the EU AI Act, of `risk.CLASSES`; empty when not stated.
        risk_justification: Why that is lower than an ancestor's, if it is.
    """

    name: str
    source: str = ""
    digest: str = ""
    version: str = ""
    licence: str = ""
    architecture: str = ""
    metrics: tuple[MetricFacts, ...] = ()
    data: tuple[DatasetFacts, ...] = ()
    ancestors: tuple[ModelFacts, ...] = ()
    owner: str = ""
    terms: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    risk: str = ""
    risk_justification: str = ""


@dataclass(frozen=True)
class CarbonFacts:
    """The carbon that making a student let out.

    Attributes:
        grams: Grams of CO2 equivalent.
        grid_factor: Grams of CO2 equivalent per kWh of the grid.
        grid: Which grid and year that factor is of.
        scope: What was counted, such as `teaching and distilling, three seeds`.
    """

    grams: float
    grid_factor: float
    grid: str
    scope: str = ""


@dataclass(frozen=True)
class DifferenceFacts:
    """One figure of a student less its teacher's, and how large a loss was said not to matter.

    Attributes:
        name: What was measured, such as `accuracy under PGD, 8/255`.
        difference: Student less teacher.
        low: The lower end of its interval, if it has one.
        high: The upper end of its interval, if it has one.
        margin: How large a loss does not matter, in the same unit.
        better: Which way is good.
    """

    name: str
    difference: float
    low: float | None
    high: float | None
    margin: float
    better: Literal["higher", "lower"] = "higher"


@dataclass(frozen=True)
class PassportFacts:
    """Everything that a student's passport states.

    Attributes:
        name: The student's name.
        task: The recipe's task.
        folder: The student folder; every file in it but `passport.json` is listed.
        model_file: The file that ships, relative to the folder, with `/` between its parts.
        timestamp: When the student was made, with its time zone.
        version: The student's version.
        licence: The student's licence; empty when not stated.
        architecture_family: Such as `convolutional network`.
        architecture: Such as `digits_cnn`, with what sets its size.
        inputs: The form of each input, such as `image float32 [n, 1, 8, 8]`.
        outputs: The form of each output.
        teachers: The models whose answers it learned from.
        data: What it was made with.
        recipe: The resolved recipe.
        metrics: What was measured on the file that ships.
        versions: The software, by name; `limbeck` among them names the tool.
        seeds: The seeds of the run; the first is the shipped student's.
        git_commit: The commit of the working tree, if there is one.
        hardware: What it was made and measured on.
        limits: What it cannot do or was not tested for.
        tradeoffs: What was given up for what.
        owner: Who answers for the student.
        terms: What the student's own terms forbid or ask, of `terms.TERMS`.
        flags: What its export is held to, of `terms.FLAGS`; those of its ancestors are added.
        risk: The class of its own use, of `risk.CLASSES`; its ancestors' may raise it.
        risk_justification: Why its class may be lower than an ancestor's; it then is `risk`.
        robustness: The differences that its robustness is judged by.
        carbon: The carbon that making it let out.
        environment: What it was made in, by name, such as the CPU's flags.
        negative_results: What was tried and did not work.
    """

    name: str
    task: str
    folder: Path
    model_file: str
    timestamp: datetime
    version: str = ""
    licence: str = ""
    architecture_family: str = ""
    architecture: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    teachers: tuple[ModelFacts, ...] = ()
    data: tuple[DatasetFacts, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[MetricFacts, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    git_commit: str | None = None
    hardware: str = ""
    limits: tuple[str, ...] = ()
    tradeoffs: tuple[str, ...] = ()
    owner: str = ""
    terms: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    risk: str = ""
    risk_justification: str = ""
    robustness: tuple[DifferenceFacts, ...] = ()
    carbon: CarbonFacts | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    negative_results: tuple[str, ...] = ()
