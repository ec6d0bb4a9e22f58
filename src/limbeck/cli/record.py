"""`limbeck record`: a teacher's answers, recorded without a training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from limbeck.cli._options import (
    AsJson,
    Overrides,
    Quiet,
    RecipeName,
    RunFolder,
    TrustCode,
    load_recipe,
)
from limbeck.cli._terminal import show, watch

if TYPE_CHECKING:
    from limbeck.pipeline.record import Recorded


def record(
    recipe: RecipeName,
    set_: Overrides = None,
    out: RunFolder = None,
    trust_code: TrustCode = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Record the teacher's answers to the training rows of a recipe, and train nothing after it.

    A run of the recipe, and of any other with the same teacher and data, reads them. A recording
    that was interrupted is resumed.
    """
    resolved = load_recipe(recipe, set_ or [], trusted=trust_code)
    folder = out if out is not None else Path("runs") / resolved.name
    with watch(quiet=quiet) as progress:
        from limbeck.pipeline.record import record as record_teacher

        found = record_teacher(resolved, out=folder, watch=progress)
    if as_json:
        import json

        records = [
            {**one.model_dump(), "bytes_per_element": one.bytes_per_element} for one in found
        ]
        typer.echo(json.dumps(records, indent=2))
        return
    show("\n".join(_line(one) for one in found))


def _line(one: Recorded) -> str:
    from limbeck.display import format as fmt

    coverage = "" if one.coverage is None else f", {fmt.percent(one.coverage)} of the probability"
    return (
        f"{one.stage}: {one.form}, {one.elements:,} answers of a {one.element} each, "
        f"{one.bytes_per_element:.1f} bytes each{coverage}, {fmt.size(one.bytes)} in all, "
        f"{one.seconds / 3600:.2f} hours\n  {one.folder}"
    )
