"""Reader of `run.json`, with the location of every error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from limbeck.core.files import read_text
from limbeck.errors import InputError, Problem
from limbeck.report.result import Measured, RunResult

LARGEST = 256 * 2**20
"""The largest file in bytes."""

SHOWN = 50
"""The most problems of one file that are listed."""

SQUARE = "as many rows and columns as there are classes"


def load_run(path: str | Path) -> RunResult:
    """Load the result of a run.

    Args:
        path: A run folder or a `run.json`.

    Raises:
        InputError: There is no such file, it is not JSON, or it does not hold a run.
    """
    file = Path(path)
    file = file / "run.json" if file.is_dir() else file
    text = _read(file)
    _check_json(file, text)
    try:
        result = RunResult.model_validate_json(text)
    except ValidationError as error:
        raise InputError(*_problems(file, error)) from None
    inconsistent = list(_inconsistencies(file, result))
    if inconsistent:
        raise InputError(*inconsistent)
    return result


def _read(file: Path) -> str:
    if file.exists():
        return read_text(file, limit=LARGEST)
    fix = "A run writes it when it ends; finish the run with `limbeck run RECIPE --resume`."
    raise InputError(Problem(str(file), None, "a run folder or its run.json", fix))


def _check_json(file: Path, text: str) -> None:
    """Raise for invalid JSON with its line and column."""
    try:
        json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise InputError(Problem(str(file), "too many levels of nesting", "a run.json")) from None
    except json.JSONDecodeError as error:
        where = f"{file}, line {error.lineno}, column {error.colno}"
        given = text[max(0, error.pos - 20) : error.pos + 20]
        fix = "The file may be cut short: `limbeck run RECIPE --resume` writes it anew."
        raise InputError(Problem(where, given, f"JSON ({error.msg})", fix)) from None
    except ValueError as error:
        raise InputError(Problem(str(file), str(error), "finite numbers")) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text[:40])
    return number


def _inconsistencies(file: Path, result: RunResult) -> Iterator[Problem]:
    """Yield contradictions that no run of limbeck writes, and that no page could be drawn from."""
    classes, seeds = len(result.data.classes), len(result.seeds)
    metrics = next((_metrics(one) for link in result.chain for one in link.measured), [])
    if not metrics:
        yield Problem(f"{file}: chain.measured.scores", "none", "at least one score")
    if not result.chain:
        yield Problem(f"{file}: chain", "none", "at least one stage")
    for number, link in enumerate(result.chain):
        where = f"{file}: chain.{number}"
        if len(link.measured) != seeds or not seeds:
            yield Problem(f"{where}.measured", len(link.measured), f"one for each of {seeds} seeds")
        for one in link.measured:
            if _metrics(one) != metrics:
                yield Problem(f"{where}.measured.scores", _metrics(one), f"{metrics}, as others")
            if one.confusion and not _is_square(one.confusion, classes):
                yield Problem(f"{where}.measured.confusion", "a matrix of another size", SQUARE)
    if result.class_similarity is not None and not _is_square(result.class_similarity, classes):
        yield Problem(f"{file}: class_similarity", "a matrix of another size", SQUARE)
    for row in result.disagreements:
        if not 0 <= row.label < classes or not len(row.teacher) == len(row.student) == classes:
            yield Problem(f"{file}: disagreements.{row.index}", row.label, "a class of the data")
    if not _are_stages(result.recipe.get("stages")):
        yield Problem(f"{file}: recipe.stages", "something else", "a list of stages by name")


def _metrics(measured: Measured) -> list[str]:
    return [one.metric.name for one in measured.scores]


def _is_square(matrix: Sequence[Sequence[float]], size: int) -> bool:
    return len(matrix) == size and all(len(row) == size for row in matrix)


def _are_stages(stages: object) -> bool:
    return isinstance(stages, list) and all(
        isinstance(stage, dict)
        and bool(stage)
        and all(settings is None or isinstance(settings, dict) for settings in stage.values())
        for stage in stages
    )


def _problems(file: Path, error: ValidationError) -> list[Problem]:
    version = "The file was written by another version of limbeck: run the recipe again."
    return [
        Problem(
            f"{file}: {'.'.join(map(str, found['loc'])) or 'the whole file'}",
            found["input"],
            found["msg"],
            version if found["loc"] == ("schema_version",) else "",
        )
        for found in error.errors(include_url=False)[:SHOWN]
    ]
