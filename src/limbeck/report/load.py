"""Read `run.json` back into the typed result, or say what in it is wrong and where."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from limbeck.errors import InputError, Problem
from limbeck.report.result import RunResult


def load_run(path: str | Path) -> RunResult:
    """Read the result of a run.

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
        return RunResult.model_validate_json(text)
    except ValidationError as error:
        raise InputError(*_problems(file, error)) from None


def _read(file: Path) -> str:
    """The text of the file, or why it cannot be had."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        fix = "A run writes it when it ends; finish the run with `limbeck run RECIPE --resume`."
        raise InputError(Problem(str(file), None, "a run folder or its run.json", fix)) from None
    except UnicodeDecodeError as error:
        given = f"a byte that is not UTF-8 at position {error.start}"
        raise InputError(Problem(str(file), given, "JSON in UTF-8")) from None
    except OSError as error:
        raise InputError(Problem(str(file), error.strerror, "a file that can be read")) from None


def _check_json(file: Path, text: str) -> None:
    """Refuse what is not JSON with line and column, which pydantic's message hides in prose."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{file}, line {error.lineno}, column {error.colno}"
        given = text[max(0, error.pos - 20) : error.pos + 20]
        fix = "The file may be cut short: `limbeck run RECIPE --resume` writes it anew."
        raise InputError(Problem(where, given, f"JSON ({error.msg})", fix)) from None


def _problems(file: Path, error: ValidationError) -> list[Problem]:
    """One problem for each thing that pydantic found."""
    problems = []
    for found in error.errors(include_url=False):
        where = f"{file}: {'.'.join(map(str, found['loc'])) or 'the whole'}"
        fix = ""
        if found["loc"] == ("schema_version",):
            fix = "The file was written by another version of limbeck: run the recipe again."
        problems.append(Problem(where, found["input"], found["msg"], fix))
    return problems
