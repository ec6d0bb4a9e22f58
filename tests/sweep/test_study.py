"""The study: no trial runs twice, and none is lost when a worker dies."""

import os
import signal
import sys

import pytest

from limbeck.errors import InputError
from limbeck.pipeline.load_recipe import resolve
from limbeck.sweep.plan import plan
from limbeck.sweep.sampler import Sampler
from limbeck.sweep.space import key, space_of

pytest.importorskip("optuna", reason="the extra `sweep` is not installed: no optuna")

from limbeck.sweep.study import Study

WIDTHS = ("student.width=2..9", "stages.quantize.ranges=minmax,entropy")


@pytest.fixture(autouse=True, scope="module")
def _unsynchronized():
    """Disable synchronous writes, which take most of the time and are not tested."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def relaxed(connection, _):
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relaxed)
    yield
    event.remove(Engine, "connect", relaxed)


@pytest.fixture
def planned(tmp_path):
    def make(*varied: str, **more):
        given = {"costs": ("size", "latency"), "out": tmp_path / "sweep", **more}
        return plan(resolve("digits"), space_of(varied or WIDTHS, None), **given)

    return make


@pytest.fixture
def figures_at(figures):
    """Compute figures from settings: a wider student is more accurate and costs more."""

    def found(settings):
        width = settings["student.width"]
        return figures(1 - 1 / width, 1000 * width, 0.01 * width)

    return found


def run_all(study, figures_at, most=99):
    """Run trials, and return the settings of each."""
    done = []
    with study.registered():
        while len(done) < most and (taken := study.take()) is not None:
            study.finish(taken, figures_at(taken.settings), 1.0)
            done.append(taken.settings)
    return done


@pytest.mark.parametrize("sampler", list(Sampler))
def test_the_number_of_trials_is_reached_without_repetition(planned, figures_at, sampler):
    study = Study(planned(trials=14, sampler=sampler))
    done = run_all(study, figures_at)
    assert len({key(settings) for settings in done}) == len(done) == 14
    assert [trial.number for trial in study.trials()] == list(range(14))
    assert all(trial.state == "done" for trial in study.trials())
    assert all(2 <= one["student.width"] <= 9 for one in done)


@pytest.mark.parametrize("sampler", list(Sampler))
def test_an_exhausted_space_ends_the_sweep(planned, figures_at, sampler):
    study = Study(planned("student.width=2..6", trials=40, sampler=sampler))
    done = run_all(study, figures_at)
    assert sorted(one["student.width"] for one in done) == [2, 3, 4, 5, 6]


def test_choices_of_any_type_are_preserved(planned, figures_at):
    varied = ("student.width=2,3", "seeds=[0],[0, 1]", "stages.distill.learning_rate=0.1..0.3:0.1")
    done = run_all(Study(planned(*varied, sampler=Sampler.grid)), figures_at)
    assert len(done) == 12
    assert {tuple(one["seeds"]) for one in done} == {(0,), (0, 1)}
    assert {one["stages.distill.learning_rate"] for one in done} == {0.1, 0.2, 0.3}


@pytest.mark.parametrize("sampler", [Sampler.tpe, Sampler.nsga2])
def test_a_resumed_sweep_chooses_as_an_uninterrupted_one(planned, figures_at, tmp_path, sampler):
    varied = ("student.width=2..99",)
    whole = run_all(
        Study(planned(*varied, out=tmp_path / "a", sampler=sampler, trials=12)), figures_at
    )
    first = planned(*varied, out=tmp_path / "b", sampler=sampler, trials=12)
    parts = run_all(Study(first), figures_at, most=6)
    parts += run_all(Study(first), figures_at)
    assert parts == whole
    other = planned(*varied, out=tmp_path / "c", sampler=sampler, trials=12, seed=1)
    assert run_all(Study(other), figures_at) != whole


def test_more_trials_can_be_requested_later(planned, figures_at):
    assert len(run_all(Study(planned(trials=3)), figures_at)) == 3
    assert len(run_all(Study(planned(trials=5)), figures_at)) == 2
    assert run_all(Study(planned(trials=5)), figures_at) == []


def test_a_failed_trial_keeps_its_reason_and_is_not_repeated(planned):
    study = Study(planned("student.width=2..3"))
    with study.registered():
        for _ in range(2):
            study.fail(study.take(), "it cannot be exported", 2.0)
        assert study.take() is None
    assert {trial.reason for trial in study.trials()} == {"it cannot be exported"}
    assert {trial.state for trial in study.trials()} == {"failed"}


def test_two_workers_never_take_the_same_trial(planned, figures_at):
    made = planned("student.width=2..7", trials=6)
    one, other = Study(made), Study(made)
    with one.registered(), other.registered():
        taken = [(study, study.take()) for study in (one, other) * 3]
        assert one.take() is other.take() is None
        assert len({trial.number for _, trial in taken}) == 6
        assert len({key(trial.settings) for _, trial in taken}) == 6
        for study, trial in taken:
            study.finish(trial, figures_at(trial.settings), 1.0)
    assert len(one.trials()) == 6


def killed(made, note):
    """Fork a worker that takes a trial, writes its number and width, and is killed."""
    number = os.fork()
    if number == 0:
        study = Study(made)
        with study.registered():
            taken = study.take()
            note.write_text(f"{taken.number} {taken.settings['student.width']}")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(number, 0)
    return map(int, note.read_text().split())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process can be forked on this system")
def test_a_trial_of_a_killed_worker_is_repeated_under_its_number(planned, figures_at, tmp_path):
    made = planned("student.width=2..9", trials=4)
    study = Study(made)
    with study.registered():
        alive = study.take()
        number, width = killed(made, tmp_path / "note")
        assert [trial.state for trial in study.trials()] == ["running", "running"]
        # Another worker finds it, and leaves the one whose worker is alive.
        other = Study(made)
        with other.registered():
            again = other.take()
            assert (again.number, again.settings["student.width"]) == (number, width)
            other.finish(again, figures_at(again.settings), 1.0)
            fresh = other.take()
            assert fresh.number not in {alive.number, number}
            other.finish(fresh, figures_at(fresh.settings), 1.0)
        study.finish(alive, figures_at(alive.settings), 1.0)
    states = {trial.number: trial.state for trial in study.trials()}
    assert states == {0: "done", 1: "done", 2: "done"}
    assert len(run_all(Study(made), figures_at)) == 1
    assert not list((made.out / ".workers").iterdir())


@pytest.mark.parametrize(
    ("varied", "more", "word"),
    [
        (("student.width=2..8", WIDTHS[1]), {}, "--vary"),
        (WIDTHS, {"costs": ("size", "flops")}, "--minimize"),
    ],
)
def test_a_study_of_another_plan_is_refused(planned, figures_at, varied, more, word):
    run_all(Study(planned(trials=1)), figures_at)
    with pytest.raises(InputError, match=word):
        Study(planned(*varied, **more))


def test_another_recipe_is_refused_but_another_budget_is_not(planned, figures_at, tmp_path):
    first = planned(trials=1)
    run_all(Study(first), figures_at)

    def again(*sets):
        return plan(
            resolve("digits", sets), first.space, costs=first.costs, out=first.out, trials=1
        )

    Study(again("budget={size_kb: 3}", "name=other"))
    with pytest.raises(InputError, match=r"recipe.*another --out"):
        Study(again("stages.train_teacher.epochs=3"))


def test_the_missing_extra_is_named(planned, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="sweep"):
        Study(planned())
