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
    from accelerate import Accelerator


@pytest.fixture(scope="session")
def accelerator() -> Accelerator:
    from accelerate import Accelerator

    return Accelerator(cpu=True)
