"""Recipe resolution: lookup, profile, overrides and validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import InputError, Problem, did_you_mean, gathering
from limbeck.pipeline.overrides import apply_profile, parse_override, put
from limbeck.pipeline.reading import read

if TYPE_CHECKING:
    from limbeck.pipeline.recipe import Recipe

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
    raise InputError(Problem("recipe", name, allowed, _nearest(name)))


def _is_file(path: Path) -> bool:
    """Return whether a path exists and is not a folder; irregular files are refused when read."""
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # not a valid file name
        return False


def _nearest(name: str) -> str:
    shipped = shipped_recipes()
    return did_you_mean(name, [*shipped, *(key.split("/")[-1] for key in shipped)])
