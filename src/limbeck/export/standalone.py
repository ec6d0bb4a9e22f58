"""Source text of an architecture with structural changes after the build."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.core.process import run_limited
from limbeck.errors import InputError, Problem
from limbeck.export.invariance import compare

_FUTURE = "from __future__ import annotations\n"
_LIMBECK_IMPORT = re.compile(r"^from (limbeck[\w.]*) import (.+)$", re.MULTILINE)
_END = '''

_dense = build


def build():
    """Build the dense network, and apply the structural changes of its compression."""
    model = _dense()
    for change in json.loads(_CHANGES):
        _KINDS[change.pop("kind")](model, **change)
    return model
'''


def changed_architecture(text: str, changes: Iterable[Mapping[str, Any]], package: str) -> str:
    r"""Append code to an architecture's text that applies structural changes to the built network.

    Args:
        text: A Python file whose `build()` returns the dense network.
        changes: The structural changes, in order.
        package: The package of the kinds of change: one module per kind, with a function `apply`
            that needs only torch and limbeck's own modules, which are inlined into the text.

    Returns:
        A Python file whose `build()` returns the changed network, with the same requirements.

    Example:
        >>> text = "from torch import nn\nbuild = lambda: nn.Sequential(nn.Linear(4, 4))"
        >>> change = {"kind": "factors", "layers": {"0": {"rank": 1, "form": "linear"}}}
        >>> made = changed_architecture(text, [change], "limbeck.compress.changes")
        >>> space = {}
        >>> exec(made, space)
        >>> space["build"]()[0][0].weight.shape
        torch.Size([1, 4])
    """
    listed = [dict(change) for change in changes]
    if not listed:
        return text
    parts = [text.replace(_FUTURE, "").rstrip()]
    parts += [f"_CHANGES = {json.dumps(listed, separators=(',', ':'))!r}", "_KINDS = {}"]
    for kind in sorted({str(change["kind"]) for change in listed}):
        body = _as_function(f"_{kind}", f"{package}.{kind}", ["apply"])
        parts += [body, f'_KINDS["{kind}"] = _{kind}()[0]']
    code = "\n\n\n".join(parts)
    return f"{_FUTURE}\nimport json\n\n{code}\n{_END}"


def _as_function(name: str, module: str, wanted: list[str]) -> str:
    """Wrap a module, with the limbeck modules it imports inlined, in a function of its own."""
    source = inspect.getsource(import_module(module)).replace(_FUTURE, "").strip()

    def inline(line: re.Match[str]) -> str:
        names = [name.strip() for name in line[2].split(",")]
        function = "_" + line[1].replace(".", "_")
        body = _as_function(function, line[1], names)
        return f"{body}\n\n[{', '.join(names)}] = {function}()"

    body = textwrap.indent(_LIMBECK_IMPORT.sub(inline, source), "    ")
    return f"def {name}():\n{body}\n\n    return [{', '.join(wanted)}]"


SECONDS = 300.0  # limit on the CPU time of the process; without bytecode, imports take 30 s
# Allowed difference of its outputs from the model's, as a share of the spread of the outputs.
TOLERANCE = 1e-3
_CHILD = Path(__file__).with_name("_standalone_child.py")
_NEEDED = {".py", ".safetensors", ".json"}
_VALUES = "Put the values into the code, or into buffers, which are saved with the weights."


def check_standalone(
    folder: Path,
    code: str,
    inputs: Mapping[str, NDArray[Any]],
    expected: NDArray[Any],
    *,
    where: str,
) -> None:
    """Check that code builds the model from its folder alone, and predicts as the model does.

    The folder is copied elsewhere, and the code is executed there by an isolated interpreter
    (`python -I`) that cannot import limbeck. Reading files outside of the copy and the installed
    packages is refused, too: the user does not have them.

    Args:
        folder: The student's folder.
        code: The code of the model card; it must define `logits` or `outputs`.
        inputs: Arrays of a few real rows, by the names that the code expects.
        expected: The model's predictions for these, `[n, classes]`.
        where: The place in the recipe, for messages.

    Raises:
        InputError: The code fails, reads a file that is not shipped, or has other predictions.
    """
    with tempfile.TemporaryDirectory() as temporary:
        copy, work = Path(temporary) / "student", Path(temporary) / "work"
        work.mkdir()
        shutil.copytree(folder, copy, copy_function=_copy, ignore=_unneeded)
        np.savez(work / "inputs.npz", allow_pickle=False, **dict(inputs))
        (work / "code.py").write_text(code, encoding="utf-8")
        ended = _run(copy, work, where)
        if ended.returncode:
            raise InputError(_failed(ended.stderr, where))
        read = (work / "read.txt").read_text(encoding="utf-8").splitlines()
        if read:
            given = f"code that reads {', '.join(read[:5])}"
            raise InputError(Problem(where, given, "code and files that are shipped", _VALUES))
        logits = np.load(work / "logits.npy")
    [difference] = compare({"logits": expected}, {"logits": logits}, tolerance=TOLERANCE)
    if not difference.within:
        fix = (
            "Likely cause: the builder does not return the same module twice: weights that are "
            "tied or set after building, attributes that are no parameters or buffers, or settings "
            "from the environment."
        )
        given = f"a model rebuilt from the shipped files whose {difference}"
        raise InputError(Problem(where, given, "the predictions of the model", fix))


def _run(copy: Path, work: Path, where: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    kept |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, "-I", "-B", str(_CHILD), str(work)]
    try:
        return run_limited(command, seconds=SECONDS, cwd=copy, env=kept)
    except subprocess.TimeoutExpired as error:
        given = f"no prediction after {SECONDS:g} seconds of computing or waiting"
        allowed = "a model that is built and run from the shipped files"
        raise InputError(Problem(where, given, allowed)) from error


def _failed(stderr: str, where: str) -> Problem:
    lines = [line for line in stderr.splitlines() if line.strip()] or ["no message"]
    last = next((line for line in reversed(lines) if not line.startswith(" ")), lines[-1])
    fix = "Put what it needs into the same file or into modules beside it, or install it."
    fix = _VALUES if "FileNotFoundError" in last else fix
    given = f"code that fails in a process of its own: {last.strip()}"
    allowed = "a model that is built from the shipped files and installed packages alone"
    return Problem(where, given, allowed, fix)


def _copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copyfile(source, target)


def _unneeded(_: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(name).suffix not in _NEEDED and "." in name]
