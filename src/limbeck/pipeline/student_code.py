"""Source code of a student's model: the shipped part, and whether it is self-contained."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.atomic import replacing, write_text
from limbeck.compress.change import Change
from limbeck.compress.changes import CHANGES
from limbeck.errors import InputError, Problem
from limbeck.export.changed import changed_architecture
from limbeck.export.predictor import TorchPredictor
from limbeck.export.standalone import check_standalone
from limbeck.models.build import architecture, modules
from limbeck.report.usage import loading_code

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.context import Context

ROWS = 8
"""Number of validation rows on which the shipped code must match the model."""

MODULES = 200
"""Maximum number of user modules shipped with a model."""


def try_code(context: Context) -> None:
    """Check with fresh weights whether the student's code builds its model alone.

    Raises:
        InputError: It imports or reads files that do not ship, or builds another model.
    """
    from limbeck.export.weights import save_weights

    spec = context.small.model_copy(update={"weights": None})
    model = context.build(spec, seed=context.seed).eval()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_code(spec, context, (), folder)
        save_weights(model, folder / "model.safetensors")
        check_code(model, context, folder, where="student.name")


def write_code(spec: ModelSpec, context: Context, changes: Sequence[Change], folder: Path) -> None:
    """Write `architecture.py`, and the user modules that it imports.

    Raises:
        InputError: A module cannot be shipped.
    """
    dense = architecture(spec, **context.fit)
    write_text(folder / "architecture.py", changed_architecture(dense, changes, CHANGES.package))
    needed = modules(spec)
    problems = [
        Problem("student.name", f"{dotted}, imported from {file}", allowed, fix)
        for dotted, file in needed.items()
        for allowed, fix in _why_not(dotted, file, len(needed))
    ]
    if problems:
        raise InputError(*problems)
    for dotted, file in needed.items():
        place = folder.joinpath(*dotted.split("."))
        target = place / file.name if file.name == "__init__.py" else place.with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(file, target)


def _why_not(dotted: str, file: Path, count: int) -> Iterator[tuple[str, str]]:
    """Yield reasons why a module cannot ship: what is allowed, and the fix."""
    if file.suffix != ".py":
        yield "modules of Python source", "Install it as a package."
    if dotted == "architecture":
        yield "another name: the student's own file is called so", "Rename the module."
    if count > MODULES:
        fix = "Install what the model needs as a package."
        yield f"at most {MODULES} modules beside a model, not {count}", fix


def check_code(model: nn.Module, context: Context, folder: Path, *, where: str) -> None:
    """Check that the code and weights in a folder build the model in a separate process.

    Raises:
        InputError: The process fails, or its predictions differ.
    """
    rows = context.data.validation
    batch = rows.__getitems__(rows.spread(ROWS))
    inputs = {name: batch[name].numpy() for name in context.task.inputs}
    expected = TorchPredictor(model.cpu(), context.task).predict(inputs)["logits"]
    code = loading_code(context.task.name)
    check_standalone(folder, code, inputs, expected, where=where)


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
