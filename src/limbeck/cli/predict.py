"""`limbeck predict`: predictions of a shipped student for files, texts and table rows."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli._options import AsJson, Quiet
from limbeck.cli._terminal import show, watch

if TYPE_CHECKING:
    from limbeck.errors import InputError, Problem
    from limbeck.serving.generation import GenerationConfig
    from limbeck.serving.predictions import Result
    from limbeck.serving.student import Student

    Outcome = Result | InputError
    Write = Callable[[str, Outcome], None]

INVALID = "(invalid)"
WIDEST = 100
"""The most characters of an input in the table."""


def predict(
    student: Annotated[Path, typer.Argument(help="The folder of a student, or of its run.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Images, sounds or folders of them; texts; table rows as JSON; files of rows "
            "(.csv, .tsv, .jsonl, .parquet, .txt); - for one per line of standard input."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Write the predictions to a .csv or .jsonl file.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="The number of inputs that the model runs at once.", min=1)
    ] = 32,
    column: Annotated[
        str, typer.Option(help="The column of images, sounds or texts in a file of rows.")
    ] = "",
    max_new_tokens: Annotated[
        int, typer.Option(help="Language models: the most tokens to generate.", min=1)
    ] = 50,
    temperature: Annotated[
        float, typer.Option(help="Language models: 0 is greedy; above, tokens are sampled.", min=0)
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Language models: the probability that is sampled from.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Language models: the seed of sampling.", min=0)] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Predict with a shipped student; invalid inputs are listed at the end, with exit code 2."""
    from limbeck.errors import InputError, Problem
    from limbeck.serving.files import LINES, STANDARD_INPUT, TABLES, find_inputs
    from limbeck.serving.generation import GenerationConfig
    from limbeck.serving.student import MOST_PROBLEMS, load_student

    if output is not None and output.suffix.lower() not in (".csv", ".jsonl"):
        raise InputError(Problem("--output", str(output), "a file that ends in .csv or .jsonl"))
    loaded = load_student(student)
    generation = GenerationConfig(max_new_tokens, temperature, top_p, seed)
    if loaded.generates and len(inputs) == 1 and output is None and not as_json:
        [one] = inputs
        if one != STANDARD_INPUT and not one.lower().endswith((*TABLES, *LINES)):
            _stream(loaded, one, generation)
            return
    found = find_inputs(inputs, loaded.preprocess, column=column)
    pending: deque[str] = deque()

    def named() -> Iterator[tuple[str, Any]]:
        for where, value in found.inputs:
            pending.append(value if isinstance(value, str) else where)
            yield where, value

    problems: list[Problem] = []
    done = failed = 0
    # Lines at a terminal are progress enough.
    silent = quiet or (output is None and sys.stdout.isatty())
    columns = loaded.columns
    width = max(map(len, (INVALID, *loaded.classes, *columns)))
    with (
        nullcontext() if silent else watch() as progress,
        _writer(output, as_json, columns, width) as write,
    ):
        bar = progress.progress_bar("predict") if progress else None
        for result in loaded.stream(named(), batch_size=batch_size, generation=generation):
            write(pending.popleft(), result)
            done += 1
            if isinstance(result, InputError):
                failed += 1
                problems += result.problems[: MOST_PROBLEMS - len(problems)]
            if bar is not None and done % batch_size == 0:
                bar.update(done, found.count or done, f"{failed} invalid")
    if not done:
        raise InputError(Problem("INPUTS", "no input", "at least one"))
    if output is not None:
        counts = {"predictions": done - failed, "invalid": failed, "output": str(output)}
        show(json.dumps(counts) if as_json else f"{done - failed:,} predictions: {output}")
    if problems:
        hidden = failed - MOST_PROBLEMS
        more = [Problem("INPUTS", f"{hidden} more invalid inputs", "valid ones")]
        raise InputError(*problems, *(more if hidden > 0 else []))


def _stream(student: Student, prompt: str, generation: GenerationConfig) -> None:
    """Write a prompt, and the generated text part by part."""
    parts = student.generator.stream(prompt, generation)
    first = next(parts, "")  # errors come before any output
    sys.stdout.write(prompt + first)
    for part in parts:
        sys.stdout.write(part)
        sys.stdout.flush()
    sys.stdout.write("\n")


@contextmanager
def _writer(
    output: Path | None, as_json: bool, columns: tuple[str, ...], width: int
) -> Iterator[Write]:
    """Yield a function that writes one result: to a file, or else to standard output."""
    from limbeck.core.files import replacing
    from limbeck.errors import InputError

    if output is None:
        if not as_json:
            show("  ".join((*(f"{name:<{width}}" for name in columns), "input")))
        line = _json if as_json else partial(_row, width=width)
        yield lambda shown, one: show(line(shown, one))
        return
    with (
        replacing(output) as temporary,
        temporary.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file,
    ):
        if output.suffix.lower() == ".jsonl":
            yield lambda shown, one: print(_json(shown, one), file=file)
            return
        import csv

        table = csv.writer(file)
        table.writerow(("input", *columns, "error"))

        def write(shown: str, one: Outcome) -> None:
            if isinstance(one, InputError):
                table.writerow((shown, *[""] * len(columns), str(one)))
            else:
                table.writerow((shown, *one.row.values(), ""))

        yield write


def _row(shown: str, result: Outcome, *, width: int) -> str:
    line = " ".join(shown.split())
    line = line if len(line) <= WIDEST else f"{line[:WIDEST]}..."
    if isinstance(result, Exception):
        return f"{INVALID:<{width}}  {line}"
    cells = (
        " ".join(value.split()) if isinstance(value, str) else f"{value:.6g}"
        for value in result.row.values()
    )
    return "  ".join((*(f"{cell:<{width}}" for cell in cells), line))


def _json(shown: str, result: Outcome) -> str:
    if isinstance(result, Exception):
        return json.dumps({"input": shown, "error": str(result)})
    return json.dumps({"input": shown, **result.content()})
