"""Text corruptions: typos and dropped words, at five severities, seeded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from limbeck.errors import check_choice
from limbeck.evaluate.corruption.pictures import check_severity

Corruption = Callable[[list[str], int, np.random.Generator], list[str]]

TYPOS = (0.05, 0.1, 0.2, 0.35, 0.5)
"""Share of the words that get a typo, rounded up."""
DROPPED = (0.05, 0.1, 0.2, 0.35, 0.5)
"""Share of the words that are dropped, rounded up; at least one word stays."""


def corrupt_texts(
    texts: Sequence[str], kind: str, *, severity: int, seed: int = 0
) -> tuple[str, ...]:
    """Apply a corruption to texts; the words changed at one severity are also changed at the next.

    Words are separated by spaces. A typo doubles a letter, drops one or swaps two, in any script.

    Args:
        texts: The texts.
        kind: One of `TEXTS`.
        severity: From 0 (no change) to 5.
        seed: Seed of the choice of words and of their change.

    Raises:
        InputError: The kind or the severity does not exist.

    Example:
        >>> corrupt_texts(["a fine film for a rainy day"], "dropped words", severity=5)
        ('a fine rainy',)
    """
    check_choice(kind, tuple(TEXTS), where="kind")
    check_severity(severity)
    if severity == 0:
        return tuple(texts)
    return tuple(
        " ".join(TEXTS[kind](text.split(" "), severity - 1, np.random.default_rng([seed, number])))
        for number, text in enumerate(texts)
    )


def _typos(words: list[str], level: int, random: np.random.Generator) -> list[str]:
    order = random.permutation(len(words))
    hit = set(order[: math.ceil(TYPOS[level] * len(words))].tolist())
    # Drawn for every word, changed or not, so that its typo is the same at every severity.
    places = random.random(len(words))
    ways = random.integers(3, size=len(words))
    return [
        _mistyped(word, places[number], int(ways[number])) if number in hit else word
        for number, word in enumerate(words)
    ]


def _mistyped(word: str, where: float, way: int) -> str:
    """Return a word with one letter doubled, dropped, or swapped with the next.

    Example:
        >>> [_mistyped("film", 0.3, way) for way in range(3)]
        ['fiilm', 'flm', 'flim']
    """
    if not word:
        return word
    place = int(where * len(word))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    if way == 1 and len(word) > 1:
        return before + after
    if way == 2 and after and after[0] != letter:
        return before + after[0] + letter + after[1:]
    return before + letter + letter + after


def _dropped(words: list[str], level: int, random: np.random.Generator) -> list[str]:
    lost = min(math.ceil(DROPPED[level] * len(words)), len(words) - 1)
    gone = set(random.permutation(len(words))[:lost].tolist())
    return [word for number, word in enumerate(words) if number not in gone]


TEXTS: dict[str, Corruption] = {"typos": _typos, "dropped words": _dropped}
"""The kinds, by name."""
