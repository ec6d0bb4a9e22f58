"""Untrusted Hugging Face folders: checks before a model is allocated."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from limbeck.core import fingerprint
from limbeck.core.process import LimitError, call_limited
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.models.checkpoint import find, read_checkpoint

LARGEST, DEEPEST = 10_000_000, 40
"""The most bytes of a config.json, and the most levels of lists and mappings in it."""

SPARE = 50_000_000
"""The parameters allowed above twice those of a model's files: head and pooler."""

ELSEWHERE = {"auto_map", "attn_implementation", "_attn_implementation", "_experts_implementation"}
"""Keys that name code outside of the library, which is never fetched or executed."""

_counted: dict[str, int] = {}


def read_config(path: str, known: Any) -> dict[str, Any]:
    """Read and check a folder's config.json.

    Args:
        path: The folder.
        known: The model types of transformers.

    Raises:
        InputError: The file is missing, not a regular file, too large, too deep, not a JSON
            mapping, has no known `model_type`, or is of a quantised model or an adapter.
    """
    folder = Path(path)
    file = folder / "config.json"
    content = _json(file, path)
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        given = f"{path}: model_type {kind!r}" if "model_type" in content else f"{path}: none"
        hint = did_you_mean(kind, list(known)) if isinstance(kind, str) else ""
        fix = f"{hint} Code in the folder (auto_map) is not executed.".strip()
        raise InputError(Problem("model.path", given, "a model_type of transformers", fix))
    names = content.get("architectures")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        given = f"{path}: architectures {str(names)[:100]}"
        raise InputError(Problem("model.path", given, "a list of class names"))
    if content.get("quantization_config") is not None:
        fix = "Load the original weights, and add a `quantize` stage."
        raise InputError(Problem("model.path", f"{path}: a quantised model", "float weights", fix))
    if (folder / "adapter_config.json").exists():
        fix = "Merge it first: model.merge_and_unload().save_pretrained(folder)."
        raise InputError(Problem("model.path", f"{path}: a PEFT adapter", "a whole model", fix))
    cleaned: dict[str, Any] = _without_code(content)
    return cleaned


def _json(file: Path, path: str) -> dict[str, Any]:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ValueError("not a regular file")
        if file.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_constant)
        if not isinstance(content, dict):
            raise ValueError(f"a JSON {type(content).__name__}, not a mapping")
        if _depth(content) > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")
    except FileNotFoundError as error:
        fix = f"No such file: {file.absolute()}"
        allowed = "a folder that holds config.json"
        raise InputError(Problem("model.path", path, allowed, fix)) from error
    except (OSError, ValueError, RecursionError) as error:
        given = f"{file}: {str(error)[:200] or type(error).__name__}"
        allowed = "a config.json as transformers writes it"
        raise InputError(Problem("model.path", given, allowed)) from error
    return content


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _depth(content: object) -> int:
    """Count the nesting levels of a structure, without recursion."""
    level, deepest = [content], 0
    while level and deepest <= DEEPEST:
        deepest += 1
        level = [
            part
            for one in level
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
    return deepest


def _without_code(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_code(one) for key, one in content.items() if key not in ELSEWHERE}
    return [_without_code(one) for one in content] if isinstance(content, list) else content


def check_folder(path: str, content: dict[str, Any], make: Any, kind: Any) -> None:
    """Check that a configuration's model has a bounded size, and is no larger than its weights.

    The model is built once on the meta device, in a child process with a limit on time and memory.

    Args:
        path: The folder.
        content: Its configuration, as `read_config` returned it.
        make: The class that builds a classifier from a configuration.
        kind: The class of the configuration.

    Raises:
        InputError: The weights cannot be read, or the configuration is invalid.
    """
    try:
        weights = find(str(Path(path)))
    except InputError as error:
        raise InputError(*(_of_path(one) for one in error.problems)) from error
    stored = sum(one.numel() for one in read_checkpoint(weights).tensors.values())
    name = fingerprint.of_json([path, content])
    if name not in _counted:
        try:
            _counted[name] = call_limited(lambda: count_parameters(make, kind.from_dict(content)))
        except LimitError as error:
            allowed = "a configuration that transformers makes a model of"
            raise InputError(Problem("model.path", f"{path}: {error}", allowed)) from error
    if _counted[name] > 2 * stored + SPARE:
        given = f"{path}: a model of {_counted[name]:,} parameters"
        allowed = f"one that its files fill: they hold {stored:,} numbers"
        raise InputError(Problem("model.path", given, allowed))


def _of_path(problem: Problem) -> Problem:
    return Problem("model.path", problem.given, problem.allowed, problem.fix)


def count_parameters(make: Any, config: Any) -> int:
    """Count the parameters of a configuration's model, without allocating any."""
    import torch

    config.architectures = config.architectures or []
    with torch.device("meta"):
        model = make.from_config(config, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())
