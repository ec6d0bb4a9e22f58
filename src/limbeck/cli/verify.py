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
) -> None:
    """Recompute every hash that a passport lists, and say what was changed."""
    from limbeck.passport import PASSPORT
    from limbeck.passport import verify as check

    found = check(passport / PASSPORT if passport.is_dir() else passport)
    for finding in found.findings:
        show(str(finding))
    if found.findings:
        raise typer.Exit(1)
    show(f"{passport}: nothing was changed; {found.files} files checked.")
