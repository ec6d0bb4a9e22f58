"""YAML into plain data, whatever is in the file: keys twice, endless anchors, dates, binary."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

from limbeck.errors import InputError, Problem

DEEPEST, LARGEST = 50, 100_000
LONGEST_NUMBER = 256
"""Bits of a whole number, far more than any setting needs and few enough to be written out."""


def read(path: Path) -> dict[str, Any]:
    """Read a YAML file into plain data.

    Raises:
        InputError: It cannot be read, is not YAML, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(str(path), str(error), "a readable file in UTF-8")) from error
    content = parse(text, where=str(path))
    if not isinstance(content, dict):
        raise InputError(Problem(str(path), content, "a mapping, such as `name: digits`"))
    return content


def parse(text: str, *, where: str) -> Any:
    """Turn YAML into mappings with text keys, lists, texts, numbers, booleans and None.

    Raises:
        InputError: It is not YAML, has a key twice, or is too deep or too large.

    Example:
        >>> parse("{a: 1e-3, b: 2001-01-01}", where="--set")
        {'a': 0.001, 'b': '2001-01-01'}
        >>> parse("{a: 1, a: 2}", where="--set")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: --set: got ... is given twice ...; allowed: YAML
    """
    try:
        # Unfolding what anchors share also finds the anchors that hold themselves.
        return _unfolded(yaml.load(text, Loader=_Loader), 0, [LARGEST])
    # PyYAML lets every kind of error through for a value that does not fit its tag.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(Problem(where, reason, "YAML")) from error


class _Loader(yaml.SafeLoader):
    """YAML without surprises: a key given twice is an error, and 1e-3 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key_node, yaml.ScalarNode):
                # As Python compares them: 1 and true are one key.
                is_merge = key_node.tag == "tag:yaml.org,2002:merge"
                key = key_node.value if is_merge else self.construct_object(key_node)
                if key in seen:
                    reason = f"the key {key_node.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, reason, key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = copy.deepcopy(yaml.SafeLoader.yaml_implicit_resolvers)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _unfolded(content: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if depth > DEEPEST or left[0] < 0:
        raise ValueError("nested too deeply, or too large")
    if isinstance(content, dict):
        return {_key(key): _unfolded(value, depth + 1, left) for key, value in content.items()}
    if isinstance(content, list | tuple | set):
        return [_unfolded(value, depth + 1, left) for value in content]
    if isinstance(content, int) and content.bit_length() > LONGEST_NUMBER:
        raise ValueError(f"a whole number of {content.bit_length()} bits")
    if content is None or isinstance(content, str | bool | int | float):
        return content
    return str(content)  # a date, say: the schema will have its word on it


def _key(key: Any) -> str:
    if isinstance(key, tuple):
        raise ValueError("a list as a key")
    return str(_unfolded(key, DEEPEST, [1]))
