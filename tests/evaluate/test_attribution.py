"""Maps against the closed forms of linear models, their similarity against scipy."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.spatial import distance
from torch import nn

from limbeck.evaluate.attribution import Attribution, evaluate, examples, maps, similarity
from limbeck.evaluate.attribution.similarity import complete
from limbeck.evaluate.context import (
    EvaluatedModel,
    EvaluationContext,
    Normalization,
    TextInputs,
    TorchModel,
)
from limbeck.export.predictor import TorchPredictor
from limbeck.tasks.image_classification import ImageClassification
from limbeck.tasks.text_classification import TextClassification

captum = pytest.importorskip("captum", reason='the extra "evaluate"')

CLASSES = ("zero", "one", "two")


def frozen(model):
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def linear(seed=0, shape=(2, 6, 6)):
    torch.manual_seed(seed)
    return frozen(nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 3)))


def side(name, model, task):
    return EvaluatedModel(name, TorchPredictor(model, task), TorchModel(model, task))


def context(student, teacher=None, *, values=None, pixels=None, task=None, **more):
    task = ImageClassification(CLASSES) if task is None else task
    values = {"image": drawn(20)} if values is None else values
    count = len(next(iter(values.values())))
    labels = np.arange(count) % 3

    def batches():
        for rows in np.array_split(np.arange(count), 2):
            yield {name: part[rows] for name, part in values.items()} | {"labels": labels[rows]}

    return EvaluationContext(
        student=side("student", student, task),
        teacher=None if teacher is None else side("teacher", teacher, task),
        batches=batches,
        validation=batches,
        classes=CLASSES,
        normalization=pixels,
        **more,
    )


def drawn(count, shape=(2, 6, 6), seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 14, 7), (3, 5), (4,)])
def test_the_maps_of_a_linear_model_are_its_weights(shape):
    model = linear(1, shape)
    inputs = torch.from_numpy(drawn(3, shape))
    baseline = torch.from_numpy(drawn(1, shape, seed=9))
    classes = torch.tensor([2, 0, 1])
    weight = model[1].weight[classes].reshape(3, *shape).double().numpy()
    moved = weight * (inputs - baseline).numpy()
    np.testing.assert_allclose(maps.saliency(model, inputs, classes), np.abs(weight), atol=1e-6)
    found, missed = maps.integrated_gradients(model, inputs, baseline, classes, steps=4)
    np.testing.assert_allclose(found, moved, atol=1e-5)
    np.testing.assert_allclose(missed, 0, atol=1e-5)
    covered = maps.occlusion(model, inputs, baseline, classes)
    np.testing.assert_allclose(covered, windowed(moved, maps.windows(shape)), atol=1e-5)


def windowed(moved, window):
    """Sum over each window, and write the sum into all of it."""
    sums = np.zeros_like(moved)
    steps = [range(0, size, w) for size, w in zip(moved.shape[1:], window, strict=True)]
    for start in np.array(np.meshgrid(*steps)).reshape(len(window), -1).T:
        where = tuple(slice(s, s + w) for s, w in zip(start, window, strict=True))
        axes = tuple(range(1, moved.ndim))
        sums[(slice(None), *where)] = moved[(slice(None), *where)].sum(axis=axes, keepdims=True)
    return sums


def test_large_inputs_are_integrated_in_blocks(monkeypatch):
    model = frozen(nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)))
    inputs, classes = torch.from_numpy(drawn(5, (12,))), torch.arange(5) % 3
    whole, missed = maps.integrated_gradients(model, inputs, torch.zeros(1, 12), classes, steps=32)
    monkeypatch.setattr(maps, "BLOCK", 1)
    blocks, _ = maps.integrated_gradients(model, inputs, torch.zeros(1, 12), classes, steps=32)
    np.testing.assert_allclose(blocks, whole, atol=1e-6)
    rows = torch.arange(5)
    difference = (model(inputs) - model(torch.zeros(5, 12)))[rows, classes].numpy()
    np.testing.assert_allclose(whole.sum(axis=1), difference, atol=1e-4)
    assert complete("student", whole, missed).within == 1


def test_too_few_steps_violate_completeness_and_are_noted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 30), nn.Tanh(), nn.Linear(30, 3))
    with torch.no_grad():
        model[1].weight *= 20
    found = evaluate(context(frozen(model)), steps=1, n_resamples=20)
    assert found.completeness[0].within < 1
    assert any("violate completeness" in note for note in found.notes)


def test_a_step_lowers_the_probability_of_the_class():
    model = linear(3)
    inputs, classes = torch.from_numpy(drawn(4)), torch.tensor([0, 1, 2, 0])
    moved = maps.perturbed(model, inputs, classes, torch.tensor(0.01))
    assert (moved - inputs).abs().max() <= 0.0101
    before, after = (model(x).softmax(1)[torch.arange(4), classes] for x in (inputs, moved))
    assert (after < before).all()


def test_similarities_equal_scipys():
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 6, 15)).round(1)
    for row in range(6):
        expected = stats.spearmanr(one[row], other[row]).statistic
        assert similarity.spearman(one, other)[row] == pytest.approx(expected)
        expected = 1 - distance.cosine(one[row], other[row])
        assert similarity.cosine(one, other)[row] == pytest.approx(expected)
    one, other = np.random.default_rng(5).normal(size=(2, 1, 30))
    top = [set(np.argsort(-np.abs(part[0]))[:3]) for part in (one, other)]
    assert similarity.top_overlap(one, other)[0] == pytest.approx(len(top[0] & top[1]) / 3)


def test_degenerate_maps_have_no_similarity():
    flat, some = np.zeros((1, 4)), np.array([[1.0, 2.0, 3.0, 4.0]])
    assert np.isnan(similarity.cosine(flat, some)).all()
    assert np.isnan(similarity.spearman(flat + 1, some)).all()
    assert similarity.top_overlap(flat, flat)[0] == 1
    # All positions are tied: each is in the top two with the same share.
    assert similarity.top_overlap(flat, some, share=0.5)[0] == pytest.approx(0.5)
    assert similarity.cosine(np.array([[2.0]]), np.array([[-3.0]]))[0] == -1
    assert similarity.cosine(some, -some)[0] == pytest.approx(-1)


def test_the_most_attributed_positions_exclude_padding():
    values = np.array([[5.0, 1.0, 9.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    valid = np.array([[True, True, False, True], [True, True, True, False]])
    selected = similarity.most_attributed(values, valid, share=0.5)
    assert selected.tolist() == [[True, False, False, True], [True, True, False, False]]


def test_maps_of_the_same_model_are_equal():
    model = linear()
    found = evaluate(
        context(model, model, pixels=Normalization((0.5, 0.5), (0.2, 0.3))), n_resamples=50, shown=4
    )
    assert [each.method for each in found.alignments] == [
        "integrated_gradients",
        "saliency",
        "occlusion",
    ]
    for each in found.alignments:
        assert each.cosine.value == pytest.approx(1)
        assert each.spearman.value == pytest.approx(1)
        assert each.overlap.value == pytest.approx(1)
        assert each.elsewhere < 0.99
    deletion, stability = found.comparisons[-2:]
    assert deletion.verdict == stability.verdict == "non-inferior"
    assert deletion.student.value > 0
    # Of a linear model saliency is the same everywhere.
    assert stability.student.value == pytest.approx(1)
    assert len(found.images) == 4
    for example in found.images:
        for png in (example.image, example.student, example.teacher):
            assert Image.open(io.BytesIO(base64.b64decode(png))).size == (6, 6)
    assert Attribution.model_validate_json(found.model_dump_json()) == found


def test_maps_of_unrelated_models_are_dissimilar():
    found = evaluate(context(linear(0), linear(1)), n_resamples=50)
    assert abs(found.alignments[0].cosine.value) < 0.5
    assert found.alignments[0].cosine.interval.low <= found.alignments[0].cosine.value
    assert found.completeness[0].within == 1
    assert len(found.comparisons) == 4


def test_without_a_torch_model_there_is_occlusion_only():
    whole = context(linear(), linear())
    alone = replace(whole, student=replace(whole.student, torch_model=None))
    found = evaluate(alone, n_resamples=20)
    assert [each.method for each in found.alignments] == ["occlusion"]
    assert any("The student has no PyTorch model" in note for note in found.notes)
    assert [one.name.split(",")[0] for one in found.comparisons] == [
        "Attribution similarity of student and teacher",
        "Deletion score",
    ]


def test_without_a_teacher_there_is_no_similarity():
    found = evaluate(context(linear()), n_resamples=20)
    assert found.alignments == ()
    assert found.comparisons[0].verdict == "no reference"
    assert found.images[0].teacher is None


def test_an_input_and_a_model_of_zeros_raise_no_error():
    model = linear()
    with torch.no_grad():
        model[1].weight.zero_()
    found = evaluate(
        context(model, linear(), values={"image": np.zeros((1, 2, 6, 6), np.float32)}),
        n_resamples=5,
    )
    assert found.samples == 1
    assert found.alignments == ()


def test_inputs_without_maps_are_noted():
    two = {"image": drawn(4), "other": drawn(4)}
    found = evaluate(context(linear(), values=two), n_resamples=5)
    assert found.comparisons == ()
    assert "neither texts nor one numeric array" in found.notes[0]


def test_a_map_is_dark_for_the_class_and_blue_against_it():
    png = examples.drawn(np.array([[1.0, -1.0], [0.0, 0.5]]))
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))).astype(int)
    grey = image @ np.array([299, 587, 114]) // 1000
    assert grey[0, 0] < grey[1, 1] < grey[0, 1] < grey[1, 0] == 255
    assert image[0, 1, 2] > image[0, 1, 0]
    examples.drawn(np.zeros((2, 2)))
    examples.shown(np.random.default_rng(0).random((4, 300, 200)))


class MeanOfWords(nn.Module):
    """The mean of the word vectors, then a linear layer."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.positions = nn.Embedding(16, 5)
        self.words = nn.Embedding(20, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, input_ids, attention_mask):
        positions = self.positions(torch.arange(input_ids.shape[1])[None])
        vectors = self.words(input_ids) + positions
        mask = attention_mask[..., None].float()
        return self.head((vectors * mask).sum(1) / mask.sum(1))


VOCABULARY = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "good": 3, "bad": 4, "film": 5, "s": 6, "!": 7}


SHOWN = (
    ("good", "film", "!"),
    ("bad", "films", "…"),
    ("film",),
    ("bad", "bad", "bad", "film", "!"),
)


def encode(texts):
    rows = []
    for text in texts:
        pieces = text.replace("films", "film s").replace("!", " !").split()
        rows.append([1, *(VOCABULARY[piece] for piece in pieces), 2])
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def test_token_attributions_of_a_linear_model_are_its_weights():
    texts = ["good film!", "bad films", "film", "bad bad bad film!"]
    student, teacher = frozen(MeanOfWords(0)), frozen(MeanOfWords(1))
    whole = context(
        student,
        teacher,
        values=encode(texts),
        task=TextClassification(CLASSES),
        texts=TextInputs(texts, encode),
    )
    found = evaluate(whole, n_resamples=20)
    assert [each.method for each in found.alignments] == ["integrated_gradients"]
    assert [side.within for side in found.completeness] == [1, 1]
    for example in found.texts:
        text = texts[example.row]
        assert example.tokens == SHOWN[example.row]
        about = CLASSES.index(example.explained)
        for model, attribution in ((student, example.student), (teacher, example.teacher)):
            ids = [int(number) for number in encode([text])["input_ids"][0][1:-1]]
            moved = model.words.weight[ids] - model.words.weight[0]
            expected = moved @ model.head.weight[about] / (len(ids) + 2)
            np.testing.assert_allclose(attribution, expected.numpy(), atol=1e-5)


def test_tokens_without_a_known_word_are_shown_as_ids():
    texts = ["good film", "bad film"]
    values = encode(texts)
    model = frozen(MeanOfWords(0))
    task = TextClassification(CLASSES)
    found = evaluate(context(model, values=values, task=task), n_resamples=5)
    assert found.texts[0].tokens == ("#1", "#3", "#5", "#2")
    other = TextInputs(["another text", "film bad"], encode_some(encode))
    found = evaluate(context(model, values=values, task=task, texts=other), n_resamples=5)
    assert found.texts[1].tokens == ("#4", "#5")


def encode_some(encode_):
    def of(texts):
        return encode_([" ".join(w for w in t.split() if w in VOCABULARY) for t in texts])

    return of


def test_an_embedding_that_does_not_receive_the_token_ids_is_not_found():
    model = frozen(MeanOfWords(0))
    torch_model = TorchModel(model, TextClassification(CLASSES))
    batch = {name: torch.from_numpy(part) for name, part in encode(["good film"]).items()}
    assert maps.word_embedding(torch_model, batch) is model.words

    class Bag(nn.Module):
        def forward(self, input_ids, attention_mask):
            return nn.functional.one_hot(input_ids, 20).float().sum(1)[:, :3]

    assert maps.word_embedding(TorchModel(Bag(), TextClassification(CLASSES)), batch) is None
    whole = context(Bag(), values=encode(["good film"]), task=TextClassification(CLASSES))
    assert evaluate(whole, n_resamples=5).comparisons == ()
