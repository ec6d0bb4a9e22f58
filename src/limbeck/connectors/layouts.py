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
_PREFIX_LENGTHS = (0, 1, 2, 4, 5)
"""The possible numbers of tokens before a grid: a class token, a distillation token, registers."""

_SMALLEST = 3  # the minimum of rows and columns for two sequences to be image tokens


@dataclass(frozen=True)
class Layout:
    """The layout of a feature.

    Attributes:
        kind: A `vector` is `[n, d]`; a `sequence` `[n, tokens, d]`; `tokens` are a sequence that is
            a grid, optionally after a class token; a `map` is `[n, channels, height, width]`.
        channels: The number of values per position.
        grid: Height and width of tokens or of a map; otherwise 1 and the number of tokens.
        prefix: The number of tokens before the grid.
        channels_last: Whether a map is `[n, height, width, channels]`.
    """

    kind: Kind
    channels: int
    grid: Size
    prefix: int = 0
    channels_last: bool = False

    def of(self, feature: Tensor) -> Layout:
        """Return the layout of another batch, whose images or texts may differ in size.

        Raises:
            InputError: The layout differs, or the tokens are not a grid.
        """
        shape = tuple(feature.shape)
        if self.kind == "tokens" and len(shape) == 3:
            prefix, grid = _token_grid(shape[1], self.grid) or (0, (0, 0))
            if prefix == self.prefix and 0 not in grid:
                return Layout("tokens", self.channels, grid, prefix)
            raise InputError(Problem("connector", shape, f"{self.prefix} tokens and a grid"))
        layout = _layout(shape, self.channels_last)
        if layout is None or (layout.kind, layout.channels) != (self.kind, self.channels):
            allowed = f"a {self.kind} of {self.channels} channels, as in the example batch"
            raise InputError(Problem("connector", shape, allowed))
        return layout

    def to_positions(self, feature: Tensor) -> Tensor:
        """Return the channels of each position as `[n, channels, height, width]`."""
        if self.kind == "map":
            return feature.movedim(-1, 1) if self.channels_last else feature
        if self.kind == "vector":
            return feature[:, :, None, None]
        return feature[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)

    def from_positions(self, prefix: Tensor | None, positions: Tensor) -> Tensor:
        """Build a feature from its prefix tokens and its positions."""
        if self.kind == "map":
            return positions.movedim(1, -1) if self.channels_last else positions
        if self.kind == "vector":
            return positions.flatten(1)
        tokens = positions.flatten(2).transpose(1, 2)
        return tokens if prefix is None else torch.cat((prefix, tokens), 1)


def layout_pair(student: Tensor, teacher: Tensor) -> tuple[Layout, Layout] | str:
    """Infer the layouts of two features of one batch, each with the other as context.

    Returns:
        Both layouts, or the reason why the features cannot be connected.

    Example:
        >>> import torch
        >>> tokens, maps = torch.zeros(2, 197, 192), torch.zeros(2, 512, 7, 7)
        >>> student, teacher = layout_pair(tokens, maps)
        >>> student.kind, student.grid, student.prefix, teacher.kind, teacher.grid
        ('tokens', (14, 14), 1, 'map', (7, 7))
    """
    shapes = tuple(student.shape), tuple(teacher.shape)
    first = _layout(shapes[0], _channels_last(*shapes))
    second = _layout(shapes[1], _channels_last(*reversed(shapes)))
    if first is None or second is None or 0 in (*shapes[0], *shapes[1]):
        return (
            "only [n, d], [n, tokens, d] and [n, channels, height, width] can be connected, "
            "without empty dimensions"
        )
    if len(student) != len(teacher):
        return "both must come from one batch"
    kinds = (first.kind, second.kind)
    if "map" in kinds and "sequence" in kinds:
        return _tokens_and_map(first, second)
    if "vector" in kinds and kinds != ("vector", "vector"):
        return _vector_and_positions(first, second)
    if kinds == ("sequence", "sequence") and first.grid != second.grid:
        own, other = _as_tokens(first, None), _as_tokens(second, None)
        # A few words are not an image.
        if own and other and min(*own.grid, *other.grid) >= _SMALLEST:
            return own, other
    return first, second


def _tokens_and_map(student: Layout, teacher: Layout) -> tuple[Layout, Layout] | str:
    sequence, map_ = (student, teacher) if student.kind == "sequence" else (teacher, student)
    tokens = _as_tokens(sequence, map_.grid)
    if tokens is None:
        return f"{sequence.grid[1]} tokens are no grid, with or without a class token before it"
    return (tokens, teacher) if sequence is student else (student, tokens)


def _vector_and_positions(student: Layout, teacher: Layout) -> tuple[Layout, Layout] | str:
    if "sequence" in (student.kind, teacher.kind):
        return (
            "a vector cannot be mapped to or from a sequence; "
            "tap the layer after the pooling, or the sequence, on both sides"
        )
    if student.kind == "vector" and teacher.grid != (1, 1):
        return (
            "a vector has no positions to match the teacher's; tap the student before its pooling"
        )
    return student, teacher  # a map is averaged over its positions


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
    match = _token_grid(sequence.grid[1], like)
    return None if match is None else Layout("tokens", sequence.channels, match[1], match[0])


def _token_grid(tokens: int, like: Size | None) -> tuple[int, Size] | None:
    """Return prefix length and size of a grid with the aspect ratio of another, or a square."""
    ratios = [(1, 1)] if like is None else [like, (1, 1)]
    for prefix in _PREFIX_LENGTHS:
        positions = tokens - prefix
        for height, width in ratios:
            scale = math.isqrt(max(0, positions) * height * width)
            rows, columns = scale // width, scale // height
            if 0 < positions == rows * columns and rows * width == columns * height:
                return prefix, (rows, columns)
    return None
