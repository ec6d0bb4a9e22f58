"""The documented command for several processes, on a machine without an accelerator."""

import os
import subprocess
import sys

import pytest

from limbeck.report.load import load_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]


# It starts two processes that import everything, and trains a recipe.
@pytest.mark.slow
def test_two_processes_make_one_run_and_report_it_once(tiny, tmp_path):
    kept_out = {"ACCELERATE_USE_CPU", "RANK", "WORLD_SIZE"}
    environment = {name: value for name, value in os.environ.items() if name not in kept_out}
    done = subprocess.run(
        [*TORCHRUN, "-m", "limbeck", "run", tiny, "--out", "run"],
        cwd=tmp_path,
        env={**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = load_run(tmp_path / "run")
    assert [link.stage for link in result.chain] == [
        "train_teacher",
        "distill",
        "quantize",
        "export",
    ]
    lines = done.stderr.splitlines()
    for part in (
        "stage 1/4 train_teacher, seed 3: done",
        "student: epoch 2/2, loss",
        "report: run/",
    ):
        assert sum(part in line for line in lines) == 1 + (part == "student: epoch 2/2, loss")
    assert done.stdout.count("Size on disk") == 1
    assert "Traceback" not in done.stderr
