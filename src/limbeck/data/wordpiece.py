"""Deterministic training of a WordPiece tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from limbeck.optional import require

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
    trained = _blank(tokenizers, {})
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
    tokenizer = _blank(tokenizers, trained.get_vocab())
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{FIRST} $A {LAST}",
        pair=f"{FIRST} $A {LAST} $B:1 {LAST}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (FIRST, LAST)],
    )
    return tokenizer


def _blank(tokenizers: Any, vocabulary: dict[str, int]) -> Any:
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
