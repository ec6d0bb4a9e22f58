"""Attributions of tokens: integrated gradients at the word embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limbeck.optional import require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.evaluate.sitting import Texts, Twin

Array = NDArray[np.float64]
WORD = re.compile(r"\w+|[^\w\s]")
TEXTS_AT_ONCE = 128
"""Texts per forward pass, integration points counted."""


def word_embedding(twin: Twin, batch: Mapping[str, Tensor]) -> nn.Embedding | None:
    """Find the word embedding module: the one whose input is `input_ids`.

    Args:
        twin: The model.
        batch: A batch to run it on.

    Returns:
        The module, or None if no embedding receives the token ids.
    """
    import torch

    found: list[nn.Embedding] = []

    def look(module: nn.Embedding, inputs: tuple[Tensor, ...]) -> None:
        # A model may have converted their type, or sliced them from a larger tensor.
        if torch.equal(inputs[0], batch["input_ids"]):
            found.append(module)

    embeddings = [each for each in twin.model.modules() if isinstance(each, torch.nn.Embedding)]
    hooks = [each.register_forward_pre_hook(look) for each in embeddings]
    try:
        with torch.no_grad():
            twin.logits(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def token_gradients(
    twin: Twin,
    embedding: nn.Embedding,
    batch: Mapping[str, Tensor],
    baseline: Tensor,
    classes: Tensor,
    *,
    steps: int,
) -> tuple[Array, Array]:
    """Compute the attributions of tokens: integrated gradients at the embeddings.

    Args:
        twin: The model.
        embedding: The word embedding; see `word_embedding`.
        batch: The texts: `input_ids [n, tokens]` and the model's other inputs.
        baseline: The token ids at the start of the path, `[n, tokens]`.
        classes: The class of the logit, `[n]`.
        steps: Number of integration points.

    Returns:
        The attributions, summed over each vector, `[n, tokens]`, and their completeness errors,
        `[n]`.

    Raises:
        InputError: captum is not installed.

    Source: Sundararajan et al., ICML 2017 (arXiv:1703.01365), as in captum.
    """
    import torch

    others = [name for name in twin.task.inputs if name != "input_ids"]

    def logits(ids: Tensor, *rest: Tensor) -> Tensor:
        return twin.logits({"input_ids": ids, **dict(zip(others, rest, strict=True))})

    captum = require("captum.attr", extra="evaluate")
    method = captum.LayerIntegratedGradients(logits, embedding)
    rows = max(1, TEXTS_AT_ONCE // steps)
    parts = []
    for first in range(0, len(classes), rows):
        some = slice(first, first + rows)
        parts.append(
            method.attribute(
                batch["input_ids"][some],
                baselines=baseline[some],
                target=classes[some],
                additional_forward_args=tuple(batch[name][some] for name in others) or None,
                n_steps=steps,
                return_convergence_delta=True,
            )
        )
    vectors, missed = (torch.cat(part) for part in zip(*parts, strict=True))
    return vectors.double().sum(dim=-1).cpu().numpy(), missed.double().cpu().numpy()


def blank(ids: NDArray[np.int64], there: NDArray[np.bool_], texts: Texts | None) -> tuple[Any, Any]:
    """Return the baseline of texts, without words, and the mask of word positions.

    The tokens of an empty text (`[CLS]`, `[SEP]`) stay; all others become padding.

    Args:
        ids: The token ids, `[n, tokens]`.
        there: The mask of non-padding, `[n, tokens]`.
        texts: Encodes an empty text; without it every token counts as a word.

    Returns:
        The token ids without words, and the mask of words, `[n, tokens]` both.
    """
    padding = ids[~there]
    pad = int(padding[0]) if padding.size else 0
    kept: Any = [] if texts is None else np.unique(np.asarray(texts.encode([""])["input_ids"]))
    words = there & ~np.isin(ids, kept)
    return np.where(words, pad, ids), words


def readable(text: str, ids: list[int], texts: Texts) -> list[str]:
    """Return the piece of text of each token, or its id.

    A tokenizer returns ids only, so the text's words are encoded one by one: where their ids
    concatenate to the text's, each word is written at its first token.

    Args:
        text: The text.
        ids: The ids of its words' tokens, in order.
        texts: Encodes words.
    """
    words = WORD.findall(text)
    if not words:
        return [f"#{number}" for number in ids]
    encoded = texts.encode(words)
    kept = set(np.asarray(texts.encode([""])["input_ids"]).ravel().tolist())
    masks = np.asarray(encoded["attention_mask"], dtype=bool)
    pieces = [
        [int(number) for number in row[mask] if int(number) not in kept]
        for row, mask in zip(np.asarray(encoded["input_ids"]), masks, strict=True)
    ]
    names = [
        name
        for word, numbers in zip(words, pieces, strict=True)
        for name in [word, *["…"] * (len(numbers) - 1)][: len(numbers)]
    ]
    joined = [number for numbers in pieces for number in numbers]
    return names[: len(ids)] if joined[: len(ids)] == ids else [f"#{number}" for number in ids]
