"""What is shown is text, whatever is in it, and a run is quiet where nobody watches."""

import io
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
        (KeyboardInterrupt(), 130, ("--resume",)),
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


def test_nobody_hears_of_a_run_unless_at_a_terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with _terminal.watch() as watching:
        watching.say("teach")
        watching.ticker("teacher").tick(1, 2, "epoch 1")
    assert stream.getvalue() == ""


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
        watching.ticker("student").tick(2, 2, "epoch 2")
    assert "[bold]teach[/bold]" in stream.getvalue()
