"""What is shown is text, whatever is in it; progress goes to a terminal or to a log."""

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
    """Run a verb that raises."""

    def verb() -> None:
        raise error

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(cli._guarded(verb))
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
def test_what_limbeck_can_explain_has_a_message_and_a_code(error, code, words):
    found = ended(error)
    assert found.exit_code == code
    assert found.stdout == ""
    for word in words:
        assert word in found.stderr


def test_a_mistake_of_ours_is_not_hidden():
    assert isinstance(ended(RuntimeError("a bug")).exception, RuntimeError)
    assert isinstance(ended(OSError(5, "Input/output error")).exception, OSError)


def test_words_of_others_cannot_steer_the_terminal():
    found = ended(InputError(Problem("na\x1b[2Jme", "[red]x[/red]\x07", "\u202eno", "b\rc")))
    assert found.exit_code == 2
    assert not set(found.stderr) & {"\x1b", "\x07", "\r", "\u202e"}
    assert "[red]x[/red]" in found.stderr
    assert _terminal.printable("×µ 学\n") == "×µ 学\n"


def test_a_warning_is_one_line(capsys):
    with warnings.catch_warnings():
        warnings.showwarning = cli._plainly
        warnings.simplefilter("always")
        warnings.warn("a checkpoint is truncated", stacklevel=1)
    assert capsys.readouterr().err == "Warning: a checkpoint is truncated\n"


@pytest.fixture
def log(capsys):
    """What is written to standard error where that is no terminal, line by line."""
    return lambda: capsys.readouterr().err.splitlines()


def test_without_a_terminal_there_are_lines_with_time_part_and_rate(log, monkeypatch):
    clock = 100.0
    monkeypatch.setattr(_terminal.time, "monotonic", lambda: clock)
    with _terminal.watch() as watching:
        watching.begin("stage 2/3 distill, seed 4")
        ticker = watching.ticker("student")
        for step in range(1, 11):
            clock += 0.5
            ticker.tick(step, 40, f"epoch 1/4, loss {step}")
        ticker.tick(10, 40, "epoch 1/4, validation accuracy 0.5", milestone=True)
    first, second = log()
    assert re.fullmatch(r"\d\d:\d\d:\d\d stage 2/3 distill, seed 4", first)
    assert second[9:] == (
        "stage 2/3 distill, seed 4: student: epoch 1/4, validation accuracy 0.5, "
        "10/40 at 2/s, 0:15 left"
    )


def test_the_lines_are_few_however_many_steps_and_epochs_there_are(log, monkeypatch):
    clock = 0.0
    monkeypatch.setattr(_terminal.time, "monotonic", lambda: clock)
    with _terminal.watch() as watching:
        ticker = watching.ticker("student")
        for step in range(1, 10_001):
            clock += 0.01
            ticker.tick(step, 10_000, "loss 1")
            if step % 10 == 0:
                ticker.tick(step, 10_000, f"epoch {step // 10}", milestone=True)
    lines = log()
    assert _terminal.MILESTONES < len(lines) <= _terminal.MILESTONES + 100 / _terminal.APART + 1
    assert "epoch 1000, 10000/10000" in lines[-1]


def test_long_epochs_are_reported_between(log, monkeypatch):
    clock = 0.0
    monkeypatch.setattr(_terminal.time, "monotonic", lambda: clock)
    with _terminal.watch() as watching:
        ticker = watching.ticker("student")
        for step in range(51, 111):  # resumed after 50 steps
            clock += 1.0
            ticker.tick(step, 1000, f"loss {step}")
    assert [line.split(", ")[1] for line in log()] == ["60/1000 at 1/s", "90/1000 at 1/s"]


def test_quiet_means_no_progress(log):
    with _terminal.watch(quiet=True) as watching:
        watching.begin("stage 1/1 teach")
        watching.say("reading")
        watching.ticker("teacher").tick(1, 1, "epoch 1", milestone=True)
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
    named = set(re.findall(r"--[a-z]+", cli.GO_ON.get(verb, "")))
    assert named <= options


def test_at_a_terminal_there_are_lines_and_bars_without_markup(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with _terminal.watch() as watching:
        watching.say("[bold]teach[/bold]")
        bar = watching.ticker("[blink]teacher[/blink]")
        bar.tick(1, 2, "epoch 1")
        watching.ticker("student").tick(2, 2, "epoch 2, loss 0.25, validation accuracy 0.875")
    assert "[bold]teach[/bold]" in stream.getvalue()
    assert "loss 0.25, validation accuracy 0.875" in stream.getvalue()
