"""Runs of a study: each arm and seed is measured once, stored, and read again on the next run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from limbeck.core import fingerprint
from limbeck.core.files import read_json, write_text
from limbeck.core.measurement import Result
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.studies.judge import Check, Verdict, conclude, judge
from limbeck.studies.study import Study


class Record(Result):
    """The numbers that one arm measured with one seed.

    Attributes:
        arm: The arm.
        seed: The seed.
        settings: The hash of the measure's name and the arm's settings.
        values: The measured numbers by name.
        seconds: The CPU time, in seconds.
    """

    arm: str
    seed: int
    settings: str
    values: dict[str, float]
    seconds: float


class Outcome(Result):
    """A study's records, checks and verdict.

    Attributes:
        study: The name of the study.
        smoke: Whether it is the smoke form, which supports no conclusion.
        records: What was measured, by arm and seed.
        checks: What became of each expectation.
        verdict: The verdict on the claim.
        versions: The versions of the main libraries.
    """

    study: str
    smoke: bool = False
    records: tuple[Record, ...]
    checks: tuple[Check, ...]
    verdict: Verdict
    versions: dict[str, str]

    @property
    def seconds(self) -> float:
        """Return the CPU time of all records, in seconds."""
        return sum(one.seconds for one in self.records)

    def values(self, study: Study) -> dict[str, list[dict[str, float]]]:
        """Return the measured values by arm, one mapping per seed."""
        return {arm: [r.values for r in self.records if r.arm == arm] for arm in study.arms}


class Reporter(Protocol):
    """Reports the progress of a study."""

    def __call__(self, line: str) -> None:
        """Report one line."""
        ...


def run(
    study: Study,
    folder: Path,
    *,
    smoke: bool = False,
    fresh: bool = False,
    report: Reporter = lambda line: None,
) -> Outcome:
    """Measure a study, or what is left of it, and judge its claim.

    Args:
        study: The study.
        folder: The folder of `NAME.json`, where every record is stored as soon as it is measured.
            Records with the same settings are not measured again.
        smoke: Whether to measure the smoke form: its settings, and one seed.
        fresh: Whether to measure everything again.
        report: Called with a line per record.

    Raises:
        InputError: A setting is invalid, or data are missing.
        LimbeckError: A measured number is NaN or infinite.
    """
    path = folder / f"{study.name}.json"
    measure = study.function()
    seeds = study.seeds[:1] if smoke else study.seeds
    known = {} if fresh else {(r.arm, r.seed, r.settings): r for r in _stored(path)}
    records: list[Record] = []
    planned = [(arm, seed) for seed in seeds for arm in study.arms]  # seeds first: arms are paired
    for number, (arm, seed) in enumerate(planned, 1):
        settings = study.settings_of(arm, smoke=smoke)
        key = fingerprint.of_json([study.measure, settings])[:16]
        record = known.get((arm, seed, key))
        if record is None:
            begun = time.process_time()
            values = _finite(measure(seed=seed, **settings), f"{study.name}: {arm}, seed {seed}")
            spent = round(time.process_time() - begun, 2)
            record = Record(arm=arm, seed=seed, settings=key, values=values, seconds=spent)
            names = dict.fromkeys(one.value for one in study.expect)
            shown = ", ".join(f"{name} {values[name]:.4g}" for name in names if name in values)
            report(f"{number}/{len(planned)} {arm}, seed {seed}: {shown} ({spent:.1f} s)")
        records.append(record)
        _write(path, outcome(study, records, smoke=smoke))
    return outcome(study, records, smoke=smoke)


def outcome(study: Study, records: list[Record], *, smoke: bool = False) -> Outcome:
    """Judge a study's claim on its records; without those of every arm there are no checks.

    Raises:
        InputError: An expectation names a value that an arm does not measure.
    """
    order = {arm: number for number, arm in enumerate(study.arms)}
    records = sorted(records, key=lambda one: (order[one.arm], one.seed))
    values = {arm: [r.values for r in records if r.arm == arm] for arm in study.arms}
    counts = {len(rows) for rows in values.values()}
    checks: list[Check] = []
    for one in study.expect if len(counts) == 1 and counts != {0} else ():
        try:
            checks.append(judge(one, values, deterministic=study.deterministic))
        except KeyError as error:
            allowed = ", ".join(values[one.of][0])
            raise InputError(Problem(f"{study.name}.expect.value", one.value, allowed)) from error
    return Outcome(
        study=study.name,
        smoke=smoke,
        records=tuple(records),
        checks=tuple(checks),
        verdict=conclude(checks),
        versions=_versions(),
    )


def stored(study: Study, folder: Path) -> Outcome | None:
    """Load the stored outcome of a study; None if there is none, or it is of other settings.

    Raises:
        InputError: As for `outcome`.
    """
    path = folder / f"{study.name}.json"
    keys = {
        (arm, fingerprint.of_json([study.measure, study.settings_of(arm)])[:16])
        for arm in study.arms
    }
    records = [r for r in _stored(path) if (r.arm, r.settings) in keys and r.seed in study.seeds]
    if len(records) < len(study.arms) * len(study.seeds):
        return None
    found = outcome(study, records)
    return found.model_copy(update={"versions": read_json(path)["versions"]})


def _stored(path: Path) -> Iterator[Record]:
    """Yield the records of a file; none if it is missing or of another version."""
    if path.is_file():
        try:
            yield from Outcome.model_validate(read_json(path)).records
        except (ValidationError, InputError):
            return


def _write(path: Path, found: Outcome) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, found.model_dump_json(indent=1) + "\n")


def _finite(values: Mapping[str, float], where: str) -> dict[str, float]:
    numbers = {name: float(value) for name, value in values.items()}
    if bad := [name for name, value in numbers.items() if not math.isfinite(value)]:
        raise LimbeckError(f"{where}: {', '.join(bad)} is NaN or infinite.")
    return numbers


def _versions() -> dict[str, str]:
    from limbeck.pipeline.results import versions

    return {k: v for k, v in versions().items() if k in {"python", "limbeck", "torch", "numpy"}}
