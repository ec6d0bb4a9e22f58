"""Attribution maps: saliency, integrated gradients, occlusion."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

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

    Args:
        logits: The model, differentiable in its inputs, `[n, ...]` to `[n, classes]`.
        inputs: The explained inputs, `[n, ...]`.
        classes: The class of the logit, `[n]`.

    Raises:
        InputError: captum is not installed.

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

    Args:
        logits: The model, differentiable in its inputs, `[n, ...]` to `[n, classes]`.
        inputs: The explained inputs, `[n, ...]`.
        baseline: The start of the path, `[1, ...]`.
        classes: The class of the logit, `[n]`.
        steps: Number of integration points (Gauss-Legendre).

    Returns:
        The attributions, `[n, ...]`, and their completeness errors, `[n]`.

    Raises:
        InputError: captum is not installed.

    Source: Sundararajan et al., ICML 2017 (arXiv:1703.01365), as in captum.
    """
    import torch

    captum = require("captum.attr", extra="evaluate")
    method = captum.IntegratedGradients(logits)
    rows = max(1, BLOCK // (steps * inputs[0].numel()))
    parts = [
        method.attribute(
            inputs[first : first + rows].detach().requires_grad_(),
            baseline.expand_as(inputs[first : first + rows]),
            target=classes[first : first + rows],
            n_steps=steps,
            return_convergence_delta=True,
        )
        for first in range(0, len(inputs), rows)
    ]
    attributed, missed = (torch.cat(part) for part in zip(*parts, strict=True))
    return _array(attributed), _array(missed)


def occlusion(logits: Logits, inputs: Tensor, baseline: Tensor, classes: Tensor) -> Array:
    r"""Compute the decrease of a class's logit when a window of the input is occluded: `[n, ...]`.

    $$a_i = f_c(x) - f_c(x \text{ with } x_W = x'_W), \qquad i \in W$$

    Windows do not overlap, are a seventh of each side long, and cover all channels; the numbers of
    a row are occluded one by one. No gradients are needed.

    Args:
        logits: The model, `[n, ...]` to `[n, classes]`.
        inputs: The explained inputs, `[n, ...]`.
        baseline: The values of the occluded part, `[1, ...]`.
        classes: The class of the logit, `[n]`.

    Raises:
        InputError: captum is not installed.

    Source: Zeiler and Fergus, ECCV 2014 (arXiv:1311.2901), as in captum.
    """
    import torch

    captum = require("captum.attr", extra="evaluate")
    window = windows(tuple(inputs.shape[1:]))
    with torch.no_grad():
        return _array(
            captum.Occlusion(logits).attribute(
                inputs,
                sliding_window_shapes=window,
                strides=window,
                baselines=baseline.expand_as(inputs),
                target=classes,
            )
        )


def perturbed(logits: Logits, inputs: Tensor, classes: Tensor, step: Tensor) -> Tensor:
    r"""Return inputs after one small signed step against a class, to test their maps' stability.

    $$x + s \cdot \mathrm{sign}\, \frac{\partial (-\log p_c(x))}{\partial x}$$

    Args:
        logits: The model, differentiable in its inputs, `[n, ...]` to `[n, classes]`.
        inputs: The start of the step, `[n, ...]`.
        classes: The class whose probability the step lowers, `[n]`.
        step: The step of each number, broadcast to the inputs.

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


def flat(maps: Array, how: str) -> Array:
    """Reduce a map over channels, `[n, channels, ...]` to `[n, ...]`.

    A row of numbers, `[n, numbers]`, has no channels and is returned unchanged.

    Args:
        maps: The maps of one method.
        how: The method: "saliency" takes the maximum, "integrated_gradients" the sum, and
            "occlusion" the mean, since it covers all channels at once.
    """
    join: dict[str, Any] = {
        "saliency": np.max,
        "integrated_gradients": np.sum,
        "occlusion": np.mean,
    }
    return maps if maps.ndim < 3 else join[how](maps, axis=1)


def _array(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()


WORD = re.compile(r"\w+|[^\w\s]")
TEXTS_AT_ONCE = 128
"""Texts per forward pass, integration points counted."""


def word_embedding(torch_model: TorchModel, batch: Mapping[str, Tensor]) -> nn.Embedding | None:
    """Find the word embedding module: the one whose input is `input_ids`.

    Args:
        torch_model: The model.
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

    embeddings = [
        each for each in torch_model.model.modules() if isinstance(each, torch.nn.Embedding)
    ]
    hooks = [each.register_forward_pre_hook(look) for each in embeddings]
    try:
        with torch.no_grad():
            torch_model.logits(batch)
    finally:
        for hook in hooks:
            hook.remove()
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
    """Compute the attributions of tokens: integrated gradients at the embeddings.

    Args:
        torch_model: The model.
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

    others = [name for name in torch_model.task.inputs if name != "input_ids"]

    def logits(ids: Tensor, *rest: Tensor) -> Tensor:
        return torch_model.logits({"input_ids": ids, **dict(zip(others, rest, strict=True))})

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


def blank(
    ids: NDArray[np.int64], there: NDArray[np.bool_], texts: TextInputs | None
) -> tuple[Any, Any]:
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


def readable(text: str, ids: list[int], texts: TextInputs) -> list[str]:
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
