"""The command line: one file a verb. Nothing heavy is imported before a verb does its work."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from limbeck.cli import compare, doctor, layers, listing, new, report, run, verify

INTERRUPTED = 130


def main() -> None:
    """Run the command line: exit code 0, or 1 for a failure, 2 for bad input, 130 for an interrupt."""
    _app()()


def _app() -> typer.Typer:
    # Plain help: rich's takes longer to load than everything else together.
    app = typer.Typer(
        help="Distil large models into small ones that ship.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_version)
    verbs = (
        run.run,
        report.report,
        compare.compare,
        listing.list_,
        layers.layers,
        new.new,
        verify.verify,
        doctor.doctor,
    )
    for verb in verbs:
        app.command(verb.__name__.rstrip("_"))(_guarded(verb))
    return app


def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and stop.", is_eager=True)
    ] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"limbeck {installed('limbeck')}")
        raise typer.Exit


def _guarded(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what limbeck can explain into a message and an exit code, without a traceback."""
    from limbeck.errors import InputError, LimbeckError

    @functools.wraps(verb)
    def guarded(*arguments: Any, **options: Any) -> Any:
        try:
            return verb(*arguments, **options)
        except InputError as error:
            count = len(error.problems)
            print(f"{count} problem{'s' if count != 1 else ''}:", file=sys.stderr)
            for problem in error.problems:
                print(f"  {problem}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except LimbeckError as error:
            print(error, file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            print("Interrupted; what was done is saved. Go on with --resume.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:  # whoever read our output has had enough
            sys.stderr.close()
            raise typer.Exit(1) from error

    return guarded
