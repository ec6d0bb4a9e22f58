"""Texts: token ids of a tokenizer that is loaded, or trained on the training rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from limbeck.data.modalities.text._preprocess import LONGEST_TEXT, TextPreprocess
from limbeck.data.modality import Modality, Usage
from limbeck.data.settings import Section, Settings

if TYPE_CHECKING:
    from limbeck.data.loaded import Loaded
    from limbeck.data.preprocess import Preprocess
    from limbeck.data.spec import DataSpec
    from limbeck.data.split import Division, Prepared

CODE = """
tokenizer = Tokenizer.from_file("tokenizer.json")
encoded = tokenizer.encode_batch(["a warm and funny film", "two hours that I will not get back"])
input_ids = np.array([one.ids for one in encoded], dtype=np.int64)
attention_mask = np.array([one.attention_mask for one in encoded], dtype=np.int64)
"""


class WordPieceSpec(Settings):
    """Settings of a tokenizer trained on the training texts."""

    vocab_size: Annotated[int, Field(ge=8, le=1_000_000)] = 8000


class TrainTokenizer(Settings):
    """The setting `{train: {vocab_size: 8000}}` of `text.tokenizer`."""

    train: WordPieceSpec = WordPieceSpec()


class TextSpec(Section):
    """Text preprocessing settings.

    Attributes:
        tokenizer: A local tokenizer.json or the folder that holds one, a name on the Hugging Face
            hub, or `{train: {vocab_size: 8000}}` for a WordPiece tokenizer trained in the run.
        max_length: Texts are truncated to this many tokens, including special ones.
    """

    tokenizer: str | TrainTokenizer = TrainTokenizer()
    max_length: Annotated[int, Field(ge=4, le=LONGEST_TEXT)] = 64

    @property
    def tokenizer_folder(self) -> Path | None:
        """Return the local folder of the tokenizer, if there is one."""
        from limbeck.data.modalities.text._tokenizers import folder_of

        return folder_of(self.tokenizer) if isinstance(self.tokenizer, str) else None


class TextKeys(Settings):
    """The keys of texts.

    Attributes:
        text: The text preprocessing; if given, the data is text.
    """

    text: TextSpec | None = None


class Texts(Modality[TextKeys]):
    """Texts, one per row."""

    name: ClassVar[str] = "text"
    keys: ClassVar[type[Settings]] = TextKeys
    preprocess: ClassVar[type[Preprocess]] = TextPreprocess
    usage: ClassVar[Usage] = Usage(
        argument='"a warm and funny film"',
        packages="numpy, tokenizers",
        imports="from tokenizers import Tokenizer",
        code=CODE,
        inputs=("input_ids", "attention_mask"),
        rows=True,
    )

    def recognised_by(self, spec: DataSpec) -> str:
        """Return the text column."""
        return spec.columns.text

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the text column."""
        return {spec.columns.text: "data.columns"}

    def prepare(
        self, spec: DataSpec, loaded: Loaded, division: Division, *, workdir: Path
    ) -> Prepared:
        """Build splits of texts."""
        from limbeck.data.modalities.text._samples import prepare

        settings = self.of(spec).text or TextSpec()
        return prepare(spec.columns.text, settings, loaded, division, workdir=workdir)


modality = Texts()
