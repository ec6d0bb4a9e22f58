"""Language modelling: documents, prompts with a response, or chats, as token ids with labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from limbeck.data.modalities.language._preprocess import LONGEST, LanguagePreprocess
from limbeck.data.modality import Modality, Usage
from limbeck.data.settings import Section, Settings
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from typing import Self

    from limbeck.data.label import Labels
    from limbeck.data.loaded import Loaded
    from limbeck.data.preprocess import Preprocess
    from limbeck.data.spec import DataSpec
    from limbeck.data.split import Division, Prepared

KEY = "data.language"
CODE = """
tokenizer = Tokenizer.from_file("tokenizer.json")
ids = tokenizer.encode("Once upon a time").ids
input_ids = np.array([ids], dtype=np.int64)
attention_mask = np.ones_like(input_ids)
"""


class LanguageSpec(Section):
    """Settings of language modelling.

    A row is a document (`column`), a prompt with its response, or a chat (`messages`). Tokens of a
    document are all predicted; of a prompt with a response, the response and the end token; of a
    chat, the assistant's messages.

    Attributes:
        tokenizer: A local folder with a tokenizer.json, or the file itself, or a name on the
            Hugging Face hub. Teacher and student read the same ids.
        column: The column of documents.
        prompt: The column of prompts; with `response`.
        response: The column of responses.
        messages: The column of chats, each a list of messages with `role` and `content`. The
            tokenizer's chat template renders them.
        separator: The text between two documents of one row, such as a file's.
        max_length: The number of tokens of a training sequence; longer rows are cut, or divided if
            they are packed.
        packing: Whether documents are joined, and divided into sequences of exactly `max_length`
            tokens; tokens of earlier documents in a sequence are context. Default: for documents.
        append_eos: Whether the tokenizer's end token follows each document and response.
    """

    tokenizer: str
    column: str = "text"
    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    separator: Annotated[str | None, Field(min_length=1)] = None
    max_length: Annotated[int, Field(ge=4, le=LONGEST)] = 512
    packing: bool | None = None
    append_eos: bool = True

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.prompt is None) != (self.response is None):
            raise ValueError("one of prompt and response is given; allowed: both, or none")
        if self.prompt and self.messages:
            raise ValueError("prompt and messages are given; allowed: one of them")
        if self.separator and not self.documents:
            raise ValueError("separator is given with prompts or messages; allowed: for documents")
        if self.packing and not self.documents:
            raise ValueError("packing is true for prompts or messages; allowed: for documents")
        return self

    @property
    def documents(self) -> bool:
        """Return whether rows are documents, of which every token is predicted."""
        return self.prompt is None and self.messages is None

    @property
    def packed(self) -> bool:
        """Return whether documents are joined to sequences of equal length."""
        return self.documents if self.packing is None else self.packing

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns that are read, each with its key in the recipe."""
        if self.messages is not None:
            return {self.messages: f"{KEY}.messages"}
        if self.prompt is not None and self.response is not None:
            return {self.prompt: f"{KEY}.prompt", self.response: f"{KEY}.response"}
        return {self.column: f"{KEY}.column"}

    @property
    def tokenizer_folder(self) -> Path | None:
        """Return the local folder of the tokenizer, if there is one."""
        from limbeck.data.modalities.text._tokenizers import folder_of

        return folder_of(self.tokenizer)


class LanguageKeys(Settings):
    """The keys of language modelling.

    Attributes:
        language: The tokenizer and the columns; if given, the data is for a language model.
    """

    language: LanguageSpec | None = None


class Language(Modality[LanguageKeys]):
    """Token sequences of which a language model predicts each next token."""

    name: ClassVar[str] = "language"
    keys: ClassVar[type[Settings]] = LanguageKeys
    preprocess: ClassVar[type[Preprocess]] = LanguagePreprocess
    usage: ClassVar[Usage] = Usage(
        argument='"Once upon a time"',
        packages="numpy, tokenizers",
        imports="from tokenizers import Tokenizer",
        code=CODE,
        inputs=("input_ids", "attention_mask"),
    )
    owns_labels: ClassVar[bool] = True
    entries: ClassVar[frozenset[str]] = frozenset({"target_bytes"})
    hint: ClassVar[str] = (
        "The column of documents is data.language.column; those of prompts are prompt and response."
    )

    def _settings(self, spec: DataSpec) -> LanguageSpec:
        found = self.of(spec).language
        if found is None:
            raise ValueError("language data without its section")
        return found

    def check(self, spec: DataSpec) -> None:
        """Raise for weights or groups of rows, which packed sequences cannot have."""
        own = self._settings(spec)
        if own.packed and (spec.columns.weight or spec.sensitive_features):
            raise ValueError(
                "columns.weight or sensitive_features is given with packed documents; allowed: "
                "with language.packing: false"
            )

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the columns of documents, of prompts and responses, or of chats."""
        return self._settings(spec).columns

    def arrange(self, spec: DataSpec, loaded: Loaded) -> Loaded:
        """Divide rows into documents at the separator."""
        own = self._settings(spec)
        if own.separator is None:
            return loaded
        import datasets

        splits = {}
        for name, rows in loaded.splits.items():
            texts = (text for text in rows[own.column] if isinstance(text, str))
            parts = [part.strip() for text in texts for part in text.split(own.separator)]
            kept = [part for part in parts if part]
            if not kept:
                allowed = "at least one document"
                raise InputError(Problem(f"{KEY}.separator (in {name})", own.separator, allowed))
            splits[name] = datasets.Dataset.from_dict({own.column: kept})
        return replace(loaded, splits=splits)

    def labels(self, spec: DataSpec, loaded: Loaded) -> Labels:
        """Return labels that follow from the tokens: the next ones."""
        from limbeck.data.modalities.language._samples import NextTokens

        return NextTokens.of_rows(loaded)

    def prepare(
        self, spec: DataSpec, loaded: Loaded, division: Division, *, workdir: Path
    ) -> Prepared:
        """Build splits of token sequences."""
        from limbeck.data.modalities.language._samples import prepare

        return prepare(self._settings(spec), loaded, division)


modality = Language()
