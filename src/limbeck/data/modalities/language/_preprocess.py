"""Preprocessing of texts to token ids for a language model, and what preprocess.json states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from limbeck.core import files
from limbeck.core.imports import require
from limbeck.data.modalities.text._preprocess import SHOWN, TOKENIZER, Count, Length
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

LONGEST = 131_072
"""The most tokens of a sequence."""
CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
LARGEST_TEMPLATE = 2**20
OTHER_TOKENIZER = (
    "Models with different tokenizers are compared by alm, uld or gold of "
    "limbeck.losses.cross_tokenizer, which a recipe cannot name"
)
LOADING = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".").eval()
ids, mask = torch.from_numpy(input_ids), torch.from_numpy(attention_mask)
with torch.no_grad():
    logits = model(input_ids=ids, attention_mask=mask).logits
outputs = torch.where(mask[:, :, None] > 0, logits, 0.0).transpose(1, 2)
"""


class Stated(NamedTuple):
    """The end token and the chat template of the files beside a tokenizer.

    Attributes:
        eos: The end token.
        template: The chat template, in Jinja.
    """

    eos: str | None = None
    template: str | None = None


def stated_in(folder: Path) -> Stated:
    """Read tokenizer_config.json and the chat template of a folder, if there are any."""
    found = files.read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    found = found if isinstance(found, dict) else {}
    eos, template = found.get("eos_token"), found.get("chat_template")
    eos = eos.get("content") if isinstance(eos, dict) else eos
    if (folder / TEMPLATE).is_file():
        template = files.read_text(folder / TEMPLATE, limit=LARGEST_TEMPLATE)
    return Stated(
        eos if isinstance(eos, str) else None, template if isinstance(template, str) else None
    )


@dataclass(frozen=True)
class LanguagePreprocess(Preprocess):
    """Preprocessing for a language model: from a text to token ids.

    Attributes:
        tokenizer: The content of tokenizer.json.
        max_length: The number of tokens that the model reads.
        pad: The id at padding.
        vocab_size: The size of the vocabulary: the largest id of the tokenizer plus one.
        eos: The id of the end token; None if the tokenizer has none.
        template: The chat template, in Jinja; None if the tokenizer has none.
        classes: None.
        targets: None.
    """

    tokenizer: str
    max_length: Length
    pad: Count
    vocab_size: Annotated[int, Field(gt=0, lt=2**31)]
    eos: Count | None = None
    template: str | None = None
    kind: Literal["language"] = "language"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    raw_texts: ClassVar[bool] = True
    huggingface: ClassVar[HuggingFace | None] = HuggingFace(
        "text-generation", "CausalLM", repr("Once upon a time"), LOADING
    )

    @property
    def tokenization(self) -> Tokenizer:
        """Return the tokenizer."""
        return Tokenizer(self.tokenizer, self.max_length)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Return the tokens of the vocabulary, by id; gaps are empty."""
        names = {number: name for name, number in self.encoder.get_vocab(True).items()}
        return tuple(names.get(number, "") for number in range(self.vocab_size))

    @classmethod
    def complete(cls, content: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Return the content of a preprocess.json with that of the tokenizer.json beside it."""
        text = files.read_text(folder / TOKENIZER, limit=LARGEST_FILE)
        return {**content, "tokenizer": text}

    def model_inputs(self) -> dict[str, int]:
        """Return the size of the vocabulary, and the id of padding."""
        return {"vocab_size": self.vocab_size, "pad_token": self.pad}

    def special_tokens(self) -> dict[str, int]:
        """Return the ids of the special tokens; `bos` is what begins every text, if anything."""
        first = self.encoder.encode("").ids[:1]
        found = {"bos": first[0] if first else None, "eos": self.eos, "pad": self.pad}
        return {name: number for name, number in found.items() if number is not None}

    @property
    def chat_template(self) -> str | None:
        """Return the chat template."""
        return self.template

    @cached_property
    def encoder(self) -> Any:
        """Return the tokenizer of the tokenizers library, without truncation and padding."""
        encoder = require("tokenizers", extra="text").Tokenizer.from_str(self.tokenizer)
        encoder.no_padding()
        encoder.no_truncation()
        return encoder

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Tokenize texts: return `input_ids` and `attention_mask`, `[n, longest]`.

        Texts are cut after `max_length` tokens and padded on the right.
        """
        rows = [one.ids[: self.max_length] for one in self.encoder.encode_batch(list(texts))]
        shape = (len(rows), max(1, *map(len, rows)))
        ids = np.full(shape, self.pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)], mask[place, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask}

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self.encoder.decode([int(one) for one in ids]))

    def read(self, text: object, *, where: str) -> str:
        """Return a text; raise if it is not one, or has no token.

        Raises:
            InputError: The value is not a text, or the tokenizer has no token for it.
        """
        if not isinstance(text, str):
            raise InputError(Problem(where, text, "a text"))
        if not self.encoder.encode(text).ids:
            raise InputError(Problem(where, text, "a text with at least one token"))
        return text

    def save(self, folder: Path) -> list[Path]:
        """Write preprocess.json and tokenizer.json; return the paths written."""
        files.write_text(folder / TOKENIZER, self.tokenizer)
        return [self._write(folder, tokenizer=TOKENIZER), folder / TOKENIZER]

    def named(self, argument: str, *, row_files: Sequence[str]) -> list[Named]:
        """Return the argument itself, a text; a file that cannot hold texts is refused."""
        shown = argument if len(argument) <= SHOWN else f"{argument[:SHOWN]}..."
        if 0 < len(argument) < 4096 and Path(argument).exists():
            allowed = f"a text, or a file that ends in {', '.join(row_files)}"
            raise InputError(Problem(shown, "a file or a folder", allowed))
        return [(shown, argument)]

    def compare(self, comparison: Comparison) -> None:
        """Compare the tokenizer, end token and chat template with those beside a model's weights.

        A start token is part of the tokenizer. More embeddings than tokens are a padded vocabulary.
        """
        from limbeck.data.modalities.text._preprocess import TextPreprocess
        from limbeck.data.modalities.text._statement import compare

        found = comparison.found
        # The padding id of a language model has no weight in any loss.
        pad = self.pad if found.pad is None else found.pad
        own = TextPreprocess(self.tokenizer, self.max_length, pad, self.vocab_size)
        compare(own, comparison, key="data.language", fix=OTHER_TOKENIZER)
        if found.vocab_size and found.vocab_size > self.vocab_size:
            comparison.note(
                f"it has {found.vocab_size:,} token embeddings; the tokenizer has "
                f"{self.vocab_size:,} tokens: the rest is padding of its vocabulary."
            )
        if found.tokenizer is not None:
            self._compare_stated(stated_in(found.tokenizer), comparison)

    def _compare_stated(self, stated: Stated, comparison: Comparison) -> None:
        where = f"{comparison.where} ({comparison.found.tokenizer})"
        key, fix = "data.language.tokenizer", "Use the tokenizer's folder of one of both models."
        eos = None if self.eos is None else self.encoder.id_to_token(self.eos)
        if stated.eos is not None and eos is not None and stated.eos != eos:
            allowed = f"the end token of {where}, {stated.eos!r}"
            comparison.refuse(key, f"the end token {eos!r}", allowed, fix)
        elif (stated.eos is None) != (eos is None):
            named = "the data's tokenizer" if stated.eos is None else "the one beside its weights"
            comparison.note(f"of the two tokenizers, only {named} names an end token.")
        chats = getattr(comparison.section, "messages", None) is not None
        if chats and stated.template is not None and stated.template != self.template:
            fix = "Name the model's folder, or remove the template that it was not trained with."
            comparison.refuse(key, "another chat template", f"that of {where}", fix)
