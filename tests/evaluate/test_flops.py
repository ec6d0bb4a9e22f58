"""FLOPs against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.evaluate.flops import flops, parameters
from limbeck.tasks.image_classification import ImageClassification
from limbeck.tasks.text_classification import TextClassification

IMAGE = ImageClassification(tuple("ab"))


class Attention(nn.Module):
    """Attention alone, over `heads` heads of size 8."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x)


class First(nn.Module):
    """A recurrent layer without its state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


TOKENS, WIDTH, HIDDEN = 7, 12, 5
CASES = {
    "linear": (nn.Linear(12, 5), (12,), 2 * 12 * 5),
    "linear over tokens": (nn.Linear(12, 5, bias=False), (7, 12), 7 * 2 * 12 * 5),
    "convolution": (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10), 2 * 3 * 3 * 3 * 8 * 100),
    "strided": (nn.Conv2d(3, 8, 3, stride=2), (3, 11, 11), 2 * 3 * 3 * 3 * 8 * 25),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 10, 10), 2 * 9 * 8 * 100),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 5, 5), 2 * 4 * 6 * 4 * 25),
    "attention": (Attention(), (2, TOKENS, 8), 2 * (2 * TOKENS * TOKENS * 8) * 2),
    "lstm": (
        First(nn.LSTM(WIDTH, HIDDEN, batch_first=True)),
        (TOKENS, WIDTH),
        TOKENS * 2 * 4 * HIDDEN * (WIDTH + HIDDEN),
    ),
    "lstm, two layers, bidirectional": (
        First(nn.LSTM(WIDTH, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)),
        (TOKENS, WIDTH),
        2 * TOKENS * 2 * 4 * HIDDEN * ((WIDTH + HIDDEN) + (2 * HIDDEN + HIDDEN)),
    ),
    "gru": (
        First(nn.GRU(WIDTH, HIDDEN, batch_first=True)),
        (TOKENS, WIDTH),
        TOKENS * 2 * 3 * HIDDEN * (WIDTH + HIDDEN),
    ),
    "transformer layer": (
        nn.TransformerEncoderLayer(WIDTH, 3, 24, batch_first=True),
        (TOKENS, WIDTH),
        TOKENS * 2 * (4 * WIDTH * WIDTH + 2 * WIDTH * 24) + 2 * (2 * TOKENS * TOKENS * WIDTH),
    ),
    "nothing that counts": (nn.ReLU(), (3, 4, 4), 0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [1, 4])
def test_one_samples_operations_are_those_counted_by_hand(name, batch):
    model, shape, expected = CASES[name]
    flat = nn.Sequential(model, nn.Flatten())  # a task requires one row of logits per sample
    assert flops(flat, IMAGE, {"image": torch.randn(batch, *shape)}) == expected


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_transformers_model(attention):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=3,
        attn_implementation=attention,
    )
    model = transformers.BertForSequenceClassification(config)
    batch = {"input_ids": torch.ones(2, 9).long(), "attention_mask": torch.ones(2, 9).long()}
    layer = 9 * 2 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * (2 * 9 * 9 * 32)
    expected = 2 * layer + 2 * 32 * 32 + 2 * 32 * 3
    assert flops(model, TextClassification(tuple("abc")), batch) == expected


def test_the_model_and_torchs_switches_are_left_as_they_were():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Dropout()).train()
    model[2].eval()
    before = (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled)
    flops(model, IMAGE, {"image": torch.randn(2, 1, 2, 2)})
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled) == before


def test_a_shared_parameter_counts_once():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    assert parameters(model) == 80
    model[1].weight = model[0].weight
    assert parameters(model) == 40
