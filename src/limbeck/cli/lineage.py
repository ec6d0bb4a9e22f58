"""`limbeck lineage`: teacher concentration of several students."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli._terminal import show


def lineage(
    students: Annotated[list[Path], typer.Argument(help="Student folders, or their passports.")],
    most: Annotated[
        float, typer.Option(help="The share of students that makes a model a single point.")
    ] = 0.5,
) -> None:
    """Measure teacher concentration: share of students by root, and single points of failure."""
    from limbeck.passport import audit as look
    from limbeck.passport import read_students

    found = look(read_students(students), most=most)
    show(f"{found.students} students, {found.effective_roots:.2f} effective root teachers")
    for one in found.roots:
        show(f"  {one.share:6.1%}  {one.name}")
    for one in found.single_points:
        show(f"Single point of failure: {one.name}, for {one.share:.0%} of the students")
