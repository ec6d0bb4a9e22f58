"""Two processes train as one does with the same global batch; what they do is in together.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.training.prepare import synchronized

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory, accelerator):
    """Let two processes do all that is in together.py, once."""
    folder = tmp_path_factory.mktemp("two")
    tiny.train(folder / "alone", accelerator=accelerator, epochs=1)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*command, HERE / "together.py", folder],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stdout.count("is content") == 2
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("plain", {"batch_size": 8, "gradient_accumulation_steps": 1}),
        ("mutual", {"batch_size": 8, "gradient_accumulation_steps": 1}),
        ("sharded", {"batch_size": 8, "gradient_accumulation_steps": 1}),
        (
            "accumulated",
            {
                "batch_size": 4,
                "gradient_accumulation_steps": 3,
                "optimizer": "sgd",
                "ema_decay": 0.5,
            },
        ),
    ],
)
def test_two_processes_give_the_curve_of_one(tiny, tmp_path, accelerator, two, name, settings):
    build = tiny.mutual if name == "mutual" else partial(tiny.scheme, hint=name == "sharded")
    subject = build(dropout=0.0)
    shared = {
        "epochs": 3,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "keep": "last",
        "log_every": 1,
    }
    tiny.train(tmp_path, subject=subject, accelerator=accelerator, **shared, **settings)
    curves = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (tmp_path, two / name)
    ]
    assert len(curves[0]) == len(curves[1]) >= 9
    for one, other in zip(*curves, strict=True):
        losses = {key: value for key, value in one.items() if key.startswith(("train", "step"))}
        assert losses == pytest.approx({key: other[key] for key in losses}, rel=2e-4, abs=1e-6)
    weights = torch.load(two / f"{name}.pt")
    for key, value in subject.student.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=1e-3, atol=1e-4)


def test_norms_that_cannot_be_synchronised_are_refused():
    with (
        pytest.raises(InputError, match=r"0: got 'LazyBatchNorm1d'.*Train in one process"),
        synchronized(nn.Sequential(nn.LazyBatchNorm1d())),
    ):
        pass


def test_a_norm_used_twice_stays_one():
    norm = nn.BatchNorm1d(2)
    model = nn.Sequential(norm, nn.Sequential(norm))
    with synchronized(model):
        assert model[0] is model[1][0]
        assert type(model[0]).__name__ == "SynchronizedBatchNorm"
        assert list(model.state_dict()) == list(
            nn.Sequential(norm, nn.Sequential(norm)).state_dict()
        )
    assert model[0] is model[1][0] is norm
