"""Generation with the file of a causal language model, by ONNX Runtime alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.export.names import IDS, MASK, PAST, PRESENT
from limbeck.serving.predictions import Result

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.export.predictor import OnnxPredictor

Finish: TypeAlias = Literal["stop", "length"]


@runtime_checkable
class TokenizesPrompts(Protocol):
    """A preprocessing of prompts for a language model."""

    @property
    def eos(self) -> int | None:
        """Return the id of the end token."""
        ...

    @property
    def pad(self) -> int:
        """Return the id at padding."""
        ...

    @property
    def max_length(self) -> int:
        """Return the number of tokens that the model reads."""
        ...

    @property
    def encoder(self) -> Any:
        """Return the tokenizer of the tokenizers library."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        ...


@dataclass(frozen=True)
class Generation(Result):
    """The text that a language model generates for one prompt.

    Attributes:
        text: The generated text, without the prompt.
        ids: The generated token ids, with the end token if there is one.
        finish_reason: `stop` after the end token, otherwise `length`.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: Finish

    @property
    def row(self) -> dict[str, str | float]:
        """Return the text, and the number of tokens."""
        return {"text": self.text, "tokens": len(self.ids)}


@dataclass(frozen=True)
class GenerationConfig:
    """Settings of generation, as in transformers.

    Attributes:
        max_new_tokens: The largest number of generated tokens; prompt and they take at most the
            `max_length` of the training.
        temperature: 0 takes the most probable token (greedy); above, tokens are sampled from
            softmax(logits / temperature).
        top_p: Sample from the smallest set of tokens with at least this probability.
        seed: The seed of sampling; each prompt of a batch has its own random numbers.

    Raises:
        InputError: A value is out of its range.

    Source: Holtzman et al. 2020, "The curious case of neural text degeneration" (top-p sampling).
    """

    max_new_tokens: int = 50
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        checks = {
            "max_new_tokens": (self.max_new_tokens >= 1, "a whole number above 0"),
            "temperature": (0 <= self.temperature < np.inf, "0, or a positive number"),
            "top_p": (0 < self.top_p <= 1, "above 0 and up to 1"),
            "seed": (self.seed >= 0, "a whole number from 0 on"),
        }
        wrong = [
            Problem(name, getattr(self, name), allowed)
            for name, (valid, allowed) in checks.items()
            if not valid
        ]
        if wrong:
            raise InputError(*wrong)


GREEDY = GenerationConfig()


class Generator:
    """A language model's file with its tokenizer.

    Prompts of a batch are padded on the left. A file without a key-value cache computes all
    positions for each token, one prompt at a time.

    Args:
        predictor: The file.
        prepare: The preprocessing with the tokenizer.
        where: The file, for messages.

    Raises:
        InputError: It is no file of a causal language model.
    """

    def __init__(self, predictor: OnnxPredictor, prepare: object, *, where: Path | str) -> None:
        if not predictor.generates or not isinstance(prepare, TokenizesPrompts):
            given = f"outputs {', '.join(predictor.outputs)}"
            raise InputError(Problem(str(where), given, "a student of causal_lm, to generate"))
        self._predictor, self._prepare, self._where = predictor, prepare, where

    def generate(
        self, prompts: Sequence[str], config: GenerationConfig = GREEDY
    ) -> list[Generation]:
        """Generate a text for each prompt, as one batch.

        Raises:
            InputError: A prompt has no token, or leaves no position for a new one.
            LimbeckError: A logit is NaN.
        """
        return self.continue_ids(self._encode(prompts), config)

    def continue_ids(
        self, rows: Sequence[list[int]], config: GenerationConfig = GREEDY
    ) -> list[Generation]:
        """Generate a text for each prompt of token ids, as one batch.

        Raises:
            LimbeckError: A logit is NaN.
        """
        if not self._predictor.cache and len(rows) > 1:
            return [one for row in rows for one in self.continue_ids([row], config)]
        found: list[list[int]] = [[] for _ in rows]
        for tokens in self._steps(rows, config):
            for own, token in zip(found, tokens, strict=True):
                if token is not None:
                    own.append(token)
        return [self._result(row, own) for row, own in zip(rows, found, strict=True)]

    def stream(self, prompt: str, config: GenerationConfig = GREEDY) -> Iterator[str]:
        """Generate a text for one prompt; yield its parts, which joined are `Generation.text`.

        Raises:
            InputError: As for `generate`.
        """
        [row] = self._encode([prompt])
        ids: list[int] = []
        written = ""
        for [token] in self._steps([row], config):
            ids += [] if token is None else [token]
            text = self._text(row, ids)
            # Bytes of a character that further tokens complete.
            if text.startswith(written) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(written) :]
                written = text
        yield self._text(row, ids)[len(written) :]

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        rows = [list(one.ids) for one in self._prepare.encoder.encode_batch(list(prompts))]
        limit = self._prepare.max_length
        problems = [
            Problem(f"prompts[{number}]", f"{len(row)} tokens", f"1 to {limit - 1} tokens")
            for number, row in enumerate(rows)
            if not 0 < len(row) < limit
        ]
        if problems:
            raise InputError(*problems[:20])
        return rows

    def _result(self, row: list[int], ids: list[int]) -> Generation:
        stopped = bool(ids) and ids[-1] == self._prepare.eos
        return Generation(self._text(row, ids), tuple(ids), "stop" if stopped else "length")

    def _text(self, prompt: list[int], ids: list[int]) -> str:
        """Return the text of ids after a prompt, with the space before it."""
        before, whole = self._prepare.decode(prompt), self._prepare.decode([*prompt, *ids])
        return whole[len(before) :] if whole.startswith(before) else self._prepare.decode(ids)

    def _steps(
        self, rows: Sequence[list[int]], config: GenerationConfig
    ) -> Iterator[list[int | None]]:
        """Yield the next token of every row; None after a row's end."""
        if not rows:
            return
        prepare, cache = self._prepare, list(self._predictor.cache)
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), prepare.pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, longest - len(row) :], mask[place, longest - len(row) :] = row, 1
        limits = [min(config.max_new_tokens, prepare.max_length - len(row)) for row in rows]
        random = [np.random.default_rng([config.seed, number]) for number in range(len(rows))]
        feeds = self._predictor.feeds({IDS: ids, MASK: mask})
        names = ["logits", *(f"{PRESENT}{name.removeprefix(PAST)}" for name in cache)]
        going = [True] * len(rows)
        for step in range(max(limits)):
            logits, *present = self._predictor.run(feeds, names)
            last = logits[:, -1].astype(np.float64)
            if np.isnan(last[going]).any():
                raise LimbeckError(f"{self._where}: a logit is NaN")
            tokens = [
                _choose(one, config, own) if active else None
                for one, own, active in zip(last, random, going, strict=True)
            ]
            yield list(tokens)
            going = [
                active and token != prepare.eos and step + 1 < limit
                for active, token, limit in zip(going, tokens, limits, strict=True)
            ]
            if not any(going):
                return
            new = np.array([[prepare.pad if one is None else one] for one in tokens], np.int64)
            mask = np.concatenate([mask, np.ones_like(new)], axis=1)
            ids = new if cache else np.concatenate([ids, new], axis=1)
            feeds = {IDS: ids, MASK: mask, **dict(zip(cache, present, strict=True))}


def _choose(
    logits: NDArray[np.float64], config: GenerationConfig, random: np.random.Generator
) -> int:
    """Return the most probable token, or draw one of the nucleus."""
    if config.temperature == 0:
        return int(logits.argmax())
    scaled = (logits - logits.max()) / config.temperature
    shares = np.exp(scaled)
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")
    before = np.cumsum(shares[order]) - shares[order]
    kept = order[before < config.top_p]
    return int(random.choice(kept, p=shares[kept] / shares[kept].sum()))
