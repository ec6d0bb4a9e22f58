"""A teacher's tokenizer, end token, template and padded vocabulary against those of the data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from limbeck.data.modalities.language import LanguageSpec
from limbeck.data.modalities.language._samples import make
from limbeck.models.statement import Statement

EOS, TEMPLATE = "<|end|>", "{{ messages[0].content }}"


@dataclass
class Recorded:
    """A comparison that keeps what is noted and refused."""

    found: Statement
    section: LanguageSpec
    where: str = "teacher"
    trained: bool = False
    notes: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def texts(self, count):
        return ["a b", "b a"]

    def note(self, text):
        self.notes.append(text)

    def refuse(self, where, given, allowed, fix=""):
        self.refused.append((where, f"{given}; {allowed}; {fix}"))


def folder(path: Path, *, tokens=("a", "b", EOS, "x"), eos=EOS, template=TEMPLATE) -> Path:
    path.mkdir()
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    stated = {"eos_token": eos, "chat_template": template}
    kept = {key: value for key, value in stated.items() if value is not None}
    (path / "tokenizer_config.json").write_text(json.dumps(kept))
    return path


@pytest.fixture
def compared(tmp_path):
    """Compare the data's tokenizer with that of a teacher."""

    def compare(*, chats=True, vocab_size=None, data=None, **teacher) -> Recorded:
        own, other = folder(tmp_path / "data", **(data or {})), folder(tmp_path / "t", **teacher)
        settings = LanguageSpec(
            tokenizer=str(own), messages="chat" if chats else None, append_eos=False
        )
        recorded = Recorded(Statement(tokenizer=other, vocab_size=vocab_size), settings)
        make(settings, ["a b"]).compare(recorded)
        return recorded

    return compare


def test_equal_tokenizers_are_accepted(compared):
    found = compared(vocab_size=4)
    assert not found.refused
    assert not found.notes


def test_another_tokenizer_is_refused_with_the_losses_for_it(compared, tmp_path):
    [(where, text)] = compared(tokens=("b", "a", EOS, "x")).refused
    assert where == "data.language.tokenizer"
    for named in (tmp_path / "data", tmp_path / "t", "alm, uld or gold", "have other numbers"):
        assert str(named) in text


def test_another_end_token_is_refused(compared):
    [(where, text)] = compared(eos="x").refused
    assert where == "data.language.tokenizer"
    assert "the end token '<|end|>'; the end token of teacher" in text
    assert "'x'" in text


def test_a_missing_end_token_is_noted(compared):
    found = compared(eos=None)
    assert not found.refused
    assert found.notes == ["of the two tokenizers, only the data's tokenizer names an end token."]


def test_another_template_is_refused_for_chats_only(compared):
    [(_, text)] = compared(template="{{ other }}").refused
    assert "another chat template; that of teacher" in text


def test_another_template_of_documents_is_accepted(compared):
    assert not compared(chats=False, template="{{ other }}").refused


def test_a_padded_vocabulary_is_noted(compared):
    found = compared(vocab_size=64)
    assert not found.refused
    assert found.notes == [
        "it has 64 token embeddings; the tokenizer has 4 tokens: "
        "the rest is padding of its vocabulary."
    ]
