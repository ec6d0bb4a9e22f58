"""Strict YAML parser for policy files: every unknown key is an error.

Scalars stay strings: none becomes a number, a date or an object.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import yaml

from limbeck.core.files import read_text
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.passport.policy import CLASSES, FLAGS, TERMS, Names, Policy, Use

LARGEST = 2**20  # the largest file in bytes
DEEPEST = 10  # the most levels of nesting; a policy has three
_ANY: tuple[str, ...] = ()
_NAMES: dict[str, tuple[str, ...]] = {"allow": _ANY, "forbid": _ANY}
_LISTS: dict[str, dict[str, tuple[str, ...]]] = {
    "licences": _NAMES,
    "terms": {"allow": TERMS, "forbid": TERMS},
    **dict.fromkeys(("models", "data", "owners"), _NAMES),
    "flags": {"forbid": FLAGS},
    "signature": {"keys": _ANY},
}
"""The list keys of each part, with their allowed values; an empty tuple allows any."""

_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "licences": {"unstated": ("allow", "forbid")},
    "risk": {"highest": CLASSES},
    "signature": {"required": ("true", "false")},
}
"""The scalar keys of each part, with their allowed values."""

_USES = ("commercial", "research")
_PARTS = ("use", *dict.fromkeys([*_LISTS, *_WORDS]))
_Part = dict[str, str | tuple[str, ...]]


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    Args:
        path: An example, in which every part is optional:

            ```yaml
            use: commercial          # or research
            licences: {allow: [MIT, Apache-2.0, BSD-*], forbid: [], unstated: forbid}
            terms: {forbid: [no-distillation, no-competition], allow: []}
            models: {forbid: ["gpt-*"]}
            data: {forbid: ["web pages"]}
            owners: {allow: [Example Institute]}
            flags: {forbid: [dual-use, export-controlled]}
            risk: {highest: limited}
            signature: {required: true, keys: [keys/release.pem]}
            ```

            `terms.allow` lifts the default ban on `no-distillation`, once permission is obtained.
            `limbeck verify --policy` accepts a student only if one of `signature.keys` signed it;
            their paths are relative to the policy's folder.

    Raises:
        InputError: It cannot be read, or is not a policy; every problem is listed.
    """
    return parse_policy(read_text(path, limit=LARGEST), where=str(path))


def parse_policy(text: str, *, where: str) -> Policy:
    """Parse a policy from its text, as `read_policy` does.

    Raises:
        InputError: It is not a policy; every problem is listed.

    Example:
        >>> parse_policy("licences: {allow: [MIT]}", where="policy.yaml").licences.allow
        ('MIT',)
        >>> parse_policy("licenses: {allow: [MIT]}", where="policy.yaml")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: policy.yaml: got 'licenses'; ... did you mean "licences"?
    """
    try:
        _check_depth(text)
        # Nodes, not values: YAML tags are never constructed.
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(Problem(where, reason, "a policy in YAML")) from error
    reader = _Reader(where)
    policy = reader.policy(root)
    if reader.problems:
        raise InputError(*reader.problems)
    return policy


class _Reader:
    """A parser of a policy's YAML nodes that collects every problem."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[Problem] = []

    def policy(self, root: yaml.Node | None) -> Policy:
        nodes = dict(self._mapping(root, "", _PARTS)) if root is not None else {}
        parts = {name: self._part(nodes[name], name) for name in _PARTS[1:] if name in nodes}

        def word(part: str, key: str) -> str:
            return str(parts.get(part, {}).get(key, ""))

        def listed(part: str, key: str) -> tuple[str, ...]:
            return tuple(parts.get(part, {}).get(key, ()))

        def names(part: str) -> Names:
            return Names(listed(part, "allow"), listed(part, "forbid"))

        terms, keys = names("terms"), listed("signature", "keys")
        for term in sorted(set(terms.allow) & set(terms.forbid)):
            self._refuse("terms", term, "in one of allow and forbid")
        return Policy(
            use=cast("Use", self._word(nodes["use"], "use", _USES) if "use" in nodes else ""),
            licences=names("licences"),
            unstated_licence=word("licences", "unstated") != "forbid",
            terms=(Policy().terms | set(terms.forbid)) - set(terms.allow),
            models=names("models"),
            data=names("data"),
            owners=names("owners"),
            flags=frozenset(listed("flags", "forbid")),
            highest_risk=word("risk", "highest"),
            require_signature=bool(keys) or word("signature", "required") == "true",
            keys=keys,
        )

    def _part(self, node: yaml.Node, part: str) -> _Part:
        lists, words = _LISTS.get(part, {}), _WORDS.get(part, {})
        found: _Part = {}
        for name, value in self._mapping(node, part, (*lists, *words)):
            read = self._list if name in lists else self._word
            found[name] = read(value, f"{part}.{name}", lists.get(name) or words.get(name) or ())
        return found

    def _mapping(
        self, node: yaml.Node | None, where: str, known: tuple[str, ...]
    ) -> Iterator[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            self._refuse(where, _shown(node), f"a mapping of {', '.join(known)}")
            return
        seen = set()
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else _shown(key)
            if name in seen:
                self._refuse(where, name, "each key once")
            elif name not in known:
                self._refuse(where, name, ", ".join(known), did_you_mean(name, known))
            else:
                yield name, value
            seen.add(name)

    def _list(self, node: yaml.Node, where: str, known: tuple[str, ...]) -> tuple[str, ...]:
        if not isinstance(node, yaml.SequenceNode):
            self._refuse(where, _shown(node), "a list of texts, such as [one, two]")
            return ()
        return tuple(self._word(item, where, known) for item in node.value)

    def _word(self, node: yaml.Node, where: str, known: tuple[str, ...]) -> str:
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            self._refuse(where, _shown(node), ", ".join(known) or "a text that is not empty")
            return ""
        word = str(node.value).strip()
        if known and word not in known:
            self._refuse(where, word, ", ".join(known), did_you_mean(word, known))
        return word

    def _refuse(self, where: str, given: object, allowed: str, fix: str = "") -> None:
        place = f"{self.where}: {where}" if where else self.where
        self.problems.append(Problem(place, given, allowed, fix))


def _check_depth(text: str) -> None:
    # PyYAML takes seconds on a thousand nested brackets before it fails.
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError("too many levels of nesting")


def _shown(node: yaml.Node | None) -> object:
    if isinstance(node, yaml.ScalarNode):
        return node.value
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping" if node else None
