"""Two processes train as one does with the same global batch; what they do is in together.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("lightning")


# It starts three processes that import everything.
@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}"),
                *("--standalone", Path(__file__).with_name("together.py"), tmp_path / str(count)),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    for name in ("language", "features", "lightning"):
        one, two = (torch.load(tmp_path / str(count) / name) for count in (1, 2))
        torch.testing.assert_close(one, two)
