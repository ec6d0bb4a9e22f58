"""Comparison of the data's tokenizer with the one that a trained model was trained with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.imports import require
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from limbeck.data.modalities.text._preprocess import TextPreprocess
    from limbeck.data.preprocess import Comparison

TEXTS, SHOWN = 200, 12
PADDED = 1024
"""More embeddings without a token are no padding of the vocabulary to a round size."""
PROBES = ("Hello, World!", "ÉCOLE naïve", "a\tb  c\n", "3,141.59 € #tag @you", "日本語 🙂", "")


def compare(
    prepare: TextPreprocess,
    comparison: Comparison,
    *,
    key: str = "data.text",
    change: Callable[[str], str] = str,
    fix: str = "",
) -> None:
    """Compare a tokenizer with what a trained model's files state.

    Args:
        prepare: The data's tokenizer.
        comparison: What the model's files state.
        key: The section of the recipe that names the tokenizer.
        change: What the data changed in its tokenizer.json.
        fix: What the message on another tokenizer adds.
    """
    found, where, place = comparison.found, comparison.where, f"{key}.tokenizer"
    if found.max_length is not None and prepare.max_length > found.max_length:
        allowed = f"at most {found.max_length}, the positions of {where} ({found.origin})"
        comparison.refuse(f"{key}.max_length", prepare.max_length, allowed)
    if found.tokenizer is None:
        sizes = (
            f"; it has {found.vocab_size} token embeddings, the data's tokenizer has "
            f"{prepare.vocab_size} tokens."
        )
        text = "there is no tokenizer beside its weights to compare the data's with"
        comparison.note(text + (sizes if found.vocab_size else "."))
        return
    texts = comparison.texts(TEXTS)
    own = change(_tokenizer(found.tokenizer, where))
    difference = tokenizers_differ(own, prepare.tokenizer, [*texts, *PROBES])
    if difference:
        allowed = f"the tokenizer that {where} was trained with ({found.tokenizer})"
        advice = f"Set {place}: {found.tokenizer}" + (f". {fix}" if fix else "")
        named = getattr(comparison.section, "tokenizer", None)
        given = f"{named}: {difference}" if fix and named else difference
        comparison.refuse(place, given, allowed, advice)
    elif found.pad is not None and found.pad != prepare.pad:
        allowed = f"token {found.pad}, the pad_token_id of {where} ({found.origin})"
        fix = "Let the padding token of the tokenizer and pad_token_id of config.json agree."
        comparison.refuse(place, f"padding with token {prepare.pad}", allowed, fix)
    elif found.vocab_size and found.vocab_size - prepare.vocab_size > PADDED:
        comparison.note(
            f"it has {found.vocab_size:,} token embeddings, and the tokenizer beside its "
            f"weights {prepare.vocab_size:,} tokens: check that they belong together."
        )


def _tokenizer(folder: Path, where: str) -> str:
    """Load the tokenizer beside a model's weights, as the text of a tokenizer.json.

    Raises:
        InputError: The tokenizer cannot be read.
    """
    file = folder / "tokenizer.json"
    try:
        if file.is_file():
            tokenizer = require("tokenizers", extra="text").Tokenizer.from_file(str(file))
        else:
            auto = require("transformers", extra="text").AutoTokenizer
            settings = {"local_files_only": True, "trust_remote_code": False}
            tokenizer = auto.from_pretrained(str(folder), **settings).backend_tokenizer
    # The libraries raise errors of many types for malformed files.
    except Exception as error:
        allowed = "files that transformers reads as a tokenizer"
        reason = f"{type(error).__name__}: {error}"
        raise InputError(Problem(where, str(folder), allowed, reason)) from error
    text: str = tokenizer.to_str()
    return text


def tokenizers_differ(own: str, data: str, texts: Sequence[str]) -> str:
    """Describe how two tokenizers differ, as texts of tokenizer.json; empty if they do not."""
    if _without_cutting(own) == _without_cutting(data):
        return ""
    library = require("tokenizers", extra="text").Tokenizer
    pair = [library.from_str(text) for text in (own, data)]
    for one in pair:
        one.no_padding()
        one.no_truncation()
    model_tokens, data_tokens = (one.get_vocab(with_added_tokens=True) for one in pair)
    # Tokens that only the model has never occur in its input.
    moved = [name for name, number in data_tokens.items() if model_tokens.get(name) != number]
    if moved:
        first = min(moved, key=data_tokens.__getitem__)
        number = model_tokens.get(first)
        other = "lacks it" if number is None else f"has it as {number}"
        return (
            f"a vocabulary in which {len(moved)} of {len(data_tokens)} tokens have other numbers: "
            f"{first!r} is {data_tokens[first]}, the model's {other}"
        )
    encoded = [one.encode_batch(list(texts)) for one in pair]
    for text, by_model, by_data in zip(texts, *encoded, strict=True):
        if by_model.ids != by_data.ids:
            cut = text if len(text) <= 40 else text[:37] + "..."
            tokens, expected = by_data.tokens[:SHOWN], by_model.tokens[:SHOWN]
            return f"{cut!r} becomes {tokens}, by the model's {expected}"
    return ""


def _without_cutting(text: str) -> dict[str, Any]:
    content = json.loads(text)
    return {key: value for key, value in content.items() if key not in {"truncation", "padding"}}
