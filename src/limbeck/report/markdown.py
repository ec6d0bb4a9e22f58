"""Markdown from plain text: names and notes are escaped, never parsed as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def plain(text: str) -> str:
    r"""Escape the markup of Markdown and HTML, and join all lines into one.

    Example:
        >>> plain("a|b <script> *x*")
        'a\\|b \\<script\\> \\*x\\*'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Write a code span of any text on one line, including backticks.

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
        figures: Whether all columns but the first are numeric and right-aligned.

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
