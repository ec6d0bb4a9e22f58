"""Causal language models as functions of tensors, with their key-value cache.

One file scores texts and generates: with an empty cache it computes the logits of all positions,
and with the keys and values of earlier tokens those of the next ones. Names are those of optimum.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from limbeck.core.modules import evaluating
from limbeck.core.samples import BATCH
from limbeck.errors import LimbeckError
from limbeck.export.names import EARLIER, IDS, LOGITS, MASK, PAST, PRESENT, TOKENS

TOTAL = f"{EARLIER} + {TOKENS}"
EXAMPLE = 5, 3
"""The numbers of earlier and of further tokens of the example that is traced."""


@runtime_checkable
class GeneratesTokens(Protocol):
    """A task whose models predict the next token of every position."""

    @property
    def generates(self) -> bool:
        """Return whether exports have a key-value cache, and logits `[n, tokens, vocabulary]`."""


class LanguageModel(nn.Module):
    """A causal language model as a function of ids, attention mask and the cache's tensors.

    Positions follow from the mask, so that prompts may be padded on the left or the right.

    Args:
        model: The model, in eval mode.
        cache: The shapes of the cache's tensors, `[n, heads, tokens, features]`, a key and a value
            per layer; none for a model without a cache.

    Attributes:
        inputs: The inputs of the file with the names of their axes.
        outputs: The names of its outputs.
    """

    def __init__(self, model: nn.Module, cache: Sequence[torch.Size] = ()) -> None:
        super().__init__()
        self.model = model
        self.shapes = tuple(cache)
        names = [f"{number}.{part}" for number in range(len(cache) // 2) for part in _PARTS]
        earlier = {f"{PAST}{name}": (BATCH, None, EARLIER, None) for name in names}
        self.inputs: dict[str, tuple[str | None, ...]] = {
            IDS: (BATCH, TOKENS),
            MASK: (BATCH, TOTAL if cache else TOKENS),
            **earlier,
        }
        self.outputs = (LOGITS, *(f"{PRESENT}{name}" for name in names))
        self._positions = bool(cache) and "position_ids" in _parameters(model)

    def example(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return two sequences as inputs: their first tokens are in the cache."""
        whole = sum(EXAMPLE)
        # Sizes that are equal by chance would be taken for one. Tensors are copies: of a view,
        # torch.export would require a view of every caller.
        ids, mask = (
            torch.cat([batch[name].cpu()] * 2)[:2].repeat(1, whole)[:, :whole].clone()
            for name in (IDS, MASK)
        )
        if not self.shapes:
            return ids, mask
        mask, split = torch.ones_like(mask), EXAMPLE[0]
        with torch.no_grad():
            _, *cache = self(ids[:, :split], mask[:, :split], *self.empty(2))
        return ids[:, split:].clone(), mask, *(one.clone() for one in cache)

    def empty(self, samples: int) -> list[Tensor]:
        """Return a cache without tokens."""
        return [torch.zeros(samples, size[1], 0, size[3]) for size in self.shapes]

    def forward(self, ids: Tensor, mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Return the logits `[n, tokens, vocabulary]`, then the cache with the new tokens."""
        if not self.shapes:
            return (_logits(self.model(**{IDS: ids, MASK: mask})),)
        more = {}
        if self._positions:
            more["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)[:, past[0].shape[2] :]
        found = self.model(
            **{IDS: ids, MASK: mask}, past_key_values=_filled(past), use_cache=True, **more
        )
        layers = found.past_key_values.layers
        return (found.logits, *(part for one in layers for part in (one.keys, one.values)))


_PARTS = ("key", "value")


def as_language_model(model: nn.Module, batch: Mapping[str, Tensor]) -> LanguageModel:
    """Return the function of tensors that an export of a causal language model computes.

    It has a key-value cache if the model is of transformers and its cache has a key and a value per
    layer; a file without one generates by computing all positions for every token.
    """
    found = cache_shapes(model, batch)
    return LanguageModel(model, () if isinstance(found, str) else found)


def cache_shapes(model: nn.Module, batch: Mapping[str, Tensor]) -> str | tuple[torch.Size, ...]:
    """Return the shapes of a model's key-value cache, or why it has none of the usual form."""
    if not {"past_key_values", "use_cache"} <= _parameters(model):
        return f"{type(model).__name__} takes no past_key_values"
    try:
        from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
    except ImportError:
        return "transformers is not installed"
    first = next(model.parameters(), torch.empty(0))
    inputs = {name: batch[name][:1].to(first.device) for name in (IDS, MASK)}
    with evaluating(model), torch.no_grad():
        found: Any = getattr(model(**inputs, use_cache=True), "past_key_values", None)
    layers = getattr(found, "layers", [])
    usual = type(found) is DynamicCache and all(
        type(one) in (DynamicLayer, DynamicSlidingWindowLayer) and isinstance(one.keys, Tensor)
        for one in layers
    )
    if not usual or not layers:
        kinds = sorted({type(one).__name__ for one in layers}) or [type(found).__name__]
        return f"the cache of {type(model).__name__} is no key and value per layer ({kinds[0]})"
    return tuple(part.shape for one in layers for part in (one.keys, one.values))


def check_cache(predict: Any, example: Sequence[Tensor], model: LanguageModel) -> str:
    """Compare a file's logits with the model's where the first tokens are in the cache.

    Args:
        predict: Returns the file's outputs of inputs by name.
        example: The inputs, as `LanguageModel.example` returns them.
        model: The model.

    Returns:
        The difference, if it is too large; otherwise nothing.
    """
    names = list(model.inputs)
    with torch.no_grad():
        expected = model(*example)
    found = predict({name: one.numpy() for name, one in zip(names, example, strict=True)})
    for name, reference, value in zip(model.outputs, expected, found, strict=True):
        scale = max(1.0, float(reference.abs().max()))
        difference = float((reference - torch.as_tensor(value)).abs().max())
        if not difference <= 1e-2 * scale:
            return (
                f'the output "{name}" differs by {difference:.3g} with earlier tokens in the cache'
            )
    return ""


def _filled(past: Sequence[Tensor]) -> Any:
    """Build transformers' cache of tensors.

    Each layer has all tokens, also those with a sliding window: masks exclude the others.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()
        # Not by its own initialisation, whose empty constant torch.export cannot trace.
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        layer.dtype, layer.device = keys.dtype, keys.device
        cache.layers.append(layer)
    return cache


def _parameters(model: nn.Module) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def _logits(returned: Any) -> Tensor:
    found = returned.get(LOGITS) if isinstance(returned, Mapping) else returned
    found = getattr(found, LOGITS, found)
    if not isinstance(found, Tensor):
        raise LimbeckError(f"the model returns {type(returned).__name__} without logits")
    return found
