"""Alignment of tokenizations by bytes: byte-level BPE, SentencePiece with fallback, WordPiece."""

from __future__ import annotations

import functools
import json
import os
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from limbeck.data.modalities.language._alignment import (
    Spans,
    TokenBytes,
    align,
    matched_tokens,
    style_of,
)
from limbeck.errors import InputError
from limbeck.losses.cross_tokenizer import chunk_log_probs

CORPUS = [
    "Once upon a time, there was a little girl named Lily.",
    "The 3 cafés — naïve façades — cost €12.50, straße.",
    "小さな猫がいました。 你好，世界！ 안녕하세요",
    "emoji 😀👩‍👩‍👧 and e\u0301 combining, tabs\tand\nlines",
    "def f(x):\n    return x + 1\n",
]
STORIES = Path(os.environ.get("LIMBECK_DATA", "")) / "weights" / "stories260k" / "tokenizer.json"
NAMES = ["byte_level", "byte_level_small", "sentencepiece", "wordpiece", "wordpiece_lower"]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.lists(
        st.sampled_from(
            [
                *" \n\t\x00\x1b▁Ġ#aé漢字😀",
                "👩‍👩‍👧",
                "e\u0301",
                "the",
                " the",
                "##s",
                "<0x0A>",
                "</s>",
            ]
        ),
        min_size=1,
        max_size=12,
    ).map("".join),
)


def byte_level(size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentencepiece():
    fallback = [f"<0x{one:02X}>" for one in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    vocabulary = tokenizer.get_vocab()
    for token in fallback:
        vocabulary[token] = len(vocabulary)
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"] = vocabulary
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    ids = [("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ids
    )
    return tokenizer


def wordpiece(lower):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


@functools.cache
def tokenizer_of(name):
    if name == "stories":
        return Tokenizer.from_file(str(STORIES))
    if name == "sentencepiece":
        return sentencepiece()
    if name.startswith("wordpiece"):
        return wordpiece(name == "wordpiece_lower")
    return byte_level(300 if name.endswith("small") else 600)


@functools.cache
def bytes_of(name):
    return TokenBytes(tokenizer_of(name))


def spans_of(name, text):
    return bytes_of(name).spans(text, tokenizer_of(name).encode(text))


def every_name():
    return [*NAMES, "stories"] if STORIES.is_file() else NAMES


def aligned(text):
    """Yield the alignments of all pairs of tokenizers that have tokens for a text."""
    spans = {}
    for name in every_name():
        try:
            spans[name] = spans_of(name, text)
        except InputError:  # only white space and control characters have no WordPiece token
            assert name.startswith("wordpiece"), name
    for pair in permutations(spans, 2):
        yield pair, [spans[name] for name in pair], align(*(spans[name] for name in pair))


@settings(max_examples=40, deadline=None)
@given(TEXTS)
def test_chunks_concatenate_to_the_text(text):
    for pair, _, found in aligned(text):
        assert b"".join(found.chunks(text)) == text.encode(), pair
        assert all(found.chunks(text)), pair


@settings(max_examples=12, deadline=None)
@given(TEXTS, st.integers(0, 2**31))
def test_log_probabilities_of_chunks_sum_to_those_of_tokens(text, seed):
    draws = np.random.default_rng(seed)
    for pair, spans, found in aligned(text):
        for one, chunk_ids in zip(spans, found[:2], strict=True):
            logs = torch.from_numpy(-draws.exponential(size=len(one.ids)))
            ids = torch.from_numpy(chunk_ids)
            chunks = chunk_log_probs(logs, ids, chunks=len(found.ends))
            kept = torch.from_numpy(~one.special)
            torch.testing.assert_close(chunks.sum(), logs[kept].sum(), msg=str(pair))


@settings(max_examples=40, deadline=None)
@given(TEXTS)
def test_chunks_are_the_smallest_that_both_close(text):
    for pair, spans, found in aligned(text):
        boundaries = [set(one.ends[~one.special].tolist()) - {0} for one in spans]
        assert set(found.ends.tolist()) == boundaries[0] & boundaries[1], pair
        for one, chunk_ids in zip(spans, found[:2], strict=True):
            starts = np.concatenate([[0], found.ends[:-1]])
            for place in np.flatnonzero(~one.special & (one.ends > one.starts)):
                chunk = chunk_ids[place]
                assert starts[chunk] <= one.starts[place], pair
                assert one.ends[place] <= found.ends[chunk], pair
            assert (np.diff(chunk_ids[~one.special]) >= 0).all(), pair


@settings(max_examples=40, deadline=None)
@given(TEXTS)
def test_a_tokenizer_and_itself_have_one_chunk_per_token(text):
    spans = spans_of("byte_level", text)
    found = align(spans, spans)
    assert found.first.tolist() == found.second.tolist() == list(range(len(spans.ids)))


@settings(max_examples=40, deadline=None)
@given(TEXTS)
def test_byte_level_spans_are_the_bytes_of_the_tokens(text):
    content, spans = text.encode(), spans_of("byte_level_small", text)
    for id, start, end, special in zip(*spans, strict=True):
        if id in bytes_of("byte_level_small").canonical:
            assert bytes_of("byte_level_small").canonical[id] == content[start:end]
        assert not special


def test_sentencepiece_divides_a_character_into_bytes():
    spans = spans_of("sentencepiece", "a 🦜")
    tokens = tokenizer_of("sentencepiece").encode("a 🦜").tokens
    assert tokens[-5:] == ["<0xF0>", "<0x9F>", "<0xA6>", "<0x9C>", "</s>"]
    assert spans.ends[-5:].tolist() == [3, 4, 5, 6, 6]
    assert spans.special.tolist() == [True, *[False] * (len(tokens) - 2), True]


def test_special_tokens_are_in_no_chunk():
    first, second = spans_of("sentencepiece", "the cat"), spans_of("byte_level", "the cat")
    found = align(first, second)
    assert found.first[0] == found.first[-1] == -1
    assert found.first[1:-1].min() == 0
    assert found.second.min() == 0


def test_a_word_is_one_chunk_whatever_its_pieces():
    def spans(*ends):
        ends = np.array(ends)
        starts = np.concatenate([[0], ends[:-1]])
        return Spans(np.arange(len(ends)), starts, ends, np.zeros(len(ends), dtype=bool))

    found = align(spans(4, 9, 10), spans(2, 3, 7, 9, 10))
    assert found.ends.tolist() == [9, 10]
    assert found.first.tolist() == [0, 0, 1]
    assert found.second.tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(InputError, match="texts of 10 and 9 bytes"):
        align(spans(10), spans(9))


def test_canonical_strings_are_the_same_in_every_notation():
    known = {
        "byte_level": {"Ġa": b" a", "é".encode().decode("latin-1"): "é".encode()},
        "sentencepiece": {"▁a": b" a", "<0x0A>": b"\n"},
        "wordpiece": {"a": b" a", "##a": b"a"},
    }
    for name, tokens in known.items():
        for token, content in tokens.items():
            id = tokenizer_of(name).token_to_id(token)
            if id is not None:
                assert bytes_of(name).canonical[id] == content, (name, token)
    assert tokenizer_of("byte_level").token_to_id("Ġa") is not None
    assert tokenizer_of("sentencepiece").token_to_id("▁a") is not None
    assert tokenizer_of("wordpiece").token_to_id("##a") is not None


@pytest.mark.parametrize(
    "pair", list(permutations(["byte_level", "sentencepiece", "wordpiece"], 2))
)
def test_matched_tokens_have_the_same_bytes(pair):
    one, other = map(bytes_of, pair)
    found = matched_tokens(one, other)
    assert len(found) > 20
    assert all(one.canonical[a] == other.canonical[b] for a, b in found.tolist())
    assert all(len(np.unique(column)) == len(found) for column in found.T)
    assert len(found) == len(set(one.canonical.values()) & set(other.canonical.values()))


def test_a_token_is_matched_before_the_byte_of_a_fallback():
    found = dict(matched_tokens(bytes_of("byte_level"), bytes_of("sentencepiece")).tolist())
    ids = [tokenizer_of(name).token_to_id("a") for name in ("byte_level", "sentencepiece")]
    assert found[ids[0]] == ids[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_notation_is_found(name):
    expected = name.removesuffix("_small").removesuffix("_lower")
    assert style_of(json.loads(tokenizer_of(name).to_str())) == expected


def test_a_text_without_tokens_is_refused():
    with pytest.raises(InputError, match="no token covers its text"):
        spans_of("wordpiece", "\x00")
