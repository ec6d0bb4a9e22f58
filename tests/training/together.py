"""What each of several processes does, started by torchrun: `together.py FOLDER`."""

from __future__ import annotations

import copy
import json
import random
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from limbeck.errors import InputError, LimbeckError
from limbeck.training import CheckpointError
from limbeck.training.prepare import SynchronizedBatchNorm, synchronized

CURVE = {"epochs": 3, "weight_decay": 0.1, "max_grad_norm": 1.0, "keep": "last"}
CASES = {
    "mutual": {"batch_size": 8, "gradient_accumulation_steps": 1},
    "plain": {"batch_size": 8, "gradient_accumulation_steps": 1},
    "accumulated": {
        "batch_size": 4,
        "gradient_accumulation_steps": 3,
        "optimizer": "sgd",
        "ema_decay": 0.5,
    },
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
            for actual, reference in zip(model[0].parameters(), one.parameters(), strict=True):
                total = accelerator.reduce(actual.grad, reduction="sum")
                torch.testing.assert_close(total, reference.grad, rtol=1e-6, atol=1e-6)
            for actual, reference in zip(model[0].buffers(), one.buffers(), strict=True):
                torch.testing.assert_close(actual, reference, rtol=1e-8, atol=1e-8)
        assert model.eval()(own).dtype == torch.float64
    lonely = nn.Sequential(nn.BatchNorm1d(2))
    with synchronized(lonely), pytest.raises(LimbeckError, match="no variance"):
        lonely(torch.zeros(1 - accelerator.process_index, 2))


def curves(accelerator: Accelerator, folder: Path) -> None:
    """Train; the student's weights must be the same bits in every process."""
    for name, settings in CASES.items():
        subject = (tiny.mutual if name == "mutual" else tiny.scheme)(dropout=0.0)
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
        states = [one.state_dict() for one in subject.students.values()]
        flat = torch.cat([value.double().flatten() for one in states for value in one.values()])
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
                    progress_bar=tiny.KillAt(step),
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
    dataset = tiny.Images()
    if not accelerator.is_main_process:
        dataset.images[:] = torch.nan
    message = "another process" if accelerator.is_main_process else "task = nan"
    subject = tiny.scheme(norm=False)
    with pytest.raises(LimbeckError, match=message):
        tiny.train(folder / "nan", subject=subject, train=dataset, accelerator=accelerator)
    with pytest.raises(CheckpointError, match="processes was 1, now it is 2"):
        tiny.train(folder / "alone", accelerator=accelerator)


class Skipping(nn.Module):
    """Blocks with batch normalisation, each skipped according to `skips`, with the head."""

    def __init__(self, skips: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
            for _ in range(3)
        )
        self.head = nn.Sequential(nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))
        self.skips = skips

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.stem(image)
        for block in self.blocks:
            if not (self.training and self.skips(hidden)):
                hidden = hidden + block(hidden)
        return self.head(hidden)


BRANCHES = {
    "torch": lambda hidden: bool(torch.rand(()) < 0.5),
    "python": lambda hidden: random.random() < 0.5,
    "data": lambda hidden: bool(hidden.detach().sum() > 0),
    "rarely": lambda hidden: bool(torch.rand(()) < 0.05),
}


def branches(accelerator: Accelerator, folder: Path) -> None:
    """Train nets that skip blocks; the same bits in both processes, also killed and resumed."""
    for name, skips in BRANCHES.items():
        ends = []
        for run, step in (("whole", None), ("killed", 4)):
            random.seed(accelerator.process_index)
            for kill in (step, None) if step else (None,):
                torch.manual_seed(5)
                subject = tiny.scheme()
                subject.student = Skipping(skips)
                progress_bar = None if kill is None else tiny.KillAt(kill)
                caught = pytest.raises(tiny.Killed) if kill else nullcontext()
                with warnings.catch_warnings(record=True) as warned, caught:
                    warnings.simplefilter("always")
                    tiny.train(
                        folder / f"{name}-{run}",
                        subject=subject,
                        accelerator=accelerator,
                        progress_bar=progress_bar,
                        epochs=6,
                    )
                accelerator.wait_for_everyone()
                message = [one for one in warned if "different branches" in str(one.message)]
                assert len(message) <= accelerator.is_main_process
            state = subject.student.state_dict().values()
            flat = torch.cat([value.double().flatten() for value in state])
            other = flat.clone()
            dist.broadcast(other, 0)
            assert torch.equal(flat, other), name
            assert torch.isfinite(flat).all()
            ends.append(flat)
        assert torch.equal(*ends), name


def alone(accelerator: Accelerator) -> None:
    """Normalise one sample by running statistics, once the processes normalise for themselves."""
    model = nn.Sequential(nn.BatchNorm1d(2))
    with synchronized(model) as channel:
        channel.local = True
        samples = torch.tensor([[3.0, 5.0]] * (1 + accelerator.process_index))
        assert torch.isfinite(model(samples)).all()
        channel.end_step(torch.device("cpu"))
    assert model[0].num_batches_tracked == 1
    torch.testing.assert_close(model[0].running_mean, torch.tensor([0.15, 0.25]))


def use_fsdp2(accelerator: Accelerator) -> None:
    """Let Accelerate shard on a CPU too, where it leaves its plugin out."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="size_based_wrap",
        min_num_params=20,
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    assert accelerator.is_fsdp2


def shards(accelerator: Accelerator, folder: Path) -> None:
    """Train a sharded student with a connector; the curve of one process, also after a kill."""
    use_fsdp2(accelerator)
    ends, seen = [], []

    def validate(model: nn.Module) -> dict[str, float]:
        seen.append({type(one) for one in model.parameters()})
        with torch.no_grad():
            logits = model.eval()(tiny.Images(noise=0).images)
        assert logits.isfinite().all()
        return {"score": float(len(seen))}  # the last weights are the best

    for name, kill in (("sharded", None), ("sharded-killed", 4)):
        for step in (kill, None) if kill else (None,):
            subject = tiny.scheme(dropout=0.0, hint=True)
            student = subject.student
            with pytest.raises(tiny.Killed) if step else nullcontext():
                tiny.train(
                    folder / name,
                    subject=subject,
                    accelerator=accelerator,
                    log_every=1,
                    validate=validate,
                    progress_bar=tiny.KillAt(step) if step else None,
                    **{**CURVE, "keep": "best"},
                    **CASES["plain"],
                )
            accelerator.wait_for_everyone()
            assert subject.student is student
        state = student.state_dict()
        assert not any(isinstance(one, DTensor) for one in state.values())
        flat = torch.cat([one.double().flatten() for one in state.values()])
        other = flat.clone()
        dist.broadcast(other, 0)
        assert torch.equal(flat, other)
        ends.append(flat)
        if accelerator.is_main_process and not kill:
            torch.save(state, folder / "sharded.pt")
    assert set.union(*seen) == {DTensor}
    assert torch.equal(*ends)
    with pytest.raises(InputError, match=r"ema_decay: got 0\.5; allowed: None, with FSDP2"):
        tiny.train(folder / "average", accelerator=accelerator, ema_decay=0.5)
    subject = tiny.scheme()
    subject._objective.balance._every = 1
    with pytest.raises(InputError, match="gradient norms of sharded parameters"):
        tiny.train(folder / "norms", subject=subject, accelerator=accelerator)


def main() -> None:
    folder = Path(sys.argv[1])
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    norms(accelerator)
    curves(accelerator, folder)
    resumed(accelerator, folder)
    spoiled(accelerator, folder)
    branches(accelerator, folder)
    alone(accelerator)
    shards(accelerator, folder)
    accelerator.end_training()
    print(f"process {accelerator.process_index} is content")


if __name__ == "__main__":
    main()
