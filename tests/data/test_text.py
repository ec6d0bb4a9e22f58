"""Texts: tokenizers trained or found, and batches padded to their longest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import tokenizers
import torch

from limbeck.data.load import Data
from limbeck.data.modalities.text._tokenizers import SPECIAL, train
from limbeck.data.preprocess import load
from limbeck.errors import InputError

Read = Callable[..., Data]
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
TEXTS = [" ".join(WORDS[(row + step) % 8] for step in range(row % 7 + 1)) for row in range(60)]


@pytest.fixture
def texts(tmp_path: Path, read: Read) -> Data:
    content = {"text": TEXTS, "label": [row % 3 for row in range(60)]}
    datasets.Dataset.from_dict(content).to_parquet(tmp_path / "a.parquet")
    trained = {"train": {"vocab_size": 70}}
    text = {"tokenizer": trained, "max_length": 6}
    return read(source="parquet", files={"train": "a.parquet"}, text=text)


def test_batches_equal_the_output_of_the_tokenizer_alone(texts: Data, tmp_path: Path) -> None:
    texts.preprocess.save(tmp_path / "student")
    alone = tokenizers.Tokenizer.from_file(str(tmp_path / "student" / "tokenizer.json"))
    for split in (texts.train, texts.test):
        rows = [5, 0, 3]
        batch = split.__getitems__(rows)
        encodings = alone.encode_batch([split.raw(row)["text"] for row in rows])
        assert batch["input_ids"].tolist() == [encoding.ids for encoding in encodings]
        mask = [encoding.attention_mask for encoding in encodings]
        assert batch["attention_mask"].tolist() == mask
        assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64


def test_each_text_has_the_special_tokens_of_bert_and_is_truncated(texts: Data) -> None:
    first, last = 2, 3
    batch = next(texts.train.batches(1000))
    lengths = batch["attention_mask"].sum(1)
    assert lengths.max() == 6
    assert (batch["input_ids"][:, 0] == first).all()
    assert (batch["input_ids"].gather(1, lengths[:, None] - 1) == last).all()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == texts.preprocess.pad).all()


def test_a_batch_is_padded_to_its_own_longest(texts: Data) -> None:
    lengths = next(texts.train.batches(1000))["attention_mask"].sum(1)
    row = int(lengths.argmin())
    assert texts.train.__getitems__([row])["input_ids"].shape == (1, lengths.min())


def test_special_tokens_come_first(texts: Data) -> None:
    content = json.loads(texts.preprocess.tokenizer)
    assert [token["content"] for token in content["added_tokens"]] == list(SPECIAL)
    assert texts.preprocess.vocab_size == len(content["model"]["vocab"]) <= 70
    assert texts.preprocess.model_inputs() == {
        "vocab_size": texts.preprocess.vocab_size,
        "pad_token": texts.preprocess.pad,
    }


@pytest.mark.slow
def test_training_is_the_same_in_every_process() -> None:
    """The library's own training is not: it numbers letters in the order of a hash table."""
    code = (
        "import sys, json; from limbeck.data.modalities.text._tokenizers import train\n"
        "print(train(json.loads(sys.argv[1]), 70).to_str())"
    )
    environment = {"TOKENIZERS_PARALLELISM": "true", "PYTHONPATH": ":".join(sys.path)}
    here = json.loads(train(TEXTS, 70).to_str())
    for _ in range(3):
        command = [sys.executable, "-c", code, json.dumps(TEXTS)]
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment
        )
        assert json.loads(result.stdout) == here


def test_no_more_tokens_than_allowed_and_the_rarest_letters_left_out() -> None:
    letters = "".join(chr(0x4E00 + number) for number in range(500))
    trained = train([letters, "abc abd", letters[:100]], vocab_size=200)
    assert trained.get_vocab_size() <= 200
    assert letters[0] in trained.get_vocab()
    assert "[UNK]" in trained.encode(letters[499]).tokens


def test_letters_inside_words_are_no_special_tokens() -> None:
    trained = train(["abc abd"], vocab_size=30)
    assert trained.encode("##b").tokens[1] == "[UNK]"


def test_a_trained_tokenizer_is_kept_by_its_texts(texts: Data, read: Read, tmp_path: Path) -> None:
    kept = list((tmp_path / "work").glob("tokenizer-*.json"))
    assert len(kept) == 1
    trained = {"tokenizer": {"train": {"vocab_size": 70}}, "max_length": 6}
    again = read(source="parquet", files={"train": "a.parquet"}, text=trained)
    assert again.preprocess == texts.preprocess
    assert list((tmp_path / "work").glob("tokenizer-*.json")) == kept


@pytest.mark.parametrize("given", ["student", "student/tokenizer.json"])
def test_a_local_tokenizer(texts: Data, read: Read, tmp_path: Path, given: str) -> None:
    texts.preprocess.save(tmp_path / "student")
    text = {"tokenizer": given, "max_length": 6}
    data = read(source="parquet", files={"train": "a.parquet"}, text=text)
    assert torch.equal(
        next(data.test.batches(99))["input_ids"], next(texts.test.batches(99))["input_ids"]
    )
    assert load(tmp_path / "student") == texts.preprocess


def test_tokenizers_that_cannot_be_used(texts: Data, read: Read, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{}")
    without = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    without.save(str(tmp_path / "without.json"))
    for name, message in (
        ("broken.json", r"a tokenizer\.json of the tokenizers library"),
        ("without.json", "a token for padding"),
    ):
        with pytest.raises(InputError, match=message):
            read(source="parquet", files={"train": "a.parquet"}, text={"tokenizer": name})


def test_texts_are_recognised_by_their_column(texts: Data, read: Read) -> None:
    data = read(source="parquet", files={"train": "a.parquet"})
    assert data.preprocess.kind == "text"
    assert data.train.raw(0)["text"] in TEXTS


def _tokenizer(folder: Path, vocabulary: dict[str, int], **model: Any) -> str:
    content = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]", **model},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return str(folder / "tokenizer.json")


def test_texts_that_are_cut_are_counted_once(tmp_path: Path, read: Any) -> None:
    rows = {"text": ["a b a b a b"] * 10 + ["a b"] * 30, "label": [0, 1] * 20}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    files = {"train": "a.parquet", "validation": "a.parquet", "test": "a.parquet"}
    name = _tokenizer(tmp_path, {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3})
    text = {"tokenizer": name, "max_length": 5}
    notes = read(source="parquet", files=files, text=text).facts.notes
    (note,) = [note for note in notes if "cut" in note]
    assert "max_length, 5 tokens: 10 of 40 in train (25.0%), 10 of 40 in validation" in note
    longer = {"tokenizer": name, "max_length": 6}
    notes = read(source="parquet", files=files, text=longer).facts.notes
    assert not [note for note in notes if "cut" in note]


def test_tokenizers_that_fail_on_the_texts(tmp_path: Path, read: Any) -> None:
    rows = {"text": ["a b", "c"] * 20, "label": [0, 1] * 20}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    settings = {"source": "parquet", "files": {"train": "a.parquet"}}
    for vocabulary, message in (
        ({"[PAD]": 0, "a": 1}, "unk|UNK"),
        ({"[PAD]": 0, "[UNK]": 1, "a": 10**9}, "consecutive ids"),
    ):
        with pytest.raises(InputError, match=message):
            read(**settings, text={"tokenizer": _tokenizer(tmp_path, vocabulary)})
    gap = _tokenizer(tmp_path, {"[PAD]": 0, "[UNK]": 1, "a": 90})
    assert read(**settings, text={"tokenizer": gap}).preprocess.vocab_size == 91
