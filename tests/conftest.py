"""What all rooms' tests share. Shapes in annotations of the losses are checked while they run."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# `make test` draws the same inputs every time, so that what fails fails again and nothing unrelated
# blocks a change; `make explore` draws new ones each time, to find what nobody thought of.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("LIMBECK_DRAWS", "same"))

# Before anything of limbeck is imported; only rooms that are pure functions of tensors.
install_import_hook(
    ["limbeck.losses", "limbeck.targets", "limbeck.connectors"], "beartype.beartype"
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator


@pytest.fixture(scope="session", autouse=True)
def operators_listed_once() -> Iterator[None]:
    """List ONNX's operators once: torch does so for each export, and the suite makes hundreds."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # it lies elsewhere in this torch: exports take longer
        yield
        return
    listed = ONNXRegistry.from_torchlib
    known: dict[object, Any] = {}

    def from_torchlib(*opset: object, **options: object) -> Any:
        key = (*opset, *options.items())
        if key not in known:
            known[key] = listed(*opset, **options)
        registry = copy.copy(known[key])  # an export adds operators of its own
        registry.functions = {name: list(kinds) for name, kinds in registry.functions.items()}
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(from_torchlib))
        yield


@pytest.fixture(scope="session")
def accelerator() -> Accelerator:
    from accelerate import Accelerator

    return Accelerator(cpu=True)


@pytest.fixture(scope="session")
def quick_measuring() -> Iterator[None]:
    """Measure costs for a moment only: no test here is about their figures."""
    from limbeck.evaluate import measure
    from limbeck.pipeline import examine

    with pytest.MonkeyPatch.context() as patch:
        brief = {"seconds": 0.01, "throughput_seconds": 0.01, "energy_method": "off"}
        whole = measure.measure
        patch.setattr(examine, "measure", lambda files, one, **asked: whole(files, one, **brief))
        yield
