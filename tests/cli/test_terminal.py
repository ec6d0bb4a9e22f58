"""Output is printable text; progress is shown at a terminal or logged."""

import io
import re
import sys
import warnings

import pytest
import typer
from typer.testing import CliRunner

from limbeck import cli
from limbeck.cli import _terminal
from limbeck.errors import InputError, LimbeckError, Problem


def ended(error: BaseException):
    """Run a command that raises."""

    def command() -> None:
        raise error

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(cli._guarded(command))
    return CliRunner().invoke(app, [])


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError(Problem("a", 1, "2"), Problem("b", 3, "4")), 2, ("2 problems:", "a: got 1")),
        (LimbeckError("the loss is not finite"), 1, ("the loss is not finite",)),
        (KeyboardInterrupt(), 130, ("Interrupted.",)),
        (OSError(28, "No space left on device", "/tmp/x"), 2, ("/tmp/x", "No space left")),
    ],
)
def test_explained_errors_have_a_message_and_an_exit_code(error, code, words):
    found = ended(error)
    assert found.exit_code == code
    assert found.stdout == ""
    for word in words:
        assert word in found.stderr


def test_a_bug_is_not_hidden():
    assert isinstance(ended(RuntimeError("a bug")).exception, RuntimeError)
    assert isinstance(ended(OSError(5, "Input/output error")).exception, OSError)


def test_control_characters_of_untrusted_text_are_escaped():
    found = ended(InputError(Problem("na\x1b[2Jme", "[red]x[/red]\x07", "\u202eno", "b\rc")))
    assert found.exit_code == 2
    assert not set(found.stderr) & {"\x1b", "\x07", "\r", "\u202e"}
    assert "[red]x[/red]" in found.stderr
    assert _terminal.printable("×µ 学\n") == "×µ 学\n"


def test_a_warning_is_one_line(capsys):
    with warnings.catch_warnings():
        warnings.showwarning = cli._show_warning
        warnings.simplefilter("always")
        warnings.warn("a checkpoint is truncated", stacklevel=1)
    assert capsys.readouterr().err == "Warning: a checkpoint is truncated\n"


@pytest.fixture
def log(capsys):
    """Return the lines written to standard error when it is not a terminal."""
    return lambda: capsys.readouterr().err.splitlines()


def test_log_lines_have_time_part_and_rate(log, monkeypatch):
    clock = 100.0
    monkeypatch.setattr(_terminal.time, "monotonic", lambda: clock)
    with _terminal.watch() as progress:
        progress.begin("stage 2/3 distill, seed 4")
        progress_bar = progress.progress_bar("student")
        for step in range(1, 11):
            clock += 0.5
            progress_bar.update(step, 40, f"epoch 1/4, loss {step}")
        progress_bar.update(10, 40, "epoch 1/4, validation accuracy 0.5", milestone=True)
    first, second = log()
    assert re.fullmatch(r"\d\d:\d\d:\d\d stage 2/3 distill, seed 4", first)
    assert second[9:] == (
        "stage 2/3 distill, seed 4: student: epoch 1/4, validation accuracy 0.5, "
        "10/40 at 2/s, 0:15 left"
    )


def test_the_number_of_lines_is_bounded(log, monkeypatch):
    clock = 0.0
    monkeypatch.setattr(_terminal.time, "monotonic", lambda: clock)
    with _terminal.watch() as progress:
        progress_bar = progress.progress_bar("student")
        for step in range(1, 10_001):
            clock += 0.01
            progress_bar.update(step, 10_000, "loss 1")
            if step % 10 == 0:
                progress_bar.update(step, 10_000, f"epoch {step // 10}", milestone=True)
    lines = log()
    assert _terminal.MILESTONES < len(lines) <= _terminal.MILESTONES + 100 / _terminal.APART + 1
    assert "epoch 1000, 10000/10000" in lines[-1]


def test_long_epochs_are_reported_between_milestones(log, monkeypatch):
    clock = 0.0
    monkeypatch.setattr(_terminal.time, "monotonic", lambda: clock)
    with _terminal.watch() as progress:
        progress_bar = progress.progress_bar("student")
        for step in range(51, 111):  # resumed after 50 steps
            clock += 1.0
            progress_bar.update(step, 1000, f"loss {step}")
    assert [line.split(", ")[1] for line in log()] == ["60/1000 at 1/s", "90/1000 at 1/s"]


def test_quiet_reports_no_progress(log):
    with _terminal.watch(quiet=True) as progress:
        progress.begin("stage 1/1 train_teacher")
        progress.log("reading")
        progress.progress_bar("teacher").update(1, 1, "epoch 1", milestone=True)
    assert log() == []


@pytest.mark.parametrize("verb", ["run", "evaluate", "sweep", "run_", "compare"])
def test_an_interrupted_verb_names_only_options_that_it_has(verb):
    app = cli._app()
    options = {
        option
        for command in app.registered_commands
        if command.name == verb
        for option in typer.main.get_command_from_info(
            command, pretty_exceptions_short=True, rich_markup_mode=None
        ).params
        for option in option.opts
    }
    named = set(re.findall(r"--[a-z]+", cli.RESUME_HINTS.get(verb, "")))
    assert named <= options


def test_a_terminal_shows_lines_and_bars_without_markup(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with _terminal.watch() as progress:
        progress.log("[bold]begin[/bold]")
        bar = progress.progress_bar("[blink]teacher[/blink]")
        bar.update(1, 2, "epoch 1")
        progress.progress_bar("student").update(
            2, 2, "epoch 2, loss 0.25, validation accuracy 0.875"
        )
    assert "[bold]begin[/bold]" in stream.getvalue()
    assert "loss 0.25, validation accuracy 0.875" in stream.getvalue()
