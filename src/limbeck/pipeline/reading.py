"""Safe YAML parsing into plain data: duplicate keys, anchor expansion, dates, binary."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

from limbeck.bounded import read_text
from limbeck.errors import InputError, Problem

DEEPEST, LARGEST = 50, 100_000
"""The maximum depth, and the maximum number of values, aliases and merge keys expanded."""

MOST_BYTES = 2**20
"""Maximum bytes of a file; its texts, with aliases expanded, may have four times as many
characters.
"""

LONGEST_NUMBER = 256
"""Maximum bits of an integer, far more than any setting needs and few enough to print."""

LONGEST_PLAIN = 1000
"""Maximum characters of a value that is not text; converting longer ones takes quadratic time."""


def read(path: Path) -> dict[str, Any]:
    """Load a YAML file into plain data.

    Raises:
        InputError: The file cannot be read, is larger than 1 MiB, is not YAML, or is not a mapping.
    """
    content = parse(read_text(path, limit=MOST_BYTES), where=str(path))
    if not isinstance(content, dict):
        raise InputError(Problem(str(path), content, "a mapping, such as `name: digits`"))
    return content


def parse(text: str, *, where: str) -> Any:
    """Parse YAML into mappings with text keys, lists, texts, numbers, booleans and None.

    Raises:
        InputError: The text is not YAML, has a duplicate key, or is too deep or too large.

    Example:
        >>> parse("{a: 1e-3, b: 2001-01-01}", where="--set")
        {'a': 0.001, 'b': '2001-01-01'}
        >>> parse("{a: 1, a: 2}", where="--set")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: --set: got ... is given twice ...; allowed: YAML
    """
    if len(text) > MOST_BYTES:
        given = f"{len(text):,} characters"
        raise InputError(Problem(where, given, f"YAML of at most {MOST_BYTES:,} characters"))
    try:
        # Expanding aliases also finds recursive anchors.
        return _unfolded(yaml.load(text, Loader=_Loader), 0, _Budget())
    # PyYAML raises errors of every type for a value that does not fit its tag.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(Problem(where, reason, "YAML")) from error


class _Budget:
    """A budget of values and characters for expanding a document."""

    def __init__(self) -> None:
        self._values, self._characters = LARGEST, 4 * MOST_BYTES

    def spend(self, values: int, characters: int = 0) -> None:
        """Subtract from the remaining budget.

        Raises:
            ValueError: The budget is exhausted.
        """
        self._values -= values
        self._characters -= characters
        if self._values < 0 or self._characters < 0:
            raise ValueError(
                f"more than {LARGEST:,} values or {4 * MOST_BYTES:,} characters, "
                "aliases and merged keys counted"
            )


class _Loader(yaml.SafeLoader):
    """A YAML loader in bounded time, with an error for duplicate keys, and 1e-3 as a number."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth, self._nodes, self._merged = 0, _Budget(), _Budget()
        self._flat: set[int] = set()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError("nested too deeply")
        self._nodes.spend(1)
        node = super().compose_node(parent, index)
        self._depth -= 1
        is_text = not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:str"
        if node is not None and not is_text and len(node.value) > LONGEST_PLAIN:
            raise ValueError(f"a value of {len(node.value):,} characters that is no text")
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Apply merge keys (`<<`) within the budget: nested merges grow exponentially."""
        if id(node) in self._flat:
            return
        self._flat.add(id(node))
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for one in merged:
                    if isinstance(one, yaml.MappingNode):
                        self.flatten_mapping(one)
                        self._merged.spend(len(one.value) + 1)
        super().flatten_mapping(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key_node, yaml.ScalarNode):
                # By Python's equality: 1 and true are one key.
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


def _unfolded(content: Any, depth: int, left: _Budget) -> Any:
    left.spend(1, len(content) if isinstance(content, str | bytes) else 0)
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(content, dict):
        pairs = [
            (_key(key, left), _unfolded(part, depth + 1, left)) for key, part in content.items()
        ]
        unfolded = dict(pairs)
        if len(unfolded) < len(pairs):
            raise ValueError("a key is given twice, as a text and as a value that is written alike")
        return unfolded
    if isinstance(content, list | tuple | set):
        return [_unfolded(value, depth + 1, left) for value in content]
    if isinstance(content, int) and content.bit_length() > LONGEST_NUMBER:
        raise ValueError(f"a whole number of {content.bit_length()} bits")
    if content is None or isinstance(content, str | bool | int | float):
        return content
    return str(content)  # such as a date, which the schema will refuse


def _key(key: Any, left: _Budget) -> str:
    if isinstance(key, tuple):
        raise ValueError("a list as a key")
    return str(_unfolded(key, DEEPEST, left))
