"""Sampling of continuations from causal language models, reproducible by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from limbeck.core.modules import evaluating
from limbeck.core.tensors import without_autocast
from limbeck.errors import InputError, Problem
from limbeck.tasks import Task

LOGITS = "logits"


class Continuation(NamedTuple):
    """The tokens that a model sampled after a prompt.

    Attributes:
        ids: The new tokens, with the end token if there is one, int64 `[n]`, n at least 1.
        log_probs: The log-probability with which each was sampled, `[n]`.
        finished: Whether the last one is an end token.
    """

    ids: Tensor
    log_probs: Tensor
    finished: bool


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling.

    Attributes:
        max_new_tokens: The most tokens of a continuation.
        temperature: The temperature of the models' distributions, above 0.
        top_p: The least mass of the most probable tokens that are kept, in (0, 1].
        end_tokens: The ids that end a continuation; None for those of the model's configuration.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    end_tokens: tuple[int, ...] | None = None


class Sampler:
    """Samples continuations of prompts.

    A row's tokens depend on its own uniform numbers, and never on the random states of the
    program: each token is the inverse of the cumulative distribution at one of them. A model of
    transformers generates with its cache; any other module is run on the whole sequence for each
    token.

    Args:
        task: The task, which runs modules and has the number of tokens.
        settings: The settings.

    Source: Holtzman et al. 2020 (top-p); Gu et al. 2024 (the mixture of two models).
    """

    def __init__(self, task: Task, settings: Sampling) -> None:
        self._task, self._settings = task, settings
        self._vocabulary = int(getattr(task, "vocabulary", 0))

    def __call__(
        self,
        model: nn.Module,
        prompts: Sequence[Tensor],
        uniform: Tensor,
        *,
        other: nn.Module | None = None,
        share: float = 0.0,
    ) -> list[Continuation]:
        """Sample one continuation of each prompt, with models in evaluation mode.

        Args:
            model: The model.
            prompts: The token ids of each prompt, int64 `[length]`.
            uniform: Numbers in [0, 1), `[prompts, max_new_tokens]`.
            other: A model that is mixed in, token by token.
            share: The share of its distribution, in [0, 1].

        Raises:
            InputError: The longest prompt leaves no position for a token.
        """
        if not prompts:
            return []
        model = getattr(model, "_orig_mod", model)  # of torch.compile, which has no generation
        ends = self._ends(model)
        models = [model] if other is None or not share else [model, other]
        limit = self._limit(models, max(map(len, prompts)))
        draw = _Draw(self._settings, uniform, self._vocabulary)
        with evaluating(nn.ModuleList(models)), torch.no_grad(), without_autocast(uniform):
            if len(models) > 1:
                draw.mixed = _Mixed(_Reader(self._task, models[1]), share)
            if _generates(model):
                _generate(model, prompts, draw, limit, ends)
            else:
                _loop(_Reader(self._task, model), prompts, draw, limit, ends)
        return list(_cut(draw, ends))

    def _ends(self, model: nn.Module) -> tuple[int, ...]:
        if self._settings.end_tokens is not None:
            return self._settings.end_tokens
        for name in ("generation_config", "config"):
            found = getattr(getattr(model, name, None), "eos_token_id", None)
            if found is not None:
                return (found,) if isinstance(found, int) else tuple(found)
        return ()

    def _limit(self, models: Sequence[nn.Module], longest: int) -> int:
        """Return the most new tokens that fit the positions of all models."""
        positions = positions_of(models)
        if positions is None:
            return self._settings.max_new_tokens
        if longest > positions - 1:
            fix = "Lower prompt_length, or data.language.max_length."
            allowed = f"at most {positions - 1} tokens, for models of {positions} positions"
            raise InputError(Problem("prompt", f"{longest} tokens", allowed, fix))
        return min(self._settings.max_new_tokens, positions - longest)


def positions_of(models: Sequence[nn.Module]) -> int | None:
    """Return the least number of positions that a model states; None if none does."""
    stated = (getattr(getattr(m, "config", None), "max_position_embeddings", None) for m in models)
    return min((one for one in stated if isinstance(one, int)), default=None)


@dataclass
class _Draw:
    """The draw of one token of each row after another.

    It is called as a processor of logits of transformers, which leaves the drawn token alone.
    """

    settings: Sampling
    uniform: Tensor
    vocabulary: int
    mixed: _Mixed | None = None
    ids: list[Tensor] = field(default_factory=list)
    log_probs: list[Tensor] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leave only the drawn token, which the greedy search then takes."""
        drawn = self.next(scores, input_ids)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn.unsqueeze(1), 0.0)

    def next(self, logits: Tensor, input_ids: Tensor) -> Tensor:
        """Draw the next token of each row."""
        p = self._probabilities(logits)
        if self.mixed is not None:
            other = self._probabilities(self.mixed.reader.next(input_ids))
            p = (1 - self.mixed.share) * p + self.mixed.share * other
        if self.settings.top_p < 1:
            p = _nucleus(p, self.settings.top_p)
        cumulative = p.double().cumsum(1)
        place = self.uniform[:, len(self.ids), None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, place, right=True).clamp_max(p.shape[1] - 1)
        self.log_probs.append(p.gather(1, drawn).squeeze(1).log())
        self.ids.append(drawn.squeeze(1))
        return self.ids[-1]

    def _probabilities(self, logits: Tensor) -> Tensor:
        # Padding of a model's vocabulary has no text.
        logits = logits[:, : self.vocabulary or None].float()
        return (logits / self.settings.temperature).softmax(1)


class _Mixed(NamedTuple):
    reader: _Reader
    share: float


def _nucleus(p: Tensor, top_p: float) -> Tensor:
    """Keep the fewest most probable tokens whose mass is `top_p`, with a sum of 1."""
    ordered, places = p.sort(dim=1, descending=True)
    kept = ordered.cumsum(1) - ordered < top_p
    p = torch.zeros_like(p).scatter(1, places, ordered * kept)
    return p / p.sum(1, keepdim=True)


def _generates(model: nn.Module) -> bool:
    able: Callable[[], bool] | None = getattr(model, "can_generate", None)
    return callable(able) and bool(able())


def _generate(
    model: Any, prompts: Sequence[Tensor], draw: _Draw, limit: int, ends: Sequence[int]
) -> None:
    """Generate by transformers, from prompts that are padded on the left."""
    from transformers import GenerationConfig, LogitsProcessorList

    ids, mask = _padded(prompts, left=True)
    if draw.mixed is not None:
        draw.mixed.reader.start(mask)
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
        use_cache=True,
    )
    with _neutral(model, settings):
        model.generate(
            input_ids=ids, attention_mask=mask, logits_processor=LogitsProcessorList([draw])
        )


@contextmanager
def _neutral(model: Any, settings: object) -> Iterator[None]:
    """Replace the model's own settings of generation, such as a repetition penalty."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def _loop(
    reader: _Reader, prompts: Sequence[Tensor], draw: _Draw, limit: int, ends: Sequence[int]
) -> None:
    """Generate by a loop, from prompts that are padded on the left."""
    ids, mask = _padded(prompts, left=True)
    reader.start(mask)
    if draw.mixed is not None:
        draw.mixed.reader.start(mask)
    going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(limit):
        drawn = draw.next(reader.next(ids), ids)
        ids = torch.cat([ids, drawn.unsqueeze(1)], dim=1)
        going &= ~_among(drawn, ends)
        if not going.any():
            return


class _Reader:
    """The next-token logits of a model, for sequences that grow by a token per call."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        self._task, self._model = task, getattr(model, "_orig_mod", model)
        self._mask = torch.empty(0)
        self._cache: object = None
        self._done = 0

    def start(self, mask: Tensor) -> None:
        """Begin with the mask of the prompts, padded on the left, `[n, positions]`."""
        self._mask, self._cache, self._done = mask, None, 0

    def next(self, ids: Tensor) -> Tensor:
        """Return the logits of the token after `ids [n, positions]`."""
        grown = ids.shape[1] - self._mask.shape[1]
        mask = torch.cat([self._mask, self._mask.new_ones(len(ids), grown)], dim=1)
        if _generates(self._model):
            return self._cached(ids, mask)
        # A module without a cache may count positions from the first: padding is on the right.
        rows = [row[kept] for row, kept in zip(ids, mask.bool(), strict=True)]
        lengths = mask.sum(1)
        ids, mask = _padded(rows, left=False)
        batch = {"input_ids": ids, "attention_mask": mask}
        logits = self._task.raw_outputs(self._model, batch)[LOGITS]
        last = (lengths - 1)[:, None, None].expand(-1, logits.shape[1], 1)
        return logits.gather(2, last).squeeze(2)

    def _cached(self, ids: Tensor, mask: Tensor) -> Tensor:
        inputs: dict[str, object] = {"input_ids": ids[:, self._done :], "attention_mask": mask}
        if "position_ids" in signature(self._model.forward).parameters:
            positions = (mask.cumsum(1) - 1).clamp_min(0)
            inputs["position_ids"] = positions[:, self._done :]
        found = self._model(**inputs, past_key_values=self._cache, use_cache=True)
        self._cache, self._done = found.past_key_values, ids.shape[1]
        logits: Tensor = found.logits[:, -1]
        return logits


def _padded(rows: Sequence[Tensor], *, left: bool) -> tuple[Tensor, Tensor]:
    """Pad rows of token ids by 0; return them with their mask."""
    side = "left" if left else "right"
    ids = pad_sequence(list(rows), batch_first=True, padding_side=side)
    ones = [torch.ones_like(row) for row in rows]
    return ids, pad_sequence(ones, batch_first=True, padding_side=side)


def _among(ids: Tensor, ends: Sequence[int]) -> Tensor:
    return torch.isin(ids, torch.tensor(ends, dtype=ids.dtype, device=ids.device))


def _cut(draw: _Draw, ends: Sequence[int]) -> Iterator[Continuation]:
    """Divide the draws into rows, each up to its first end token."""
    ids, log_probs = torch.stack(draw.ids, dim=1), torch.stack(draw.log_probs, dim=1)
    ended = _among(ids, ends)
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, ids.shape[1])
    for row, length in enumerate(lengths.tolist()):
        finished = bool(ended[row, length - 1])
        yield Continuation(ids[row, :length], log_probs[row, :length], finished)
