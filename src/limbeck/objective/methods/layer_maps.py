"""Layer mapping strategies from student to teacher layers.

A pair is (student's block, teacher's block), counted from 0: the last of twelve blocks is 11. The
embeddings, the input of the first block, are -1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from limbeck.errors import InputError, Problem, did_you_mean

Pairs: TypeAlias = list[tuple[int, int]]
Strategy: TypeAlias = str | Mapping[int, int] | Sequence[Sequence[int]]
EMBEDDINGS = -1
"""The number of what goes into the first block."""

SIX_OF_TWELVE = ((EMBEDDINGS, EMBEDDINGS), (0, 2), (2, 5), (4, 8), (5, 11))
"""A common description of TinyBERT with six blocks of twelve: blocks 0, 2, 4 and 5 of the student
learn from layers 3, 6, 9 and 12 of the teacher. The paper's own is the strategy `tinybert`."""


def layer_map(student_layers: int, teacher_layers: int, strategy: Strategy) -> Pairs:
    r"""Map a student's blocks to a teacher's.

    With S blocks of the student and T of the teacher, block i of the student is mapped to

    | strategy | block of the teacher | |-|-| | `early` | i: the first S | | `last` | T - S + i: the
    last S | | `uniform` | i (T - 1) / (S - 1), rounded (half up): evenly from the first to the last
    | | `skip` | (i + 1) ⌊T / S⌋ - 1: the last of each run of ⌊T / S⌋ | | `tinybert` | (i + 1) T / S
    - 1, and embeddings to embeddings |

    No strategy is best everywhere. In `uniform`, a single student block is mapped to the last one.

    Args:
        student_layers: S, above 0.
        teacher_layers: T, above 0.
        strategy: One of these, or explicit pairs: {student: teacher} or a list of pairs, such as
            `SIX_OF_TWELVE`; -1 are the embeddings on both sides.

    Returns:
        Pairs (student, teacher), blocks counted from 0 and the embeddings as -1.

    Raises:
        InputError: An unknown strategy, a student with more blocks than its teacher (but for
            `uniform`), for `tinybert` a T that S does not divide, or missing blocks.

    Example:
        >>> layer_map(4, 12, "uniform")
        [(0, 0), (1, 4), (2, 7), (3, 11)]
        >>> layer_map(4, 12, "tinybert")
        [(-1, -1), (0, 2), (1, 5), (2, 8), (3, 11)]
        >>> layer_map(6, 12, {0: 2, 5: 11})
        [(0, 2), (5, 11)]

    Source: Jiao et al. 2020 (TinyBERT, whose g(m) = m T / S counts the embeddings as 0); Sun et al.
    2019 (patient distillation: skip, last).
    """
    problems = [
        Problem(where, count, "a whole number above 0")
        for where, count in (("student_layers", student_layers), ("teacher_layers", teacher_layers))
        if not _is_count(count)
    ]
    if problems:
        raise InputError(*problems)
    if not isinstance(strategy, str):
        return _explicit(student_layers, teacher_layers, strategy)
    if strategy not in _STRATEGIES:
        allowed = f"{', '.join(_STRATEGIES)}, or pairs of blocks"
        fix = did_you_mean(strategy, _STRATEGIES)
        raise InputError(Problem("layer_map.strategy", strategy, allowed, fix))
    if strategy != "uniform" and student_layers > teacher_layers:
        raise InputError(
            Problem(
                f"layer_map.{strategy}",
                f"{student_layers} blocks of the student, {teacher_layers} of the teacher",
                "no more blocks than the teacher has",
                'Use "uniform", or give pairs.',
            )
        )
    return _STRATEGIES[strategy](student_layers, teacher_layers)


def paths(pairs: Iterable[tuple[int, int]], student: str, teacher: str) -> list[tuple[str, str]]:
    """Convert pairs of blocks to pairs of module paths.

    Args:
        pairs: The result of `layer_map`.
        student: The path of a student's block, with {} for its index.
        teacher: The same for the teacher.

    Returns:
        Pairs of paths; the embeddings are the input of the first block.

    Raises:
        InputError: A path without {}, or embeddings of a path that has an input or output suffix.

    Example:
        >>> paths([(-1, -1), (0, 2)], "layer.{}", "bert.encoder.layer.{}")
        [('layer.0:input', 'bert.encoder.layer.0:input'), ('layer.0', 'bert.encoder.layer.2')]
    """
    mapped = list(pairs)
    problems = []
    for place, pattern in enumerate((student, teacher)):
        where = f"paths.{('student', 'teacher')[place]}"
        if pattern.count("{}") != 1:
            problems.append(Problem(where, pattern, "a path with one {}, such as layer.{}"))
        elif ":" in pattern and any(pair[place] == EMBEDDINGS for pair in mapped):
            allowed = "a path without :input or :output, since the embeddings are an input"
            problems.append(Problem(where, pattern, allowed))
    if problems:
        raise InputError(*problems)
    return [(_path(student, block), _path(teacher, other)) for block, other in mapped]


def _path(pattern: str, block: int) -> str:
    if block == EMBEDDINGS:
        return pattern.replace("{}", "0") + ":input"
    return pattern.replace("{}", str(block))


def _early(student_layers: int, teacher_layers: int) -> Pairs:
    return [(block, block) for block in range(student_layers)]


def _last(student_layers: int, teacher_layers: int) -> Pairs:
    return [(block, teacher_layers - student_layers + block) for block in range(student_layers)]


def _uniform(student_layers: int, teacher_layers: int) -> Pairs:
    if student_layers == 1:
        return [(0, teacher_layers - 1)]
    gaps = student_layers - 1
    return [
        (block, (2 * block * (teacher_layers - 1) + gaps) // (2 * gaps))
        for block in range(student_layers)
    ]


def _skip(student_layers: int, teacher_layers: int) -> Pairs:
    return [
        (block, (block + 1) * (teacher_layers // student_layers) - 1)
        for block in range(student_layers)
    ]


def _tinybert(student_layers: int, teacher_layers: int) -> Pairs:
    if teacher_layers % student_layers:
        given = f"{student_layers} blocks of the student, {teacher_layers} of the teacher"
        allowed = "a number of the student's blocks that divides the teacher's"
        raise InputError(
            Problem("layer_map.tinybert", given, allowed, 'Use "uniform", or give pairs.')
        )
    return [(EMBEDDINGS, EMBEDDINGS), *_skip(student_layers, teacher_layers)]


_STRATEGIES: dict[str, Callable[[int, int], Pairs]] = {
    "early": _early,
    "last": _last,
    "skip": _skip,
    "tinybert": _tinybert,
    "uniform": _uniform,
}


def _explicit(student_layers: int, teacher_layers: int, strategy: object) -> Pairs:
    """Check explicit pairs."""
    entries = list(strategy.items()) if isinstance(strategy, Mapping) else strategy
    allowed = "{student's block: teacher's block}, or a list of such pairs, each once"
    if not (isinstance(entries, Sequence) and entries and all(map(_is_pair, entries))):
        raise InputError(Problem("layer_map.strategy", strategy, allowed))
    pairs = [(pair[0], pair[1]) for pair in entries]
    if len(set(pairs)) < len(pairs):
        raise InputError(Problem("layer_map.strategy", strategy, allowed))
    problems = [
        Problem(f"layer_map.{side}", pair[place], f"a block from 0 to {count - 1}, or -1")
        for place, (side, count) in enumerate(
            (("student", student_layers), ("teacher", teacher_layers))
        )
        for pair in pairs
        if not EMBEDDINGS <= pair[place] < count
    ]
    if problems:
        raise InputError(*problems)
    return pairs


def _is_pair(entry: object) -> bool:
    if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
        return False
    return all(isinstance(block, int) and not isinstance(block, bool) for block in entry)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
