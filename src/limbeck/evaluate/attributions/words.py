"""Which words an answer comes from: gradients integrated at the word embeddings."""

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
"""Texts that go through a model at once, steps of the integral counted."""


def word_embedding(twin: Twin, batch: Mapping[str, Tensor]) -> nn.Embedding | None:
    """Find the module that turns token numbers into vectors: the one that is given `input_ids`.

    Args:
        twin: The model.
        batch: A batch to run it on.

    Returns:
        The module, or none if no embedding sees the token numbers.
    """
    import torch

    found: list[nn.Embedding] = []

    def look(module: nn.Embedding, inputs: tuple[Tensor, ...]) -> None:
        # A model may have turned them to another type, or cut them out of a larger tensor.
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
    """Share a class's logit out among the tokens of texts: integrated gradients at the embeddings.

    Args:
        twin: The model.
        embedding: Where its tokens become vectors; see `word_embedding`.
        batch: The texts: `input_ids [n, tokens]` and whatever else the model takes.
        baseline: The token numbers where the path begins, `[n, tokens]`.
        classes: Whose logit, `[n]`.
        steps: At how many points the integral is taken.

    Returns:
        The attributions, summed over each vector, `[n, tokens]`, and what their sums miss of the
        difference of the two logits, `[n]`.

    Raises:
        InputError: captum is not installed.

    Source: Sundararajan et al., ICML 2017 (arXiv:1703.01365), as captum has it.
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
    """Say what a text without words looks like, and which places hold words.

    The tokens that even an empty text has (`[CLS]`, `[SEP]`) stay; all others become padding.

    Args:
        ids: The token numbers, `[n, tokens]`.
        there: Where they are no padding, `[n, tokens]`.
        texts: Tells what an empty text has; without it every token counts as a word.

    Returns:
        The token numbers without words and where words are, `[n, tokens]` both.
    """
    padding = ids[~there]
    pad = int(padding[0]) if padding.size else 0
    kept: Any = [] if texts is None else np.unique(np.asarray(texts.encode([""])["input_ids"]))
    words = there & ~np.isin(ids, kept)
    return np.where(words, pad, ids), words


def readable(text: str, ids: list[int], texts: Texts) -> list[str]:
    """Give the piece of a text that each of its tokens stands for, or its number.

    A tokenizer says only numbers, so words are cut out of the text and encoded one by one: where
    their numbers join to the text's, each word is written at its first token.

    Args:
        text: The text.
        ids: The numbers of its words' tokens, in order.
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
