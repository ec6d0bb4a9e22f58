"""The tutorials are true: everything in them is done, in order, in an empty folder.

In a page, a block with a title is a file that is written; a `python` block is executed, all of a
page's blocks in one namespace; in a `console` block the lines that begin with `$ ` are run by bash,
but for a plain `limbeck run`, which runs in this process: its imports take longer than its work.
What is shown below a command is for the reader, unless the block is marked `checked`: then it is
compared, with `...` standing for anything. A `text checked` block is what the block before it
printed. Blocks of other kinds are not touched.
"""

import contextlib
import doctest
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

EXTRAS = {
    "language-model.md": ("text", "transformers"),
    "lightning.md": ("lightning", "lightning"),
    "transformers.md": ("text", "transformers"),
}
LONG = {"auditor.md", "engineer.md", "language-model.md"}
PAGES = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.md"))
RUN = re.compile(r"(?P<variables>(?:\w+=\S+ +)*)limbeck +(?P<arguments>run [^;|&<>$`]*)")
SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Session:
    """A reader who follows a page."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.namespace: dict[str, Any] = {"__name__": "__tutorial__"}
        self.printed = ""

    def follow(self, block: Any) -> None:
        if block.title is not None:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            self._python(block)
        elif block.kind == "console":
            for command, shown in commands(block.text):
                self._console(command)
                if block.checked:
                    self._compare(shown, block)
        elif block.kind == "text" and block.checked:
            self._compare(block.text, block)

    def _python(self, block: Any) -> None:
        # Empty lines in front, so that a traceback names the line of the page.
        code = compile("\n" * block.line + block.text, str(self.page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, self.namespace)
        self.printed = printed.getvalue()

    def _console(self, command: str) -> None:
        run = RUN.fullmatch(command.strip())
        if run is None:
            self._bash(command)
        else:
            self._limbeck_run(shlex.split(run["variables"]), shlex.split(run["arguments"]))

    def _limbeck_run(self, variables: list[str], arguments: list[str]) -> None:
        from limbeck.cli import main

        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()) as printed,
            contextlib.redirect_stderr(printed),
        ):
            patch.setattr(sys, "argv", ["limbeck", *arguments])
            for variable in variables:
                patch.setenv(*variable.split("=", 1))
            with pytest.raises(SystemExit) as left:
                main()
        self.printed = printed.getvalue()
        assert not left.value.code, f"limbeck {arguments}\n{self.printed}"

    def _bash(self, command: str) -> None:
        places = (sysconfig.get_path("scripts"), str(Path(sys.executable).parent))
        path = os.pathsep.join([*places, os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        self.printed = done.stdout + done.stderr

    def _compare(self, shown: str, block: Any) -> None:
        same = doctest.OutputChecker().check_output(shown, self.printed, SAME)
        assert same, f"{self.page}:{block.line} shows\n{shown}\nbut there came\n{self.printed}"


def commands(text: str) -> list[tuple[str, str]]:
    """Split a console block into commands and what is shown below each."""
    joined = text.replace("\\\n", "")
    parts = re.split(r"^\$ ", joined, flags=re.MULTILINE)
    assert not parts[0].strip(), f"a console block begins with a command: {parts[0]!r}"
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts[1:])]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty folder, and torch as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    threads = torch.get_num_threads()
    # Two threads of one net stall each other while other tests run beside.
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    with torch.random.fork_rng(devices=[]):
        yield tmp_path
    monkeypatch.undo()
    torch.set_num_threads(threads)


def needed(page: Path) -> list[pytest.MarkDecorator]:
    """Return marks: a page that takes long, or whose libraries are not installed."""
    marks = [pytest.mark.long] if page.name in LONG else []
    if page.name not in EXTRAS:
        return marks
    extra, library = EXTRAS[page.name]
    missing = importlib.util.find_spec(library) is None
    reason = f"{library} is not installed: {page.name} needs the extra `{extra}`"
    return [*marks, pytest.mark.skipif(missing, reason=reason)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.stem, marks=needed(page)) for page in PAGES]
)
def test_a_tutorial_is_true(page, alone, blocks_of, quick_measuring):
    session = Session(page, alone)
    for block in blocks_of(page):
        session.follow(block)


def test_there_is_one_for_each_user():
    users = {"engineer", "researcher", "language-model", "auditor", "lightning", "transformers"}
    assert {page.stem for page in PAGES} == users


@pytest.mark.parametrize(
    "page", ["README.md", "docs/evaluation.md", "docs/plugins.md", "docs/side_by_side.md"]
)
def test_the_python_of_a_page_runs(page, root, alone, blocks_of):
    session = Session(root / page, alone)
    blocks = [block for block in blocks_of(root / page) if block.kind == "python"]
    assert blocks
    for block in blocks:
        session.follow(block)


def test_the_page_on_data_is_true(root, alone, blocks_of):
    page = root / "docs" / "data.md"
    session = Session(page, alone)
    for block in blocks_of(page):
        session.follow(block)


def test_the_readmes_recipe_is_one(root, alone, blocks_of):
    from limbeck.pipeline.load_recipe import resolve

    recipes = [block for block in blocks_of(root / "README.md") if block.kind == "yaml"]
    assert recipes
    for block in recipes:
        (alone / "recipe.yaml").write_text(block.text, encoding="utf-8")
        assert resolve("recipe.yaml").name


def test_commands_and_output_are_distinguished():
    text = "$ echo one \\\n  two\none two\n$ true\n"
    assert commands(text) == [("echo one   two", "one two\n"), ("true", "")]


@pytest.mark.parametrize(
    ("kind", "text", "shown"),
    [("python", "print('seven and eight')", "seven ..."), ("console", "$ echo seven", "seven")],
)
def test_what_is_shown_is_compared(alone, kind, text, shown, tmp_path):
    from types import SimpleNamespace

    def block(kind, text):
        return SimpleNamespace(kind=kind, title=None, checked=True, text=text, line=1)

    session = Session(tmp_path / "page.md", alone)
    session.follow(block(kind, text if kind == "python" else f"{text}\n{shown}\n"))
    session.follow(block("text", shown))
    with pytest.raises(AssertionError, match="but there came"):
        session.follow(block("text", "nine"))


def test_a_command_that_fails_is_a_failure(alone, tmp_path):
    with pytest.raises(AssertionError, match="false"):
        Session(tmp_path / "page.md", alone)._console("false")


def test_the_lines_of_both_sides_are_counted(root):
    text = (root / "docs" / "side_by_side.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+), ", text, re.MULTILINE)
    assert len(rows) == 4
    for title, own, other in rows:
        section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        blocks = re.findall(r"^```\w+\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        counts = [sum(bool(line.strip()) for line in block.splitlines()) for block in blocks]
        assert (counts[0], sum(counts[1:])) == (int(own), int(other)), title
