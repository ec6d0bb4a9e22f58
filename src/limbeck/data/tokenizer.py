"""Tokenizers: trained on the training texts, or found; set to cut and pad."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck import atomic, fingerprint
from limbeck.data import wordpiece
from limbeck.data.files import data_folder
from limbeck.data.preprocess import TextPreprocess
from limbeck.errors import InputError, Problem
from limbeck.optional import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limbeck.data.spec import TextSpec

PADDING_NAMES = (wordpiece.PAD, "<pad>", "<|endoftext|>")


def make(spec: TextSpec, texts: Sequence[str], *, workdir: Path) -> TextPreprocess:
    """Find the tokenizer that a spec names, or train one on texts.

    Args:
        spec: What the recipe says.
        texts: The training texts; read only if the tokenizer is to be trained.
        workdir: Where a trained tokenizer is kept, under a name made of the texts and settings.

    Raises:
        InputError: There is no such tokenizer, or it has no token for padding.
    """
    if isinstance(spec.tokenizer, str):
        tokenizer = _find(spec.tokenizer)
    else:
        tokenizer = _trained(texts, spec.tokenizer.train.vocab_size, workdir)
    pad = _padding(tokenizer, str(spec.tokenizer))
    tokenizer.enable_truncation(spec.max_length)
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad))
    return TextPreprocess(tokenizer.to_str(), spec.max_length, pad, tokenizer.get_vocab_size())


def _trained(texts: Sequence[str], vocab_size: int, workdir: Path) -> Any:
    tokenizers = require("tokenizers", extra="text")
    name = fingerprint.of_json([vocab_size, tokenizers.__version__, list(texts)])[:16]
    path = workdir / f"tokenizer-{name}.json"
    if not path.is_file():
        atomic.write_text(path, wordpiece.train(texts, vocab_size).to_str())
    return tokenizers.Tokenizer.from_file(str(path))


def folder_of(name: str) -> Path | None:
    """Find the local folder that a tokenizer's name stands for; None for a file or the hub."""
    return next((path for path in (Path(name), data_folder() / name) if path.is_dir()), None)


def _find(name: str) -> Any:
    tokenizers = require("tokenizers", extra="text")
    for path in (Path(name), data_folder() / name):
        file = path / "tokenizer.json" if path.is_dir() else path
        if file.is_file():
            return _read(tokenizers, file)
    try:
        return tokenizers.Tokenizer.from_pretrained(name)
    # The hub's client fails in many ways: no network, no such name, no tokenizer.json in it.
    except Exception as error:
        allowed = "a tokenizer.json, a folder that holds one, a name on the hub, or {train: {...}}"
        fix = f"No such file here or in {data_folder()}, and the hub said: {error}"
        raise InputError(Problem("data.text.tokenizer", name, allowed, fix)) from error


def _read(tokenizers: Any, file: Path) -> Any:
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    # The library raises plain Exception for a file that it cannot read.
    except Exception as error:
        allowed = "a tokenizer.json of the tokenizers library"
        raise InputError(Problem("data.text.tokenizer", str(file), allowed, str(error))) from error


def _padding(tokenizer: Any, name: str) -> int:
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    for token in PADDING_NAMES:
        number = tokenizer.token_to_id(token)
        if number is not None:
            return int(number)
    allowed = f"one with a token for padding: {', '.join(PADDING_NAMES)}"
    raise InputError(Problem("data.text.tokenizer", name, allowed))
