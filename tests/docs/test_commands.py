"""Every command that a page shows exists: targets of make, verbs and options, files."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def verbs():
    """Each verb of the command line, with its options."""
    import typer.main

    from limbeck.cli import _app

    group = typer.main.get_command(_app())
    return {
        name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for name, command in group.commands.items()
    }


def lines(page, blocks_of):
    """List the commands of a page's shell blocks, without comments and output."""
    for block in blocks_of(page):
        if block.kind not in {"sh", "console"}:
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            if block.kind == "console" and not line.startswith("$ "):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield words


def after(words, name):
    """Return the arguments of a program, up to the end of its command."""
    places = [place for place, word in enumerate(words) if word.rpartition("/")[2] == name]
    if not places:
        return []
    arguments = []
    for word in words[places[0] + 1 :]:
        if word in {";", "&&", "|", ">"}:
            break
        arguments.append(word.rstrip(";"))
        if word.endswith(";"):
            break
    return arguments


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_every_command_exists(page, blocks_of, verbs):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in lines(page, blocks_of):
        if words[0] == "make":
            assert set(words[1:]) <= set(targets), words
        arguments = after(words, "limbeck")
        if arguments:
            verb, *rest = arguments
            assert verb in verbs, words
            options = {word.partition("=")[0] for word in rest if word.startswith("--")}
            assert options <= verbs[verb], words
        for word in words:
            if word.startswith(("tests/", "docs/", "src/")):
                assert (ROOT / word).exists(), words


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_every_file_named_in_prose_exists(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    named = re.findall(r"`((?:src|tests|docs|benchmarks)/[\w/.-]+)`", text)
    examples = {
        "segmentation.py",
        "prune.py",
        "sql.py",
        "series.py",
        "boxes.py",
        "adversarial.py",
        "sources/mine.py",
        "int4.py",
        "cli/mine.py",
    }
    missing = [
        name
        for name in named
        if not (ROOT / name).exists() and not any(name.endswith(one) for one in examples)
    ]
    assert missing == []


def test_the_readmes_first_screen_has_the_two_commands(blocks_of):
    first = next(block for block in blocks_of(ROOT / "README.md") if block.kind == "sh")
    assert [line.split("#")[0].split() for line in first.text.splitlines()] == [
        ["make", "demo"],
        ["make", "test"],
    ]


def test_the_readme_lists_every_shipped_recipe():
    from limbeck.pipeline.load_recipe import shipped_recipes

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in shipped_recipes() if f"`{name}`" not in text] == []


def test_the_readmes_extras_are_those_that_there_are():
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"]) - {"dev"}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| extra |") : text.index("`make` installs")]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == extras


def test_a_verb_and_an_option_that_are_not_there_would_be_noticed(verbs):
    assert "--resume" in verbs["run"]
    assert "--resumed" not in verbs["run"]
    assert "train" not in verbs
    words = shlex.split("LIMBECK_DATA=. limbeck run mine.yaml --resume; echo done")
    assert after(words, "limbeck") == ["run", "mine.yaml", "--resume"]
    assert after(["echo", "done"], "limbeck") == []
