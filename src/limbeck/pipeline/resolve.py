"""From what was typed to a recipe: find the file, apply the profile and the overrides, validate the whole."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.pipeline.recipe import Recipe, validate

SHIPPED = Path(__file__).parent.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """List the recipes that come with limbeck: `domain/name` to file."""
    return {path.relative_to(SHIPPED).with_suffix("").as_posix(): path for path in sorted(SHIPPED.rglob("*.yaml"))}


def resolve(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Find a recipe, apply `--set` overrides, and validate what results.

    Args:
        name: A file, or the name of a shipped recipe, with or without its domain.
        overrides: Texts such as `stages.distill.epochs=5`; `profile=smoke` applies a profile of the recipe first.

    Raises:
        InputError: There is no such recipe, or it has problems: all of them.

    Example:
        >>> resolve("digits", ["seeds=[7]"]).seeds
        [7]
    """
    content = read(find(name))
    settings = [_parse(override) for override in overrides]
    profile = dict(settings).get("profile", content.get("profile", "default"))
    content = apply_profile(content, profile)
    for path, value in settings:
        put(content, path, value)
    return validate(content)


def find(name: str) -> Path:
    """Find a recipe's file: as a path, or among the shipped ones."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if path.is_file():
            return path
        raise InputError(Problem("recipe", name, "a file that exists", _nearest(path.stem)))
    shipped = shipped_recipes()
    matches = [key for key in shipped if key == name or key.split("/")[-1] == name]
    if len(matches) == 1:
        return shipped[matches[0]]
    if matches:
        raise InputError(Problem("recipe", name, "one of " + ", ".join(matches)))
    raise InputError(Problem("recipe", name, "a YAML file, or one of " + ", ".join(shipped), _nearest(name)))


def _nearest(name: str) -> str:
    shipped = shipped_recipes()
    return did_you_mean(name, [*shipped, *(key.split("/")[-1] for key in shipped)])


def read(path: Path) -> dict[str, Any]:
    """Read a YAML file into plain data.

    Raises:
        InputError: It cannot be read, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        # Plain data only: this unfolds what YAML's anchors share, and finds those that hold themselves.
        content = _unfolded(content)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(str(path), str(error), "a readable text file")) from error
    except yaml.YAMLError as error:
        raise InputError(Problem(str(path), " ".join(str(error).split()), "YAML")) from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise InputError(Problem(str(path), str(error), "YAML of a reasonable depth and size")) from error
    if not isinstance(content, dict):
        raise InputError(Problem(str(path), content, "a mapping, such as `name: digits`"))
    return content


class _Loader(yaml.SafeLoader):
    """YAML without surprises: a key given twice is an error, and 1e-3 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = copy.deepcopy(yaml.SafeLoader.yaml_implicit_resolvers)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _unfolded(content: Any, depth: int = 0, budget: list[int] | None = None) -> Any:
    budget = [100_000] if budget is None else budget
    budget[0] -= 1
    if depth > 50 or budget[0] < 0:
        raise ValueError("nested too deeply, or too large")
    if isinstance(content, dict):
        return {str(key): _unfolded(value, depth + 1, budget) for key, value in content.items()}
    if isinstance(content, list):
        return [_unfolded(value, depth + 1, budget) for value in content]
    if content is None or isinstance(content, str | bool | int | float):
        return content
    return str(content)  # a date, say: the schema will have its word on it


def _parse(override: str) -> tuple[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise InputError(Problem("--set", override, "path=value, such as stages.distill.epochs=5"))
    try:
        return path.strip(), _unfolded(yaml.load(text, Loader=_Loader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(Problem(f"--set {path}", text, "a YAML value")) from error


def apply_profile(content: Mapping[str, Any], profile: Any) -> dict[str, Any]:
    """Apply one of the recipe's own profiles: dotted paths to values."""
    content = copy.deepcopy(dict(content))
    content["profile"] = profile
    profiles = content.get("profiles")
    chosen = profiles.get(profile) if isinstance(profiles, dict) and isinstance(profile, str) else None
    if isinstance(chosen, dict):
        for path, value in chosen.items():
            put(content, path, copy.deepcopy(value))
    return content


def put(content: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path; stages are found by name, or by number where a name is not unique.

    Raises:
        InputError: The path goes through something that has no parts, or names a stage that is not there.

    Example:
        >>> recipe = {"stages": [{"teach": {"epochs": 20}}]}
        >>> put(recipe, "stages.teach.epochs", 5)
        >>> recipe
        {'stages': [{'teach': {'epochs': 5}}]}
    """
    current: Any = content
    parts = path.split(".")
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if isinstance(current, list):
            current = _item(current, part, path)
            if last:
                current[part] = value  # the settings of a stage as a whole
                return
            if part in current:
                current[part] = {} if current[part] is None else current[part]
                current = current[part]
        elif isinstance(current, dict):
            if last:
                current[part] = value
                return
            if not isinstance(current.get(part), dict | list):
                current[part] = {}
            current = current[part]
        else:
            raise InputError(Problem(f"--set {path}", current, f"something with parts before .{part}"))


def _item(items: list[Any], part: str, path: str) -> Any:
    """Find a list's item by number, or a stage by its name."""
    if part.isdigit() and int(part) < len(items) and isinstance(items[int(part)], dict):
        return items[int(part)]
    named = [item for item in items if isinstance(item, dict) and part in item]
    if len(named) == 1:
        return named[0]
    names = [str(name) for item in items if isinstance(item, dict) for name in item]
    fix = f"{len(named)} have this name: give a number instead." if named else did_you_mean(part, names)
    raise InputError(Problem(f"--set {path}", part, ", ".join(names) or "a number", fix))


