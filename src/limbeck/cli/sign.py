"""`limbeck sign` and `limbeck keygen`: signatures of student folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._terminal import show


def sign(
    student: Annotated[Path, typer.Argument(help="A student folder.")],
    key: Annotated[Path, typer.Option(help="Your private key, PEM; `limbeck keygen` makes one.")],
) -> None:
    """Sign every file of a student folder with a local key."""
    from limbeck.passport import sign as sign_folder

    show(f"Signed: {sign_folder(student, key)}")


def keygen(
    private: Annotated[Path, typer.Argument(help="Where the key to sign with is written.")],
    public: Annotated[Path, typer.Argument(help="Where the key to verify with is written.")],
) -> None:
    """Generate a key pair to sign students and to verify them."""
    from limbeck.passport import make_keys

    make_keys(private, public)
    show(f"To sign, for you alone: {private}")
    show(f"To verify, for everybody: {public}")
