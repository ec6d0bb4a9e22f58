"""Feature layouts: channels and positions of vectors, sequences, image tokens and maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from limbeck.errors import InputError, Problem

Kind: TypeAlias = Literal["vector", "sequence", "tokens", "map"]
Size: TypeAlias = tuple[int, int]
_LEADS = (0, 1, 2, 4, 5)
"""How many tokens may stand before a grid: a class token, one of distillation, registers."""

_SMALLEST = 3  # the minimum of rows and columns for two sequences to be image tokens


@dataclass(frozen=True)
class Layout:
    """The layout of a feature.

    Attributes:
        kind: A `vector` is `[n, d]`; a `sequence` `[n, tokens, d]`; `tokens` are a sequence that is
            a grid, optionally after a class token; a `map` is `[n, channels, height, width]`.
        channels: The number of values per position.
        grid: Height and width of tokens or of a map; otherwise 1 and the number of tokens.
        lead: The number of tokens before the grid.
        channels_last: Whether a map is `[n, height, width, channels]`.
    """

    kind: Kind
    channels: int
    grid: Size
    lead: int = 0
    channels_last: bool = False

    def of(self, feature: Tensor) -> Layout:
        """Return the layout of another batch, whose images or texts may differ in size.

        Raises:
            InputError: The layout differs, or the tokens are not a grid.
        """
        shape = tuple(feature.shape)
        if self.kind == "tokens" and len(shape) == 3:
            lead, grid = _grid(shape[1], self.grid) or (0, (0, 0))
            if lead == self.lead and 0 not in grid:
                return Layout("tokens", self.channels, grid, lead)
            raise InputError(Problem("connector", shape, f"{self.lead} tokens and a grid"))
        read = _layout(shape, self.channels_last)
        if read is None or (read.kind, read.channels) != (self.kind, self.channels):
            allowed = f"a {self.kind} of {self.channels} channels, as in the probe"
            raise InputError(Problem("connector", shape, allowed))
        return read

    def places(self, feature: Tensor) -> Tensor:
        """Return the channels of each position as `[n, channels, height, width]`."""
        if self.kind == "map":
            return feature.movedim(-1, 1) if self.channels_last else feature
        if self.kind == "vector":
            return feature[:, :, None, None]
        return feature[:, self.lead :].transpose(1, 2).unflatten(2, self.grid)

    def feature(self, leading: Tensor | None, places: Tensor) -> Tensor:
        """Build a feature from its leading tokens and its positions."""
        if self.kind == "map":
            return places.movedim(1, -1) if self.channels_last else places
        if self.kind == "vector":
            return places.flatten(1)
        tokens = places.flatten(2).transpose(1, 2)
        return tokens if leading is None else torch.cat((leading, tokens), 1)


def pair(student: Tensor, teacher: Tensor) -> tuple[Layout, Layout] | str:
    """Infer the layouts of two features of one batch, each with the other as context.

    Returns:
        Both layouts, or the reason why the features cannot be connected.

    Example:
        >>> import torch
        >>> tokens, maps = torch.zeros(2, 197, 192), torch.zeros(2, 512, 7, 7)
        >>> ours, theirs = pair(tokens, maps)
        >>> ours.kind, ours.grid, ours.lead, theirs.kind, theirs.grid
        ('tokens', (14, 14), 1, 'map', (7, 7))
    """
    first, second = tuple(student.shape), tuple(teacher.shape)
    ours = _layout(first, _channels_last(first, second))
    theirs = _layout(second, _channels_last(second, first))
    if ours is None or theirs is None or 0 in (*first, *second):
        return (
            "only [n, d], [n, tokens, d] and [n, channels, height, width] can be joined, "
            "and nothing that is empty"
        )
    if first[0] != second[0]:
        return "both must come from one batch"
    kinds = (ours.kind, theirs.kind)
    if "map" in kinds and "sequence" in kinds:
        return _tokens_and_map(ours, theirs)
    if "vector" in kinds and kinds != ("vector", "vector"):
        return _vector_and_places(ours, theirs)
    if kinds == ("sequence", "sequence") and ours.grid != theirs.grid:
        return _two_pictures(ours, theirs) or (ours, theirs)
    return ours, theirs


def _two_pictures(ours: Layout, theirs: Layout) -> tuple[Layout, Layout] | None:
    """Interpret two token counts as grids, if both can be; a few words are not an image."""
    mine, other = _as_tokens(ours, None), _as_tokens(theirs, None)
    if mine is None or other is None or min(*mine.grid, *other.grid) < _SMALLEST:
        return None
    return mine, other


def _tokens_and_map(ours: Layout, theirs: Layout) -> tuple[Layout, Layout] | str:
    tokens, map_ = (ours, theirs) if ours.kind == "sequence" else (theirs, ours)
    read = _as_tokens(tokens, map_.grid)
    if read is None:
        return f"{tokens.grid[1]} tokens are no grid, with or without a class token before it"
    return (read, theirs) if tokens is ours else (ours, read)


def _vector_and_places(ours: Layout, theirs: Layout) -> tuple[Layout, Layout] | str:
    if ours.kind == "sequence" or theirs.kind == "sequence":
        return (
            "a vector stands for all tokens and a sequence has many; "
            "tap what follows the pooling, or the sequence, on both sides"
        )
    if ours.kind == "vector" and theirs.grid != (1, 1):
        return (
            "a vector has no places, so that nothing could be learned about the teacher's; "
            "tap the student before its pooling"
        )
    return ours, theirs  # a map is averaged over its positions


def _layout(shape: tuple[int, ...], channels_last: bool) -> Layout | None:
    if len(shape) == 2:
        return Layout("vector", shape[1], (1, 1))
    if len(shape) == 3:
        return Layout("sequence", shape[2], (1, shape[1]))
    if len(shape) != 4:
        return None
    if channels_last:
        return Layout("map", shape[3], (shape[1], shape[2]), channels_last=True)
    return Layout("map", shape[1], (shape[2], shape[3]))


def _channels_last(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether a map has its channels last, as Swin's have: only if it is square then.

    For a map with as many channels as rows the other map decides.
    """
    if len(shape) != 4 or shape[1] != shape[2] or shape[2] >= shape[3]:
        return False
    if len(other) != 4 or (other[1] == other[2] and other[2] != other[3]):
        return True
    return other[2] * shape[3] != other[3] * shape[2]


def _as_tokens(sequence: Layout, like: Size | None) -> Layout | None:
    found = _grid(sequence.grid[1], like)
    if found is None:
        return None
    lead, grid = found
    return Layout("tokens", sequence.channels, grid, lead)


def _grid(tokens: int, like: Size | None) -> tuple[int, Size] | None:
    """Infer a token grid with the aspect ratio of another, or a square; the first few may lead."""
    forms = [(1, 1)] if like is None else [like, (1, 1)]
    for lead in _LEADS:
        places = tokens - lead
        for height, width in forms:
            scale = math.isqrt(max(0, places) * height * width)
            rows, columns = scale // width, scale // height
            if places > 0 and rows * columns == places and rows * width == columns * height:
                return lead, (rows, columns)
    return None
