"""Tokenizers: loaded and checked, or a WordPiece tokenizer trained deterministically."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core import files, fingerprint
from limbeck.core.imports import require
from limbeck.core.process import LimitError, call_limited
from limbeck.data.files import data_folder
from limbeck.data.modalities.text._preprocess import TextPreprocess
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limbeck.data.modalities.text import TextSpec


LARGEST = 100_000_000
WHERE, ALLOWED = "data.text.tokenizer", "a tokenizer.json of the tokenizers library"
PAD, UNKNOWN, FIRST, LAST = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
INSIDE = "##"


def train(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a tokenizer as for BERT: lower case, WordPiece, `[CLS] text [SEP]`.

    The library's trainer numbers the letters inside words in hash-table order, which differs per
    run, and breaks ties between merges by these numbers. Here the letters are counted and numbered
    first, so that equal texts and sizes result in equal tokenizers.

    Args:
        texts: The training texts.
        vocab_size: The maximum number of tokens, including the four special ones; at most half of
            them are single letters, the most frequent ones.

    Example:
        >>> tokenizer = train(["to be or not to be"], vocab_size=40)
        >>> tokenizer.encode("not be").tokens
        ['[CLS]', 'not', 'be', '[SEP]']
    """
    tokenizers = require("tokenizers", extra="text")
    words = Counter(word for text in texts for word in text.split())
    trained = _empty(tokenizers, {})
    letters, inside = _letters(trained, words, limit=vocab_size // 4)
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *(INSIDE + letter for letter in inside)],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        continuing_subword_prefix=INSIDE,
        show_progress=False,
    )
    # Words repeated by their counts: the trainer only counts words, so this equals the texts.
    ordered = sorted(words.items())
    trained.train_from_iterator((" ".join([word] * count) for word, count in ordered), trainer)
    # Letters were "special" only to get their ids; in the final tokenizer they are not.
    tokenizer = _empty(tokenizers, trained.get_vocab())
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{FIRST} $A {LAST}",
        pair=f"{FIRST} $A {LAST} $B:1 {LAST}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (FIRST, LAST)],
    )
    return tokenizer


def _empty(tokenizers: Any, vocabulary: dict[str, int]) -> Any:
    model = tokenizers.models.WordPiece(
        vocab=vocabulary, unk_token=UNKNOWN, continuing_subword_prefix=INSIDE
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix=INSIDE)
    return tokenizer


def _letters(tokenizer: Any, words: Counter[str], *, limit: int) -> tuple[list[str], list[str]]:
    """Return the most frequent letters, and those of them that occur inside words; both sorted."""
    everywhere: Counter[str] = Counter()
    inside: set[str] = set()
    for word, count in words.items():
        plain = tokenizer.normalizer.normalize_str(word)
        for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(plain):
            inside.update(piece[1:])
            for letter in piece:
                everywhere[letter] += count
    ranked = sorted(everywhere, key=lambda letter: (-everywhere[letter], letter))
    kept = sorted(ranked[:limit])
    return kept, sorted(inside.intersection(kept))


# Every printable character of ASCII, accents, other scripts, an emoji, a long word, repetitions.
PROBES = (
    "",
    "".join(map(chr, range(32, 127))),
    "Ünïcödé ñandú straße, Ελληνικά, кириллица, 漢字かな, עברית, 🙂🧪\n\t\u200b",
    "a" * 200,
    " ".join(["the quick brown fox jumps over the lazy dog 0123456789"] * 5),
)
_checked: set[str] = set()
PADDING_NAMES = (PAD, "<pad>", "<|endoftext|>")


def make(spec: TextSpec, texts: Sequence[str], *, workdir: Path) -> TextPreprocess:
    """Load the tokenizer of a spec, or train one on texts.

    Args:
        spec: The `text` settings of the recipe.
        texts: The training texts; read only to train a tokenizer.
        workdir: The folder for a trained tokenizer, named by a hash of texts and settings.

    Raises:
        InputError: The tokenizer is missing, or has no padding token.
    """
    if isinstance(spec.tokenizer, str):
        tokenizer = find(spec.tokenizer, texts)
    else:
        tokenizer = _trained(texts, spec.tokenizer.train.vocab_size, workdir)
    pad = padding_of(tokenizer, str(spec.tokenizer))
    if tokenizer.id_to_token(pad) is None:
        given = f"{spec.tokenizer}: padding with token {pad}, which is not in the vocabulary"
        raise InputError(Problem(WHERE, given, "a padding token of its vocabulary"))
    tokenizer.enable_truncation(spec.max_length)
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad))
    return TextPreprocess(tokenizer.to_str(), spec.max_length, pad, vocabulary_size(tokenizer))


def _trained(texts: Sequence[str], vocab_size: int, workdir: Path) -> Any:
    tokenizers = require("tokenizers", extra="text")
    name = fingerprint.of_json([vocab_size, tokenizers.__version__, list(texts)])[:16]
    path = workdir / f"tokenizer-{name}.json"
    if not path.is_file():
        files.write_text(path, train(texts, vocab_size).to_str())
    return tokenizers.Tokenizer.from_file(str(path))


def folder_of(name: str) -> Path | None:
    """Return the local folder of a tokenizer's name; None for a file or the hub."""
    return next((path for path in (Path(name), data_folder() / name) if path.is_dir()), None)


def vocabulary_size(tokenizer: Any) -> int:
    """Return the number of embedding rows: the largest id plus one, including gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def find(name: str, texts: Sequence[str]) -> Any:
    """Load a tokenizer by a local file or folder, or by a name on the hub.

    Args:
        name: The name.
        texts: Texts that it is tried on, in a child process with limits.

    Raises:
        InputError: There is none, or it cannot be used.
    """
    tokenizers = require("tokenizers", extra="text")
    for path in (Path(name), data_folder() / name):
        file = path / "tokenizer.json" if path.is_dir() else path
        if file.is_file():
            return _read(tokenizers, file, texts)
        if file.exists() and not file.is_dir():
            raise InputError(Problem(WHERE, f"{file}: not a regular file", ALLOWED))
    try:
        return tokenizers.Tokenizer.from_pretrained(name)
    # The hub's client raises many exception types: network, name, no tokenizer.json.
    except Exception as error:
        allowed = "a tokenizer.json, a folder that holds one, or a name on the hub"
        fix = f"No such file here or in {data_folder()}, and the hub responded: {error}"
        raise InputError(Problem(WHERE, name, allowed, fix)) from error


def _read(tokenizers: Any, file: Path, texts: Sequence[str]) -> Any:
    """Read a tokenizer.json, after a check in a child process with resource limits."""
    if file.stat().st_size > LARGEST:
        given = f"{file}: {file.stat().st_size:,} bytes"
        raise InputError(Problem(WHERE, given, f"at most {LARGEST:,} bytes"))
    key = fingerprint.of_file(file)
    if key not in _checked:
        samples = [*PROBES, *(str(text)[:2000] for text in texts[:64])]
        try:
            call_limited(lambda: _check(tokenizers, file, samples))
        except LimitError as error:
            raise InputError(Problem(WHERE, f"{file}: {error}", ALLOWED)) from error
        _checked.add(key)
    return tokenizers.Tokenizer.from_file(str(file))


def _check(tokenizers: Any, file: Path, texts: Sequence[str]) -> None:
    """Tokenize some texts, and check the ids against the vocabulary."""
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    rows, count = vocabulary_size(tokenizer), tokenizer.get_vocab_size()
    if count == 0 or rows > 4 * count + 100_000:
        given = f"{file}: {count:,} tokens with ids up to {rows - 1:,}"
        raise InputError(Problem(WHERE, given, "consecutive ids"))
    for text in texts:
        ids = tokenizer.encode(text).ids
        if max(ids, default=0) >= rows:
            given = f"{file}: token {max(ids):,} for a text"
            raise InputError(Problem(WHERE, given, f"ids below {rows:,}, the vocabulary"))
        if len(ids) > 100 * (len(text) + 10):
            given = f"{file}: {len(ids):,} tokens for a text of {len(text)} characters"
            raise InputError(Problem(WHERE, given, "at most 100 tokens per character"))


def padding_of(tokenizer: Any, name: str) -> int:
    """Return the id of the padding token.

    Raises:
        InputError: The tokenizer has none.
    """
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    for token in PADDING_NAMES:
        if tokenizer.token_to_id(token) is not None:
            return int(tokenizer.token_to_id(token))
    allowed = f"one with a token for padding: {', '.join(PADDING_NAMES)}"
    raise InputError(Problem(WHERE, name, allowed))
