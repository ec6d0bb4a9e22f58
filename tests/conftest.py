"""What all rooms' tests share. Shapes in annotations of the losses are checked while they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from jaxtyping import install_import_hook

# Before anything of limbeck is imported; only rooms that are pure functions of tensors.
install_import_hook(
    ["limbeck.losses", "limbeck.targets", "limbeck.connectors"], "beartype.beartype"
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator


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
