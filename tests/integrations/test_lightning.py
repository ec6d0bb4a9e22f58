"""A LightningModule distils as a loop written by hand does."""

import functools
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from limbeck.errors import InputError
from limbeck.objective import Objective, Term

lightning = pytest.importorskip("lightning")
from limbeck.integrations.lightning import DistillationModule  # noqa: E402

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = ("raw", "weighted")
SGD = functools.partial(torch.optim.SGD, lr=0.1)
FEATURES = [Term("task"), Term("fitnet_hint", student="1", teacher="1", weight=0.5)]


def net(seed, width=8, classes=3):
    torch.manual_seed(seed)
    layers = [nn.Linear(5, width), nn.ReLU(), nn.Dropout(0.0), nn.Linear(width, classes)]
    return nn.Sequential(*layers).double()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    return TensorDataset(images, torch.arange(12) % 3)


class Named(torch.utils.data.Dataset):
    """The rows as mappings."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, place):
        return dict(zip(("x", "labels"), self.data[place], strict=True))


@pytest.fixture
def trainer_of(tmp_path):
    def build(**settings):
        quiet = {
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
        }
        return lightning.Trainer(**quiet | {"max_epochs": 1} | settings)

    return build


def parameters(*modules):
    return torch.cat([one.detach().flatten() for m in modules for one in m.parameters()])


@pytest.mark.parametrize("named", [False, True])
def test_it_equals_a_loop_by_hand(trainer_of, data, named):
    student, expected, teacher = net(0), net(0), net(1, width=32).train()
    before = parameters(teacher)
    module = DistillationModule(student, teacher, optimizer=SGD)
    trainer = trainer_of(max_epochs=2)
    rows = Named(data) if named else data
    trainer.fit(module, DataLoader(rows, batch_size=4), DataLoader(rows, batch_size=5))
    optimizer = SGD(expected.parameters())
    images, labels = data.tensors
    for _ in range(2):
        for part in torch.arange(12).split(4):
            logits, soft = expected(images[part]), teacher(images[part]).detach()
            divergence = F.kl_div(
                (logits / 4).log_softmax(-1),
                (soft / 4).log_softmax(-1),
                log_target=True,
                reduction="batchmean",
            )
            hard = F.cross_entropy(logits, labels[part])
            optimizer.zero_grad()
            (0.1 * hard + 0.9 * 16 * divergence).backward()
            optimizer.step()
    torch.testing.assert_close(parameters(student), parameters(expected))
    assert torch.equal(parameters(teacher), before)
    assert not any(part.training for part in teacher.modules())
    metrics = trainer.callback_metrics
    correct = (expected(images).argmax(-1) == labels).float().mean().item()
    assert metrics["val_accuracy"].item() == pytest.approx(correct)
    assert metrics["train/task/raw"].item() == pytest.approx(hard.item(), rel=1e-5)
    names = {f"train/{name}/{kind}" for name in ("task", "soft_target_kl") for kind in KINDS}
    assert names | {"train_loss", "val_loss"} <= metrics.keys()


def test_checkpoints_have_the_connectors_and_no_teacher_and_resume(trainer_of, data, tmp_path):
    loader = DataLoader(data, batch_size=4)
    runs = []
    for seed, before, epochs in ((0, None, 4), (0, None, 2), (7, "half.ckpt", 4)):
        student, teacher, objective = net(seed), net(1, width=32), Objective(FEATURES)
        adam = functools.partial(torch.optim.AdamW, lr=0.01)
        module = DistillationModule(student, teacher, objective, optimizer=adam)
        trainer = trainer_of(max_epochs=epochs)
        trainer.fit(module, loader, ckpt_path=before and str(tmp_path / before))
        runs.append(parameters(student, objective.connectors))
        trainer.save_checkpoint(tmp_path / ("half.ckpt" if epochs == 2 else "whole.ckpt"))
    assert torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0], runs[1])
    state = torch.load(tmp_path / "whole.ckpt", weights_only=True)["state_dict"]
    assert sum(one.numel() for one in state.values()) == runs[0].numel()


def test_a_loaded_module_validates_with_its_connectors(trainer_of, data, tmp_path):
    loader = DataLoader(data, batch_size=4)
    module = DistillationModule(net(0), net(1, width=32), FEATURES, optimizer=SGD)
    trainer = trainer_of()
    trainer.fit(module, loader, loader)
    expected = trainer.callback_metrics["val_loss"]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = DistillationModule.load_from_checkpoint(
        tmp_path / "last.ckpt", student=net(3), teacher=net(1, width=32), objective=FEATURES
    )
    [found] = trainer_of().validate(loaded, loader, verbose=False)
    assert found["val_loss"] == pytest.approx(expected.item(), rel=1e-6)
    predicted = torch.cat(trainer_of().predict(loaded, loader))
    torch.testing.assert_close(predicted, module.student.eval()(data.tensors[0]))


@pytest.mark.parametrize(
    "settings", [{"precision": "bf16-true"}, {"max_epochs": -1, "max_steps": 3}]
)
def test_connectors_are_built_under_any_settings(trainer_of, data, settings):
    objective = Objective(FEATURES)
    module = DistillationModule(net(0).float(), net(1, width=32).float(), objective, optimizer=SGD)
    rows = TensorDataset(data.tensors[0].float(), data.tensors[1])
    trainer = trainer_of(**settings)
    trainer.fit(module, DataLoader(rows, batch_size=4))
    assert trainer.global_step == 3
    assert {one.dtype for one in objective.connectors.parameters()} == {torch.float32}


def test_the_teacher_moves_with_the_module():
    teacher = net(1)
    DistillationModule(net(0), teacher).to("meta")
    assert {one.device.type for one in teacher.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("teacher", "objective", "message"),
    [
        (None, None, "teacher: .*a teacher, which a term requires"),
        (net(1, classes=5), None, "teacher: got '5 classes'; allowed: 3 classes"),
        (net(1), [Term("fitnet_hint", student="1", teacher="11")], "11"),
    ],
)
def test_bad_input_is_one_clear_error(trainer_of, data, teacher, objective, message):
    with pytest.raises(InputError, match=message):
        trainer_of().fit(DistillationModule(net(0), teacher, objective), DataLoader(data, 4))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda images: images, "batch.labels: .*labels, for a loss against the labels"),
        (TensorDataset, "batch: got 'list of 1'"),
    ],
)
def test_a_batch_without_labels_is_refused(trainer_of, data, wrap, message):
    rows = DataLoader(wrap(data.tensors[0]), batch_size=4)
    with pytest.raises(InputError, match=message):
        trainer_of().fit(DistillationModule(net(0), net(1)), rows)
