"""Recurrent layers in ONNX match those of torch, for batches and sequences of any size."""

from __future__ import annotations

import onnx
import pytest
import torch
from four_nets import LstmNet, subject
from torch import nn

from limbeck.export.onnx import ExportError, to_onnx
from limbeck.export.predictor import OnnxPredictor
from limbeck.export.recurrent import SequenceError, deploy, gru, lstm
from limbeck.tasks import TASKS

KINDS = {
    "plain": {},
    "steps first": {"batch_first": False},
    "both directions": {"bidirectional": True},
    "three layers, both directions": {"num_layers": 3, "bidirectional": True},
    "no bias": {"bias": False},
}


class Net(nn.Module):
    """A recurrent layer between an embedding and a head; all its outputs are used."""

    def __init__(self, kind, begun=False, **settings):
        super().__init__()
        settings = {"batch_first": True, **settings}
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 5)
        self.rnn = kind(5, 6, **settings)
        width = 6 * (2 if self.rnn.bidirectional else 1)
        self.head = nn.Linear(width + 6, 3)
        self.begun = begun

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids)
        x = x if self.rnn.batch_first else x.transpose(0, 1)
        begun = None
        if self.begun:
            rows = self.rnn.num_layers * (2 if self.rnn.bidirectional else 1)
            first = input_ids.float().mean(1).view(1, -1, 1).expand(rows, -1, 6) / 10
            begun = (first, -first) if isinstance(self.rnn, nn.LSTM) else first
        outputs, last = self.rnn(x, begun)
        last = last[0] * last[1] if isinstance(last, tuple) else last
        pooled = outputs.mean(1 if self.rnn.batch_first else 0)
        return self.head(torch.cat([pooled, last.sum(0)], dim=1))


TASK = TASKS.load("text_classification")(classes=("a", "b", "c"))


def batch(count, tokens):
    random = torch.Generator().manual_seed(count)
    ids = torch.randint(20, (count, tokens), generator=random)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_outputs_match_at_every_length(kind, begun, name, tmp_path):
    model = Net(kind, begun, **KINDS[name]).eval()
    to_onnx(model, TASK, batch(2, 4), tmp_path / "model.onnx")
    assert isinstance(model.rnn, kind)  # the model itself is not touched
    file = OnnxPredictor(tmp_path / "model.onnx")
    for count, tokens in ((1, 1), (3, 4), (5, 17)):
        inputs = batch(count, tokens)
        with torch.no_grad():
            expected = model(**inputs)
        found = torch.from_numpy(file.predict(inputs)["logits"])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count(kind.__name__) == model.rnn.num_layers


def test_text_lstm_is_exported(tmp_path):
    made = subject("lstm")
    to_onnx(made.model, made.task, made.batch, tmp_path / "model.onnx")


def test_unsupported_recurrent_layers_stay_or_raise(tmp_path):
    kept = deploy(nn.Sequential(nn.LSTM(3, 4, proj_size=2), nn.RNN(3, 4)))
    assert [type(one) for one in kept] == [nn.LSTM, nn.RNN]
    packed = nn.utils.rnn.pack_sequence([torch.zeros(2, 3)])
    with pytest.raises(SequenceError, match="packed sequence"):
        deploy(nn.Sequential(nn.LSTM(3, 4)))(packed)

    class Packing(LstmNet):
        def forward(self, input_ids, attention_mask):
            lengths = attention_mask.sum(1).cpu()
            embedded = self.embedding(input_ids)
            packed = nn.utils.rnn.pack_padded_sequence(
                embedded, lengths, batch_first=True, enforce_sorted=False
            )
            return self.head(self.hidden(self.lstm(packed)[1][0][-1]))

    made = subject("lstm")
    with pytest.raises(ExportError, match=r"packed|batch"):
        to_onnx(Packing().eval(), made.task, made.batch, tmp_path / "model.onnx")


def test_operators_pass_opcheck():
    x, state = torch.randn(4, 2, 3), torch.randn(2, 2, 5)
    shapes = {lstm: 4, gru: 3}
    for operator, gates in shapes.items():
        weights = [torch.randn(2, gates * 5, size) for size in (3, 5)]
        bias = torch.randn(2, 2 * gates * 5)
        states = (state, state) if operator is lstm else (state,)
        torch.library.opcheck(
            operator,
            (x, *weights, bias, *states),
            test_utils=("test_schema", "test_faketensor"),
        )
