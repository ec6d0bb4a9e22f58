"""Markdown pages and the fenced blocks in them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^```(?P<kind>\w*)[ \t]*(?P<rest>[^\n`]*)\n(?P<text>.*?)^```[ \t]*$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block: ```kind title="file" checked."""

    kind: str
    title: str | None
    checked: bool
    text: str
    line: int


def read_blocks(page: Path) -> list[Block]:
    """List a page's fenced blocks, in order."""
    content = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(content):
        title = re.search(r'title="([^"]+)"', match["rest"])
        found.append(
            Block(
                kind=match["kind"],
                title=title[1] if title else None,
                checked="checked" in match["rest"].split(),
                text=match["text"],
                line=content.count("\n", 0, match.start()) + 1,
            )
        )
    return found


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def blocks_of() -> Callable[[Path], list[Block]]:
    """Read a page's fenced blocks."""
    return read_blocks
