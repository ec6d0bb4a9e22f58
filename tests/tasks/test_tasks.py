"""Laws of every discovered task."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import limbeck.tasks
from limbeck.errors import InputError
from limbeck.taps import Taps
from limbeck.tasks import TASKS, ScoreTable


class Words(nn.Module):
    """A text classifier like those of transformers: named inputs, an output with `logits`."""

    def __init__(self, bare=False):
        super().__init__()
        self.embed, self.head, self.bare = nn.Embedding(9, 4), nn.Linear(4, 3), bare

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        logits = self.head((self.embed(input_ids) * mask).sum(1) / mask.sum(1))
        return logits if self.bare else SimpleNamespace(logits=logits)


LABELS = {"labels": torch.tensor([0, 2, 1, 2])}
EXAMPLES = {
    "audio_classification": (lambda: nn.Linear(6, 3), {"audio": torch.randn(4, 6), **LABELS}),
    "image_classification": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        {"image": torch.randn(4, 1, 2, 2), **LABELS},
    ),
    "tabular_classification": (lambda: nn.Linear(4, 3), {"features": torch.randn(4, 4), **LABELS}),
    "text_classification": (
        Words,
        {
            "input_ids": torch.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 6], [7, 8, 0]]),
            "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]]),
            **LABELS,
        },
    ),
}


# They have files of their own.
OTHER = {
    *("tabular_regression", "audio_multilabel", "image_multilabel"),
    *("tabular_multilabel", "text_multilabel", "token_classification", "causal_lm"),
    *("image_ordinal", "tabular_ordinal", "text_ordinal"),
    *("image_segmentation", "node_classification", "object_detection", "series_forecasting"),
}


def test_every_task_has_an_example_here():
    folder = Path(limbeck.tasks.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")} - {
        "task",
        "checks",
        "scores",
        "details",
    }
    assert set(TASKS.names()) == files == set(EXAMPLES) | OTHER


@pytest.fixture(params=EXAMPLES)
def example(request):
    make, batch = EXAMPLES[request.param]
    torch.manual_seed(0)
    return TASKS.load(request.param)(classes=("a", "b", "c")), make(), batch


def test_a_response_has_one_row_per_element(example):
    task, model, batch = example
    response = task.respond(model, batch)
    elements = len(response.primary.labels)
    assert response.primary.values.shape == (elements, 3)
    assert response.primary.weights.shape == response.primary.sample_of.shape == (elements,)
    assert torch.equal(response.primary.weights, task.weights(batch)["logits"])
    assert task.loss(response)["logits"].shape == (elements,)
    assert task.name in EXAMPLES
    assert set(task.inputs) <= set(batch)
    assert response.taps == {}
    assert torch.equal(task.outputs(model, batch)["logits"], response.primary.values)


def test_the_loss_is_cross_entropy_with_the_labels(example):
    task, model, batch = example
    response = task.respond(model, batch)
    expected = F.cross_entropy(response.primary.values, batch["labels"], reduction="none")
    torch.testing.assert_close(task.loss(response)["logits"], expected)


def test_elements_are_samples_in_order(example):
    task, model, batch = example
    whole = task.respond(model, batch)
    assert whole.primary.sample_of.tolist() == [0, 1, 2, 3]
    for row in range(4):
        alone = task.respond(model, {name: tensor[row : row + 1] for name, tensor in batch.items()})
        torch.testing.assert_close(
            alone.primary.values[0], whole.primary.values[row], rtol=1e-5, atol=1e-6
        )


def test_taps_come_with_the_response(example):
    task, model, batch = example
    path = next(name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    with Taps(model, [path]) as taps:
        response = task.respond(model, batch, taps)
    assert torch.equal(response.taps[path], response.primary.values)


def test_the_primary_score_is_accuracy_over_all_samples(example):
    task, _, batch = example
    table, labels = ScoreTable(task.scores), batch["labels"].numpy()
    logits, ones = F.one_hot(torch.tensor([0, 2, 2, 2]), 3).numpy(), torch.ones(4).numpy()
    for rows in (slice(0, 3), slice(3, 4)):
        table.update({"logits": logits[rows]}, {"labels": labels[rows]}, {"logits": ones[rows]})
    assert table.values() == {"accuracy": 0.75}


def test_a_text_model_may_return_a_bare_tensor():
    _, batch = EXAMPLES["text_classification"]
    task = TASKS.load("text_classification")(classes=("a", "b", "c"))
    assert task.respond(Words(bare=True), batch).primary.values.shape == (4, 3)


def test_a_batch_that_lacks_a_tensor_is_refused_with_the_names(example):
    task, model, batch = example
    for name in task.inputs:
        part = {key: tensor for key, tensor in batch.items() if key != name}
        with pytest.raises(InputError) as error:
            task.respond(model, part)
        expected = f"batch: got {list(part)}; allowed: a mapping with {', '.join(task.inputs)}"
        assert str(error.value) == expected
    with pytest.raises(InputError, match=r"batch: got 'list'; allowed: a mapping with"):
        task.weights(list(batch.values()))


def test_labels_are_needed_by_the_loss_only(example):
    task, model, batch = example
    response = task.respond(model, {name: batch[name] for name in task.inputs})
    with pytest.raises(
        InputError, match=r"batch\.labels: got None; allowed: labels, one per sample"
    ):
        task.loss(response)


def test_an_unknown_task_gets_a_suggestion():
    with pytest.raises(InputError, match='did you mean "image_classification"'):
        TASKS.load("image_clasification")
