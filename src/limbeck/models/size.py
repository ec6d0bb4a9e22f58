"""Model size limit: oversized arguments raise an error before allocation."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limbeck import fingerprint
from limbeck.errors import InputError, Problem
from limbeck.limited import LimitError, call_limited

if TYPE_CHECKING:
    from limbeck.models.source import Fit, Source
    from limbeck.models.spec import ModelSpec

TRAINING_BYTES = 16
"""Per parameter in training: weight, gradient and the two moments of Adam, in float32."""

_counted: dict[str, int | None] = {}


def check_size(spec: ModelSpec, fit: Fit, source: Source) -> None:
    """Check that a library model with the recipe's arguments fits into memory.

    The model is built once on the meta device, in a child process with a limit on time and memory.
    A user's own code is trusted and not checked: it may read files.

    Args:
        spec: The model's spec; without arguments the library's default size is accepted.
        fit: The data dimensions.
        source: The source that builds it.

    Raises:
        InputError: The model has more parameters than this machine's memory can train, or building
            it takes too long.
    """
    if not spec.arguments or spec.source == "python":
        return
    key = fingerprint.of_json([spec.model_dump(mode="json"), repr(fit)])
    if key not in _counted:
        _counted[key] = _count(spec, fit, source)
    count, memory = _counted[key], _memory()
    if count is not None and memory is not None and count * TRAINING_BYTES > memory:
        needed = f"{count:,} parameters, {count * TRAINING_BYTES / 2**30:,.1f} GiB in training"
        raise InputError(
            Problem(
                f"model ({spec.name})",
                f"{needed}, with {spec.arguments}",
                f"what fits into this machine's {memory / 2**30:.1f} GiB",
            )
        )


def _count(spec: ModelSpec, fit: Fit, source: Source) -> int | None:
    """Count the parameters; None if the model cannot be built without values."""
    source.preload(spec)

    def work() -> int:
        import torch

        with torch.device("meta"):
            model = source.build(spec, fit)
        return sum(parameter.numel() for parameter in model.parameters())

    try:
        found: int = call_limited(work)
    except LimitError as error:
        if not error.exceeded:
            return None
        given = f"{spec.arguments}: building it took {error}"
        raise InputError(
            Problem(f"model ({spec.name})", given, "a model that can be built")
        ) from None
    return found


def _memory() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
