"""Causal language models as files with a key-value cache, compared with transformers."""

import numpy as np
import pytest
import torch

from limbeck.export.decoder import cache_shapes
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor, TorchPredictor
from limbeck.export.reading import probe
from limbeck.serving.generation import GenerationConfig, Generator
from limbeck.tasks.causal_lm import CausalLm

transformers = pytest.importorskip("transformers")

SIZE = 40
SMALL = {
    "llama": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gemma3_text": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "mamba": {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4},
}


def built(kind):
    torch.manual_seed(0)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.CONFIG_MAPPING[kind](vocab_size=SIZE, **tokens, **SMALL[kind])
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, SIZE, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


class Preprocess:
    """Token ids without a tokenizer."""

    eos, pad, max_length, encoder = 2, 0, 64, None

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_one_file_scores_and_generates_as_transformers(kind, tmp_path):
    model, path = built(kind), tmp_path / "model.onnx"
    to_onnx(model, CausalLm(SIZE), batch(), path)
    probe(path)
    predictor = OnnxPredictor(path, threads=1)
    assert predictor.inputs == ("input_ids", "attention_mask")
    assert predictor.axes["attention_mask"] == ("batch", "past + tokens")
    shapes = cache_shapes(model, batch())
    assert list(predictor.cache)[:2] == ["past_key_values.0.key", "past_key_values.0.value"]
    assert [one[1] for one in predictor.cache.values()] == [one[1] for one in shapes]
    found, expected = (
        one.predict(batch())["logits"] for one in (predictor, TorchPredictor(model, CausalLm(SIZE)))
    )
    assert found.shape == expected.shape == (2, SIZE, 9)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    rows = [[1, 5, 9, 30, 7, 8], [1, 4], [1, 17, 11]]
    ids = torch.tensor([[0] * (6 - len(row)) + row for row in rows])
    greedy = model.generate(
        ids, attention_mask=(ids > 0).long(), max_new_tokens=20, do_sample=False
    )[:, 6:]
    generator = Generator(predictor, Preprocess(), where=path)
    for own, row in zip(
        generator.continue_ids(rows, GenerationConfig(max_new_tokens=20)), greedy, strict=True
    ):
        assert list(own.ids) == row[: len(own.ids)].tolist()
        assert own.finish_reason == "stop" or len(own.ids) == 20


@pytest.mark.slow
def test_a_model_with_another_state_is_exported_without_a_cache(tmp_path):
    assert "takes no past_key_values" in cache_shapes(built("mamba"), batch())
    plain = torch.nn.Embedding(SIZE, SIZE)
    assert "takes no past_key_values" in cache_shapes(plain, batch())

    class Bigrams(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = plain

        def forward(self, input_ids, attention_mask):
            return self.table(input_ids)

    path = tmp_path / "model.onnx"
    to_onnx(Bigrams().eval(), CausalLm(SIZE), batch(), path)
    predictor = OnnxPredictor(path, threads=1)
    assert predictor.generates
    assert not predictor.cache
    generator = Generator(predictor, Preprocess(), where=path)
    found = generator.continue_ids([[5, 6], [7]], GenerationConfig(max_new_tokens=3))
    following = plain.weight.argmax(1)
    for own, last in zip(found, (6, 7), strict=True):
        for token in own.ids:
            assert token == following[last]
            last = token
