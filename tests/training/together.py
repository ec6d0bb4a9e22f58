"""What each of several processes does, started by torchrun: `together.py FOLDER`."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.training import CheckpointError
from limbeck.training.synchronized_norm import SynchronizedBatchNorm, synchronized

CURVE = {"epochs": 3, "weight_decay": 0.1, "clip": 1.0, "keep": "last"}
CASES = {
    "plain": {"batch_size": 8, "accumulate": 1},
    "accumulated": {"batch_size": 4, "accumulate": 3, "optimizer": "sgd", "ema": 0.5},
}


def norms(accelerator: Accelerator) -> None:
    """Hold the synchronised norm against torch's own over the whole batch, in uneven parts."""
    torch.manual_seed(0)
    for kind, shape, momentum in (
        (nn.BatchNorm1d, (7, 3), 0.1),
        (nn.BatchNorm2d, (7, 3, 4, 5), None),
        (nn.BatchNorm1d, (2, 3), 0.1),
    ):
        whole = torch.randn(shape, dtype=torch.float64) * 3 + 1000
        weight = torch.randn(shape, dtype=torch.float64)
        one = kind(3, momentum=momentum).double()
        nn.init.normal_(one.weight)
        model = nn.Sequential(copy.deepcopy(one))
        for _ in range(2):
            one.zero_grad()
            model.zero_grad()
            inputs = whole.clone().requires_grad_()
            expected = one(inputs)
            (expected * weight).sum().backward()
            mine = slice(accelerator.process_index, None, 2)
            own = whole[mine].clone().requires_grad_()
            with synchronized(model):
                assert isinstance(model[0], SynchronizedBatchNorm)
                got = model(own)
                (got * weight[mine]).sum().backward()
            assert type(model[0]) is kind
            torch.testing.assert_close(got, expected[mine], rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(own.grad, inputs.grad[mine], rtol=1e-6, atol=1e-8)
            for ours, theirs in zip(model[0].parameters(), one.parameters(), strict=True):
                total = accelerator.reduce(ours.grad, reduction="sum")
                torch.testing.assert_close(total, theirs.grad, rtol=1e-6, atol=1e-6)
            for ours, theirs in zip(model[0].buffers(), one.buffers(), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
        assert model.eval()(own).dtype == torch.float64
    lonely = nn.Sequential(nn.BatchNorm1d(2))
    with synchronized(lonely), pytest.raises(LimbeckError, match="no variance"):
        lonely(torch.zeros(1 - accelerator.process_index, 2))


def curves(accelerator: Accelerator, folder: Path) -> None:
    """Train; the student's weights must be the same bits in every process."""
    for name, settings in CASES.items():
        subject = tiny.scheme(dropout=0.0)
        if not accelerator.is_main_process:  # weights of its own, which the first one's replace
            with torch.no_grad():
                subject.student[0].weight.add_(1)
        tiny.train(
            folder / name,
            subject=subject,
            accelerator=accelerator,
            log_every=1,
            **CURVE,
            **settings,
        )
        flat = torch.cat(
            [value.double().flatten() for value in subject.student.state_dict().values()]
        )
        other = flat.clone()
        dist.broadcast(other, 0)
        assert torch.equal(flat, other)
        assert type(subject.student[1]) is nn.BatchNorm2d
        if accelerator.is_main_process:
            torch.save(subject.student.state_dict(), folder / f"{name}.pt")


def resumed(accelerator: Accelerator, folder: Path) -> None:
    """Kill both at a step, with dropout, and resume; the same bits as undisturbed."""
    ends = []
    for name, step in (("whole", None), ("killed", 4)):
        subject = tiny.scheme()
        if step is not None:
            with pytest.raises(tiny.Killed):
                tiny.train(
                    folder / name,
                    subject=subject,
                    accelerator=accelerator,
                    ticker=tiny.KillAt(step),
                    log_every=2,
                )
            accelerator.wait_for_everyone()
            subject = tiny.scheme()
        tiny.train(folder / name, subject=subject, accelerator=accelerator, log_every=2)
        ends.append([value.clone() for value in subject.student.state_dict().values()])
    assert all(map(torch.equal, *ends))
    rows = [
        [
            {key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in (folder / name / "log.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "killed")
    ]
    assert rows[0] == rows[1]


def spoiled(accelerator: Accelerator, folder: Path) -> None:
    """A NaN in one process stops both; so does a checkpoint of one process."""
    pictures = tiny.Pictures()
    if not accelerator.is_main_process:
        pictures.images[:] = torch.nan
    said = "another process" if accelerator.is_main_process else "task = nan"
    subject = tiny.scheme(norm=False)
    with pytest.raises(LimbeckError, match=said):
        tiny.train(folder / "nan", subject=subject, train=pictures, accelerator=accelerator)
    with pytest.raises(CheckpointError, match="processes was 1, now it is 2"):
        tiny.train(folder / "alone", accelerator=accelerator)


def main() -> None:
    folder = Path(sys.argv[1])
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    norms(accelerator)
    curves(accelerator, folder)
    resumed(accelerator, folder)
    spoiled(accelerator, folder)
    accelerator.end_training()
    print(f"process {accelerator.process_index} is content")


if __name__ == "__main__":
    main()
