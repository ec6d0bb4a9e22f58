"""Token sequences: words, as numbers of a vocabulary of the training rows or of a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from limbeck.data.modalities.text import TrainTokenizer
from limbeck.data.modalities.text._preprocess import LONGEST_TEXT
from limbeck.data.modalities.tokens._preprocess import TokensPreprocess
from limbeck.data.modality import Modality, Usage
from limbeck.data.settings import Section, Settings

if TYPE_CHECKING:
    from typing import Self

    from limbeck.data.loaded import Loaded
    from limbeck.data.preprocess import Preprocess
    from limbeck.data.spec import DataSpec
    from limbeck.data.split import Division, Prepared

CODE = """
words = ["Me", "llamo", "Ana", "."]  # a sentence, divided into words and punctuation marks
if "tokenizer" in prepare:
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file("tokenizer.json").encode(words, is_pretokenized=True)
    ids = encoded.ids  # the tag of a word is that of its first piece, see encoded.word_ids
else:
    ids, numbers = [], {word: number for number, word in enumerate(prepare["vocabulary"], start=2)}
    for word in words[: prepare["max_length"]]:
        row = [numbers.get(re.sub(r"\\d", "0", word.lower()), 1)]
        shape = re.sub(r"[^\\W\\d_]", lambda one: "X" if one[0].isupper() else "x", word)
        shape = re.sub(r"(.)\\1+", r"\\1\\1", re.sub(r"\\d", "0", shape))[:8]
        for place, part in enumerate((word[:3], word[-2:], word[-3:], word[-4:], shape)):
            if prepare["buckets"]:
                bucket = zlib.crc32(f"{place}:{part}".encode()) % prepare["buckets"]
                row.append(2 + len(numbers) + bucket)
        ids.append(row if prepare["buckets"] else row[0])
input_ids = np.array([ids], dtype=np.int64)
attention_mask = np.ones(input_ids.shape[:2], dtype=np.int64)
"""


class VocabularySpec(Settings):
    """Settings of a vocabulary of the training words; they are compared in lower case.

    Attributes:
        size: The largest number of words, the most frequent ones.
        min_count: Words that occur less often in the training rows are unknown.
        buckets: The number of hash values of a word's prefix, suffixes and shape, which the model
            reads beside the word, so that unknown words differ; 0 for words only.
    """

    size: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    min_count: Annotated[int, Field(ge=1, le=1_000_000)] = 2
    buckets: Annotated[int, Field(ge=0, le=1_000_000)] = 2000


class TokensSpec(Section):
    """Settings of token sequences.

    Attributes:
        column: The column of the words: a list of texts for each row. A text is divided at white
            space.
        max_length: Rows are cut after this many words, or pieces of a tokenizer.
        vocabulary: A vocabulary of the training words, if no tokenizer is given.
        tokenizer: A tokenizer that divides words into pieces: a local tokenizer.json or the folder
            that holds one, a name on the Hugging Face hub, or `{train: {vocab_size: 8000}}`. The
            tag of a word is that of its first piece.
    """

    column: str = "tokens"
    max_length: Annotated[int, Field(ge=4, le=LONGEST_TEXT)] = 128
    vocabulary: VocabularySpec | None = None
    tokenizer: str | TrainTokenizer | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if self.vocabulary is not None and self.tokenizer is not None:
            raise ValueError("vocabulary and tokenizer are given; allowed: one of them")
        return self

    @property
    def tokenizer_folder(self) -> Path | None:
        """Return the local folder of the tokenizer, if there is one."""
        from limbeck.data.modalities.text._tokenizers import folder_of

        return folder_of(self.tokenizer) if isinstance(self.tokenizer, str) else None


class TokensKeys(Settings):
    """The keys of token sequences.

    Attributes:
        tokens: The words and their vocabulary; if given, the data is token sequences.
    """

    tokens: TokensSpec | None = None


class Tokens(Modality[TokensKeys]):
    """Sequences of words, one per row."""

    name: ClassVar[str] = "tokens"
    keys: ClassVar[type[Settings]] = TokensKeys
    preprocess: ClassVar[type[Preprocess]] = TokensPreprocess
    usage: ClassVar[Usage] = Usage(
        argument='"Me llamo Ana."',
        packages="numpy (and tokenizers, if preprocess.json names a tokenizer)",
        imports="import re\nimport zlib",
        code=CODE,
        inputs=("input_ids", "attention_mask"),
    )
    hint: ClassVar[str] = "The column of words is named in data.tokens.column."

    def _settings(self, spec: DataSpec) -> TokensSpec:
        return self.of(spec).tokens or TokensSpec()

    def recognised_by(self, spec: DataSpec) -> str:
        """Return the column of words."""
        return self._settings(spec).column

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the column of words."""
        return {self._settings(spec).column: "data.tokens.column"}

    def prepare(
        self, spec: DataSpec, loaded: Loaded, division: Division, *, workdir: Path
    ) -> Prepared:
        """Build splits of words; a vocabulary is that of the training rows."""
        from limbeck.data.modalities.tokens._samples import prepare

        return prepare(self._settings(spec), loaded, division, workdir=workdir)


modality = Tokens()
