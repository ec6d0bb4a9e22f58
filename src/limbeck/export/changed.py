"""The text of an architecture whose structure was changed after it was built."""

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
    r"""Add to an architecture's text what gives the dense network its later structure.

    Args:
        text: A Python file whose `build()` makes the dense network.
        changes: The changes of structure, in order.
        package: Where their kinds are: a module each, with a function `apply` that needs torch and
            limbeck's own modules alone, which are written into the text.

    Returns:
        A Python file whose `build()` makes the changed network; it needs what the first did.

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
    """Put a module into a function, so that its names meet no others, and give what is wanted."""
    source = inspect.getsource(import_module(module)).replace(_FUTURE, "").strip()
    within = _OURS.sub(_inlined, source)
    return f"def {name}():\n{textwrap.indent(within, '    ')}\n\n    return [{', '.join(wanted)}]"


def _inlined(line: re.Match[str]) -> str:
    """Write a module of limbeck's out, where it was imported."""
    module, names = line[1], [name.strip() for name in line[2].split(",")]
    function = "_" + module.replace(".", "_")
    return f"{_as_function(function, module, names)}\n\n[{', '.join(names)}] = {function}()"
