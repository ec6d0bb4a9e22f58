"""Untrusted Hugging Face folders: local or of the hub; checks before a model is allocated."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core import files
from limbeck.core.imports import require
from limbeck.core.process import LimitError
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.models.checkpoint import find, read_checkpoint
from limbeck.models.counting import count_parameters

if TYPE_CHECKING:
    from torch import nn

MAX_BYTES, MAX_DEPTH = 10_000_000, 40
"""The most bytes of a config.json, and the most levels of lists and mappings in it."""

SPARE = 50_000_000
"""The parameters allowed above twice those of a model's files: head and pooler."""

EXTERNAL = {"auto_map", "attn_implementation", "_attn_implementation", "_experts_implementation"}
"""Keys that name code outside of the library, which is never fetched or executed."""


FETCHED = (
    *("config.json", "preprocessor_config.json", "model*.safetensors*"),
    *("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "*.model"),
)
"""The files of a model on the hub that are fetched: no code, and no pickles."""


def local_folder(path: str, revision: str | None = None) -> str:
    """Return a model's folder: as given, in LIMBECK_DATA, or fetched from the Hugging Face hub.

    Args:
        path: A folder, or a name on the hub, such as `sentence-transformers/all-MiniLM-L6-v2`.
        revision: The commit, tag or branch on the hub.

    Raises:
        InputError: There is no such folder, and the hub has no such model or cannot be reached.
    """
    data = Path(os.environ.get("LIMBECK_DATA") or ".")
    found = next((str(one) for one in (Path(path), data / path) if one.is_dir()), None)
    if found is not None or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        return found or path
    return _fetched(path, revision)


@cache
def _fetched(name: str, revision: str | None) -> str:
    hub = require("huggingface_hub", extra="text")
    try:
        return str(hub.snapshot_download(name, revision=revision, allow_patterns=FETCHED))
    # The hub's client raises many exception types: network, name, access.
    except Exception as error:
        allowed = "a local folder, also one in the folder LIMBECK_DATA, or a name on the hub"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        fix = f"There is no such folder, and the hub responded: {reason}"
        raise InputError(Problem("model.path", name, allowed, fix)) from error


def read_config(path: str, known: Collection[str]) -> dict[str, Any]:
    """Read and check a folder's config.json, given the model types of transformers.

    Raises:
        InputError: The file is missing, not a regular file, too large, too deep, not a JSON
            mapping, has no known `model_type`, or is of a quantised model or an adapter.
    """
    content = _read_json(path)
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        given = f"{path}: model_type {kind!r}" if "model_type" in content else f"{path}: none"
        hint = did_you_mean(kind, known) if isinstance(kind, str) else ""
        fix = f"{hint} Code in the folder (auto_map) is not executed.".strip()
        raise InputError(Problem("model.path", given, "a model_type of transformers", fix))
    names = content.get("architectures")
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if names is not None and not is_list:
        given = f"{path}: architectures {str(names)[:100]}"
        raise InputError(Problem("model.path", given, "a list of class names"))
    if content.get("quantization_config") is not None:
        fix = "Load the original weights, and add a `quantize` stage."
        raise InputError(Problem("model.path", f"{path}: a quantised model", "float weights", fix))
    if Path(path, "adapter_config.json").exists():
        fix = "Merge it first: model.merge_and_unload().save_pretrained(folder)."
        raise InputError(Problem("model.path", f"{path}: a PEFT adapter", "a whole model", fix))
    return _without_code(content)


def _read_json(path: str) -> dict[str, Any]:
    file, where = Path(path, "config.json"), "model.path"
    if not file.exists():
        allowed, fix = "a folder that holds config.json", f"No such file: {file.absolute()}"
        raise InputError(Problem(where, path, allowed, fix))
    allowed = "a config.json as transformers writes it"
    text = files.read_bytes(file, limit=MAX_BYTES, where=where, allowed=f"{allowed} in {path}")
    try:
        content = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
        if not isinstance(content, dict):
            raise ValueError(f"a JSON {type(content).__name__}, not a mapping")
        if _depth(content) > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    except (ValueError, RecursionError) as error:
        given = f"{file}: {str(error)[:200] or type(error).__name__}"
        raise InputError(Problem(where, given, allowed)) from error
    return content


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _depth(content: object) -> int:
    """Count the nesting levels of a structure, without recursion."""
    level, depth = [content], 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        nested = (one for one in level if isinstance(one, dict | list))
        level = [
            part for one in nested for part in (one.values() if isinstance(one, dict) else one)
        ]
    return depth


def _without_code(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_code(one) for key, one in content.items() if key not in EXTERNAL}
    return [_without_code(one) for one in content] if isinstance(content, list) else content


def check_folder(path: str, content: dict[str, Any], make: Any, kind: Any) -> None:
    """Check that a configuration's model has a bounded size, and is no larger than its weights.

    `make` is the class that builds a classifier from a configuration, `kind` that of the
    configuration.

    Raises:
        InputError: The weights cannot be read, or the configuration is invalid.
    """
    try:
        weights = find(path)
    except InputError as error:
        raise InputError(*(replace(one, where="model.path") for one in error.problems)) from error
    stored = sum(one.numel() for one in read_checkpoint(weights).tensors.values())

    def build() -> nn.Module:
        config = kind.from_dict(content)
        config.architectures = config.architectures or []
        return make.from_config(config, trust_remote_code=False)

    try:
        count = count_parameters([path, content], build)
    except LimitError as error:
        allowed = "a configuration that transformers makes a model of"
        raise InputError(Problem("model.path", f"{path}: {error}", allowed)) from error
    if count > 2 * stored + SPARE:
        given = f"{path}: a model of {count:,} parameters"
        allowed = f"one that its files fill: they hold {stored:,} numbers"
        raise InputError(Problem("model.path", given, allowed))
