"""The book of trials: none twice, none lost, whoever dies."""

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
    """Do not wait for the disk at each step: that is most of the time, and not what is tested."""
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
def worth(figures):
    """Say what settings are worth: wider is better and dearer."""

    def found(settings):
        width = settings["student.width"]
        return figures(1 - 1 / width, 1000 * width, 0.01 * width)

    return found


def all_of(study, worth, most=99):
    """Do trials, and give the settings of each."""
    done = []
    with study.worked():
        while len(done) < most and (taken := study.take()) is not None:
            study.finish(taken, worth(taken.settings), 1.0)
            done.append(taken.settings)
    return done


@pytest.mark.parametrize("sampler", list(Sampler))
def test_there_are_as_many_trials_as_asked_for_and_none_twice(planned, worth, sampler):
    study = Study(planned(trials=14, sampler=sampler))
    done = all_of(study, worth)
    assert len({key(settings) for settings in done}) == len(done) == 14
    assert [trial.number for trial in study.trials()] == list(range(14))
    assert all(trial.state == "done" for trial in study.trials())
    assert all(2 <= one["student.width"] <= 9 for one in done)


@pytest.mark.parametrize("sampler", list(Sampler))
def test_a_space_that_is_used_up_ends_the_sweep(planned, worth, sampler):
    study = Study(planned("student.width=2..6", trials=40, sampler=sampler))
    done = all_of(study, worth)
    assert sorted(one["student.width"] for one in done) == [2, 3, 4, 5, 6]


def test_choices_that_no_sampler_knows_come_out_as_they_went_in(planned, worth):
    varied = ("student.width=2,3", "seeds=[0],[0, 1]", "stages.distill.learning_rate=0.1..0.3:0.1")
    done = all_of(Study(planned(*varied, sampler=Sampler.grid)), worth)
    assert len(done) == 12
    assert {tuple(one["seeds"]) for one in done} == {(0,), (0, 1)}
    assert {one["stages.distill.learning_rate"] for one in done} == {0.1, 0.2, 0.3}


@pytest.mark.parametrize("sampler", [Sampler.tpe, Sampler.nsga2])
def test_a_sweep_that_goes_on_chooses_as_if_it_had_not_stopped(planned, worth, tmp_path, sampler):
    varied = ("student.width=2..99",)
    whole = all_of(Study(planned(*varied, out=tmp_path / "a", sampler=sampler, trials=12)), worth)
    first = planned(*varied, out=tmp_path / "b", sampler=sampler, trials=12)
    parts = all_of(Study(first), worth, most=6)
    parts += all_of(Study(first), worth)
    assert parts == whole
    other = planned(*varied, out=tmp_path / "c", sampler=sampler, trials=12, seed=1)
    assert all_of(Study(other), worth) != whole


def test_more_trials_can_be_asked_for_later(planned, worth):
    assert len(all_of(Study(planned(trials=3)), worth)) == 3
    assert len(all_of(Study(planned(trials=5)), worth)) == 2
    assert all_of(Study(planned(trials=5)), worth) == []


def test_a_trial_that_failed_keeps_its_reason_and_is_not_done_again(planned):
    study = Study(planned("student.width=2..3"))
    with study.worked():
        for _ in range(2):
            study.fail(study.take(), "it cannot be exported", 2.0)
        assert study.take() is None
    assert {trial.reason for trial in study.trials()} == {"it cannot be exported"}
    assert {trial.state for trial in study.trials()} == {"failed"}


def test_two_workers_never_take_the_same_trial(planned, worth):
    made = planned("student.width=2..7", trials=6)
    one, other = Study(made), Study(made)
    with one.worked(), other.worked():
        taken = [(study, study.take()) for study in (one, other) * 3]
        assert one.take() is other.take() is None
        assert len({trial.number for _, trial in taken}) == 6
        assert len({key(trial.settings) for _, trial in taken}) == 6
        for study, trial in taken:
            study.finish(trial, worth(trial.settings), 1.0)
    assert len(one.trials()) == 6


def killed(made, note):
    """Be a worker that takes a trial, notes which, and is killed."""
    number = os.fork()
    if number == 0:
        study = Study(made)
        with study.worked():
            taken = study.take()
            note.write_text(f"{taken.number} {taken.settings['student.width']}")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(number, 0)
    return map(int, note.read_text().split())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process can be forked on this system")
def test_a_trial_whose_worker_was_killed_is_done_again_under_its_number(planned, worth, tmp_path):
    made = planned("student.width=2..9", trials=4)
    study = Study(made)
    with study.worked():
        alive = study.take()
        number, width = killed(made, tmp_path / "note")
        assert [trial.state for trial in study.trials()] == ["running", "running"]
        # Another worker finds it, and leaves the one whose worker is alive.
        other = Study(made)
        with other.worked():
            again = other.take()
            assert (again.number, again.settings["student.width"]) == (number, width)
            other.finish(again, worth(again.settings), 1.0)
            fresh = other.take()
            assert fresh.number not in {alive.number, number}
            other.finish(fresh, worth(fresh.settings), 1.0)
        study.finish(alive, worth(alive.settings), 1.0)
    states = {trial.number: trial.state for trial in study.trials()}
    assert states == {0: "done", 1: "done", 2: "done"}
    assert len(all_of(Study(made), worth)) == 1
    assert not list((made.out / ".workers").iterdir())


@pytest.mark.parametrize(
    ("varied", "more", "word"),
    [
        (("student.width=2..8", WIDTHS[1]), {}, "--vary"),
        (WIDTHS, {"costs": ("size", "flops")}, "--objective"),
    ],
)
def test_a_study_that_asks_something_else_is_not_mixed_with_it(planned, worth, varied, more, word):
    all_of(Study(planned(trials=1)), worth)
    with pytest.raises(InputError, match=word):
        Study(planned(*varied, **more))


def test_another_recipe_is_another_study_but_another_budget_is_not(planned, worth, tmp_path):
    first = planned(trials=1)
    all_of(Study(first), worth)

    def again(*sets):
        return plan(
            resolve("digits", sets), first.space, costs=first.costs, out=first.out, trials=1
        )

    Study(again("budget={size_kb: 3}", "name=other"))
    with pytest.raises(InputError, match=r"recipe.*another --out"):
        Study(again("stages.train_teacher.epochs=3"))


def test_it_says_which_extra_is_missing(planned, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="sweep"):
        Study(planned())
