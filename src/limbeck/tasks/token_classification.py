"""Token classification, such as named-entity recognition: an element is a token."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch

from limbeck import losses
from limbeck.core.entity_spans import entity_spans, is_bio
from limbeck.core.measurement import Metric
from limbeck.errors import InputError, Problem
from limbeck.tasks._base import BaseTask
from limbeck.tasks._model_output import LOGITS, run_tokens
from limbeck.tasks.scores import Score, of_sums, ratio
from limbeck.tasks.task import IGNORED, Output, Response

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from limbeck.taps import Taps
    from limbeck.tasks.scores import Arrays, Sums
    from limbeck.tasks.task import Axes, Batch, Kind, TaskData


def _sequences(
    outputs: Arrays, batch: Arrays, weights: Arrays
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], float]]:
    """Yield predicted classes and labels of each sequence's labelled tokens, and its weight."""
    predicted, labels = outputs[LOGITS].argmax(axis=1), batch["labels"]
    weight = weights[LOGITS].reshape(labels.shape)
    for row, kept in enumerate(labels != IGNORED):
        yield predicted[row, kept], labels[row, kept], float(weight[row].max(initial=0.0))


def _entities(names: Sequence[str], outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    """Return the numbers of correct, predicted and labelled entities, `[samples, 3]`."""
    parts = []
    for predicted, labels, weight in _sequences(outputs, batch, weights):
        found, true = (
            set(entity_spans([names[number] for number in one])) for one in (predicted, labels)
        )
        parts.append([weight * len(one) for one in (found & true, found, true)])
    return np.array(parts, dtype=np.float64)


def _f1(sums: Sums) -> NDArray[np.float64]:
    correct, found, true = np.moveaxis(sums, -1, 0)
    total = found + true
    return np.asarray(2 * correct / np.where(total > 0, total, 1))


def entity_f1(classes: Sequence[str]) -> Score:
    """Return the entity-level F1: an entity counts if its type, first and last token are correct.

    The harmonic mean of precision and recall over all entities of a split (micro average), as
    conlleval and seqeval compute it; 0 without entities.

    Args:
        classes: The BIO tags, in the order of the model's outputs.

    Source: Tjong Kim Sang 2002, "Introduction to the CoNLL-2002 shared task"; Nakayama 2018,
    seqeval.
    """
    metric = Metric(name="entity_f1", title="Entity F1")
    return Score(metric, partial(_entities, tuple(classes)), of_sums(_f1))


def _correct(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    labels = batch["labels"]
    right = outputs[LOGITS].argmax(axis=1) == labels
    weight = weights[LOGITS].reshape(labels.shape) * (labels != IGNORED)
    return np.stack([(weight * right).sum(axis=1), weight.sum(axis=1)], axis=1).astype(np.float64)


TOKEN_ACCURACY = Score(
    Metric(name="token_accuracy", title="Token accuracy"), _correct, of_sums(ratio)
)
"""The weighted share of tokens whose largest logit is that of the label."""


class TokenClassification(BaseTask):
    """Token classification: one class per token, with a tag of an entity or any other.

    A model returns a tensor of logits `[n, classes, time]`, or a mapping or dataclass whose field
    `logits` is `[n, time, classes]`, as those of transformers do. Padding, and positions of label
    -100 such as further pieces of a word, have weight 0: they count in no loss, distillation
    included, and in no score. If some words have no tag, `words` of the batch, bool `[n, time]`, is
    where words are: one of label -100 then has weight in terms against a teacher, and in no other.
    The logits of padding are 0, so that they do not depend on the batch.

    Args:
        classes: The names of the classes. If they are BIO tags, the primary score is the entity F1.

    Example:
        >>> from torch import nn
        >>> task = TokenClassification(classes=("O", "B-PER", "I-PER"))
        >>> batch = {
        ...     "input_ids": torch.tensor([[4, 5], [6, 0]]),
        ...     "attention_mask": torch.tensor([[1, 1], [1, 0]]),
        ...     "labels": torch.tensor([[0, 1], [2, -100]]),
        ... }
        >>> class Net(nn.Embedding):
        ...     def forward(self, input_ids):
        ...         return super().forward(input_ids).transpose(1, 2)
        >>> response = task.respond(Net(9, 3), batch)
        >>> response.primary.values.shape, response.primary.weights
        (torch.Size([4, 3]), tensor([1., 1., 1., 0.]))

    Source: Devlin et al. 2019, "BERT", section 5.3 (a label per word, at its first piece).
    """

    name: ClassVar[str] = "token_classification"
    inputs: ClassVar[Mapping[str, Axes]] = {
        "input_ids": ("batch", "time"),
        "attention_mask": ("batch", "time"),
    }
    element: ClassVar[str] = "token"
    kinds: ClassVar[Mapping[str, Kind]] = {LOGITS: "categorical"}
    scores: tuple[Score, ...] = (entity_f1(()), TOKEN_ACCURACY)
    reading: ClassVar[str] = """
(logits,) = session.run(["logits"], inputs)
print([classes[number] for number in logits[0].argmax(axis=0)])  # the tag of each position
"""
    restoring: ClassVar[str] = """
maps = outputs.logits.transpose(1, 2) if hasattr(outputs, "logits") else outputs
outputs = torch.where(torch.from_numpy(attention_mask)[:, None] > 0, maps, 0.0)
"""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        entities = (entity_f1(classes),) if is_bio(classes) else ()
        self.scores = (*entities, TOKEN_ACCURACY)

    @classmethod
    def of(cls, data: TaskData) -> Self:
        """Build the task for a data set.

        Raises:
            InputError: The data have no classes.
        """
        if not data.classes:
            fix = f"Name the column of tags there ({cls.name})."
            raise InputError(Problem.missing("data.tags", fix))
        return cls(data.classes)

    def _run(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = self._take(batch, *self.inputs)
        logits = run_tokens(model, inputs, classes=len(self.classes))
        return torch.where(inputs["attention_mask"].bool().unsqueeze(1), logits, 0.0)

    def raw_outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model on a batch; return `logits [n, classes, time]`, 0 at padding.

        Raises:
            InputError: The batch lacks an input, or the model returns no logits per token.
        """
        return {LOGITS: self._run(model, batch)}

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run the model on a batch; elements are the positions of each sequence, in order.

        Raises:
            InputError: As for `raw_outputs`, or the labels have another length than the sequences.
        """
        logits = self._run(model, batch)
        count, _, time = logits.shape
        labels = batch.get("labels")
        numbers = torch.arange(count, device=logits.device)
        output = Output(
            logits.transpose(1, 2).flatten(0, 1),
            weights=self.weights(batch)[LOGITS],
            sample_of=numbers.repeat_interleave(time),
            # Any valid class in place of a missing one: its weight is 0.
            labels=None if labels is None else labels.clamp_min(0).flatten(),
            labelled=self.labelled(batch).get(LOGITS),
        )
        found = {} if taps is None else taps.take()
        mask = batch["attention_mask"].bool()
        return Response({LOGITS: output}, taps=found, index=batch.get("index"), mask=mask)

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weight of every position, `[n * time]`: that of its row; 0 without a label.

        With `words` it is 0 where no word is; without labels, at padding.

        Raises:
            InputError: The labels have another length than the sequences.
        """
        mask = self._take(batch, *self.inputs)["attention_mask"].bool()
        if "labels" in batch:
            if batch["labels"].shape != mask.shape:
                allowed = f"{list(mask.shape)}, a class per position"
                raise InputError(Problem("batch.labels", list(batch["labels"].shape), allowed))
            mask = mask & batch.get("words", batch["labels"] != IGNORED)
        weights = mask.float()
        if "weight" in batch:
            weights = weights * batch["weight"][:, None]
        return {LOGITS: weights.flatten()}

    def labelled(self, batch: Batch) -> dict[str, Tensor]:
        """Return which positions have a label, if the batch has `words`."""
        if "words" not in batch or "labels" not in batch:
            return {}
        return {LOGITS: (batch["labels"] != IGNORED).flatten()}

    def loss(self, response: Response) -> dict[str, Tensor]:
        """Compute the cross-entropy with the labels, one value per position.

        Raises:
            InputError: The batch has no labels.
        """
        return {LOGITS: losses.cross_entropy(*self._with_labels(response))}
