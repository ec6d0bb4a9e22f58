"""The evidence of a run: evaluations and their repetition, policy, metadata, signature."""

import json
import re
import shutil
from contextlib import nullcontext

import pytest
from typer.testing import CliRunner

from limbeck.cli import _app
from limbeck.errors import InputError
from limbeck.passport import PASSPORT, make_keys, read_stamp, sign, verify
from limbeck.pipeline.evaluation import reevaluate
from limbeck.pipeline.load_recipe import resolve
from limbeck.pipeline.progress import NullReporter
from limbeck.pipeline.runner import run
from limbeck.pipeline.stages.evaluate import Evaluate
from limbeck.report.load import load_run
from limbeck.report.verdict import verdict_lines


class Listening(NullReporter):
    """Records the log lines."""

    def __init__(self):
        self.lines = []

    def log(self, text):
        self.lines.append(text)


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def names(result):
    return [one.evaluation for one in result.evaluation.results]


def test_a_run_evaluates_as_its_recipe_states(finished):
    result = load_run(finished)
    assert names(result) == ["fidelity", "calibration"]
    assert 'id="on-fidelity"' in (finished / "report.html").read_text()


def test_a_finished_run_is_evaluated_further_and_nothing_is_lost(copied):
    before = load_run(copied)
    reevaluate(copied, Evaluate(evaluations=["fairness"]), watch=NullReporter())
    after = load_run(copied)
    assert names(after) == ["fidelity", "calibration", "fairness"]
    assert after.evaluation.results[:2] == before.evaluation.results
    assert 'id="on-fairness"' in (copied / "report.html").read_text()
    watch = Listening()
    reevaluate(copied, Evaluate(evaluations=["fairness"]), watch=watch)
    assert "evaluation 1/1 fairness: unchanged, reused" in watch.lines


class InterruptedAt(NullReporter):
    """Interrupts when a part of the run begins, as Ctrl-C does."""

    def __init__(self, part):
        self.part = part

    def begin(self, part):
        if part.startswith(self.part):
            raise KeyboardInterrupt


SETTINGS = [
    "profile=smoke",
    "stages.evaluate.evaluations={fidelity: {pairs: 3}, fairness: {}, calibration: {bins: 10}}",
]


def test_an_interrupted_run_has_its_report_and_the_evaluations_that_ended(copied):
    recipe = resolve("vision/digits", SETTINGS)
    for name in ("run.json", "report.html"):
        (copied / name).unlink()
    with pytest.raises(KeyboardInterrupt):
        run(recipe, out=copied, watch=InterruptedAt("evaluation 1/3"))
    assert load_run(copied).evaluation is None
    assert (copied / "report.html").is_file()
    with pytest.raises(KeyboardInterrupt):
        run(recipe, out=copied, watch=InterruptedAt("evaluation 3/3"))
    cut = load_run(copied).evaluation
    assert [one.evaluation for one in cut.results] == ["fidelity", "fairness"]
    assert cut.pending == ("calibration",)
    assert "Not done yet" in (copied / "report.html").read_text()
    watch = Listening()
    result = run(recipe, out=copied, watch=watch)
    assert result.evaluation.results[:2] == cut.results
    assert names(result) == ["fidelity", "fairness", "calibration"]
    assert "evaluation 2/3 fairness: unchanged, reused" in watch.lines
    [line] = [one for one in watch.lines if one.startswith("evaluation 3/3")]
    assert re.search(r"calibration: [\d,]+ predictions of each model, about \d+ s", line)


class Removing(NullReporter):
    """Removes a file when a line is reported: after everything that is checked in advance."""

    def __init__(self, path, line):
        self.path, self.line = path, line

    def log(self, line):
        if line.startswith(self.line):
            self.path.unlink()


@pytest.fixture
def previous(copied, tmp_path):
    """The student that devices hold now, as the evaluation of the cost takes it."""
    return shutil.copy(copied / "student" / "model.onnx", tmp_path / "previous.onnx")


def test_an_evaluation_that_fails_is_recorded_and_the_others_go_on(copied, previous):
    evaluations = f"{{cost: {{previous: {previous}}}, calibration: {{}}}}"
    recipe = resolve(
        "vision/digits", ["profile=smoke", f"stages.evaluate.evaluations={evaluations}"]
    )
    result = run(recipe, out=copied, watch=Removing(previous, "examination"))
    [failed] = load_run(copied).evaluation.failed
    assert failed.evaluation == "cost"
    assert str(previous) in failed.reason
    assert names(load_run(copied)) == names(result) == ["calibration"]
    assert "Failed: " in (copied / "report.html").read_text()
    assert "FAILED: evaluation cost" in "\n".join(verdict_lines(result))


def test_a_failed_evaluation_ends_with_1_and_is_done_again(copied, previous, monkeypatch):
    watch = Removing(previous, "Reading")
    monkeypatch.setattr("limbeck.cli.evaluate.watch", lambda **settings: nullcontext(watch))
    options = ["--evaluations", "cost,fairness", "--set", f"cost.previous={previous}"]
    ended = CliRunner().invoke(_app(), ["evaluate", str(copied), *options])
    assert ended.exit_code == 1, ended.output
    assert "FAILED: evaluation cost" in ended.output
    assert names(load_run(copied)) == ["fidelity", "calibration", "fairness"]
    reevaluate(copied, Evaluate(evaluations=["cost"]), watch=NullReporter())
    assert names(load_run(copied)) == ["fidelity", "calibration", "fairness", "cost"]
    assert load_run(copied).evaluation.failed == ()


def test_a_stage_that_was_touched_is_named(copied):
    [model] = (copied / "stages").glob("*-distill/model.onnx")
    model.write_bytes(model.read_bytes() + b"x")
    with pytest.raises(InputError, match=r"model\.onnx was changed"):
        reevaluate(copied, Evaluate(evaluations=["fairness"]), watch=NullReporter())


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="run"):
        reevaluate(tmp_path, Evaluate(evaluations=["fairness"]), watch=NullReporter())


def test_terms_that_forbid_distilling_stop_a_run_before_it_trains(tmp_path):
    forbidden = "provenance.teachers=[{owner: Example, terms: [no-distillation]}]"
    recipe = resolve("digits", ["profile=smoke", forbidden])
    with pytest.raises(InputError, match="no-distillation"):
        run(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()


def test_a_policy_of_one_s_own_stops_it_too(tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("owners: {forbid: [Example]}\n")
    settings = ["provenance.teachers=[{owner: Example}]", f"provenance.policy={policy}"]
    with pytest.raises(InputError, match="Example"):
        run(resolve("digits", ["profile=smoke", *settings]), out=tmp_path / "run")


def test_the_files_carry_their_passport_in_short(finished):
    passport = json.loads((finished / "student" / PASSPORT).read_text())
    for name in ("model.onnx", "model.safetensors"):
        stamp = read_stamp(finished / "student" / name)
        assert stamp.name == passport["metadata"]["component"]["name"]
        assert [root for root, _ in stamp.roots] == ["digits_cnn"]


def test_the_passport_states_carbon_and_what_did_not_work(finished):
    text = (finished / "student" / PASSPORT).read_text()
    assert "475" in text
    assert "IEA" in text


def test_a_signed_student_is_verified(copied, tmp_path):
    pytest.importorskip("model_signing", reason='signing needs the extra "sign"')
    make_keys(tmp_path / "private.pem", tmp_path / "public.pem")
    student = copied / "student"
    sign(student, tmp_path / "private.pem")
    assert verify(student, key=tmp_path / "public.pem").ok
    weights = student / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    found = verify(student, key=tmp_path / "public.pem").issues
    assert found[0].where == "model.safetensors"
