"""The documented command for several processes, on a machine without an accelerator."""

import json
import os
import random
import subprocess
import sys

import pytest

from limbeck.pipeline.load_recipe import resolve
from limbeck.report.load import load_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]


def environment():
    """Return the environment without what a test process says of processes and accelerators."""
    kept_out = {"ACCELERATE_USE_CPU", "RANK", "WORLD_SIZE"}
    found = {name: value for name, value in os.environ.items() if name not in kept_out}
    return {**found, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


# It starts two processes that import everything, and trains a recipe.
@pytest.mark.slow
def test_two_processes_make_one_run_and_report_it_once(tiny, tmp_path):
    done = subprocess.run(
        [*TORCHRUN, "-m", "limbeck", "run", tiny, "--out", "run"],
        cwd=tmp_path,
        env=environment(),
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


ONE_EACH = (
    "audio/fsdd",
    "data_free/adversarial",
    "detection/bccd",
    "graph/cora",
    "series/ett",
    "tabular/adult",
    "tabular/diabetes",
    "text/conll2002",
    "text/sst2",
    "vision/camvid",
    "vision/early_exit",
    "vision/few_labels",
    "vision/mutual",
)
"""A shipped recipe of each task, scheme and kind of teacher."""


def curves_and_score(folder):
    """Return each training's losses, by name, and the shipped student's scores."""
    result = load_run(folder)
    losses = {
        (curve.label, place, name): value
        for curve in result.curves
        for place, row in enumerate(curve.rows)
        for name, value in row.items()
        if name.startswith("train/") and isinstance(value, float)
    }
    scores = [score.value for score in result.chain[-1].measured[0].scores]
    return losses, scores


def shipped(name, _):
    """Return the smoke form of a shipped recipe, without what does not train."""
    content = resolve(name, ["profile=smoke"]).model_dump(mode="json", exclude_unset=True)
    kept = ("train_teacher", "distill", "early_exit", "export")
    del content["profile"]
    content["stages"] = [one for one in content["stages"] if next(iter(one)) in kept]
    return content


def independent_labels(_, folder):
    """Return a recipe of a table with two labels that are independent."""
    draw = random.Random(0)
    rows = [[draw.gauss(0, 1) for _ in range(4)] for _ in range(203)]
    lines = [[*row, int(row[0] > 0), int(row[1] + row[2] > 0.5)] for row in rows]
    text = "\n".join(",".join(map(str, line)) for line in [["a", "b", "c", "d", "p", "q"], *lines])
    (folder / "rows.csv").write_text(text)
    table = {"numeric": ["a", "b", "c", "d"]}
    files = {"train": str(folder / "rows.csv")}
    perceptron = {"source": "limbeck", "name": "tabular_mlp", "depth": 1}
    objective = [{"task": {"weight": 0.5}}, {"binary_kl": {"temperature": 1.0, "weight": 0.5}}]
    return {
        "name": "independent_labels",
        "task": "tabular_multilabel",
        "data": {"source": "csv", "files": files, "targets": ["p", "q"], "table": table},
        "teacher": {**perceptron, "width": 32},
        "student": {**perceptron, "width": 8},
        "seeds": [0],
        "threads": 1,
        "stages": [
            {"train_teacher": {"epochs": 3, "batch_size": 32, "learning_rate": 0.02}},
            {"distill": {"epochs": 3, "batch_size": 32, "objective": objective}},
            {"export": {"format": "onnx"}},
        ],
    }


FORMS = {**dict.fromkeys(ONE_EACH, shipped), "independent labels": independent_labels}


# It trains a recipe twice, once in two processes.
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FORMS)
def test_two_processes_train_a_shipped_recipe_as_one_does(name, tmp_path):
    content = FORMS[name](name, tmp_path)
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    found = []
    for command in ([sys.executable], TORCHRUN):
        out = f"run{len(command)}"
        done = subprocess.run(
            [*command, "-m", "limbeck", "run", "recipe.yaml", "--out", out],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found.append(curves_and_score(tmp_path / out))
    (losses, scores), (other_losses, other_scores) = found
    assert losses
    assert other_losses == pytest.approx(losses, rel=1e-3, abs=1e-5)
    assert other_scores == pytest.approx(scores, rel=1e-3, abs=0.02)
