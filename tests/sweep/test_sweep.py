"""A whole sweep: real runs of a small recipe, and replaced runs where only the study matters."""

import json
import os
from pathlib import Path

import pytest

from limbeck.core.files import WriteError
from limbeck.errors import LimbeckError
from limbeck.pipeline.load_recipe import resolve
from limbeck.report.load import load_run
from limbeck.report.sweep import SweepResult
from limbeck.sweep.budget import limits_of
from limbeck.sweep.plan import figures_of, plan
from limbeck.sweep.sampler import Sampler, Selected
from limbeck.sweep.space import space_of

pytest.importorskip("optuna", reason="the extra `sweep` is not installed: no optuna")

from limbeck.sweep import conclude
from limbeck.sweep import run as work
from limbeck.sweep.run import sweep


def grid_of(tiny, out, *varied, costs=("size", "latency"), **more):
    recipe = resolve(str(tiny))
    given = {"sampler": Sampler.grid, **more}
    return plan(recipe, space_of(varied, None), costs=costs, out=out, **given)


@pytest.fixture(scope="module")
def swept(quick, tiny, tmp_path_factory):
    """Return a plan of three trials, one of which cannot be built, and its result."""
    planned = grid_of(tiny, tmp_path_factory.mktemp("swept") / "sweep", "student.width=2,0,3")
    return planned, sweep(planned, limits=limits_of("size_kb=1000"))


@pytest.mark.slow
def test_a_failed_trial_has_a_reason_and_does_not_stop_the_sweep(swept):
    _, result = swept
    assert [trial.state for trial in result.trials] == ["done", "failed", "done"]
    assert [trial.settings["student.width"] for trial in result.trials] == [2, 0, 3]
    assert "student" in result.trials[1].reason
    assert result.trials[1].figures is None


def test_the_teacher_is_trained_once(swept):
    planned, _ = swept
    first, second = (
        planned.folder(n) / "stages/01-train_teacher/model.safetensors" for n in (0, 2)
    )
    assert os.path.samefile(first, second)
    students = [planned.folder(n) / "stages/02-distill/model.safetensors" for n in (0, 2)]
    assert not os.path.samefile(*students)


def test_a_trial_is_a_run_selected_on_validation(swept):
    planned, result = swept
    for trial in result.done:
        run = load_run(planned.folder(trial.number))
        assert run.recipe["student"]["width"] == trial.settings["student.width"]
        shipped = run.shipped.measured[0]
        found = trial.figures
        assert found.score == shipped.validation_score
        file = planned.folder(trial.number) / "student/model.onnx"
        assert found.size == file.stat().st_size
        assert found.teacher_score == run.teacher.measured[0].validation_score
        assert found.latency > 0


def test_the_test_samples_do_not_select(swept):
    planned, result = swept
    run = load_run(planned.folder(0))
    perfect = run.shipped.measured[0].score.model_copy(update={"value": 1.0})
    better = run.shipped.measured[0].model_copy(update={"scores": (perfect,)})
    shipped = run.shipped.model_copy(update={"measured": (better,)})
    changed = run.model_copy(update={"chain": (*run.chain[:-1], shipped)})
    assert figures_of(changed) == figures_of(run)
    scores = [one.model_copy(update={"validation_score": 0.25}) for one in run.shipped.measured]
    baseline = run.shipped.model_copy(update={"measured": tuple(scores)})
    tuned = figures_of(run.model_copy(update={"baseline": baseline}), Selected.baseline)
    assert tuned == figures_of(run).model_copy(update={"score": 0.25})
    with pytest.raises(LimbeckError, match="--select baseline: the run trained no label-only"):
        figures_of(run, Selected.baseline)
    chosen = result.chosen
    assert chosen.test == load_run(planned.folder(chosen.number)).shipped.measured[0].score


def test_the_chosen_student_is_copied_completely(swept):
    planned, result = swept
    source = planned.folder(result.chosen.number) / "student"
    names = sorted(path.name for path in source.iterdir())
    assert sorted(path.name for path in (planned.out / "chosen").iterdir()) == names
    for name in names:
        assert (planned.out / "chosen" / name).read_bytes() == (source / name).read_bytes()
    assert not [path for path in planned.out.iterdir() if path.name.startswith(".chosen")]


def test_the_files_contain_the_result(swept):
    planned, result = swept
    text = (planned.out / "sweep.json").read_text()
    assert SweepResult.model_validate_json(text) == result
    assert "Every trial" in (planned.out / "sweep.html").read_text(encoding="utf-8")


def test_a_repeated_sweep_repeats_no_trial(swept, quick):
    planned, before = swept

    def stamps() -> dict[Path, int]:
        found = (planned.out / "trials").rglob("*.json")
        return {path: path.stat().st_mtime_ns for path in found}

    stamps_before = stamps()
    after = sweep(planned)
    assert stamps() == stamps_before
    assert after.chosen is None
    for one, other in zip(before.done, after.done, strict=True):
        assert one.figures.model_copy(update={"latency": 0}) == other.figures.model_copy(
            update={"latency": 0}
        )
    assert (planned.out / "chosen").exists(), "without a budget an earlier choice is kept"


def test_a_budget_that_no_trial_meets_removes_the_choice(swept):
    planned, _ = swept
    (planned.out / "chosen").mkdir(exist_ok=True)
    result = sweep(planned, limits=limits_of("size_kb=0.001"))
    assert not result.chosen.fits
    assert result.chosen.test is None
    assert not (planned.out / "chosen").exists()
    saved = json.loads((planned.out / "sweep.json").read_text())
    assert saved["chosen"]["checks"][0]["met"] is False


@pytest.fixture
def made_up(monkeypatch, figures):
    """Replace runs by figures computed from the width, or an error."""
    done = []

    def install(figures_at):
        def run(_, taken, __):
            done.append(taken.number)
            return figures(**figures_at(taken.settings["student.width"]))

        monkeypatch.setattr(work, "_figures", run)
        monkeypatch.setattr(conclude, "timed", lambda places: None)
        return done

    return install


def plain(width):
    return {"accuracy": 1 - 1 / width, "size": 100 * width, "latency": 0.1 * width}


def test_measured_latency_changes_the_front(tiny, tmp_path, made_up):
    made_up(lambda w: {"accuracy": 0.9, "size": 100 * w, "latency": 1 / w})
    varied = "student.width=2..4"
    small = sweep(grid_of(tiny, tmp_path / "a", varied, costs=("size",)))
    assert [trial.number for trial in small.front] == [0]
    both = sweep(grid_of(tiny, tmp_path / "b", varied))
    assert [trial.number for trial in both.front] == [0, 1, 2]
    assert both.views[1].front == (2,)


def test_latencies_within_the_noise_do_not_dominate(tiny, tmp_path, made_up):
    latency = {2: 0.1000, 3: 0.1001, 4: 0.2}
    made_up(lambda w: {"accuracy": 0.9 - w / 100, "size": 100 * w, "latency": latency[w]})
    result = sweep(grid_of(tiny, tmp_path / "a", "student.width=2..4"))
    assert [trial.number for trial in result.front] == [0]


def test_only_the_interrupted_trial_is_repeated(tiny, tmp_path, made_up):
    interrupts = [3]

    def figures_at(width):
        if width in interrupts:
            interrupts.remove(width)
            raise KeyboardInterrupt
        return plain(width)

    done = made_up(figures_at)
    planned = grid_of(tiny, tmp_path / "sweep", "student.width=2..5")
    with pytest.raises(KeyboardInterrupt):
        sweep(planned)
    assert done == [0, 1]
    result = sweep(planned)
    assert done == [0, 1, 1, 2, 3]
    assert len(result.done) == 4


def test_a_full_disk_ends_the_sweep_and_fails_no_trial(tiny, tmp_path, made_up):
    full = [True]

    def figures_at(width):
        if full:
            raise WriteError("the disk is full")
        return plain(width)

    made_up(figures_at)
    planned = grid_of(tiny, tmp_path / "sweep", "student.width=2..3")
    with pytest.raises(WriteError):
        sweep(planned)
    full.clear()
    assert len(sweep(planned).done) == 2


def test_if_all_trials_fail_the_reason_is_reported(tiny, tmp_path, made_up):
    def figures_at(width):
        raise RuntimeError(f"no operator for {width}")

    made_up(figures_at)
    with pytest.raises(LimbeckError, match=r"All 2 trials failed. Trial 0: RuntimeError: no oper"):
        sweep(grid_of(tiny, tmp_path / "sweep", "student.width=2..3"))


def test_no_trial_begins_after_the_timeout(tiny, tmp_path, made_up):
    done = made_up(plain)
    planned = grid_of(tiny, tmp_path / "sweep", "student.width=2..5", timeout=0.0)
    with pytest.raises(LimbeckError, match="the same command continues"):
        sweep(planned)
    assert done == []
