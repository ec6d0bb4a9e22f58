"""Terminal, model card and comparison: the same figures as on the page."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from limbeck.core.measurement import Metric
from limbeck.evaluate.intervals import summarize
from limbeck.report import verdict
from limbeck.report.card import render_card
from limbeck.report.compare import HEAD, as_records, render_comparison, render_comparison_page
from limbeck.report.page import render_page
from limbeck.report.result import BudgetCheck, RunResult
from limbeck.report.usage import usage as default_usage
from limbeck.report.verdict import figures, verdict_lines
from limbeck.tasks.scores import ACCURACY

HOSTILE = "a|b <script>alert(1)</script> *c*\n# d"


def front_matter(card: str) -> dict[str, object]:
    start, block, _ = card.split("---\n", 2)
    assert start == ""
    return dict(yaml.safe_load(block))


def with_size(result: RunResult, size: int) -> RunResult:
    """Return the result with an exported file of another size."""
    last = result.chain[-1]
    measured = last.measured[0]
    cost = measured.cost.model_copy(update={"size_bytes": size})
    changed = last.model_copy(update={"measured": (measured.model_copy(update={"cost": cost}),)})
    return result.model_copy(update={"chain": (*result.chain[:-1], changed)})


def test_the_verdict_is_one_sentence(
    digits: RunResult, texts: RunResult, minimal: RunResult
) -> None:
    assert verdict.sentence(digits) == (
        "The student is 57 times smaller than its teacher and keeps 99.0 % of its accuracy, "
        "but misses its budget for accuracy drop."
    )
    assert verdict.sentence(texts).endswith("keeps 99.4 % of its accuracy, within its budget.")
    assert "had no teacher to compare it with" in verdict.sentence(minimal)


@pytest.mark.parametrize(
    ("students", "text"),
    [
        ((0.9815, 0.982, 0.9825), "exceeds its accuracy (100.2 % of it)"),
        ((0.975, 0.982, 0.989), "keeps all of its accuracy (100.2 % of it)"),
        ((0.982,), "keeps all of its accuracy (100.2 % of it)"),
    ],
)
def test_a_student_exceeds_its_teacher_only_if_significant(digits, monkeypatch, students, text):
    teacher = summarize([0.98] * len(students))
    changed = {
        "score": summarize(students),
        "teacher_score": teacher,
        "retained": 0.982 / 0.98,
    }
    found = dataclasses.replace(figures(digits), **changed)
    monkeypatch.setattr(verdict, "figures", lambda result: found)
    assert text in verdict.sentence(digits)


def test_a_share_of_a_bad_teachers_score_is_not_stated(digits, monkeypatch) -> None:
    changed = {
        "score": summarize([0.0289]),
        "teacher_score": summarize([0.0084]),
        "retained": 0.0289 / 0.0084,
    }
    found = dataclasses.replace(figures(digits), **changed)
    monkeypatch.setattr(verdict, "figures", lambda result: found)
    text = verdict.sentence(digits)
    assert "it reaches 2.9 % where its teacher reaches 0.8 %; possible causes are" in text
    assert "keeps" not in text


def test_a_budget_line_begins_as_its_metric_is_written() -> None:
    for name, title, text in (
        ("miou", "mIoU", "mIoU drop"),
        ("accuracy", "Accuracy", "Accuracy drop"),
    ):
        metric = Metric(name=name, title=title)
        check = BudgetCheck(
            name="drop", allowed=0, measured=0.02, unit="", met=False, metric=metric
        )
        assert verdict.budget_heading(check) == text
    size = BudgetCheck(name="size_kb", allowed=40, measured=38, unit="kB", met=True)
    assert verdict.budget_heading(size) == "Size"


def test_sections_of_classes_are_left_out_without_a_confusion_matrix(digits) -> None:
    chain = tuple(
        link.model_copy(
            update={
                "measured": tuple(
                    one.model_copy(update={"confusion": (), "calibration": None})
                    for one in link.measured
                )
            }
        )
        for link in digits.chain
    )
    changed = digits.model_copy(
        update={"chain": chain, "class_similarity": None, "disagreements": (), "baseline": None}
    )
    page = render_page(changed)
    for name in ("Confusion", "Class similarity", "Disagreements", "Reliability"):
        assert f">{name}" in render_page(digits)
        assert f">{name}" not in page


def test_a_student_that_is_larger_is_not_called_smaller(digits: RunResult) -> None:
    text = verdict.sentence(with_size(digits, 3_000_000))
    assert "no smaller than its teacher (2.0× its size)" in text


def test_the_terminal_shows_every_figure(result: RunResult) -> None:
    text = "\n".join(verdict_lines(result, report="runs/x/report.html"))
    assert text.startswith(verdict.sentence(result))
    for number in verdict.numbers(result):
        for part in (number.name, number.value, *number.details):
            assert part in text
    assert text.endswith("runs/x/report.html")
    assert "\x1b" not in text


def test_the_terminal_shows_every_budget_line(digits: RunResult, minimal: RunResult) -> None:
    text = "\n".join(verdict_lines(digits))
    assert "met: 26.1 kB of 40 kB allowed" in text
    assert "MISSED: 1.02 points of 0.5 points allowed" in text
    assert "none was set" in "\n".join(verdict_lines(minimal))


@pytest.mark.parametrize(
    ("name", "measured", "allowed", "unit", "text"),
    [
        ("score", 0.97, 0.98, "", "97.00 % of at least 98.00 %"),
        ("parameters", 6274.0, 10_000.0, "", "6,274 of 10,000 allowed"),
        ("latency_ms", 0.0712, 1.0, "ms", "0.0712 ms of 1 ms allowed"),
        ("drop", -0.0021, 0.01, "", "−0.21 points of 1 point allowed"),
    ],
)
def test_budget_lines_are_written_in_their_own_units(
    name: str, measured: float, allowed: float, unit: str, text: str
) -> None:
    metric = ACCURACY.metric if name in ("score", "drop") else None
    check = BudgetCheck(
        name=name,
        measured=measured,
        allowed=allowed,
        unit=unit,
        met=True,
        metric=metric,
        at_least=name == "score",
    )
    assert f"{verdict.amount(measured, check)} {verdict.requirement(check)}" == text


def test_the_card_has_front_matter_that_hugging_face_reads(result: RunResult) -> None:
    block = front_matter(render_card(result, licence="Apache-2.0"))
    assert block["license"] == "apache-2.0"
    assert block["metrics"] == ["accuracy"]
    assert "knowledge-distillation" in list(block["tags"])  # type: ignore[call-overload]
    (entry,) = block["model-index"]  # type: ignore[misc]
    assert entry["results"][0]["metrics"][0]["value"] == round(result.shipped.score.mean, 6)


def test_a_custom_licence_is_named(digits: RunResult) -> None:
    block = front_matter(render_card(digits, licence="Custom licence"))
    assert (block["license"], block["license_name"]) == ("other", "Custom licence")


def test_the_card_shows_every_figure(result: RunResult) -> None:
    card = render_card(result)
    assert verdict.sentence(result) in card
    for number in verdict.numbers(result):
        assert number.value in card
    assert result.data.licence in card
    assert "passport.json" in card


def test_notes_on_the_data_stand_with_the_data(digits: RunResult) -> None:
    card = render_card(digits.model_copy(update={"notes": digits.data.notes}))
    [note] = digits.data.notes
    assert card.count(note) == 1
    assert note in card.partition("## Data and licence")[2]


def test_the_card_escapes_names(digits: RunResult) -> None:
    card = render_card(digits.model_copy(update={"name": HOSTILE, "notes": (HOSTILE,)}))
    body = card.split("---\n", 2)[2]
    assert "<script>" not in body
    assert "\n# d" not in body
    assert front_matter(card)["model-index"][0]["name"] == HOSTILE  # type: ignore[index]


def test_the_cards_usage_can_be_given(digits: RunResult) -> None:
    assert "call the API" in render_card(digits, usage="call the API")


def test_the_card_states_the_command_that_predicts(digits: RunResult, texts: RunResult) -> None:
    assert "\nlimbeck predict . image.png\n" in render_card(digits)
    assert '\nlimbeck predict . "a warm and funny film"\n' in render_card(texts)
    assert "\nlimbeck predict . rows.csv\n" in default_usage("tabular_classification", "table")


def test_the_cards_snippets_compile(digits: RunResult, texts: RunResult) -> None:
    for result in (digits, texts):
        snippets = re.findall(r"```python\n(.*?)```", render_card(result), re.S)
        assert len(snippets) == 2
        for snippet in snippets:
            compile(snippet, "README.md", "exec")


def test_the_cards_first_snippet_runs_without_torch(digits: RunResult, tmp_path: Path) -> None:
    """The model sums each channel, so that its prediction depends on the order of the pixels."""
    onnx = pytest.importorskip("onnx")
    image = pytest.importorskip("PIL.Image")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceSum", ["image", "axes"], ["logits"], keepdims=0)],
        "sums",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, 4, 4])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.helper.set_model_props(model, {"classes": '["red", "green", "blue"]'})
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "preprocess.json").write_text(
        '{"size": [4, 4], "channels": 3, "divide_by": 255.0, "mean": [0.9, 0.0, 0.0],'
        ' "std": [1.0, 1.0, 1.0], "resample": "bilinear", "mode": "RGB"}'
    )
    image.fromarray(np.full((8, 8, 3), (250, 20, 90), np.uint8)).save(tmp_path / "image.png")
    snippet = re.findall(r"```python\n(.*?)```", render_card(digits), re.S)[0]
    (tmp_path / "use.py").write_text(f"{snippet}\nimport sys\nassert 'torch' not in sys.modules\n")
    done = subprocess.run(
        [sys.executable, "use.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "classes ['blue']"


def test_runs_are_compared_in_the_order_given(digits: RunResult, minimal: RunResult) -> None:
    lines = render_comparison([minimal, digits]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["bare", "digits"]
    assert all(line.count("|") == len(HEAD) + 1 for line in lines[:4])
    assert "57.2×" in lines[3]
    assert "not measured" in lines[2]


def test_confounders_of_a_comparison_are_listed(digits: RunResult, texts: RunResult) -> None:
    assert "differ in their tasks" in render_comparison([digits, texts])
    assert "differ" not in render_comparison([digits, digits])


def test_the_comparison_escapes_names(digits: RunResult) -> None:
    named = digits.model_copy(update={"name": HOSTILE})
    assert "<script>" not in render_comparison([named])
    page = render_comparison_page([named, digits])
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_runs_are_compared_as_plain_data_too(result: RunResult, minimal: RunResult) -> None:
    records = json.loads(json.dumps(as_records([result, minimal]), allow_nan=False))
    assert [record["run"] for record in records] == [result.name, minimal.name]
    assert records[0]["score"] == result.shipped.score.mean
    assert len(records[0]["budget"]) == len(result.budget)
