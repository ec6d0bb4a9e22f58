"""Safe YAML parsing into plain data: duplicate keys, anchor expansion, dates, binary."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from limbeck.core.files import read_text
from limbeck.errors import LONGEST, InputError, Problem, did_you_mean, gathering

if TYPE_CHECKING:
    from limbeck.pipeline.recipe import Recipe


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
        limbeck.errors.InputError: --set, line 1, column 8: got '{a: 1, a: 2}'; allowed: YAML.
        the key 'a' is given twice
    """
    if len(text) > MOST_BYTES:
        given = f"{len(text):,} characters"
        raise InputError(Problem(where, given, f"YAML of at most {MOST_BYTES:,} characters"))
    try:
        # Expanding aliases also finds recursive anchors.
        return _unfolded(yaml.load(text, Loader=_Loader), 0, _Budget())
    # PyYAML raises errors of every type for a value that does not fit its tag.
    except Exception as error:
        raise InputError(_syntax_problem(error, text, where)) from error


def _syntax_problem(error: Exception, text: str, where: str) -> Problem:
    """Return the problem of a text that is not YAML, at its line and column from 1."""
    if isinstance(error, yaml.reader.ReaderError):  # it has no line
        before = text[: error.position].split("\n")
        line, column, reason = len(before), len(before[-1]) + 1, error.reason
    elif isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line, column = error.problem_mark.line + 1, error.problem_mark.column + 1
        reason = error.problem or "invalid"
        if error.context is not None and error.context_mark is not None:
            reason += f", {error.context} of line {error.context_mark.line + 1}"
    else:
        return Problem(where, " ".join(str(error).split()) or type(error).__name__, "YAML")
    found = "".join(text.split("\n")[line - 1 : line]).strip() or "the end of the text"
    return Problem(f"{where}, line {line}, column {column}", found, "YAML", reason[:LONGEST])


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


LONGEST_PATH = 1000
"""Maximum number of characters of a dotted path."""


def parse_override(text: str) -> tuple[str, Any]:
    """Parse `path=value`; the value is YAML.

    Raises:
        InputError: There is no `=`, or a part of the path is empty.

    Example:
        >>> parse_override("stages.distill.epochs=5")
        ('stages.distill.epochs', 5)
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    parts = path.split(".") if len(path) <= LONGEST_PATH else []
    if not equals or not all(parts) or not 0 < len(parts) <= DEEPEST:
        allowed = (
            "path=value, such as stages.distill.epochs=5; "
            f"at most {LONGEST_PATH} characters and {DEEPEST} parts"
        )
        raise InputError(Problem("--set", text[:LONGEST_PATH], allowed))
    return path, parse(value, where=f"--set {path}")


def apply_profile(content: Mapping[str, Any], profile: str) -> dict[str, Any]:
    """Apply one of a recipe's own profiles, and record its name.

    The result has no profiles: applied twice, one would undo later overrides.

    Raises:
        InputError: The recipe has no such profile, or a path in it does not exist.

    Example:
        >>> apply_profile({"seeds": [0, 1], "profiles": {"smoke": {"seeds": [0]}}}, "smoke")
        {'seeds': [0], 'profile': 'smoke'}
    """
    changed = copy.deepcopy(dict(content))
    profiles = changed.pop("profiles", None) or {}
    changed["profile"] = profile
    if profile == "default":
        return changed
    if not isinstance(profiles, dict) or profile not in profiles:
        allowed = ["default", *(profiles if isinstance(profiles, dict) else ())]
        fix = did_you_mean(profile, allowed)
        raise InputError(Problem("profile", profile, ", ".join(allowed), fix))
    settings = profiles[profile]
    if not isinstance(settings, dict):
        needed = "a mapping of dotted paths to values"
        raise InputError(Problem(f"profiles.{profile}", settings, needed))
    put_all(changed, settings, where=f"profiles.{profile}")
    return changed


def put_all(content: dict[str, Any], settings: Mapping[str, Any], *, where: str) -> None:
    """Set the values at several dotted paths.

    Raises:
        InputError: Some paths do not exist; all are reported.
    """
    problems: list[Problem] = []
    for path, value in settings.items():
        with gathering(problems):
            put(content, path, copy.deepcopy(value), where=where)
    if problems:
        raise InputError(*problems)


def put(content: dict[str, Any], path: str, value: Any, *, where: str = "--set") -> None:
    """Set the value at a dotted path.

    List entries are addressed by index, or by name where an entry is one name with its settings, as
    stages and terms are, and the name is unique.

    Raises:
        InputError: The path goes through a scalar, or to an entry that does not exist.

    Example:
        >>> recipe = {"stages": [{"train_teacher": {"epochs": 20}}]}
        >>> put(recipe, "stages.train_teacher.epochs", 5)
        >>> put(recipe, "stages.0.batch_size", 32)
        >>> recipe
        {'stages': [{'train_teacher': {'epochs': 5, 'batch_size': 32}}]}
    """
    place = f"{where} {path}"
    holder: Any = content
    parts = path.split(".")
    for part, following in itertools.pairwise(parts):
        holder, key = _located(holder, part, place)
        if holder[key] is None:
            holder[key] = {}
        holder = holder[key]
        if _is_number(part) and _is_entry(holder) and following not in holder:
            holder = _settings(holder)
    holder, key = _located(holder, parts[-1], place)
    holder[key] = value


def _located(holder: Any, part: str, place: str) -> tuple[Any, Any]:
    """Return the container of a part, and its key or index; a missing key is created."""
    if isinstance(holder, dict):
        holder.setdefault(part, None)
        return holder, part
    if not isinstance(holder, list):
        raise InputError(Problem(place, holder, f"something with parts, before .{part}"))
    if _is_number(part) and int(part) < len(holder):
        return holder, int(part)
    named = [item for item in holder if isinstance(item, dict) and part in item]
    if len(named) == 1:
        return named[0], part
    names = [str(name) for item in holder if _is_entry(item) for name in item]
    fix = "Give a number instead." if named else did_you_mean(part, names)
    given = f"{part}, {len(named)} times" if named else part
    raise InputError(Problem(place, given, ", ".join(names) or "a number", fix))


def _is_number(part: str) -> bool:
    """Return whether a text is a short ASCII decimal: `int` accepts other digits, or raises."""
    return part.isascii() and part.isdigit() and len(part) < 10


def _is_entry(item: Any) -> bool:
    return isinstance(item, dict) and len(item) == 1


def _settings(entry: dict[str, Any]) -> Any:
    (name,) = entry
    if entry[name] is None:
        entry[name] = {}
    return entry[name]


SHIPPED = Path(__file__).parent.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes: `domain/name` to file.

    Example:
        >>> "vision/digits" in shipped_recipes()
        True
    """
    return {
        path.relative_to(SHIPPED).with_suffix("").as_posix(): path
        for path in sorted(SHIPPED.rglob("*.yaml"))
    }


def resolve(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe, apply `--set` overrides, and validate the result.

    Args:
        name: A file, or the name of a shipped recipe, with or without its domain.
        overrides: Texts such as `stages.distill.epochs=5`; `profile=smoke` applies a profile of the
            recipe first.

    Raises:
        InputError: The recipe does not exist or is invalid; all problems at once.

    Example:
        >>> resolve("digits", ["seeds=[7]"]).seeds
        [7]
    """
    from limbeck.pipeline.validate import validate  # imports every stage's settings

    content = read(find(name))
    problems: list[Problem] = []
    settings: list[tuple[str, Any]] = []
    for override in overrides:
        with gathering(problems):
            settings.append(parse_override(override))
    with gathering(problems):
        content = _with_profile(content, dict(settings))
    for path, value in settings:
        with gathering(problems):
            if path != "profile":
                put(content, path, value)
    # The valid overrides are applied, so that all problems are reported at once.
    with gathering(problems):
        recipe = validate(content)
    if problems:
        raise InputError(*problems)
    return recipe


def _with_profile(content: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Apply the profile set by `--set`, or else by the file."""
    profile = settings.get("profile", content.get("profile", "default"))
    stated = "profile" not in settings and not content.get("profiles")
    if stated or not isinstance(profile, str):
        # A resolved recipe records the applied profile, and has no profiles; the schema refuses an
        # invalid name.
        return {**content, "profile": profile}
    return apply_profile(content, profile)


def find(name: str) -> Path:
    """Return a recipe's file: a shipped one by name, or a path.

    Raises:
        InputError: The recipe does not exist; the message has the closest names.
    """
    path = Path(name)
    is_file = _is_file(path)
    if path.suffix in {".yaml", ".yml"}:
        if is_file:
            return path
        raise InputError(Problem("recipe", name, "a file that exists", _nearest(path.stem)))
    shipped = shipped_recipes()
    matches = [key for key in shipped if key == name or key.split("/")[-1] == name]
    if len(matches) == 1:
        return shipped[matches[0]]
    if matches:
        raise InputError(Problem("recipe", name, "one of " + ", ".join(matches)))
    if is_file:
        return path
    allowed = "a YAML file, or one of " + ", ".join(shipped)
    resolved = path / "recipe.yaml"
    fix = f"Its recipe is {resolved}." if _is_file(resolved) else _nearest(name)
    raise InputError(Problem("recipe", name, allowed, fix))


def _is_file(path: Path) -> bool:
    """Return whether a path exists and is not a folder; irregular files are refused when read."""
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # not a valid file name
        return False


def _nearest(name: str) -> str:
    shipped = shipped_recipes()
    return did_you_mean(name, [*shipped, *(key.split("/")[-1] for key in shipped)])
