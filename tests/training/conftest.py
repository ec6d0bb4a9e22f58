from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

# Programs for processes of their own, not modules to look for doctests in.
collect_ignore = ["tiny.py", "together.py"]


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """Import tiny.py, which is also a program, as a module."""
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parent / "tiny.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny"] = module  # its dataclasses and pickles look themselves up here
    spec.loader.exec_module(module)
    return module
