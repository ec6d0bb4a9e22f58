"""Preprocessing of texts to token ids, and what preprocess.json states about it.

`Tokenizer.from_file("tokenizer.json").encode_batch(texts)` truncates and pads as in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from limbeck.core import files
from limbeck.core.imports import require
from limbeck.data.preprocess import (
    LARGEST_FILE,
    Comparison,
    HuggingFace,
    Named,
    Preprocess,
    Target,
    Tokenizer,
)
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENIZER = "tokenizer.json"
LONGEST_TEXT = 131_072
"""The most tokens of a text: the context of the longest existing encoders."""
CHUNK = 10_000
SHOWN = 40
"""The most characters of a text in a message's place."""
Length = Annotated[int, Field(gt=0, le=LONGEST_TEXT)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
LOADING = """
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForSequenceClassification.from_pretrained(".").eval()
inputs = tokenizer(list(texts), truncation=True, padding=True, return_tensors="pt")
outputs = model(**inputs)
"""


@dataclass(frozen=True)
class TextPreprocess(Preprocess):
    """Text preprocessing: from a text to token ids.

    Attributes:
        tokenizer: The content of tokenizer.json, with its truncation and padding.
        max_length: Texts are truncated to this many tokens.
        pad: The id of the padding token.
        vocab_size: The size of the vocabulary.
        classes: The class names, in the order of the model's outputs.
        targets: A regression's targets, in the order of the model's outputs.
    """

    tokenizer: str
    max_length: Length
    pad: Count
    vocab_size: Count
    kind: Literal["text"] = "text"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    raw_texts: ClassVar[bool] = True
    huggingface: ClassVar[HuggingFace | None] = HuggingFace(
        "text-classification",
        "SequenceClassification",
        repr("a warm and funny film"),
        LOADING,
        arguments=", truncation=True",
        raw="texts",
    )

    @property
    def tokenization(self) -> Tokenizer:
        """Return the tokenizer."""
        return Tokenizer(self.tokenizer, self.max_length)

    @classmethod
    def complete(cls, content: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Return the content of a preprocess.json with that of the tokenizer.json beside it."""
        text = files.read_text(folder / TOKENIZER, limit=LARGEST_FILE)
        return {**content, "tokenizer": text}

    def model_inputs(self) -> dict[str, int]:
        """Return the input dimensions of a model, as arguments for `limbeck.models.build.build`."""
        return {"vocab_size": self.vocab_size, "pad_token": self.pad}

    @cached_property
    def _encoder(self) -> Any:
        return require("tokenizers", extra="text").Tokenizer.from_str(self.tokenizer)

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Tokenize texts: return `input_ids` and `attention_mask`, `[n, longest]`."""
        encodings = self._encoder.encode_batch(list(texts))
        return {
            "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
            "attention_mask": np.array([one.attention_mask for one in encodings], np.int64),
        }

    @cached_property
    def _may_have_no_token(self) -> bool:
        """Return whether the tokenizer adds no special token, so that a text may have none."""
        return not any(self._encoder.encode("").attention_mask)

    def read(self, text: object, *, where: str) -> str:
        """Return a text; raise if it is not one, or has no token.

        Raises:
            InputError: The value is not a text, or the tokenizer has no token for it.
        """
        if not isinstance(text, str):
            raise InputError(Problem(where, text, "a text"))
        if self._may_have_no_token and not any(self._encoder.encode(text).attention_mask):
            raise InputError(Problem(where, text, "a text with at least one token"))
        return text

    def tokens(self, texts: Sequence[str]) -> Iterator[tuple[NDArray[np.int32], bool]]:
        """Yield each text's token ids, truncated but not padded, and whether it was truncated."""
        encoder = require("tokenizers", extra="text").Tokenizer.from_str(self.tokenizer)
        encoder.no_padding()
        for start in range(0, len(texts), CHUNK):
            for encoding in encoder.encode_batch_fast(list(texts[start : start + CHUNK])):
                yield np.asarray(encoding.ids, dtype=np.int32), bool(encoding.overflowing)

    def save(self, folder: Path) -> list[Path]:
        """Write preprocess.json and tokenizer.json; return the paths written."""
        files.write_text(folder / TOKENIZER, self.tokenizer)
        return [self._write(folder, tokenizer=TOKENIZER), folder / TOKENIZER]

    def named(self, argument: str, *, row_files: Sequence[str]) -> list[Named]:
        """Return the argument itself, a text; a file that cannot hold texts is refused."""
        if Path(argument).exists():
            allowed = f"a text, or a file that ends in {', '.join(row_files)}"
            fix = "To predict the name itself, write it to standard input: -."
            raise InputError(Problem(argument, "a file or a folder", allowed, fix))
        shown = argument if len(argument) <= SHOWN else f"{argument[:SHOWN]}..."
        return [(shown, argument)]

    def compare(self, comparison: Comparison) -> None:
        """Compare the tokenizer with the one beside a trained model's weights."""
        from limbeck.data.modalities.text._statement import compare

        compare(self, comparison)
