"""Inputs of a passport: plain facts about a student, filled by its producer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class MetricFacts:
    """A measurement of a model.

    Attributes:
        name: The metric, such as `accuracy` or `latency_p50`.
        value: The measured value.
        low: The lower bound of its interval, if it has one.
        high: The upper bound of its interval, if it has one.
        unit: The unit, such as `ms`; empty for a share.
        slice: The split it was measured on, such as `test`.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    slice: str = ""


@dataclass(frozen=True)
class DatasetFacts:
    """Data that a model was trained on.

    Attributes:
        name: The data's name.
        source: Its origin: a recipe's source, a path, an address.
        fingerprint: A hash of its contents.
        licence: An SPDX id or the licence's name; empty when not stated.
        classes: The names of its classes.
        counts: The number of samples per split.
        terms: Restrictions and obligations from `policy.TERMS`, such as `non-commercial`.
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
        source: Its origin: `trained in this run`, a hub id, an address.
        digest: The SHA-256 of its weights.
        version: Its version, if it has one.
        licence: An SPDX id or the licence's name; empty when not stated.
        architecture: Its architecture.
        metrics: Its measurements.
        data: The data it was trained on.
        ancestors: The models it descends from, any number of generations.
        owner: Its owner; empty when not stated.
        terms: Restrictions and obligations from `policy.TERMS`, such as `no-distillation`.
        flags: Export-control flags from `policy.FLAGS`, such as `dual-use`.
        risk: Its class under the EU AI Act, from `policy.CLASSES`; empty when not stated.
        risk_justification: The reason why that is lower than an ancestor's, if it is.
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
    """The carbon emissions of producing a student.

    Attributes:
        grams: Grams of CO2 equivalent.
        grid_factor: Grams of CO2 equivalent per kWh of the grid.
        grid: The grid and year of that factor.
        scope: What was counted, such as `training and distillation, three seeds`.
    """

    grams: float
    grid_factor: float
    grid: str
    scope: str = ""


@dataclass(frozen=True)
class DifferenceFacts:
    """A metric of a student minus its teacher's, with its non-inferiority margin.

    Attributes:
        name: The metric, such as `accuracy under PGD, 8/255`.
        difference: Student minus teacher.
        low: The lower bound of its interval, if it has one.
        high: The upper bound of its interval, if it has one.
        margin: The largest acceptable loss, in the same unit.
        better: The direction of improvement, `higher` or `lower`.
    """

    name: str
    difference: float
    low: float | None
    high: float | None
    margin: float
    better: Literal["higher", "lower"] = "higher"


@dataclass(frozen=True)
class PassportFacts:
    """The facts in a student's passport.

    Attributes:
        name: The student's name.
        task: The recipe's task.
        folder: The student folder; every file in it but `passport.json` is listed.
        model_file: The exported file, relative to the folder, with `/` between its parts.
        timestamp: When the student was produced, with its time zone.
        version: The student's version.
        licence: The student's licence; empty when not stated.
        architecture_family: Such as `convolutional network`.
        architecture: Such as `digits_cnn`, with its size settings.
        inputs: The name, dtype and shape of each input, such as `image float32 [n, 1, 8, 8]`.
        outputs: The name, dtype and shape of each output.
        teachers: The models it was distilled from.
        data: The data it was trained on.
        recipe: The resolved recipe.
        metrics: The measurements of the exported file.
        versions: The software versions, by name; `limbeck` among them names the tool.
        seeds: The seeds of the run; the first is the exported student's.
        git_commit: The commit of the working tree, if there is one.
        hardware: The hardware it was produced and measured on.
        limits: Its limitations and what it was not tested for.
        tradeoffs: The trade-offs made.
        owner: The student's owner.
        terms: The restrictions of the student's own terms, from `policy.TERMS`.
        flags: Its export-control flags, from `policy.FLAGS`; those of its ancestors are added.
        risk: The class of its own use, from `policy.CLASSES`; its ancestors' may raise it.
        risk_justification: Why its class may be lower than an ancestor's; it then is `risk`.
        robustness: The differences on which its robustness verdict is based.
        carbon: The carbon emissions of its production.
        environment: The environment it was produced in, by name, such as the CPU's flags.
        negative_results: Attempts without success.
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
