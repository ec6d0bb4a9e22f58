"""Limits of child processes: on what they compute, not on imports or on a busy machine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from limbeck.core import process
from limbeck.core.process import LimitError, call_limited, run_limited

BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end:\n    pass\n"


def burn(seconds: float) -> int:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return 1


@pytest.mark.slow
@pytest.mark.parametrize("by_name", [False, True])
def test_imports_do_not_count_as_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_name: bool
) -> None:
    (tmp_path / "slow_library.py").write_text(BURN.format(1.6) + "VALUE = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def imports() -> int:
        if by_name:
            import importlib

            return int(importlib.import_module("slow_library").VALUE)
        import slow_library  # type: ignore[import-not-found]

        return int(slow_library.VALUE)

    assert call_limited(imports, seconds=1) == 7
    with pytest.raises(LimitError, match="1 s of computing"):
        call_limited(lambda: imports() + burn(3), seconds=1)


@pytest.mark.slow
def test_a_child_that_computes_slowly_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "IDLE_SECONDS", 2.0)
    assert call_limited(lambda: burn(3), seconds=6) == 1
    with pytest.raises(LimitError, match="waiting"):
        call_limited(lambda: time.sleep(30), seconds=3)


def test_a_command_is_killed_by_its_own_time() -> None:
    python = [sys.executable, "-S", "-c"]
    # On a busy machine: it has had a third of a core after the first limit.
    slow = "import time\nfor _ in range(20):\n    time.sleep(0.03)\n    sum(range(300_000))\n"
    ended = run_limited([*python, f"{slow}print(1)"], seconds=0.6)
    assert (ended.returncode, ended.stdout) == (0, "1\n")
    assert run_limited([*python, "raise SystemExit('no')"], seconds=9).stderr == "no\n"
    for endless in (BURN.format(60), "import time\ntime.sleep(60)"):
        begun = time.monotonic()
        with pytest.raises(subprocess.TimeoutExpired):
            run_limited([*python, endless], seconds=0.5)
        assert time.monotonic() - begun < 30
