"""Source text of an architecture with structural changes after the build."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

_FUTURE = "from __future__ import annotations\n"
_OURS = re.compile(r"^from (limbeck[\w.]*) import (.+)$", re.MULTILINE)
_END = '''

_dense = build


def build():
    """Build the network as it ships: dense, then changed as compressing changed it."""
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
    told = [dict(change) for change in changes]
    if not told:
        return text
    kinds = sorted({str(change["kind"]) for change in told})
    said = [f"_CHANGES = {json.dumps(told, separators=(',', ':'))!r}", "_KINDS = {}"]
    for kind in kinds:
        body = _as_function(f"_{kind}", f"{package}.{kind}", ["apply"])
        said += [body, f'_KINDS["{kind}"] = _{kind}()[0]']
    whole = "\n\n\n".join([text.replace(_FUTURE, "").rstrip(), *said])
    return f"{_FUTURE}\nimport json\n\n{whole}\n{_END}"


def _as_function(name: str, module: str, wanted: list[str]) -> str:
    """Wrap a module in a function that isolates its names and returns the requested ones."""
    source = inspect.getsource(import_module(module)).replace(_FUTURE, "").strip()
    within = _OURS.sub(_inlined, source)
    return f"def {name}():\n{textwrap.indent(within, '    ')}\n\n    return [{', '.join(wanted)}]"


def _inlined(line: re.Match[str]) -> str:
    """Inline a limbeck module where it is imported."""
    module, names = line[1], [name.strip() for name in line[2].split(",")]
    function = "_" + module.replace(".", "_")
    return f"{_as_function(function, module, names)}\n\n[{', '.join(names)}] = {function}()"
