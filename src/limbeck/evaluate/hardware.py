"""Which machine did the measuring?"""

from __future__ import annotations

from limbeck.evaluate.interval import Result


class Hardware(Result):
    """The processor, the instruction sets that matter to inference, cores, memory, accelerator."""

    processor: str
    flags: tuple[str, ...]
    cores: int
    memory_bytes: int
    accelerator: str | None
    system: str
