"""Shared fixtures; the shapes in the annotations of losses are checked at run time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# `make test` draws the same inputs every time, so that a failure is reproducible and caused by the
# change; `make explore` draws new ones.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("LIMBECK_DRAWS", "same"))

# The folder of data sets beside the checkout, if the environment names no other.
os.environ.setdefault("LIMBECK_DATA", str(Path(__file__).parents[2] / "shared" / "data"))

# Before anything of limbeck is imported; only packages of pure functions of tensors.
install_import_hook(
    ["limbeck.losses", "limbeck.targets", "limbeck.connectors"], "beartype.beartype"
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep records of signatures out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMBECK_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def accelerator() -> Accelerator:
    from accelerate import Accelerator

    return Accelerator(cpu=True)


@pytest.fixture(scope="session")
def quick_measuring() -> Iterator[None]:
    """Measure costs for a moment only: no test here is about their figures."""
    from limbeck.evaluate import measure
    from limbeck.pipeline import artefact_results

    with pytest.MonkeyPatch.context() as patch:
        brief = {"seconds": 0.01, "throughput_seconds": 0.01, "energy_method": "off"}
        whole = measure.measure
        patch.setattr(
            artefact_results, "measure", lambda files, one, **_: whole(files, one, **brief)
        )
        yield
