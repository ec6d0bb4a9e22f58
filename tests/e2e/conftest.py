"""A small run that many tests look at, and a process that forks command lines."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder as slow: they train a recipe or start processes."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.slow)


# All stages with tiny models; most of the time is imports and the export.
TINY = """
name: tiny
task: image_classification
data: {source: sklearn, name: digits, max_samples: {train: 200, validation: 60, test: 80}}
teacher: {source: limbeck, name: digits_cnn, width: 4, expect: {above_chance: false}}
student: {source: limbeck, name: digits_cnn, width: 2}
budget: {size_kb: 40, drop: {accuracy: 0.9}}
seeds: [3]
threads: 1
stages:
  - train_teacher: {epochs: 2, checkpoint_every: 0}
  - distill: {epochs: 2, checkpoint_every: 0, batch_size: 32}
  - quantize: {method: int8_static, calibration: 64}
  - export: {format: onnx}
"""


@dataclass(frozen=True)
class Ended:
    """A command line that has ended."""

    code: int
    seconds: float
    out: str
    err: str


class Forks:
    """Runs command lines in forks of one warm process, one after another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "forks.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def __call__(self, *argv: object, cwd: Path, **order: Any) -> Ended:
        """Run one; `kill` seconds after its start, or once that file is there, send a signal.

        The signal is SIGKILL if not stated.
        """
        out, err = self._folder / "out", self._folder / "err"
        content = {"argv": [str(one) for one in argv], "cwd": str(cwd), **order}
        assert self._process.stdin is not None
        line = json.dumps({**content, "out": str(out), "err": str(err)})
        print(line, file=self._process.stdin, flush=True)
        reply = self._reply()
        output = (out.read_text(errors="replace"), err.read_text(errors="replace"))
        return Ended(reply["code"], reply["seconds"], *output)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    server = Forks(tmp_path_factory.mktemp("forks"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the small recipe."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def recipe_with(tmp_path: Path) -> Callable[..., Path]:
    """Write the small recipe with some text in it replaced."""

    def write(*changes: tuple[str, str]) -> Path:
        text = TINY
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / "changed.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, quick_measuring: None) -> Path:
    """The folder of one whole run, the smoke profile of digits; look, do not touch."""
    from limbeck.pipeline.load_recipe import resolve
    from limbeck.pipeline.runner import run

    out = tmp_path_factory.mktemp("finished") / "digits"
    run(resolve("vision/digits", ["profile=smoke"]), out=out)
    return out
