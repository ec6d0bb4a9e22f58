"""Licences as CycloneDX writes them: an SPDX id when it is one, else a name.

`spdx_ids.txt` holds the ids that the CycloneDX 1.6 schema allows; a test holds it current.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any


@cache
def _spdx_ids() -> dict[str, str]:
    text = (Path(__file__).parent / "spdx_ids.txt").read_text(encoding="utf-8")
    return {line.lower(): line for line in text.split()}


def licences(licence: str) -> list[dict[str, Any]]:
    """Write a licence as CycloneDX does; an empty one is none.

    Case does not matter, as SPDX has it.

    Example:
        >>> licences("apache-2.0")
        [{'license': {'id': 'Apache-2.0'}}]
        >>> licences("ask the author")
        [{'license': {'name': 'ask the author'}}]
        >>> licences("")
        []
    """
    if not licence.strip():
        return []
    spdx = _spdx_ids().get(licence.strip().lower())
    return [{"license": {"id": spdx} if spdx else {"name": licence}}]
