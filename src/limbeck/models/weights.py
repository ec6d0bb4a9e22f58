"""Weights of a safetensors file into a module, or a message that says what does not fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

FILE = "model.safetensors"
# How many tensors are named in a message before it says "and more".
SHOWN = 8


def load_weights(model: nn.Module, path: str, *, classes: int) -> None:
    """Copy a file's weights into a model.

    Every tensor must be there with its shape and no other; only the counters of batch normalisation
    may be absent, since nothing is computed from them.

    Args:
        model: The module.
        path: A safetensors file, or a folder that holds model.safetensors; a relative one is looked
            up in the current folder, then in LIMBECK_DATA.
        classes: How many classes the data has, to say so if that is what differs.

    Raises:
        InputError: There is no such file, it is not safetensors, or tensors are missing, unexpected
            or of another shape; all are named.
    """
    file = find(path)
    given, wanted = _read(file), model.state_dict()
    problems = _differences(given, wanted, str(file), classes)
    if problems:
        raise InputError(*problems)
    model.load_state_dict(given, strict=False)


def find(path: str) -> Path:
    """Find a file of weights: as given, or in the folder LIMBECK_DATA.

    Raises:
        InputError: There is no such file.
    """
    data = Path(os.environ.get("LIMBECK_DATA") or "../shared/data")
    for place in (Path(path), data / path):
        file = place / FILE if place.is_dir() else place
        if file.is_file():
            return file
    allowed = f"a safetensors file, or a folder that holds {FILE}"
    fix = f"No such file: {Path(path).absolute()}"
    if not Path(path).is_absolute():
        fix += f", nor {(data / path).absolute()} (the folder LIMBECK_DATA)"
    raise InputError(Problem("model.weights", path, allowed, fix))


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        allowed = "a whole safetensors file"
        raise InputError(Problem("model.weights", str(file), allowed, str(error))) from error
    return tensors


def _differences(
    given: dict[str, Tensor], wanted: dict[str, Tensor], file: str, classes: int
) -> list[Problem]:
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in given and name not in counters]
    extra = [name for name in given if name not in wanted]
    shapes = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    where = f"model.weights ({file})"
    problems = []
    if missing:
        problems.append(
            Problem(where, f"nothing for {_some(missing)}", "every tensor of the model")
        )
    if extra:
        problems.append(Problem(where, f"also {_some(extra)}", "the tensors of the model only"))
    heads = [name for name in shapes if _is_head(given[name], wanted[name], classes)]
    if heads:
        found = given[heads[0]].shape[0]
        text = f"weights for {found} classes ({_some(heads)})"
        problems.append(Problem(where, text, f"weights for the {classes} classes of the data"))
    for name in [name for name in shapes if name not in heads][:SHOWN]:
        text = f"{name} of shape {tuple(given[name].shape)}"
        problems.append(Problem(where, text, f"shape {tuple(wanted[name].shape)}"))
    return problems


def _is_head(given: Tensor, wanted: Tensor, classes: int) -> bool:
    """Tell whether two tensors differ in the number of classes alone."""
    return (
        given.ndim == wanted.ndim > 0
        and wanted.shape[0] == classes
        and given.shape[1:] == wanted.shape[1:]
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
