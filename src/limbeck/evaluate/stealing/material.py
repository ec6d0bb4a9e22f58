"""Query generators of model extraction: the attacker's inputs, mixtures of them, and noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from limbeck.evaluate.sitting import Pixels

Batch = Mapping[str, NDArray[Any]]
Features = NDArray[np.float32]
FEATURES = 1024
"""Largest number of a surrogate's features: larger images are downsampled for it."""


class Material(Protocol):
    """The interface of queries of one modality."""

    def features(self, batch: Batch) -> Features:
        """Compute the surrogate's features, `[n, features]`."""
        ...

    def mixed(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Mix pairs of inputs from a pool."""
        ...

    def noise(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Generate noise inputs, within the range of a pool's."""
        ...


class Numbers:
    """Images, or rows of a table.

    Args:
        name: The model's name of the input.
        pixels: The normalization of pixels: noise fills its range, or else that of the pool.
    """

    def __init__(self, name: str, pixels: Pixels | None) -> None:
        self._name = name
        self._pixels = pixels

    def features(self, batch: Batch) -> Features:
        """Return all numbers; of larger images, means of neighbours."""
        import torch
        from torch.nn import functional as F

        values = np.asarray(batch[self._name], dtype=np.float32)
        if values.ndim == 4 and values[0].size > FEATURES:
            side = max(1, math.isqrt(FEATURES // values.shape[1]))
            size = (min(side, values.shape[2]), min(side, values.shape[3]))
            values = F.adaptive_avg_pool2d(torch.from_numpy(values), size).numpy()
        return values.reshape(len(values), -1)

    def mixed(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        r"""Apply mixup: $\lambda a + (1 - \lambda) b$ with $\lambda$ uniform.

        Source: Zhang et al., ICLR 2018 (arXiv:1710.09412).
        """
        values = np.asarray(pool[self._name], dtype=np.float32)
        one, other = random.integers(len(values), size=(2, count))
        part = random.random((count, *(1,) * (values.ndim - 1)), dtype=np.float32)
        return {self._name: part * values[one] + (1 - part) * values[other]}

    def noise(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Draw every number uniformly between black and white, or between the pool's extremes."""
        values = np.asarray(pool[self._name], dtype=np.float32)
        low, high = values.min(axis=0), values.max(axis=0)
        if self._pixels is not None:
            mean, std = (
                np.array(part, dtype=np.float32)[:, None, None]
                for part in (self._pixels.mean, self._pixels.std)
            )
            low, high = -mean / std, (1 - mean) / std
        drawn = random.random((count, *values.shape[1:]), dtype=np.float32)
        return {self._name: low + drawn * (high - low)}


class Tokens:
    """Texts as token ids: `input_ids` and `attention_mask`, `[n, tokens]`."""

    def features(self, batch: Batch) -> Features:
        """Count the tokens of each text, with ids hashed by remainder: a bag of tokens."""
        ids, there = np.asarray(batch["input_ids"]), np.asarray(batch["attention_mask"]) > 0
        bag = np.zeros((len(ids), FEATURES), dtype=np.float32)
        rows = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
        np.add.at(bag, (rows[there], ids[there] % FEATURES), 1)
        return np.log1p(bag)

    def mixed(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Concatenate one text's beginning and another's end, cut at the middle of the shorter."""
        ids, mask = (np.asarray(pool[name]) for name in ("input_ids", "attention_mask"))
        one, other = random.integers(len(ids), size=(2, count))
        middle = np.minimum(mask[one].sum(axis=1), mask[other].sum(axis=1)) // 2
        begin = np.arange(ids.shape[1]) < middle[:, None]
        return {
            "input_ids": np.where(begin, ids[one], ids[other]),
            "attention_mask": np.where(begin, mask[one], mask[other]),
        }

    def noise(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Replace the tokens between a text's first and last by random tokens of the whole pool."""
        ids, mask = (np.asarray(pool[name]) for name in ("input_ids", "attention_mask"))
        frame = random.integers(len(ids), size=count)
        place = np.arange(ids.shape[1])
        inside = (place > 0) & (place < mask[frame].sum(axis=1, keepdims=True) - 1)
        words = np.unique(ids[mask > 0])
        drawn = words[random.integers(len(words), size=inside.shape)]
        return {
            "input_ids": np.where(inside, drawn, ids[frame]),
            "attention_mask": mask[frame],
        }
