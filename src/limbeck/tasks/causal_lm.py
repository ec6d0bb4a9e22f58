"""Causal language modelling: an element is the prediction of a next token."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from limbeck import losses
from limbeck.core.measurement import Metric
from limbeck.errors import InputError, Problem
from limbeck.tasks._base import BaseTask
from limbeck.tasks._language_details import language_details
from limbeck.tasks._model_output import LOGITS, call
from limbeck.tasks.scores import Score, of_sums, ratio
from limbeck.tasks.task import IGNORED, Output, Response, capped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from limbeck.taps import Taps
    from limbeck.tasks.details import Details
    from limbeck.tasks.scores import Arrays, Sums
    from limbeck.tasks.task import Axes, Batch, Kind, TaskData

LARGE = 16_384
"""From this vocabulary on, logits of all positions are never formed at once in training."""
BLOCK = 2**25
"""The bytes of logits that are computed at once for a large vocabulary."""


@runtime_checkable
class HasVocabulary(Protocol):
    """A preprocessing that states the size of its vocabulary."""

    vocab_size: int


class Parts(NamedTuple):
    """A language model's last hidden states, with its head.

    Attributes:
        hidden: `[n, positions, features]`, scaled as the head expects it.
        head: The head, a linear layer.
        softcap: The soft cap of the logits; None without.
    """

    hidden: Tensor
    head: nn.Module
    softcap: float | None


def _token_losses(outputs: Arrays, batch: Arrays) -> NDArray[np.float64]:
    """Compute the cross-entropy of each next token in nats, `[n, positions]`."""
    logits, labels = outputs[LOGITS].astype(np.float32), _next(batch["labels"])
    highest = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
    true = np.take_along_axis(logits, np.maximum(labels, 0)[:, None], axis=1)[:, 0]
    return (total - true).astype(np.float64)


def _next(values: NDArray[Any], *, last: int = IGNORED) -> NDArray[Any]:
    """Shift the values of positions by one: those of the next ones."""
    return np.concatenate([values[:, 1:], np.full_like(values[:, :1], last)], axis=1)


def _weights(batch: Arrays, weights: Arrays) -> NDArray[np.float64]:
    return np.asarray(weights[LOGITS].reshape(batch["labels"].shape), dtype=np.float64)


def _nats_and_tokens(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    weight = _weights(batch, weights)
    nats = _token_losses(outputs, batch)
    return np.stack([(weight * nats).sum(axis=1), weight.sum(axis=1)], axis=1)


def _nats_and_bytes(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    weight = _weights(batch, weights)
    nats = _token_losses(outputs, batch)
    sizes = np.zeros_like(weight)
    if "target_bytes" in batch:
        sizes = _next(batch["target_bytes"], last=0)
    return np.stack([(weight * nats).sum(axis=1), (weight * sizes).sum(axis=1)], axis=1)


def _correct(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    right = outputs[LOGITS].argmax(axis=1) == _next(batch["labels"])
    weight = _weights(batch, weights)
    return np.stack([(weight * right).sum(axis=1), weight.sum(axis=1)], axis=1)


def _perplexity(sums: Sums) -> NDArray[np.float64]:
    return np.asarray(np.exp(np.minimum(ratio(sums), 700.0)))


def _bits(sums: Sums) -> NDArray[np.float64]:
    return np.asarray(ratio(sums) / math.log(2))


PERPLEXITY = Score(
    Metric(name="perplexity", title="Perplexity", unit="", higher_is_better=False),
    _nats_and_tokens,
    of_sums(_perplexity),
)
"""The perplexity per token: exp of the mean cross-entropy of the next token. It compares models of
one tokenizer only."""

BITS_PER_BYTE = Score(
    Metric(name="bits_per_byte", title="Bits per byte", unit="", higher_is_better=False),
    _nats_and_bytes,
    of_sums(_bits),
)
"""The cross-entropy of all predicted tokens in bits, per byte of their text in UTF-8. It compares
models of different tokenizers."""

TOKEN_ACCURACY = Score(
    Metric(name="token_accuracy", title="Next-token accuracy"), _correct, of_sums(ratio)
)
"""The share of tokens that are the most probable next token."""


class CausalLm(BaseTask):
    """Causal language modelling: the next token of every position.

    A model returns logits `[n, positions, vocabulary]`, as a tensor or in a field `logits`. The
    label of a position is the token there, -100 if it is not predicted (prompts, padding, messages
    of others): labels are shifted once, here. An element is a position with the prediction of the
    next one, `n * positions` in all; the last one, and those before a label of -100, have weight 0
    and count nowhere.

    If the model has a head (`get_output_embeddings`, as in transformers), responses have the last
    hidden states and the head; from a vocabulary of 16,384 on they have no logits beside them, and
    terms are `fused_divergence`, which forms logits a few rows at a time.

    Args:
        vocabulary: The number of tokens of the tokenizer; a model may have more logits, for padding
            of its vocabulary.

    Example:
        >>> task = CausalLm(vocabulary=9)
        >>> batch = {
        ...     "input_ids": torch.tensor([[4, 5, 6], [7, 8, 0]]),
        ...     "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        ...     "labels": torch.tensor([[4, 5, 6], [-100, 8, -100]]),
        ... }
        >>> response = task.respond(nn.Embedding(9, 9), batch)
        >>> response.primary.values.shape, response.primary.weights
        (torch.Size([6, 9]), tensor([1., 1., 0., 1., 0., 0.]))

    Source: Bengio et al. 2003, "A neural probabilistic language model"; Jelinek et al. 1977
    (perplexity).
    """

    name: ClassVar[str] = "causal_lm"
    inputs: ClassVar[Mapping[str, Axes]] = {
        "input_ids": ("batch", "tokens"),
        "attention_mask": ("batch", "tokens"),
    }
    element: ClassVar[str] = "next token"
    generates: ClassVar[bool] = True
    kinds: ClassVar[Mapping[str, Kind]] = {LOGITS: "categorical"}
    classes: tuple[str, ...] = ()
    scores: tuple[Score, ...] = (PERPLEXITY, BITS_PER_BYTE, TOKEN_ACCURACY)
    reading: ClassVar[str] = """
# The keys and values of earlier tokens: at first none.
cache = {
    one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), dtype=np.float32)
    for one in session.get_inputs()
    if one.name.startswith("past_key_values.")
}
for step in range(50):
    new = ids[-1:] if step and cache else ids
    feeds = {"input_ids": np.array([new]), "attention_mask": np.ones((1, len(ids)), dtype=np.int64)}
    logits, *present = session.run(None, {**feeds, **cache})
    ids.append(int(logits[0, -1].argmax()))  # the most probable next token
    cache = dict(zip(cache, present))
    if ids[-1] == prepare.get("eos"):
        break
print(tokenizer.decode(ids))
"""
    restoring: ClassVar[str] = """
logits = outputs.logits if hasattr(outputs, "logits") else outputs
outputs = torch.where(torch.from_numpy(attention_mask)[:, :, None] > 0, logits, 0.0)
outputs = outputs.transpose(1, 2)
"""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    @classmethod
    def of(cls, data: TaskData) -> Self:
        """Build the task for a data set.

        Raises:
            InputError: The data is no token sequences.
        """
        if data.classes or data.targets or not isinstance(data.preprocess, HasVocabulary):
            fix = f"Name the tokenizer there ({cls.name})."
            raise InputError(Problem.missing("data.language", fix))
        return cls(data.preprocess.vocab_size)

    @property
    def details(self) -> Details:
        """Return the details for a report."""
        return language_details()

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run the model; return its logits, `[n, positions, vocabulary]`."""
        inputs = self._take(batch, *self.inputs)
        returned = call(model, inputs)
        if isinstance(returned, fx.Proxy):  # symbolic tracing has no shapes to check
            return cast("Tensor", returned)
        found = returned if isinstance(returned, Tensor) else _field(returned)
        shape = None if found is None else tuple(found.shape)
        if (
            found is not None
            and found.is_floating_point()
            and found.ndim == 3
            and found.shape[:2] == inputs["input_ids"].shape
            and found.shape[2] >= self.vocabulary
        ):
            return found
        given = type(returned).__name__ if shape is None else list(shape)
        allowed = f"logits [n, positions, {self.vocabulary} or more], or a field of them"
        raise InputError(Problem("model.output", given, allowed))

    def raw_outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model on a batch; return `logits [n, vocabulary, positions]`, 0 at padding.

        Raises:
            InputError: The batch lacks an input, or the model returns no logits per position.
        """
        logits = self._logits(model, batch)
        mask = batch["attention_mask"].bool().unsqueeze(2)
        return {LOGITS: torch.where(mask, logits, 0.0).transpose(1, 2)}

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run the model on a batch; elements are all positions, in order.

        Raises:
            InputError: As for `raw_outputs`.
        """
        parts = _parts(model, self._take(batch, *self.inputs))
        mask = batch["attention_mask"].bool()
        values = hidden = head = softcap = None
        if parts is not None:
            hidden = parts.hidden.flatten(0, 1)
            head, softcap = parts.head, parts.softcap
            if _width(head) < LARGE:
                values = capped(head(hidden), softcap)
        else:
            values = self._logits(model, batch).flatten(0, 1)
        if values is not None:
            values = torch.where(mask.flatten().unsqueeze(1), values, 0.0)
        ids = batch["input_ids"]
        labels = batch.get("labels")
        numbers = torch.arange(ids.shape[0], device=ids.device)
        output = Output(
            values,
            weights=self.weights(batch)[LOGITS],
            sample_of=numbers.repeat_interleave(ids.shape[1]),
            # Any valid token in place of a missing one: its weight is 0.
            labels=None if labels is None else _shifted(labels).clamp_min(0).flatten(),
            hidden=hidden,
            head=head,
            softcap=softcap,
        )
        found = {} if taps is None else taps.take()
        return Response({LOGITS: output}, taps=found, index=batch.get("index"), mask=mask)

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weight of every element, `[n * positions]`.

        It is that of its row, and 0 where the next token is not predicted; without labels, 0 where
        it is padding.

        Raises:
            InputError: The labels have another length than the sequences.
        """
        mask = self._take(batch, *self.inputs)["attention_mask"].bool()
        kept = mask & _shifted(mask, last=False)
        if "labels" in batch:
            if batch["labels"].shape != mask.shape:
                allowed = f"{list(mask.shape)}, a token per position"
                raise InputError(Problem("batch.labels", list(batch["labels"].shape), allowed))
            kept = kept & (_shifted(batch["labels"]) != IGNORED)
        weights = kept.float()
        if "weight" in batch:
            weights = weights * batch["weight"][:, None]
        return {LOGITS: weights.flatten()}

    def loss(self, response: Response) -> dict[str, Tensor]:
        """Compute the cross-entropy with the next token, one value per element.

        Without logits, those of elements with weight are computed a block at a time, and again in
        the backward pass.

        Raises:
            InputError: The batch has no labels.
        """
        output = response.primary
        if output.values is not None:
            return {LOGITS: losses.cross_entropy(*self._with_labels(response))}
        if output.labels is None or output.hidden is None or output.head is None:
            allowed = "labels, one per next token, for a loss against the labels"
            raise InputError(Problem("batch.labels", None, allowed))
        kept = output.weights.nonzero().flatten()
        size = max(1, BLOCK // (4 * _width(output.head)))
        part = partial(_block_loss, output)
        values = [
            checkpoint(part, rows, output.labels[rows], use_reentrant=False)
            for rows in kept.split(size)
            if len(rows)
        ]
        found = torch.cat(values) if values else output.hidden[kept].sum(1)
        return {LOGITS: found.new_zeros(len(output.weights)).index_add(0, kept, found)}


def prompt_lengths(batch: Batch, of_document: int) -> Tensor:
    """Return the number of tokens of each row's prompt, `[n]`, at least 1.

    It is the number of tokens before the first predicted one. In a document, whose first token is
    followed by predicted ones only, it is `of_document`, but one token is always left.

    Example:
        >>> ids, mask = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5)
        >>> labels = torch.tensor([[-100, 4, 5, 6, 7], [-100, -100, -100, 6, 7]])
        >>> batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        >>> prompt_lengths(batch, 2)
        tensor([2, 3])
    """
    lengths = batch["attention_mask"].sum(1).long()
    first = torch.ones_like(lengths)
    if "labels" in batch:
        predicted = batch["labels"] != IGNORED
        first = torch.where(predicted.any(1), predicted.int().argmax(1), lengths)
    document = (lengths - 1).clamp_max(of_document)
    return torch.where(first <= 1, document, first).clamp_min(1)


def _shifted(values: Tensor, *, last: float = IGNORED) -> Tensor:
    """Return the value of the next position at each, and `last` at the last, `[n, positions]`."""
    return torch.cat([values[:, 1:], torch.full_like(values[:, :1], last)], dim=1)


def _block_loss(output: Output, rows: Tensor, labels: Tensor) -> Tensor:
    return losses.cross_entropy(output.logits(rows), labels)


def _width(head: nn.Module) -> int:
    weight = head.weight
    return int(weight.shape[0]) if isinstance(weight, Tensor) else 0


def _field(returned: object) -> Tensor | None:
    found = returned.get(LOGITS) if isinstance(returned, dict) else getattr(returned, LOGITS, None)
    return found if isinstance(found, Tensor) else None


def _parts(model: nn.Module, inputs: Mapping[str, Tensor]) -> Parts | None:
    """Run the body of a language model of transformers; None for any other module."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    prefix = getattr(model, "base_model_prefix", "")
    body = getattr(model, prefix, None) if prefix else None
    linear = isinstance(head, nn.Linear) or hasattr(head, "in_features")
    if body is None or body is model or head is None or not linear:
        return None
    config: Any = getattr(model, "config", None)
    hidden = body(**inputs, use_cache=False)[0]
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        hidden = hidden * scale
    if (scale := getattr(config, "logits_scaling", None)) is not None:  # Granite
        hidden = hidden / scale
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma
    return Parts(hidden, head, None if softcap is None else float(softcap))
