"""Initialisation of a student from chosen layers of its teacher."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.models.spec import Layers

LISTED = 20
_PLACE = re.compile(r"\{(?:(\d+)\s*\*?\s*)?([a-z])\s*(?:([+-])\s*(\d+))?\}")
"""A placeholder of a path, such as `{i}`, `{2i}` and `{2i+1}`."""


def copy_layers(
    student: nn.Module, teacher: nn.Module, layers: Layers, *, where: str = "layers"
) -> list[str]:
    r"""Copy parameters and buffers of a teacher's layers into a student, in place.

    - A mapping has a path of the student for each path of the teacher: of a module, a parameter, or
      `""` for everything. A placeholder `{i}` is any number in the student's path, and may be
      computed with in the teacher's: `{"encoder.layer.{i}": "encoder.layer.{2i+1}"}`. If several
      entries match a tensor, the longest path is used.
    - A list has the teacher's layer for each layer of the student, in the one stack of layers that
      both have; outside of it, tensors of equal name and shape are copied, such as embeddings.

    Args:
        student: The student.
        teacher: The teacher, which is not changed.
        layers: The mapping, or the list.
        where: The key in the recipe, for messages.

    Returns:
        Notes that list the copied and the untouched tensors.

    Raises:
        InputError: A path matches nothing, a tensor is missing in the teacher, or shapes differ;
            the message lists all problems.

    Example:
        >>> teacher = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
        >>> student = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> print(*copy_layers(student, teacher, {"{i}": "{i+1}"}), sep="\n")
        initialised from the teacher: 0 <- 1 (2 tensors), 1 <- 2 (2 tensors)
        >>> torch.equal(student[1].weight, teacher[2].weight)
        True

    Source: Sanh et al. 2019 (DistilBERT: every other layer of BERT).
    """
    own, given = _tensors(student), _tensors(teacher)
    rest = not isinstance(layers, Mapping)
    if isinstance(layers, Mapping):
        paths = _expanded(own, layers, where)
    else:
        paths = _stack_mapping(own, given, layers, where)
    pairs: dict[str, str] = {}
    problems: list[Problem] = []
    for name in own:
        prefix = next((one for one in _prefixes(name) if one in paths), None)
        if prefix is not None:
            source = f"{paths[prefix]}{name[len(prefix) :]}".removeprefix(".")
            problems += _misfit(name, source, own, given, where)
            pairs[name] = source
        elif rest and name in given and given[name].shape == own[name].shape:
            pairs[name] = name
    if problems:
        raise InputError(*problems)
    with torch.no_grad():
        for name, source in pairs.items():
            own[name].copy_(given[source])
    return _notes(own, pairs, paths)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and saved buffers by name; a shared tensor has one entry per name."""
    return {name: one for name, one in model.state_dict().items() if isinstance(one, Tensor)}


def _prefixes(name: str) -> Iterator[str]:
    """Yield a name and its parent paths, the longest first, to the empty one."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""


def _misfit(
    name: str, source: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str
) -> list[Problem]:
    if source not in given:
        fix = did_you_mean(source, given)
        return [Problem(where, f"{source} for {name}", "a tensor of the teacher", fix)]
    shapes = tuple(given[source].shape), tuple(own[name].shape)
    if shapes[0] == shapes[1]:
        return []
    text = f"{source} of shape {shapes[0]} for {name} of shape {shapes[1]}"
    return [Problem(where, text, "equal shapes", "Map only layers of the same width.")]


def _expanded(own: Iterable[str], layers: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the teacher's path of each path of the student, without placeholders."""
    known = list(dict.fromkeys(part for name in own for part in _prefixes(name)))
    found: dict[str, str] = {}
    problems = []
    for pattern, target in layers.items():
        regex, letters = _compiled(pattern)
        unknown = sorted({match[2] for match in _PLACE.finditer(target)} - set(letters))
        if unknown or "{" in _PLACE.sub("", target + pattern):
            allowed = "placeholders such as {i}, and {2i+1} in the teacher's path"
            problems.append(Problem(where, f"{pattern}: {target}", allowed))
            continue
        matches = [(path, match) for path in known if (match := regex.fullmatch(path))]
        if not matches:
            fix = did_you_mean(_PLACE.sub("0", pattern), known)
            problems.append(Problem(where, pattern, "a path of the student", fix))
        for path, match in matches:
            found[path] = _PLACE.sub(partial(_number, match), target)
    if problems:
        raise InputError(*problems)
    return found


def _compiled(pattern: str) -> tuple[re.Pattern[str], list[str]]:
    """Return the expression of a student's path, and the letters of its placeholders."""
    letters: list[str] = []
    text, end = "", 0
    for place in re.finditer(r"\{([a-z])\}", pattern):
        text += re.escape(pattern[end : place.start()])
        text += f"(?P={place[1]})" if place[1] in letters else rf"(?P<{place[1]}>\d+)"
        letters.append(place[1])
        end = place.end()
    return re.compile(text + re.escape(pattern[end:])), letters


def _number(of: re.Match[str], place: re.Match[str]) -> str:
    """Compute a placeholder of the teacher's path from the student's."""
    factor, letter, sign, offset = place.groups()
    moved = int(offset or 0) * (-1 if sign == "-" else 1)
    return str(int(factor or 1) * int(of[letter]) + moved)


def _stack_mapping(
    own: Iterable[str], given: Iterable[str], layers: Sequence[int], where: str
) -> dict[str, str]:
    """Map the layers of the student's stack to those of the teacher's."""
    stacks, of_teacher = _stacks(own), _stacks(given)
    fitting = [path for path, count in stacks.items() if count == len(layers)]
    shared = [path for path in fitting if of_teacher.get(path, 0) > max(layers)]
    if len(shared) == 1:
        return {f"{shared[0]}{n}": f"{shared[0]}{layer}" for n, layer in enumerate(layers)}
    listed = "; ".join(
        f"the {role} has " + (", ".join(f"{p}0 to {p}{n - 1}" for p, n in found.items()) or "none")
        for role, found in (("student", stacks), ("teacher", of_teacher))
    )
    allowed = f"one stack of {len(layers)} layers in the student, and at the same path in the"
    allowed += f" teacher, there of at least {max(layers) + 1}"
    fix = f"{listed}. Give a mapping, such as {{'encoder.{{i}}': 'layers.{{2i}}'}}."
    raise InputError(Problem(where, list(layers), allowed, fix))


def _stacks(names: Iterable[str]) -> dict[str, int]:
    """Return the paths, with a dot, that end in numbers from 0; without those inside of others."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        match = re.match(r"((?:[^.]*[^.\d][^.]*\.)*)(\d+)\.", name)
        if match:
            numbers.setdefault(match[1], set()).add(int(match[2]))
    return {path: max(found) + 1 for path, found in numbers.items()}


def _notes(
    own: Mapping[str, Tensor], pairs: Mapping[str, str], paths: Mapping[str, str]
) -> list[str]:
    groups: Counter[tuple[str, str]] = Counter()
    for name, source in pairs.items():
        prefix = next((one for one in _prefixes(name) if one in paths), None)
        if prefix is None:  # copied under its own name
            groups[name.rpartition(".")[0], source.rpartition(".")[0]] += 1
        else:
            groups[prefix, paths[prefix]] += 1
    listed = [
        f"{to or 'all'} <- {of or 'all'} ({count} tensor{'s' * (count > 1)})"
        for (to, of), count in groups.items()
    ]
    notes = [f"initialised from the teacher: {_listed(listed)}"]
    untouched = [name for name in own if name not in pairs]
    if untouched:
        notes.append(f"not initialised from the teacher, fresh: {_listed(untouched)}")
    return notes


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
