"""The text of an architecture whose structure was changed after it was built."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

_FUTURE = "from __future__ import annotations\n"
_END = '''

_dense = build


def build():
    """Build the network as it ships: dense, then changed as compressing changed it."""
    model = _dense()
    for change in json.loads(_CHANGES):
        kind = change.pop("kind")
        {"%s"}[kind]()(model, **change)
    return model
'''


def changed_architecture(text: str, changes: Iterable[Mapping[str, Any]], package: str) -> str:
    """Add to an architecture's text what gives the dense network its later structure.

    Args:
        text: A Python file whose `build()` makes the dense network.
        changes: The changes of structure, in order.
        package: Where their kinds are: modules that need torch alone, each with an `apply`.

    Returns:
        A Python file whose `build()` makes the changed network; it needs what the first did.
    """
    told = [dict(change) for change in changes]
    if not told:
        return text
    kinds = sorted({str(change["kind"]) for change in told})
    functions = "".join(_as_function(kind, f"{package}.{kind}") for kind in kinds)
    table = ", ".join(f'"{kind}": _{kind}' for kind in kinds)
    end = _END.replace('{"%s"}', "{" + table + "}")
    said = f"\n\n_CHANGES = {json.dumps(told, separators=(',', ':'))!r}\n"
    return f"{_FUTURE}\nimport json\n\n{text.replace(_FUTURE, '')}{said}{functions}{end}"


def _as_function(kind: str, module: str) -> str:
    """Put a module into a function, so that its names meet no others."""
    source = inspect.getsource(import_module(module)).replace(_FUTURE, "")
    return f"\n\ndef _{kind}():\n{textwrap.indent(source.strip(), '    ')}\n\n    return apply\n"
