"""Seeded mutations of a small Hugging Face folder, each tried in a forked child process."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, BYTES = 10.0, 2**31
VALUES: list[Any] = [
    None, True, -1, 0, 1, 7, 10**6, 10**9, 10**30, 1e308, -1.5, "", "bert", "x" * 10_000, [], {},
    [1] * 1000, {"a": {"b": [{}]}}, "relu", "../../etc/passwd", ["a", 1, None],
]  # fmt: skip


@dataclass(frozen=True)
class MutationResult:
    """The result of one mutation."""

    number: int
    what: str
    code: int
    seconds: float
    bytes: int
    message: str

    @property
    def fine(self) -> bool:
        """Return whether it ended with exit code 0 or 2, within the limits of time and memory."""
        return self.code in {0, 2} and self.seconds <= SECONDS and self.bytes <= BYTES


def make_folder(folder: Path) -> None:
    """Write a tiny BERT with a tokenizer of its own."""
    import torch

    from limbeck.data.modalities.text import _tokenizers as tokenizers
    from limbeck.models.build import build
    from limbeck.models.spec import ModelSpec

    torch.manual_seed(0)
    tokenizer = tokenizers.train(["some words to train on", "and some others"] * 20, 60)
    size = tokenizer.get_vocab_size()
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    spec = ModelSpec(source="transformers", name="bert", intermediate_size=16, **tiny)
    build(spec, classes=2, vocab_size=size).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())


def mutate(folder: Path, draw: random.Random) -> str:
    """Change one thing of a folder, and describe it."""
    file = folder / draw.choice(
        ["config.json"] * 5 + ["tokenizer.json"] * 5 + ["model.safetensors"] * 2
    )
    if not file.is_file():  # replaced by an earlier mutation
        return f"{file.name}: no file any more"
    kind = draw.choice(["value", "value", "value", "key", "bytes", "cut", "file"])
    if kind == "file":
        return f"{file.name}: {_replace_file(file, draw)}"
    content = file.read_bytes()
    if file.suffix == ".safetensors" or kind in {"bytes", "cut"}:
        if kind == "cut":
            file.write_bytes(content[: draw.randrange(len(content))])
            return f"{file.name}: cut"
        changed, top = bytearray(content), min(len(content), 3000)
        for _ in range(draw.choice([1, 4, 30])):
            changed[draw.randrange(top)] = draw.randrange(256)
        file.write_bytes(bytes(changed))
        return f"{file.name}: bytes"
    tree = json.loads(content)
    where = _change(tree, draw, remove=kind == "key")
    file.write_text(json.dumps(tree))
    return f"{file.name}: {where}"


def _replace_file(file: Path, draw: random.Random) -> str:
    what = draw.choice(["absent", "empty", "device", "pipe", "folder", "deep", "list", "pickle"])
    file.unlink()
    if what == "device":
        file.symlink_to(draw.choice(["/dev/zero", "/dev/random"]))
    elif what == "pipe":
        os.mkfifo(file)
    elif what == "folder":
        file.mkdir()
    elif what != "absent":
        texts = {"empty": "", "deep": "[" * 10**6, "list": "[1, 2]", "pickle": "\x80\x04N."}
        file.write_text(texts[what], encoding="latin-1")
    return what


def _change(tree: Any, draw: random.Random, *, remove: bool) -> str:
    """Change or remove one value somewhere in a JSON structure."""
    path, part = [], tree
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = draw.choice(keys)
        path.append(str(key))
        below = part[key]
        if not isinstance(below, dict | list) or not below or draw.random() < 0.3:
            break
        part = below
    if remove:
        del part[key]
        return f"without {'.'.join(path)}"
    value = draw.choice(VALUES)
    part[key] = value
    return f"{'.'.join(path)} = {str(value)[:30]}"


def use(folder: Path, workdir: Path) -> None:
    """Load tokenizer and model as a run does, and predict two texts."""
    import torch

    from limbeck.data.modalities.text import TextSpec
    from limbeck.data.modalities.text import _tokenizers as tokenizers
    from limbeck.models.build import build
    from limbeck.models.spec import ModelSpec
    from limbeck.tasks.text_classification import TextClassification

    texts = ["some words", "others to train, and new ones"]
    spec = TextSpec(tokenizer=str(folder), max_length=16)
    preprocess = tokenizers.make(spec, texts, workdir=workdir)
    model = build(
        ModelSpec(source="transformers", path=str(folder)), classes=2, **preprocess.model_inputs()
    )
    tensors = {name: torch.from_numpy(one) for name, one in preprocess(texts).items()}
    try:
        with torch.no_grad():
            TextClassification(("a", "b")).outputs(model.eval(), tensors)
    # A dry run reports whatever a model raises for a batch as an error of the recipe.
    except Exception as error:
        from limbeck.errors import InputError, Problem

        raise InputError(Problem("teacher", "a batch", "one that it accepts", str(error))) from None


def run(folder: Path, *, count: int, seed: int, workdir: Path) -> Iterator[MutationResult]:
    """Mutate a folder again and again, and use each in a forked child."""
    for number in range(count):
        draw = random.Random(seed * 1_000_003 + number)
        place = workdir / f"{number}"
        shutil.copytree(folder, place)
        what = "; ".join(mutate_once(place, draw) for _ in range(draw.choice([1, 1, 2])))
        yield _tried(number, what, place, workdir)
        shutil.rmtree(place)


def mutate_once(folder: Path, draw: random.Random) -> str:
    """Mutate a folder, which an earlier mutation may have left without the file."""
    try:
        return mutate(folder, draw)
    except (OSError, ValueError, IndexError, TypeError, RecursionError):
        return "nothing more"


def _tried(number: int, what: str, folder: Path, workdir: Path) -> MutationResult:
    log, started = workdir / "log", time.monotonic()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            for stream in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            code = _code(folder, workdir)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * 1024  # of the child and of its children
    lines = log.read_text(errors="replace").strip().splitlines()
    message = lines[-1] if lines else ""
    return MutationResult(number, what, code, time.monotonic() - started, peak, message)


def _code(folder: Path, workdir: Path) -> int:
    from limbeck.errors import InputError

    try:
        use(folder, workdir)
    except InputError as error:
        os.write(2, str(error).replace("\n", " | ").encode())
        return 2
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
