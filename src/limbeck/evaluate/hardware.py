"""Description of the machine that the measurements were made on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from limbeck.core.measurement import Result

CPUINFO = Path("/proc/cpuinfo")
MATTERS = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme", "neon",
)  # fmt: skip
"""Instruction sets that affect a network's speed or arithmetic; on Arm, `asimd` is Neon."""


class Hardware(Result):
    """The processor, its instruction sets for inference, cores, memory, accelerator."""

    processor: str
    flags: tuple[str, ...]
    cores: int
    memory_bytes: int
    accelerator: str | None
    system: str


def describe() -> Hardware:
    """Return a description of this machine, as far as the system provides one.

    Cores are those that this process may use. Memory is 0 where the system does not report it.

    Example:
        >>> describe().cores >= 1
        True
    """
    info = _cpuinfo()
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        memory = 0
    has_affinity = hasattr(os, "sched_getaffinity")
    return Hardware(
        processor=_processor(info),
        flags=_flags(info),
        cores=len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1,
        memory_bytes=memory,
        accelerator=_accelerator(),
        system=f"{platform.system()} {platform.release()} ({platform.machine()})",
    )


def _cpuinfo() -> dict[str, str]:
    """Read Linux's entry for the first processor; empty elsewhere."""
    try:
        text = CPUINFO.read_text()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _processor(info: dict[str, str]) -> str:
    name = info.get("model name") or info.get("Model") or info.get("Hardware")
    if name is None:
        return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()
    if {"cpu family", "model"} <= info.keys():
        return f"{name} (family {info['cpu family']}, model {info['model']})"
    return name


def _flags(info: dict[str, str]) -> tuple[str, ...]:
    # "flags" on x86, "Features" on Arm; on a Mac sysctl lists them in capitals.
    listed = info.get("flags") or info.get("Features")
    if listed is None:
        names = ("machdep.cpu.features", "machdep.cpu.leaf7_features")
        listed = " ".join(map(_sysctl, names)).lower()
    present = set(listed.replace("avx1.0", "avx").split())
    return tuple(flag for flag in MATTERS if flag in present)


def _sysctl(name: str) -> str:
    if platform.system() != "Darwin":
        return ""
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _accelerator() -> str | None:
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        name = torch.cuda.get_device_name(0)
        return f"{count} x {name}" if count > 1 else name
    return "Apple GPU (Metal)" if torch.backends.mps.is_available() else None
