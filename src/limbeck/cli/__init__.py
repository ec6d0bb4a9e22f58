"""The command-line interface: one file per command, without heavy imports before it executes."""

from __future__ import annotations

import errno
import functools
import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, TextIO

import typer

from limbeck.cli import (
    check,
    compare,
    diagnose,
    doctor,
    evaluate,
    init,
    layers,
    listing,
    passport,
    predict,
    record,
    run,
    study,
    sweep,
)
from limbeck.cli._terminal import show_error
from limbeck.core.process import ignore_signals, raise_on_signals

INTERRUPTED = 130
RESUME_HINTS = {
    "run": "What was done is saved: the same command with --resume continues from there.",
    "record": "What was recorded is saved: the same command continues from there.",
    "evaluate": "The evaluations that ended are saved: the same command does the others.",
    "sweep": "The trials that ended are saved: the same command continues from there.",
    "study": "What was measured is saved: the same command measures the rest.",
}
"""The hint to resume an interrupted command; the other commands write nothing to resume."""

BAD_INPUT = 2
WRITE_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
}
"""Errors of the file system that is written to, not bugs of limbeck."""

VERBS = (
    run.run,
    record.record,
    check.check,
    compare.report,
    evaluate.evaluate,
    diagnose.diagnose,
    compare.compare,
    sweep.sweep,
    study.study,
    listing.list_,
    predict.predict,
    layers.layers,
    init.init,
    passport.verify,
    passport.sign,
    passport.keygen,
    passport.lineage,
    doctor.doctor,
)


def main() -> None:
    """Run the command line.

    The exit code is 0, or 1 for a failure, 2 for bad input, 130 for an interrupt.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # unencodable characters must not cause an error
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    raise_on_signals()
    try:
        _app()()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            ignore_signals()
        raise


def _app() -> typer.Typer:
    # Plain help: importing rich takes longer than everything else together.
    app = typer.Typer(
        help="Distil large models into small ones that ship.",
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for verb in VERBS:
        app.command(verb.__name__.rstrip("_"))(_guarded(verb))
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"limbeck {version('limbeck')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        # A callback, since without a command nothing else would run.
        typer.Option(
            "--version", help="Show the version and stop.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    """Register the options before any command."""


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning without the line of code that raised it."""
    show_error(f"Warning: {message}")


def _guarded(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Convert limbeck's errors to a message and an exit code, without a traceback."""
    from limbeck.errors import InputError, LimbeckError

    @functools.wraps(verb)
    def guarded(*arguments: Any, **options: Any) -> Any:
        try:
            return verb(*arguments, **options)
        except InputError as error:
            count = len(error.problems)
            lines = [f"{count} problem{'s' if count != 1 else ''}:", *map(str, error.problems)]
            show_error("\n  ".join(lines))
            raise typer.Exit(error.exit_code) from error
        except LimbeckError as error:
            show_error(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            show_error(f"Interrupted. {RESUME_HINTS.get(verb.__name__, '')}".rstrip())
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:  # the reader of the output closed it
            # The interpreter would report the error again when it closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from error
        except OSError as error:
            if error.errno not in WRITE_ERRORS:
                raise
            show_error(f"{error.filename or 'a file'}: could not be written ({error.strerror}).")
            raise typer.Exit(BAD_INPUT) from error

    return guarded
