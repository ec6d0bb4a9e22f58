"""Markdown out of plain text: names and notes are shown as they are, never read as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def plain(text: str) -> str:
    r"""Escape what Markdown or HTML would read as markup, and keep it on one line.

    Example:
        >>> plain("a|b <script> *x*")
        'a\\|b \\<script\\> \\*x\\*'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Write a code span that holds any text on one line, backticks included.

    Example:
        >>> code("limbeck run 'my recipe.yaml'"), code("a`b")
        ("`limbeck run 'my recipe.yaml'`", '`` a`b ``')
    """
    line = " ".join(text.splitlines())
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{line}{space}{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> str:
    """Write a table; every cell is escaped.

    Args:
        head: The names of the columns.
        rows: The cells.
        figures: Whether all columns but the first hold figures, which stand at the right.

    Example:
        >>> print(table(["", "size"], [["net", "3 kB"]]))
        |  | size |
        |-|-:|
        | net | 3 kB |
    """
    rule = "|-|" + ("-:|" if figures else "-|") * (len(head) - 1)
    lines = [f"| {' | '.join(map(plain, row))} |" for row in (head, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def bullets(items: Sequence[str]) -> str:
    """Write a list; every item is escaped."""
    return "\n".join(f"- {plain(item)}" for item in items)
