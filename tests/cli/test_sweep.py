"""`limbeck sweep`: refusal of bad input before anything runs, exit codes, fast help."""

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from limbeck.cli import _guarded
from limbeck.cli.sweep import sweep

HEAVY = {"torch", "optuna", "numpy", "scipy", "onnx", "onnxruntime", "sklearn", "yaml", "jinja2"}
WIDTHS = ("--vary", "student.width=2..4")


def limbeck_sweep(*argv: object):
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(_guarded(sweep))
    return CliRunner().invoke(app, [str(one) for one in argv])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), ("--vary", "--space")),
        (("--vary", "student.width=4"), ("two different choices",)),
        (("--vary", "stages.distil.epochs=1,2"), ('"distill"',)),
        ((*WIDTHS, "--minimize", "size,speed"), ("--minimize", "latency")),
        ((*WIDTHS, "--budget", "size_kbb=3"), ('"size_kb"',)),
        ((*WIDTHS, "--set", "student=null"), ("student",)),
        ((*WIDTHS, "--sampler", "random"), ("tpe",)),
        ((*WIDTHS, "--trials", "0"), ("--trials",)),
        ((*WIDTHS, "--space", "none.yaml"), ("none.yaml",)),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(argv, words, tmp_path):
    ended = limbeck_sweep("digits", *argv, "--out", tmp_path / "sweep")
    assert ended.exit_code == 2, ended.output
    assert "Traceback" not in ended.output
    for word in words:
        assert word in ended.output
    assert not (tmp_path / "sweep").exists()


def test_problems_of_several_options_are_reported_together():
    ended = limbeck_sweep(
        "digits", "--vary", "a=1", "--minimize", "sise", "--budget", "x=1", "--set", "seed=3"
    )
    assert ended.exit_code == 2
    for word in ("--vary a", "--minimize", "--budget.x", '"seeds"'):
        assert word in ended.output


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """Replace runs by figures computed from the width; `figures_at` may be replaced."""
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed: no optuna")
    from limbeck.report.sweep import Figures
    from limbeck.sweep import conclude, run
    from limbeck.tasks.scores import ACCURACY

    def figures_at(width):
        return Figures(
            metric=ACCURACY.metric, score=1 - 1 / width, teacher_score=1.0,
            size=100 * width, latency=width / 10,
            flops=9, parameters=9, memory=9, energy=None,
        )  # fmt: skip

    def figures(planned, taken, _):
        student = planned.folder(taken.number) / "student"
        student.mkdir(parents=True)
        (student / "model.onnx").write_text(str(taken.number))
        return made.figures_at(taken.settings["student.width"])

    def run_of(folder):
        raise AssertionError("test figures must not be read where no trial was chosen")

    class Made:
        out = tmp_path / "sweep"

    made = Made()
    made.figures_at = figures_at
    monkeypatch.setattr(run, "_figures", figures)
    monkeypatch.setattr(conclude, "timed", lambda places: None)
    monkeypatch.setattr(conclude, "load_run", run_of)
    return made


def test_the_front_and_the_path_of_the_page_are_shown(made_up):
    ended = limbeck_sweep("digits", *WIDTHS, "--sampler", "grid", "--out", made_up.out)
    assert ended.exit_code == 0, ended.output
    assert "3 of 3 trials are on the Pareto front" in ended.stdout
    assert str(made_up.out / "sweep.html") in ended.stdout
    assert "Chosen" not in ended.stdout
    found = json.loads((made_up.out / "sweep.json").read_text())
    assert [trial["settings"]["student.width"] for trial in found["trials"]] == [2, 3, 4]


def test_if_no_trial_fits_the_exit_code_is_1_and_the_nearest_is_named(made_up):
    ended = limbeck_sweep(
        "digits", *WIDTHS, "--sampler", "grid", "--out", made_up.out, "--budget", "size_kb=0.1"
    )
    assert ended.exit_code == 1
    assert "trial 0 comes nearest, and misses size by 0.1 kB" in ended.stdout


def test_an_interrupt_exits_with_130_and_the_same_command_resumes(made_up):
    whole = made_up.figures_at

    def figures_at(width):
        if width == 3:
            raise KeyboardInterrupt
        return whole(width)

    made_up.figures_at = figures_at
    argv = ("digits", *WIDTHS, "--sampler", "grid", "--out", made_up.out)
    ended = limbeck_sweep(*argv)
    assert ended.exit_code == 130
    assert "the same command continues" in ended.stderr
    made_up.figures_at = whole
    # The student folder of the trial that was interrupted is its own.
    import shutil

    shutil.rmtree(made_up.out / "trials" / "1")
    assert limbeck_sweep(*argv).exit_code == 0


def test_help_imports_no_heavy_library():
    script = (
        "import json, sys, typer\n"
        "from limbeck.cli.sweep import sweep\n"
        "app = typer.Typer(rich_markup_mode=None); app.command()(sweep)\n"
        "app(['--help'], standalone_mode=False)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "--vary" in ended.stdout
    loaded = {name.split(".")[0] for name in json.loads(ended.stdout.splitlines()[-1])}
    assert not loaded & HEAVY
