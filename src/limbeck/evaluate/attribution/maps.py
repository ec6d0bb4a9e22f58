"""Attribution maps: saliency, integrated gradients, occlusion.

In all functions of inputs, `logits` computes `[n, classes]` of `[n, ...]`, differentiable unless it
is only occluded; `inputs` are the explained samples, `[n, ...]`; `classes` is the class of the
explained logit, `[n]`; a `baseline` is `[1, ...]`. They need captum, of the extra "evaluate".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.core.imports import require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.evaluate.context import TextInputs, TorchModel


Array = NDArray[np.float64]
Logits = Callable[["Tensor"], "Tensor"]
BLOCK = 2**21
"""Numbers per forward pass when gradients are integrated."""


def saliency(logits: Logits, inputs: Tensor, classes: Tensor) -> Array:
    r"""Compute saliency: the absolute gradient of a class's logit, `[n, ...]`.

    $$a_i = \left|\frac{\partial f_c(x)}{\partial x_i}\right|$$

    Source: Simonyan et al., 2013 (arXiv:1312.6034), as in captum.
    """
    captum = require("captum.attr", extra="evaluate")
    inputs = inputs.detach().clone().requires_grad_()
    return _array(captum.Saliency(logits).attribute(inputs, target=classes))


def integrated_gradients(
    logits: Logits, inputs: Tensor, baseline: Tensor, classes: Tensor, *, steps: int
) -> tuple[Array, Array]:
    r"""Compute integrated gradients of a class's logit along the path from a baseline.

    $$a_i = (x_i - x'_i) \int_0^1 \frac{\partial f_c(x' + t(x - x'))}{\partial x_i}\, dt, \qquad
      \sum_i a_i = f_c(x) - f_c(x')$$

    The integral is a Gauss-Legendre sum of `steps` points. Returns the attributions, `[n, ...]`,
    and their completeness errors, `[n]`.

    Source: Sundararajan et al., ICML 2017 (arXiv:1703.01365), as in captum.
    """
    captum = require("captum.attr", extra="evaluate")

    def part(rows: slice) -> tuple[Tensor, Tensor]:
        return captum.IntegratedGradients(logits).attribute(
            inputs[rows].detach().requires_grad_(),
            baseline.expand_as(inputs[rows]),
            target=classes[rows],
            n_steps=steps,
            return_convergence_delta=True,
        )

    attributions, errors = _in_blocks(part, len(inputs), BLOCK // (steps * inputs[0].numel()))
    return _array(attributions), _array(errors)


def _in_blocks(
    part: Callable[[slice], tuple[Tensor, Tensor]], count: int, size: int
) -> tuple[Tensor, Tensor]:
    """Compute attributions and their completeness errors of all samples, block by block."""
    import torch

    size = max(1, size)
    parts = [part(slice(first, first + size)) for first in range(0, count, size)]
    attributions, errors = zip(*parts, strict=True)
    return torch.cat(attributions), torch.cat(errors)


def occlusion(logits: Logits, inputs: Tensor, baseline: Tensor, classes: Tensor) -> Array:
    r"""Compute the decrease of a class's logit when a window of the input is occluded: `[n, ...]`.

    $$a_i = f_c(x) - f_c(x \text{ with } x_W = x'_W), \qquad i \in W$$

    Windows do not overlap, are a seventh of each side long, and cover all channels; the numbers of
    a row are occluded one by one. No gradients are needed.

    Source: Zeiler and Fergus, ECCV 2014 (arXiv:1311.2901), as in captum.
    """
    import torch

    captum = require("captum.attr", extra="evaluate")
    window = windows(tuple(inputs.shape[1:]))
    with torch.no_grad():
        attributions = captum.Occlusion(logits).attribute(
            inputs,
            sliding_window_shapes=window,
            strides=window,
            baselines=baseline.expand_as(inputs),
            target=classes,
        )
    return _array(attributions)


def perturbed(logits: Logits, inputs: Tensor, classes: Tensor, step: Tensor) -> Tensor:
    r"""Return inputs after one small signed step against a class, to test their maps' stability.

    $$x + s \cdot \mathrm{sign}\, \frac{\partial (-\log p_c(x))}{\partial x}$$

    The step s is broadcast to the inputs.

    Source: Goodfellow et al., ICLR 2015 (arXiv:1412.6572).
    """
    import torch

    inputs = inputs.detach().clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits(inputs), classes, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, inputs)
    return (inputs + step * gradient.sign()).detach()


def windows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of an occlusion window for an input of a shape.

    Example:
        >>> windows((3, 28, 28)), windows((1, 5, 8)), windows((13,))
        ((3, 4, 4), (1, 1, 1), (1,))
    """
    channels, *sides = shape
    return (channels, *(max(1, side // 7) for side in sides)) if sides else (1,)


def _array(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()


WORD = re.compile(r"\w+|[^\w\s]")
TEXTS_AT_ONCE = 128
"""Texts per forward pass, integration points counted."""


def word_embedding(torch_model: TorchModel, batch: Mapping[str, Tensor]) -> nn.Embedding | None:
    """Find the embedding module that receives the `input_ids` of a batch, or None."""
    import torch

    found: list[nn.Embedding] = []

    def hook(module: nn.Embedding, inputs: tuple[Tensor, ...]) -> None:
        # A model may have converted their type, or sliced them from a larger tensor.
        if torch.equal(inputs[0], batch["input_ids"]):
            found.append(module)

    handles = [
        module.register_forward_pre_hook(hook)
        for module in torch_model.model.modules()
        if isinstance(module, torch.nn.Embedding)
    ]
    try:
        with torch.no_grad():
            torch_model.logits(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def token_gradients(
    torch_model: TorchModel,
    embedding: nn.Embedding,
    batch: Mapping[str, Tensor],
    baseline: Tensor,
    classes: Tensor,
    *,
    steps: int,
) -> tuple[Array, Array]:
    """Compute the attributions of tokens: integrated gradients at the word embeddings.

    The path of `steps` points starts at the token ids `baseline`, `[n, tokens]`. Returns the
    attributions, summed over each vector, `[n, tokens]`, and their completeness errors, `[n]`.

    Source: Sundararajan et al., ICML 2017 (arXiv:1703.01365), as in captum.
    """
    others = [name for name in torch_model.task.inputs if name != "input_ids"]

    def logits(ids: Tensor, *rest: Tensor) -> Tensor:
        return torch_model.logits({"input_ids": ids, **dict(zip(others, rest, strict=True))})

    captum = require("captum.attr", extra="evaluate")

    def part(rows: slice) -> tuple[Tensor, Tensor]:
        return captum.LayerIntegratedGradients(logits, embedding).attribute(
            batch["input_ids"][rows],
            baselines=baseline[rows],
            target=classes[rows],
            additional_forward_args=tuple(batch[name][rows] for name in others) or None,
            n_steps=steps,
            return_convergence_delta=True,
        )

    vectors, errors = _in_blocks(part, len(classes), TEXTS_AT_ONCE // steps)
    return _array(vectors.double().sum(dim=-1)), _array(errors)


def blank(
    ids: NDArray[np.int64], valid: NDArray[np.bool_], texts: TextInputs | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the baseline of texts, without words, and the mask of word positions.

    The tokens of an empty text (`[CLS]`, `[SEP]`) stay; all others become padding. Without `texts`,
    which encodes an empty text, every `valid` token counts as a word. All are `[n, tokens]`.
    """
    padding = ids[~valid]
    pad = int(padding[0]) if padding.size else 0
    words = valid if texts is None else valid & ~np.isin(ids, _special_tokens(texts))
    return np.where(words, pad, ids), words


def _special_tokens(texts: TextInputs) -> NDArray[np.int64]:
    return np.unique(np.asarray(texts.encode([""])["input_ids"]))


def readable(text: str, ids: list[int], texts: TextInputs) -> list[str]:
    """Return the piece of text of each token, or its id.

    A tokenizer returns ids only, so the text's words are encoded one by one: where their ids
    concatenate to `ids`, those of the text without special tokens, each word is written at its
    first token.
    """
    numbers = [f"#{token}" for token in ids]
    words = WORD.findall(text)
    if not words:
        return numbers
    encoded = texts.encode(words)
    tokens = np.asarray(encoded["input_ids"])
    valid = np.asarray(encoded["attention_mask"], dtype=bool)
    valid &= ~np.isin(tokens, _special_tokens(texts))
    names: list[str] = []
    joined: list[int] = []
    for word, row, mask in zip(words, tokens, valid, strict=True):
        pieces = row[mask].tolist()
        joined += pieces
        names += [word, *["…"] * (len(pieces) - 1)][: len(pieces)]
    return names[: len(ids)] if joined[: len(ids)] == ids else numbers
