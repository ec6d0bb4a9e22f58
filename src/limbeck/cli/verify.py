"""`limbeck verify`: is a student still what its passport says?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._terminal import show


def verify(
    passport: Annotated[
        Path, typer.Argument(help="A passport.json, or the student folder that holds one.")
    ],
    key: Annotated[
        Path | None,
        typer.Option(help="The public key, in PEM, of whoever has to have signed the student."),
    ] = None,
    lineage: Annotated[
        list[Path] | None,
        typer.Option(help="A teacher that the lineage has to name: its folder. Once for each."),
    ] = None,
) -> None:
    """Check a student's passport, files, signature and lineage, and say what was changed."""
    from limbeck.passport import verify as check

    found = check(passport, key=key, lineage=lineage or (), schema=True)
    for place, finding in enumerate(found.findings):
        show(f"{'also ' if place else ''}{finding}")
    for note in found.notes:
        show(note)
    if found.findings:
        raise typer.Exit(1)
    signed = ", and the signature is of the key given" if key is not None else ""
    show(f"{passport}: nothing was changed; {found.files} files checked{signed}.")
