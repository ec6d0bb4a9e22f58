"""The tags and entities of a served tagger, for texts and for lists of words."""

from __future__ import annotations

import json

import datasets
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from limbeck import InputError, load_student
from limbeck.cli import _app
from limbeck.data.load import load
from limbeck.data.spec import DataSpec
from limbeck.export.onnx import embed_classes, to_onnx
from limbeck.tasks.token_classification import TokenClassification

CLASSES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ROWS = {
    "tokens": [["Ana", "María", "vive", "en", "Madrid", "."], ["Roma", "y", "Madrid"]] * 3,
    "ner_tags": [["B-PER", "I-PER", "O", "O", "B-LOC", "O"], ["B-LOC", "O", "B-LOC"]] * 3,
    "part": ["train", "train", "val", "val", "test", "test"],
}


class Known(nn.Module):
    """Predicts the tag that a word's number had in training."""

    def __init__(self, data) -> None:
        super().__init__()
        self.table = nn.Embedding(data.preprocess.vocab_size, 5)
        self.table.weight.data.zero_()
        self.table.weight.data[:, 0] = 1.0
        batch = data.train.__getitems__([0, 1])
        for number, label in zip(batch["input_ids"].ravel(), batch["labels"].ravel(), strict=True):
            if label >= 0:
                self.table.weight.data[number] = 5 * torch.eye(5)[label]

    def forward(self, input_ids, attention_mask):
        return self.table(input_ids).transpose(1, 2)


def shipped(folder, **tokens):
    datasets.Dataset.from_dict(ROWS).to_parquet(folder / "rows.parquet")
    spec = DataSpec(
        source="parquet",
        files={"train": str(folder / "rows.parquet")},
        split_column="part",
        max_overlap=1,
        tokens={"max_length": 8, **tokens},
        tags={"classes": CLASSES},
    )
    data = load(spec, workdir=folder)
    task = TokenClassification(CLASSES)
    to_onnx(Known(data), task, data.train.__getitems__([0, 1]), folder / "model.onnx")
    embed_classes(folder / "model.onnx", CLASSES)
    data.preprocess.save(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shipped(tmp_path_factory.mktemp("student"), vocabulary={"min_count": 1, "buckets": 0})


@pytest.fixture(scope="module", params=["words", "pieces"])
def student(request, folder, tmp_path_factory):
    if request.param == "pieces":
        folder = shipped(
            tmp_path_factory.mktemp("pieces"),
            tokenizer={"train": {"vocab_size": 60}},
            max_length=16,
        )
    return load_student(folder)


def test_a_text_has_entities_with_their_text(student):
    found = student.predict("Hoy Ana María   vive en Roma.")
    assert found.words == ("Hoy", "Ana", "María", "vive", "en", "Roma", ".")
    assert found.tags == ("O", "B-PER", "I-PER", "O", "O", "B-LOC", "O")
    person, place = found.entities
    assert (person.label, person.text, person.start, person.end) == ("PER", "Ana María", 1, 3)
    assert (place.label, place.text) == ("LOC", "Roma")
    assert found.probabilities[1] == pytest.approx(0.974, abs=1e-3)  # of logits 5 and four of 0


def test_a_list_of_texts_and_lists_of_words_are_a_batch(student):
    words = ["Ana", "María", "vive"]
    found = student.predict([words, "Roma", {"tokens": ["en", "Roma"]}])
    assert [one.tags for one in found] == [("B-PER", "I-PER", "O"), ("B-LOC",), ("O", "B-LOC")]
    assert found[0].entities[0].text == "Ana María"
    assert student.predict(words)[0].words == ("Ana",)  # three texts
    alone = [student.predict([one])[0].probabilities for one in (words, "Roma")]
    assert found[0].probabilities == pytest.approx(alone[0])
    assert found[1].probabilities == pytest.approx(alone[1])


def test_words_beyond_the_cut_have_no_prediction(folder):
    words = ["Roma"] * 11
    found = load_student(folder).predict([words])[0]
    assert found.words == tuple(words)
    assert found.tags == ("B-LOC",) * 8 + (None,) * 3
    assert found.probabilities[8:] == (None,) * 3
    assert len(found.entities) == 8
    assert found.row["tags"].endswith("B-LOC - - -")


def test_tags_are_json_and_a_row(folder):
    student = load_student(folder)
    found = student.predict(["Ana vive"])[0]
    content = json.loads(json.dumps(found.content()))
    assert content["words"] == ["Ana", "vive"]
    assert content["tags"] == ["B-PER", "O"]
    assert content["entities"] == [{"label": "PER", "text": "Ana", "start": 0, "end": 1}]
    assert tuple(found.row) == student.columns == ("entities", "tags")
    assert found.row == {"entities": "PER Ana", "tags": "B-PER O"}
    with pytest.raises(InputError, match="Use predict"):
        student.predict_proba(["Ana vive"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "at least one word"),
        ([["Ana"], []], r"inputs\[1\]: got \[\]; allowed: .*at least one word"),
        ([["Ana", 7]], r"inputs\[0\]: got .*a list of words"),
        ({"words": ["Ana"]}, "input: got .*a text, or a list of words"),
    ],
)
def test_an_input_without_words_is_refused(folder, value, message):
    with pytest.raises(InputError, match=message):
        load_student(folder).predict(value)


def test_the_command_reads_texts_and_files_of_words(folder, tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"tokens": ["Ana", "vive"]}) + "\n" + json.dumps({"tokens": []}) + "\n"
    )

    def run(*arguments, **settings):
        return CliRunner().invoke(
            _app(), ["predict", str(folder), *map(str, arguments)], **settings
        )

    found = run("Roma y Madrid", "--json")
    assert json.loads(found.stdout)["tags"] == ["B-LOC", "O", "B-LOC"]
    found = run(tmp_path / "rows.jsonl", "--json")
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert lines[0]["tags"] == ["B-PER", "O"]
    assert "at least one word" in lines[1]["error"]
    assert found.exit_code == 2
    piped = run("-", input='["Ana", "María"]\n')
    assert "PER Ana María" in piped.stdout
