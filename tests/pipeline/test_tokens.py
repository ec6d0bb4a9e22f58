"""A recipe of token classification, from words in a file to a student that names entities."""

from __future__ import annotations

import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from torch import nn

from limbeck import load_student
from limbeck.data.modalities.tokens._preprocess import TokensPreprocess
from limbeck.errors import InputError
from limbeck.pipeline.dry_run import _budget_fits
from limbeck.pipeline.recipe import Budget
from limbeck.pipeline.runner import run
from limbeck.pipeline.student_files import try_folder
from limbeck.pipeline.validate import validate
from limbeck.report.load import load_run
from limbeck.tasks.token_classification import TokenClassification

NAMES = {"PER": ["Ana", "Juan", "Pablo", "Eva"], "LOC": ["Roma", "Madrid", "Lima", "Oslo"]}
FILLERS = ["vive", "en", "y", "hoy", "desde", "informa", "con", "la"]


def sentence(random):
    """Return words and tags: a name of two words begins with an entity of one."""
    words, tags = [], []
    for _ in range(random.integers(1, 6)):
        if random.random() < 0.5:
            kind = ("PER", "LOC")[random.integers(2)]
            length = random.integers(1, 3)
            words += random.choice(NAMES[kind], length).tolist()
            tags += [f"B-{kind}", f"I-{kind}"][:length]
        words.append(str(random.choice(FILLERS)))
        tags.append("O")
    return words, tags


def recipe(folder, **settings):
    random = np.random.default_rng(0)
    rows = [sentence(random) for _ in range(240)]
    table = {"tokens": [one for one, _ in rows], "ner_tags": [one for _, one in rows]}
    datasets.Dataset.from_dict(table).to_parquet(folder / "rows.parquet")
    content = {
        "name": "names",
        "task": "token_classification",
        "data": {
            "source": "parquet",
            "files": {"train": str(folder / "rows.parquet")},
            "max_overlap": 1,
            "tokens": {"max_length": 12, "tokenizer": {"train": {"vocab_size": 200}}},
            "tags": {},
        },
        "teacher": {
            "source": "transformers",
            "name": "bert",
            "num_hidden_layers": 1,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "expect": {"above_chance": False},
        },
        "student": {"source": "limbeck", "name": "token_tagger", "width": 16, "depth": 2},
        "budget": {"size_kb": 200, "drop": {"entity_f1": 0.3}},
        "seeds": [0],
        "threads": 1,
        "stages": [
            {"train_teacher": {"epochs": 3, "batch_size": 16, "learning_rate": 0.005}},
            {
                "distill": {
                    "epochs": 6,
                    "batch_size": 16,
                    "learning_rate": 0.01,
                    "cache_teacher": True,
                    "objective": [
                        {"task": {"weight": 0.9}},
                        {"soft_target_kl": {"temperature": 2.0, "weight": 0.1}},
                    ],
                }
            },
            {"quantize": {"method": "int8_dynamic"}},
            {"export": {"format": "onnx"}},
            {"evaluate": {"evaluations": ["cost"]}},
        ],
    }
    return validate({**content, **settings})


@pytest.mark.slow
def test_a_tagger_of_pieces_is_distilled_quantised_and_served(tmp_path, quick_measuring):
    run(recipe(tmp_path), out=tmp_path / "run")
    result = load_run(tmp_path / "run")
    assert result.metric.name == "entity_f1"
    assert result.shipped.score.mean > 0.8
    notes = " ".join(result.data.notes)
    assert notes.count("words cut at data.tokens.max_length, 12 pieces") == 1
    student = load_student(tmp_path / "run")
    found = student.predict("Ana vive en Madrid")
    assert [(one.label, one.text) for one in found.entities] == [("PER", "Ana"), ("LOC", "Madrid")]
    stored = json.loads((tmp_path / "run" / "student" / "preprocess.json").read_text())
    assert stored["tokenizer"] == "tokenizer.json"
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "Tokenizer.from_file" in card


def test_a_folder_of_transformers_is_refused_before_training(tmp_path):
    data = SimpleNamespace(preprocess=TokensPreprocess(8, vocab_size=3, vocabulary=("ana",)))
    with pytest.raises(
        InputError, match=r"export\.format: got 'huggingface, for data of the kind t"
    ):
        try_folder(nn.Identity(), SimpleNamespace(data=data), where="stages.export")


def test_a_budget_of_entities_is_refused_for_other_tags():
    task = TokenClassification(("NOUN", "VERB"))
    budget = Budget(score={"token_accuracy": 0.5}, drop={"entity_f1": 0.1})
    [problem] = _budget_fits(SimpleNamespace(task=task, recipe=SimpleNamespace(budget=budget)))
    assert str(problem) == (
        "budget.drop: got 'entity_f1'; allowed: scores of these data: token_accuracy"
    )


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"drop": {"entity_f2": 0.1}}, "entity_f1"),
        ({"score": {"entity_f1": 60}}, "a share from 0 to 1"),
    ],
)
def test_a_budget_names_a_score(tmp_path, budget, message):
    with pytest.raises(Exception, match=message):
        recipe(tmp_path, budget=budget)
