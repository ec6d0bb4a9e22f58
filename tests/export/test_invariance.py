"""A prediction depends on its sample alone, or the model is refused with the likely cause."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.export.invariance import check_invariance, compare
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor, TorchPredictor
from limbeck.tasks.image_classification import ImageClassification
from limbeck.tasks.tabular_classification import TabularClassification
from limbeck.tasks.text_classification import TextClassification

CLASSES = tuple("abcde")
TABLE, IMAGE, TEXT = (
    kind(CLASSES) for kind in (TabularClassification, ImageClassification, TextClassification)
)


def features(count: int = 12) -> dict[str, Tensor]:
    return {"features": torch.randn(count, 6, generator=torch.Generator().manual_seed(1))}


def texts() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(2, 20, (10, 1), generator=generator)
    mask = (torch.arange(20) < lengths).long()
    ids = torch.randint(1, 50, mask.shape, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask}


class Whitened(nn.Linear):
    """Divides by the deviation over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / (x.std(dim=0, correction=0) + 1e-3))


class Competing(nn.Linear):
    """Attends to the other samples of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.softmax(x @ x.T, dim=-1) @ x)


class Positioned(nn.Linear):
    """Adds something that depends on the place in the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.arange(len(x))[:, None] * torch.arange(5.0)


class Frozen(nn.BatchNorm1d):
    """Never leaves training mode."""

    def train(self, mode: bool = True) -> Frozen:
        return super().train(True)


class Sequence(nn.Module):
    """Reads its six features as a sequence; the batch is its time axis unless stated otherwise."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, None].expand(-1, -1, 8)
        out = (
            self.layer(x, x, x) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        )
        out = out[0] if isinstance(out, tuple) else out
        return self.head(out[:, -1])


class Counting(nn.Linear):
    """Has other outputs in every call."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x) * self.calls


class Remembering(nn.Linear):
    """Carries a hidden state over from the batch before."""

    def forward(self, x: Tensor) -> Tensor:
        before = getattr(self, "state", torch.zeros(6))
        self.state = x.mean(dim=0)
        return super().forward(x + before)


class Squeezing(nn.Linear):
    """Loses the axis of a batch of one."""

    def forward(self, features):
        return super().forward(features).squeeze()


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.3, training=True))


class InPlace(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(0.5))


class Dividing(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.clamp(min=0)[:, :1])


NORM = nn.BatchNorm1d(6, track_running_stats=False)
MODELS = {
    "standardised": (Whitened(6, 5), ["axis 0"]),
    "attention": (Competing(6, 5), ["another class"]),
    "position": (Positioned(6, 5), ["one at a time"]),
    "norm": (nn.Sequential(NORM, nn.Linear(6, 5)), ["0 (BatchNorm1d)", "track_running_stats=True"]),
    "train": (nn.Sequential(Frozen(6), nn.Linear(6, 5)), ["0 (Frozen)", "training mode"]),
    "softmax": (nn.Sequential(nn.Linear(6, 5), nn.Softmax(dim=0)), ["1 (Softmax)", "dim=-1"]),
    "gru": (Sequence(nn.GRU(8, 8)), ["layer (GRU)", "batch_first=True"]),
    "rnn": (Sequence(nn.RNN(8, 8)), ["layer (RNN)", "batch_first=True"]),
    "heads": (Sequence(nn.MultiheadAttention(8, 2)), ["layer (MultiheadAttention)"]),
    "encoder": (
        Sequence(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)),
        ["layer.self_attn (MultiheadAttention)", "batch_first=True"],
    ),
    "counter": (Counting(6, 5), ["keeps state between calls"]),
    "memory": (Remembering(6, 5), ["keeps state between calls"]),
    "random": (Noisy(6, 5), ["draws random numbers"]),
    "in place": (InPlace(6, 5), ["changes its input features in place"]),
    "nan": (Dividing(6, 5), ["NaN or infinity", "of 12 samples"]),
    "squeeze": (Squeezing(6, 5), ["one at a time", "squeeze() without an axis"]),
}


@pytest.mark.parametrize("kind", MODELS)
def test_dependence_on_the_batch_is_rejected_with_its_cause(kind):
    model, parts = MODELS[kind]
    torch.manual_seed(3)
    with pytest.raises(InputError) as caught:
        check_invariance(TorchPredictor(model, TABLE), features(), where="student", model=model)
    message = str(caught.value)
    assert message.startswith("student: ")
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(6, 5),
        nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5), nn.Softmax(dim=1)),
        nn.Sequential(nn.LayerNorm(6), nn.Dropout(0.5), nn.Linear(6, 5)),
        Sequence(nn.LSTM(8, 8, num_layers=2, batch_first=True)),
        Sequence(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
    ],
    ids=["linear", "norm", "dropout", "lstm", "encoder"],
)
def test_invariant_models_pass(model):
    model.train()
    before = features()
    check_invariance(TorchPredictor(model, TABLE), before, where="student", model=model)
    assert torch.equal(before["features"], features()["features"])
    assert model.training


class Bag(nn.Module):
    """Averages the embeddings of a text; with `masked`, those of its tokens alone."""

    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        self.embed, self.head, self.masked = nn.Embedding(50, 16), nn.Linear(16, 5), masked

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = attention_mask.float() if self.masked else torch.ones(input_ids.shape)
        mean = (self.embed(input_ids) * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        return self.head(mean)


def test_unmasked_padding_is_rejected():
    torch.manual_seed(4)
    check_invariance(TorchPredictor(Bag(masked=True), TEXT), texts(), where="teacher")
    with pytest.raises(InputError, match=r"teacher: .*one at a time.*attention_mask"):
        check_invariance(TorchPredictor(Bag(masked=False), TEXT), texts(), where="teacher")


def test_batch_norm_without_statistics_raises_input_error():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(27, 5), nn.BatchNorm1d(5, track_running_stats=False)
    )
    batch = {"image": torch.randn(6, 3, 3, 3)}
    with pytest.raises(InputError, match=r"one at a time.*2 \(BatchNorm1d\)"):
        check_invariance(TorchPredictor(model, IMAGE), batch, where="student", model=model)


@pytest.mark.parametrize("kind", ["cnn", "mlp", "bert"])
def test_exported_files_are_invariant(exported, kind):
    one = exported[kind]
    batch = {name: one.draw(9)[name] for name in one.task.inputs}
    check_invariance(OnnxPredictor(one.path), batch, where=kind)


def test_exported_file_that_mixes_samples_is_rejected(tmp_path):
    torch.manual_seed(5)
    to_onnx(Whitened(6, 5), TABLE, features(4), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="one at a time"):
        check_invariance(OnnxPredictor(tmp_path / "m.onnx"), features(), where="stages.distill")


def test_tolerance_is_relative_to_the_spread_of_outputs():
    expected = {"logits": np.array([[1e3, 1e3 + 0.01, -np.inf]] * 4)}
    shifted = {"logits": expected["logits"] + np.array([0, 0.05, 0])}
    [found] = compare(expected, expected, tolerance=1e-3)
    assert found.within
    assert found.largest == 0
    [found] = compare(expected, shifted, tolerance=1e-3)
    assert not found.within
    nan = {"logits": np.where(np.arange(3) == 1, np.nan, expected["logits"])}
    assert not compare(expected, nan, tolerance=1.0)[0].within


def test_targets_of_quantiles_have_tolerances_of_their_own():
    one = {"quantiles": np.arange(24.0).reshape(3, 2, 2, 2) * [[1.0], [1e4]]}
    two = {"quantiles": one["quantiles"] + [[1.0], [0.0]]}
    small, large = compare(one, two, tolerance=0.01, kinds={"quantiles": "quantiles"})
    assert (small.target, small.within, large.within) == (0, False, True)
    assert small.tolerance < large.tolerance / 5_000
