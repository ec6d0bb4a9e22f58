"""Generated texts: stopping, padding, sampling, and streams, by a model of known next tokens."""

import numpy as np
import pytest

from limbeck.errors import InputError
from limbeck.serving.generation import Generation, GenerationConfig, Generator

VOCABULARY = {"<pad>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "d": 5}


class Preprocess:
    """A tokenizer of letters."""

    eos, pad, max_length = 1, 0, 8

    def __init__(self):
        tokenizers = pytest.importorskip("tokenizers")
        encoder = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCABULARY, unk_token="<pad>"))
        encoder.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        encoder.add_special_tokens(["<pad>", "</s>"])
        self.encoder = encoder

    def decode(self, ids):
        return self.encoder.decode(list(ids))


class Successor:
    """A model whose most probable token is the number of valid tokens so far, modulo 6.

    Its cache is the number of valid earlier tokens, so that a wrong mask or cache is found.
    """

    generates = True
    outputs = ("logits",)

    def __init__(self, *, cached):
        self.cache = {"past_key_values.0.key": ("batch", 1, "past", 1)} if cached else {}
        self.calls = 0

    def feeds(self, batch):
        samples = len(batch["input_ids"])
        return {**{name: np.zeros((samples, 1, 0, 1)) for name in self.cache}, **batch}

    def run(self, feeds, names):
        self.calls += 1
        ids, mask = feeds["input_ids"], feeds["attention_mask"]
        past = feeds["past_key_values.0.key"] if self.cache else np.zeros((len(ids), 1, 0, 1))
        assert mask.shape[1] == past.shape[2] + ids.shape[1]
        assert names[1:] == ["present.0.key"] * bool(self.cache)
        logits = np.zeros((*ids.shape, 6), np.float32)
        for row, count in enumerate(mask.sum(axis=1)):
            logits[row, -1, int(count) % 6] = 5
        new = np.concatenate([past, np.ones((len(ids), 1, ids.shape[1], 1))], axis=2)
        return [logits, new][: 1 + bool(self.cache)]


@pytest.mark.parametrize("cached", [True, False])
def test_prompts_of_a_batch_are_continued_as_alone(cached):
    generator = Generator(Successor(cached=cached), Preprocess(), where="model")
    prompts = ["a b", "a b c d"]
    batch = generator.generate(prompts, GenerationConfig(max_new_tokens=3))
    alone = [generator.generate([one], GenerationConfig(max_new_tokens=3))[0] for one in prompts]
    assert batch == alone
    assert [one.ids for one in batch] == [(2, 3, 4), (4, 5, 0)]


def test_a_text_ends_with_the_end_token_or_the_context():
    generator = Generator(Successor(cached=True), Preprocess(), where="model")
    [ended, full] = generator.generate(["a", "a b c d"], GenerationConfig(max_new_tokens=99))
    assert ended == Generation("", (1,), "stop")
    assert full.ids == (4, 5, 0, 1)
    assert full.finish_reason == "stop"
    short = Preprocess()
    short.max_length = 7
    generator = Generator(Successor(cached=True), short, where="model")
    [full] = generator.generate(["a b"], GenerationConfig(max_new_tokens=99))
    assert full.ids == (2, 3, 4, 5, 0)
    assert full.finish_reason == "length"


def test_parts_of_a_stream_are_the_text():
    generator = Generator(Successor(cached=True), Preprocess(), where="model")
    config = GenerationConfig(max_new_tokens=4)
    [whole] = generator.generate(["a b"], config)
    parts = list(generator.stream("a b", config))
    assert "".join(parts) == whole.text
    assert parts[0] == " a"


def test_sampling_has_the_model_s_distribution_and_its_nucleus():
    class Uneven(Successor):
        def run(self, feeds, names):
            found = super().run(feeds, names)
            found[0][:, -1] = np.log([0.05, 0.05, 0.5, 0.3, 0.05, 0.05])
            return found

    generator = Generator(Uneven(cached=True), Preprocess(), where="model")
    rows = ["a"] * 2000
    plain = GenerationConfig(max_new_tokens=1, temperature=1.0, seed=3)
    found = np.bincount([one.ids[0] for one in generator.generate(rows, plain)], minlength=6)
    np.testing.assert_allclose(found / 2000, [0.05, 0.05, 0.5, 0.3, 0.05, 0.05], atol=0.03)
    assert generator.generate(rows[:9], plain) == generator.generate(rows, plain)[:9]
    nucleus = GenerationConfig(max_new_tokens=1, temperature=1.0, top_p=0.6, seed=3)
    found = np.bincount([one.ids[0] for one in generator.generate(rows, nucleus)], minlength=6)
    np.testing.assert_allclose(found / 2000, [0, 0, 0.625, 0.375, 0, 0], atol=0.04)


def test_invalid_settings_and_prompts_are_refused():
    with pytest.raises(InputError, match=r"(?s)max_new_tokens: got 0.*temperature: got -1"):
        GenerationConfig(max_new_tokens=0, temperature=-1.0)
    with pytest.raises(InputError, match=r"top_p: got 0"):
        GenerationConfig(top_p=0)
    generator = Generator(Successor(cached=True), Preprocess(), where="model")
    with pytest.raises(InputError, match=r"prompts\[1\]: got '8 tokens'; allowed: 1 to 7"):
        generator.generate(["a", "a b c d a b c d"])
    with pytest.raises(InputError, match="0 tokens"):
        generator.generate([""])
    other = Successor(cached=False)
    other.generates = False
    with pytest.raises(InputError, match="a student of causal_lm"):
        Generator(other, Preprocess(), where="model")
