"""A sample of the mutations of `benchmarks/fuzz_recipes.py`, each run by `limbeck check`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_mutated_recipes_are_refused_or_valid(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz_recipes.py"), "--cases", "6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIMBECK_DATA": str(tmp_path)}
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert sum(found["codes"].values()) == 6
    assert found["broken"] == 0
