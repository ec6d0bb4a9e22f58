"""CycloneDX licences: an SPDX id where there is one, else a name.

`spdx_ids.txt` holds the ids that the CycloneDX 1.6 schema allows; a test keeps it current. The
library license-expression would be one more base dependency for a dozen lines.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _spdx_ids() -> dict[str, str]:
    text = (Path(__file__).parent / "spdx_ids.txt").read_text(encoding="utf-8")
    return {line.lower(): line for line in text.split()}


def licences(licence: str) -> list[dict[str, Any]]:
    """Convert a licence to CycloneDX; an empty one becomes an empty list.

    Matching ignores case, as SPDX specifies.

    Example:
        >>> licences("apache-2.0")
        [{'license': {'id': 'Apache-2.0'}}]
        >>> licences("by agreement")
        [{'license': {'name': 'by agreement'}}]
    """
    if not licence.strip():
        return []
    spdx = _spdx_ids().get(licence.strip().lower())
    return [{"license": {"id": spdx} if spdx else {"name": licence}}]


def normalized_licence(licence: str) -> str:
    """Return a licence with the spelling that the passport has."""
    return next((str(one) for item in licences(licence) for one in item["license"].values()), "")


def alternatives(licence: str) -> list[list[str]]:
    """Parse a licence into alternatives: complying with all of any one list is enough.

    An SPDX expression without brackets is split at its operators; `WITH` keeps its exception. A
    remark in brackets after an id is dropped. Anything else is one free text.

    Example:
        >>> alternatives("MIT OR GPL-2.0-only WITH Classpath-exception-2.0 AND BSD-3-Clause")
        [['MIT'], ['GPL-2.0-only WITH Classpath-exception-2.0', 'BSD-3-Clause']]
        >>> alternatives("CC-BY-4.0 (A. Author)"), alternatives("unknown OR none")
        ([['CC-BY-4.0']], [['unknown OR none']])
    """
    text = re.sub(r"^(\S+) \([^()]*\)$", r"\1", licence.strip())
    found = [option.split(" AND ") for option in text.split(" OR ")]
    ids = (part.split(" WITH ")[0].strip() for option in found for part in option)
    known = all(one.lower() in _spdx_ids() for one in ids)
    return found if known else [[licence.strip()]]
