"""`limbeck study`: measure a published claim, and judge it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._options import Quiet
from limbeck.cli._terminal import show


def study(
    names: Annotated[
        list[str] | None, typer.Argument(help="Studies by name, or a study's own YAML file.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every shipped study.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The short form, which supports no conclusion.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of results and pages; studies if not given."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure again what is stored there.")
    ] = False,
    index: Annotated[
        bool, typer.Option("--index", help="Write the pages again from what is stored.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The outcomes as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Measure published claims: arms, seeds, an interval and a verdict; run again to resume."""
    from limbeck.errors import InputError, LimbeckError, Problem, gathered

    chosen = names or []
    if bool(chosen) == all_ and not index:
        given = ", ".join(chosen) or None
        raise InputError(Problem("study", given, "names of studies, or --all"))

    from limbeck.core.files import write_text
    from limbeck.studies import load, run
    from limbeck.studies.page import WORDS, index_files, write_page
    from limbeck.studies.study import shipped

    folder = out if out is not None else Path("studies")
    if smoke:
        folder = folder / "smoke"
    wanted = list(shipped()) if all_ else chosen
    studies = gathered([partial(load, name) for name in wanted])
    outcomes, failed = {}, list[str]()
    for one in studies:
        if not quiet and not as_json:
            show(f"{one.name}: {one.claim}")
        report = (lambda line: None) if quiet or as_json else (lambda line: show(f"  {line}"))
        try:
            found = outcomes[one.name] = run(one, folder, smoke=smoke, fresh=fresh, report=report)
        except LimbeckError as error:  # the others are independent of it
            failed.append(f"{one.name}: {error}")
            continue
        page = write_page(one, found, folder)
        if not as_json:
            measured = "; ".join(
                f"{f.what}: {f.measured.mean:.4g}, expected {f.bound}" for f in found.checks
            )
            words = "the smoke form, no conclusion" if smoke else WORDS[found.verdict].lower()
            show(f"  {words}. {measured}\n  {page}")
    if as_json:
        typer.echo("[" + ",\n".join(one.model_dump_json() for one in outcomes.values()) + "]")
    if index:
        for path, content in index_files(folder).items():
            write_text(path, content)
    if failed:
        raise LimbeckError("\n".join(["Not every study could be measured.", *failed]))
