"""A table through all stages: features, a small student, fairness, and use without limbeck."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from limbeck.pipeline.runner import run
from limbeck.pipeline.validate import validate
from limbeck.report.load import load_run

ROWS = 400


def drawn() -> pd.DataFrame:
    """Draw people of whom the young and, of these, the women are more often refused."""
    random = np.random.default_rng(0)
    age = random.integers(18, 80, ROWS)
    sex = random.choice(["f", "m"], ROWS)
    job = random.choice(["clerk", "cook", "nurse"], ROWS)
    score = age / 20 + (sex == "m") + (job == "clerk") + random.normal(0, 0.5, ROWS)
    given = np.where(score > np.median(score), "yes", "no")
    return pd.DataFrame({"age": age, "sex": sex, "job": job, "given": given})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quick_measuring):
    place = tmp_path_factory.mktemp("table")
    drawn().to_csv(place / "people.csv", index=False)
    net = {"source": "limbeck", "name": "tabular_mlp"}
    recipe = {
        "name": "table",
        "task": "tabular_classification",
        "data": {
            "source": "csv",
            "files": {"train": str(place / "people.csv")},
            "columns": {"label": "given"},
            "classes": ["no", "yes"],
            "table": {"numeric": ["age"], "categorical": ["job"]},
            "sensitive_features": ["sex"],
        },
        "teacher": {**net, "width": 8},
        "student": {**net, "width": 4, "depth": 1},
        "threads": 1,
        "stages": [
            {"train_teacher": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01}},
            {"distill": {"epochs": 1, "batch_size": 16, "baseline": False}},
            {"quantize": {"method": "int8_static", "calibration": 64}},
            {"export": {"format": "onnx"}},
            {"evaluate": {"evaluations": ["fairness"]}},
        ],
    }
    out = place / "run"
    run(validate(recipe), out=out)
    return out


def test_the_groups_of_the_test_rows_reach_the_fairness_evaluation(folder):
    result = load_run(folder)
    (fairness,) = result.evaluation.results
    found = json.loads(fairness.model_dump_json())["result"]
    (attribute,) = found["attributes"]
    assert attribute["name"] == "sex"
    assert {group["name"] for group in attribute["groups"]} == {"f", "m"}
    assert sum(group["samples"] for group in attribute["groups"]) == result.data.test


def test_the_page_shows_a_row_on_which_the_two_differ_as_its_columns(folder):
    result = load_run(folder)
    for one in result.disagreements:
        assert re.fullmatch(r"age: \d+, job: \w+", one.text)


def test_the_code_on_the_card_runs_alone(folder, tmp_path):
    """Both snippets, where limbeck cannot be imported, give the class that the file here gives."""
    from limbeck.data.preprocess import load
    from limbeck.export.predictor import OnnxPredictor

    student = folder / "student"
    snippets = re.findall(r"```python\n(.*?)```", (student / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 2
    row = {"age": 70, "job": "pilot"}
    (student / "row.json").write_text(json.dumps(row))
    script = 'import sys\nsys.modules["limbeck"] = None\n' + "\n".join(snippets)
    script += "\nprint(logits.argmax().item())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=student, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    prepare = load(student)
    features = prepare([row])
    logits = OnnxPredictor(student / "model.onnx").predict(features)["logits"]
    assert done.stdout.splitlines()[0] == f"classes {[prepare.classes[logits.argmax()]]}"
