"""Token classification: elements are positions; padding and further pieces weigh nothing."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from nervaluate.evaluator import Evaluator
from torch import nn

from limbeck.core.entity_spans import entity_spans
from limbeck.errors import InputError
from limbeck.evaluate.metrics import score_value
from limbeck.export.invariance import check_invariance
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor, TorchPredictor
from limbeck.models.build import architecture, build
from limbeck.models.nets.token_tagger import token_tagger
from limbeck.models.spec import ModelSpec
from limbeck.objective import Objective, Term
from limbeck.pipeline.parity import check_export
from limbeck.pipeline.teachers import EnsembleModule
from limbeck.targets import Layout
from limbeck.tasks import ScoreTable, total_weights
from limbeck.tasks.token_classification import IGNORED, TokenClassification
from limbeck.teachers import CachedTeacher, FrozenTeacher
from limbeck.teachers.forms import TargetForm

CLASSES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TASK = TokenClassification(CLASSES)
KL = Term("divergence", kind="forward_kl", temperature=2.0)
LENGTHS = [4, 7, 1, 6, 5, 2]


def net(seed: int = 0, width: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return token_tagger(5, vocab_size=30, width=width, depth=2).eval()


def drawn(lengths=LENGTHS, features: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a batch, of which each sequence may be cut to its length."""
    random = torch.Generator().manual_seed(seed)
    longest, count = max(lengths), len(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, 30, (count, longest, features), generator=random)
    labels = torch.randint(0, 5, (count, longest), generator=random).masked_fill(~mask, IGNORED)
    labels[1, 3] = IGNORED  # a further piece of a word
    return {
        "input_ids": ids * mask[..., None],
        "attention_mask": mask.long(),
        "labels": labels,
        "index": torch.arange(count),
        "view": torch.zeros(count, dtype=torch.int64),
    }


def rows(batch, chosen) -> dict[str, torch.Tensor]:
    """Return some samples of a batch, padded to the longest of them."""
    part = {name: one[chosen] for name, one in batch.items()}
    longest = int(part["attention_mask"].sum(1).max())
    return {name: one[:, :longest] if one.ndim > 1 else one for name, one in part.items()}


def table(logits: np.ndarray, batch: dict, task=TASK) -> ScoreTable:
    found = ScoreTable(task.scores)
    weights = {name: one.numpy() for name, one in task.weights(batch).items()}
    found.update({"logits": logits}, {"labels": batch["labels"].numpy()}, weights)
    return found


# -- scores ---------------------------------------------------------------------------------------


def one_hot(tags: list[list[str]], longest: int) -> np.ndarray:
    logits = np.zeros((len(tags), 5, longest))
    for row, own in enumerate(tags):
        for place, tag in enumerate(own):
            logits[row, CLASSES.index(tag), place] = 1.0
    return logits


def batch_of(tags: list[list[str]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, tags))
    labels = torch.full((len(tags), longest), IGNORED)
    for row, own in enumerate(tags):
        labels[row, : len(own)] = torch.tensor([CLASSES.index(tag) for tag in own])
    mask = (labels != IGNORED).long()
    return {"input_ids": mask, "attention_mask": mask, "labels": labels}


PAIRS = st.lists(
    st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=9),
    min_size=1,
    max_size=6,
)


def strict_f1(true: list[list[str]], found: list[list[str]]) -> float:
    """Compute the F1 of equal type and boundaries by nervaluate."""
    overall = Evaluator(true, found, tags=["PER", "LOC"], loader="list").evaluate()["overall"]
    return overall["strict"].f1


@given(PAIRS)
def test_the_entity_f1_is_that_of_an_independent_library(pairs):
    true, found = ([[pair[side] for pair in row] for row in pairs] for side in (0, 1))
    batch = batch_of(true)
    value = table(one_hot(found, batch["labels"].shape[1]), batch).values()["entity_f1"]
    assert value == pytest.approx(strict_f1(true, found), abs=1e-12)


def test_the_entity_f1_is_that_of_seqeval():
    # Computed by seqeval 1.2.2 in its default mode: precision 0.75, recall 0.6.
    true = [["B-PER", "I-PER", "O", "I-LOC", "I-PER"], ["I-PER", "I-PER", "B-PER", "O"]]
    found = [["B-PER", "I-PER", "O", "I-LOC", "B-PER"], ["B-PER", "I-PER", "I-PER", "O"]]
    batch = batch_of(true)
    assert table(one_hot(found, 5), batch).values()["entity_f1"] == pytest.approx(2 / 3)


@given(st.lists(st.sampled_from(CLASSES), max_size=12))
def test_spans_cover_every_tag_of_an_entity_once(tags):
    spans = entity_spans(tags)
    covered = [place for _, start, end in spans for place in range(start, end)]
    assert covered == [place for place, tag in enumerate(tags) if tag != "O"]
    for label, start, end in spans:
        assert {tag[2:] for tag in tags[start:end]} == {label}
        assert all(tag[0] == "I" for tag in tags[start + 1 : end])
        before = tags[start - 1] if start else "O"
        assert tags[start][0] == "B" or before[2:] != label


def test_the_interval_resamples_sentences_and_the_score_follows_weights():
    batch = drawn([3 + row % 5 for row in range(40)])
    logits = F.one_hot(batch["labels"].clamp_min(0), 5).movedim(-1, 1).float()
    logits[:20] = torch.randn(20, 5, logits.shape[2], generator=torch.Generator().manual_seed(1))
    found = score_value(table(logits.numpy(), batch), TASK.scores[0])
    assert found.interval.low < found.value < found.interval.high
    assert found.samples == 40
    batch["weight"] = (torch.arange(40) >= 20).float()
    assert table(logits.numpy(), batch).values() == {"entity_f1": 1.0, "token_accuracy": 1.0}


def test_the_token_accuracy_is_over_labelled_tokens():
    batch = drawn()
    logits = TASK.outputs(net(), batch)["logits"].detach()
    kept = batch["labels"] != IGNORED
    expected = (logits.argmax(1) == batch["labels"])[kept].double().mean()
    assert table(logits.numpy(), batch).values()["token_accuracy"] == pytest.approx(float(expected))


def test_tags_that_are_no_entities_are_scored_by_accuracy():
    assert [one.metric.name for one in TASK.scores] == ["entity_f1", "token_accuracy"]
    [only] = TokenClassification(("NOUN", "VERB")).scores
    assert only.metric.name == "token_accuracy"


# -- elements and gradients -----------------------------------------------------------------------


def test_positions_are_in_the_order_of_the_labels():
    model, batch = net(), drawn()
    response = TASK.respond(model, batch)
    logits = TASK.outputs(model, batch)["logits"]
    expected = F.cross_entropy(logits, batch["labels"], ignore_index=IGNORED, reduction="none")
    output = response.primary
    torch.testing.assert_close(TASK.loss(response)["logits"] * output.weights, expected.flatten())
    assert output.weights.sum() == sum(LENGTHS) - 1
    assert output.sample_of.tolist() == [row for row in range(6) for _ in range(7)]
    assert torch.equal(response.mask, batch["attention_mask"].bool())
    assert (logits.movedim(1, -1)[batch["attention_mask"] == 0] == 0).all()
    without = {name: one for name, one in batch.items() if name != "labels"}
    assert TASK.weights(without)["logits"].sum() == sum(LENGTHS)


class Recorded:
    """A cache of the answers to a whole batch."""

    packed = False

    def __init__(self, teacher, batch, sizes):
        whole = teacher.answer(rows(batch, [1, 2])).targets  # with the longest sequence
        self.layout = Layout.of(whole, samples=2)
        self.records = np.concatenate(
            [
                self.layout.pack(teacher.answer(rows(batch, part)).targets, samples=len(part))
                for part in np.split(np.arange(len(batch["labels"])), sizes)
            ]
        )

    def lookup(self, index, view):
        return self.layout.unpack(self.records[index.numpy()])


def gradient(batches, objective=None, teacher=None) -> torch.Tensor:
    model = net()
    objective = objective or Objective([Term("task"), KL])
    teacher = teacher or FrozenTeacher(net(5, 6), TASK)
    whole: dict[str, torch.Tensor] = {}
    for batch in batches:
        for name, one in total_weights(TASK, batch).items():
            whole[name] = whole.get(name, 0) + one
    for batch in batches:
        response, answer = TASK.respond(model, batch), teacher.answer(batch)
        objective(response, answer, task_loss=TASK.loss, total_weights=whole).total.backward()
    return torch.cat([one.grad.flatten() for one in model.parameters()])


@pytest.mark.parametrize("sizes", [[0, 3, 6], [0, 1, 2, 6], [0, 2, 3, 5, 6]])
@pytest.mark.parametrize("form", ["live", "dense", TargetForm("top_k", k=3)])
def test_a_cut_batch_has_the_gradient_of_the_whole(sizes, form):
    batch = drawn()
    teacher = recorded = FrozenTeacher(net(5, 6), TASK, targets="dense" if form == "live" else form)
    if form != "live":
        record = Recorded(teacher, batch, [2, 3])
        recorded = CachedTeacher(record, fingerprint="", task=TASK)
    whole = gradient([batch], teacher=teacher)
    assert whole.abs().max() > 1e-3
    parts = [rows(batch, list(range(a, b))) for a, b in pairwise(sizes)]
    torch.testing.assert_close(gradient(parts, teacher=recorded), whole, rtol=1e-4, atol=1e-6)


def test_sampled_targets_do_not_depend_on_the_padding():
    batch = drawn()
    teacher = FrozenTeacher(net(5, 6), TASK, targets=TargetForm("sampled", draws=4))
    alone = teacher.answer(rows(batch, [0])).targets["logits"]
    among = teacher.answer(batch).targets["logits"]
    for place in range(4):
        one, other = (
            sorted(zip(found.ids[place].tolist(), found.counts[place].tolist(), strict=True))
            for found in (alone, among)
        )
        assert [pair for pair in one if pair[1]] == [pair for pair in other if pair[1]]


def test_padding_a_label_of_minus_100_and_a_row_of_weight_0_change_no_gradient():
    batch = drawn()
    longer = {
        name: F.pad(one, (0, 0) * (one.ndim - 2) + (0, 3), value=IGNORED if name == "labels" else 0)
        if one.ndim > 1
        else one
        for name, one in batch.items()
    }
    whole = gradient([batch])
    torch.testing.assert_close(gradient([longer]), whole, rtol=1e-4, atol=1e-6)
    expected = gradient([rows(batch, [0, 2, 4])])
    weighted = {**batch, "weight": torch.tensor([1.0, 0, 1, 0, 1, 0])}
    torch.testing.assert_close(gradient([weighted]), expected, rtol=1e-4, atol=1e-6)
    unlabelled = {**batch, "labels": batch["labels"].clone()}
    unlabelled["labels"][[1, 3, 5]] = IGNORED
    torch.testing.assert_close(gradient([unlabelled]), expected, rtol=1e-4, atol=1e-6)


def partly_tagged() -> dict[str, torch.Tensor]:
    """Return a batch in which two rows have no tag, and one has a piece within a word."""
    batch = drawn()
    batch["words"] = batch["labels"] != IGNORED
    batch["labels"][[0, 4]] = IGNORED
    return batch


def test_words_without_a_tag_weigh_in_terms_against_the_teacher_only():
    batch = partly_tagged()
    model, teacher = net().double(), net(5, 6).double()
    logits, expected = (TASK.outputs(one, batch)["logits"] for one in (model, teacher))
    hard = F.cross_entropy(logits, batch["labels"], ignore_index=IGNORED)
    pair = (logits / 2).log_softmax(1), (expected / 2).log_softmax(1)
    divergence = 4 * F.kl_div(*pair, reduction="none", log_target=True).sum(1)
    soft = divergence[batch["words"]].mean()
    objective = Objective([Term("task", weight=0.3), KL])
    answer = FrozenTeacher(teacher, TASK).answer(batch)
    found = objective(TASK.respond(model, batch), answer, task_loss=TASK.loss).total
    torch.testing.assert_close(found, 0.3 * hard + soft)


@pytest.mark.parametrize("sizes", [[0, 1, 2, 6], [0, 2, 4, 6]])
def test_a_cut_batch_with_words_without_a_tag_has_the_gradient_of_the_whole(sizes):
    batch = partly_tagged()
    parts = [rows(batch, list(range(a, b))) for a, b in pairwise(sizes)]
    torch.testing.assert_close(gradient(parts), gradient([batch]), rtol=1e-4, atol=1e-6)


def test_words_without_a_tag_are_in_no_score():
    batch, few = drawn(), partly_tagged()
    logits = TASK.outputs(net(), batch)["logits"].detach().numpy()
    batch["labels"] = few["labels"]
    assert table(logits, few).values() == table(logits, batch).values()


def test_student_equal_to_teacher_has_no_loss_by_any_form():
    batch = drawn()
    objective = Objective([KL])
    for form in ("dense", TargetForm("top_k", k=5)):
        teacher = FrozenTeacher(net(), TASK, targets=form)
        record = CachedTeacher(Recorded(teacher, batch, [1, 4]), fingerprint="", task=TASK)
        part = rows(batch, [5, 0])
        for one in (teacher, record):
            total = objective(TASK.respond(net(), part), one.answer(part)).total
            assert abs(total.item()) < 1e-6


# -- models ---------------------------------------------------------------------------------------


class Fields(nn.Module):
    """A model with the layout of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.net(input_ids, attention_mask).transpose(1, 2))


def test_a_field_has_the_layout_of_transformers_and_a_tensor_that_of_torch():
    batch = drawn([5, 3, 4, 5, 1, 2])  # as many positions as classes
    plain, fields = (TASK.outputs(model, batch)["logits"] for model in (net(), Fields()))
    assert torch.equal(plain, fields)


@pytest.mark.parametrize(
    "model",
    [
        lambda ids, mask: torch.zeros(6, 7, 5),
        lambda ids, mask: torch.zeros(6, 5),
        lambda ids, mask: SimpleNamespace(logits=torch.zeros(6, 5, 7)),
        lambda ids, mask: SimpleNamespace(scores=torch.zeros(6, 7, 5)),
    ],
)
def test_another_output_is_refused_by_its_shape(model):
    class Other(nn.Module):
        def forward(self, input_ids, attention_mask):
            return model(input_ids, attention_mask)

    with pytest.raises(InputError, match=r"a tensor \[n, 5, time\], or a field named logits"):
        TASK.outputs(Other(), drawn())


def test_labels_of_another_length_are_refused():
    batch = drawn()
    batch["labels"] = batch["labels"][:, :5]
    with pytest.raises(InputError, match=r"batch.labels: got \[6, 5\]; allowed: \[6, 7\]"):
        TASK.respond(net(), batch)


def test_data_without_tags_are_refused():
    with pytest.raises(InputError, match=r"data\.tags: field required"):
        TokenClassification.of(SimpleNamespace(classes=(), targets=(), preprocess=None))


class Split:
    """A split of drawn sequences."""

    def __init__(self, batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["labels"])

    def spread(self, count: int) -> list[int]:
        return list(range(min(count, len(self))))

    def __getitems__(self, chosen):
        return rows(self.batch, list(chosen))


@pytest.mark.parametrize("make", [net, lambda: EnsembleModule([net(1), Fields()], TASK)])
def test_the_file_has_sequences_of_any_length(make, tmp_path, monkeypatch):
    model, batch = make().eval(), drawn([2 + row % 7 for row in range(30)])
    path = tmp_path / "model.onnx"
    to_onnx(model, TASK, rows(batch, [0, 1]), path)
    both = TorchPredictor(model, TASK), OnnxPredictor(path)
    assert both[1].axes["attention_mask"] == ("batch", "time")
    assert both[1].output_axes["logits"] == ("batch", 5, "time")
    for part in ([3], [5, 6], list(range(30))):
        one, other = (side.predict(rows(batch, part))["logits"] for side in both)
        np.testing.assert_allclose(one, other, atol=1e-5)
    monkeypatch.setattr("limbeck.pipeline.parity.BATCH", 8)
    found = check_export(*both, TASK, split=Split(batch), where="stages.distill", model=model)
    assert found.within
    assert found.samples == 30
    assert found.agreement == 1.0


class ReadsPadding(nn.Module):
    """A tagger whose mean is over padding, too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, input_ids, attention_mask):
        logits = self.net(input_ids, attention_mask)
        return logits - logits.mean(dim=2, keepdim=True)


def test_a_model_that_reads_padding_is_found():
    batch = drawn()
    check_invariance(TorchPredictor(net(), TASK), batch, where="student")
    with pytest.raises(InputError, match="padding that the model reads"):
        check_invariance(TorchPredictor(ReadsPadding(), TASK), batch, where="student")


BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def test_a_folder_of_transformers_is_a_tagger(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=30, num_labels=5, **BERT)
    torch.manual_seed(0)
    saved = transformers.BertForTokenClassification(config).eval()
    saved.save_pretrained(tmp_path / "bert")
    fit = {"classes": 5, "vocab_size": 30, "pad_token": 0, "element": "token"}
    spec = ModelSpec(source="transformers", path=str(tmp_path / "bert"))
    model = build(spec, **fit).eval()
    assert type(model).__name__ == "BertForTokenClassification"
    batch = drawn(features=1)
    batch["input_ids"] = batch["input_ids"][..., 0]
    inputs = {name: batch[name] for name in TASK.inputs}
    expected = saved(**inputs).logits.transpose(1, 2) * batch["attention_mask"][:, None]
    torch.testing.assert_close(TASK.outputs(model, batch)["logits"], expected)
    check_invariance(TorchPredictor(model, TASK), inputs, where="teacher")
    assert "AutoModelForTokenClassification" in architecture(spec, **fit)
    with pytest.raises(InputError, match="a model for 5 classes"):
        build(spec, **{**fit, "classes": 3})
    fresh = build(ModelSpec(source="transformers", name="bert", **BERT), **fit)
    assert TASK.outputs(fresh, batch)["logits"].shape == (6, 5, 7)


def test_a_model_without_a_tagger_is_refused():
    pytest.importorskip("transformers")
    spec = ModelSpec(source="transformers", name="vit")
    with pytest.raises(InputError, match="vit, with a prediction per token"):
        build(spec, classes=5, vocab_size=30, pad_token=0, element="token")


def test_the_net_is_built_to_the_vocabulary():
    spec = ModelSpec(source="limbeck", name="token_tagger", width=4, depth=1)
    fit = {"classes": 5, "vocab_size": 30, "pad_token": 0, "element": "token"}
    model = build(spec, **fit)
    assert model.embed.weight.shape == (30, 4)
    assert "vocab_size=30" in architecture(spec, **fit)
    with pytest.raises(ValueError, match="width above 0"):
        token_tagger(5, 30, width=0)
