"""Mutate shipped recipes, and hold `limbeck check` to its word on each: exit code 0 or 2, in time.

python benchmarks/fuzz_recipes.py --cases 500

Each case takes a shipped recipe, its smoke profile or an override, and spoils one to three places:
values, keys, text or bytes. It runs `limbeck check` in a fork of one warm process. A case fails if
the exit code is neither 0 nor 2, if there is a traceback, if it takes more than ten seconds of
processor time, or more than 2 GiB of memory.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

SECONDS, BYTES = 10, 2 * 2**30
WALL = 240  # of a machine that others use, too

NUMBERS: list[Any] = [
    *(0, -1, 1, 2, 3, 10**6, 10**9, 10**12, 10**18, 10**30, 2**31, 2**63, -(2**63), 0.5, -0.5),
    *(1e-308, 1e308, 1e30, float("inf"), float("-inf"), float("nan"), 1e-12, 65536, 1000000007),
]
OTHERS: list[Any] = [
    *(None, True, False, "", " ", "null", "9" * 400, "a" * 5000, "\x1b[2J", "../../etc/passwd"),
    *("/dev/zero", "٣", "²", [], {}, [[]], [None], {"": None}, {"a": {"b": {}}}, ["x"] * 5000),
    *("python:x.py:f", "auto", "1e9", "-", "~", "\u202e", "logits", "teacher", "*", "**", "{}"),
]
# So that reading the data takes no longer than it has to; what is spoilt may undo it.
FEW = "data.max_samples={train: 600, validation: 200, test: 200}"
TEXTS = [
    *("&a [*a]", "*nowhere", "[" * 2000, "{a: " * 500, "? " * 300, "- " * 300, "!!python/name:os"),
    *("!!binary aGk=", "!!timestamp x", "9" * 5000, "0x" + "f" * 5000, "1" + ":1" * 2000, "\x00"),
    *(
        "\t",
        "---\n",
        "...\n",
        "<<: 5\n",
        "name: twice\n",
        "%TAG ! x\n",
        "'",
        '"',
        "|",
        ">",
        "\ufeff",
    ),
]
PATHS = [
    *("stages", "stages.0", "stages.-1", "stages.٣", "stages.²", "stages.1e9", "stages.99"),
    *("a." * 60 + "b", "x" * 2000, "seeds.0", "seeds", "threads", "profile", "profiles.smoke"),
    *(
        "name",
        "task",
        "data",
        "data.max_samples",
        "data.max_samples.train",
        "data.image.size",
        "data.classes",
    ),
    *("data.augment.shift", "data.augment.crop", "data.validation", "data.test", "data.split_seed"),
    *("data.text.max_length", "data.text.tokenizer.train.vocab_size", "data.columns.label"),
    *("teacher", "teacher.name", "teacher.width", "teacher.checkpoint", "student", "student.width"),
    *("student.source", "student.name", "budget", "budget.size_kb", "budget.parameters", "device"),
    *("stages.distill.epochs", "stages.distill.batch_size", "stages.distill.learning_rate"),
    *("stages.distill.objective", "stages.distill.objective.0", "stages.distill.cache_teacher"),
    *("stages.quantize.calibration", "stages.quantize.method", "stages.evaluate.evaluations"),
    *(
        "stages.train_teacher.epochs",
        "stages.train_teacher.gradient_accumulation_steps",
        "stages.train_teacher.num_workers",
        "stages.export",
    ),
]


@dataclass(frozen=True)
class Case:
    """One mutated recipe and its overrides."""

    number: int
    origin: str
    content: bytes
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """How `limbeck check` ended on a case."""

    case: Case
    code: int
    seconds: float
    bytes: int
    output: str

    @property
    def faults(self) -> list[str]:
        """What breaks the contract."""
        found = []
        if self.code not in (0, 2):
            found.append(f"exit code {self.code}")
        if "Traceback" in self.output:
            found.append("a traceback")
        if self.seconds > SECONDS:
            found.append(f"{self.seconds:.1f} s")
        if self.bytes > BYTES:
            found.append(f"{self.bytes / 2**30:.2f} GiB")
        return found


def cases(count: int, seed: int = 0) -> Iterator[Case]:
    """Make mutated recipes: the same ones for the same seed."""
    from limbeck.pipeline.load_recipe import shipped_recipes

    texts = {name: path.read_bytes() for name, path in shipped_recipes().items()}
    for number in range(count):
        draw = random.Random(seed * 1_000_003 + number)
        origin = draw.choice(sorted(texts))
        content, overrides = texts[origin], [FEW]
        overrides += ["profile=smoke"] * (draw.random() < 0.7)
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            kind = draw.random()
            if kind < 0.65:
                content = _spoil_value(draw, content)
            elif kind < 0.85:
                overrides.append(_override(draw))
            else:
                content = _spoil_text(draw, content)
        yield Case(number, origin, content, tuple(overrides))


def _places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    parts = content.items() if isinstance(content, dict) else []
    for key, part in enumerate(content) if isinstance(content, list) else parts:
        yield from _places(part, (*path, key))


def _spoil_value(draw: random.Random, text: bytes) -> bytes:
    if b"&" in text or len(text) > 100_000:  # what grows without end is not unfolded here
        return text
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    found = list(_places(content))
    if not found:
        return text
    path = draw.choice(found)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    key, value = path[-1], holder[path[-1]]
    how = draw.choice(
        ["near", "near", "number", "other", "delete", "rename", "add", "repeat", "wrap"]
    )
    if how == "near" or isinstance(value, int | float):
        # A number that may well be allowed, so that more than the schema is put to the test.
        number = value if isinstance(value, int | float) else 1
        holder[key] = draw.choice([number + 1, number * 10, number * 1000, number / 3, 1, 2, 7])
    elif how == "number":
        holder[key] = draw.choice(NUMBERS)
    elif how == "other":
        holder[key] = draw.choice(OTHERS)
    elif how == "delete":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        letters = list(str(key)) or ["x"]
        draw.shuffle(letters)
        holder["".join(letters)] = holder.pop(key)
    elif how == "add" and isinstance(value, dict):
        value[draw.choice(["width", "x", "epochs", "weight", "size"])] = draw.choice(NUMBERS)
    elif how == "repeat" and isinstance(holder, list):
        holder.extend(copy.deepcopy(value) for _ in range(draw.choice([1, 60, 300])))
    else:
        holder[key] = draw.choice([[value], {"train": value}, [value] * 50])
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode(
        "utf-8", "surrogatepass"
    )


def _spoil_text(draw: random.Random, content: bytes) -> bytes:
    place = draw.randint(0, len(content))
    kind = draw.choice(["insert", "insert", "cut", "bytes", "merge", "alias", "long", "keys"])
    if kind == "insert":
        return content[:place] + draw.choice(TEXTS).encode() + content[place:]
    if kind == "cut":
        return content[:place] + content[place + draw.randint(1, 60) :]
    if kind == "bytes":
        return content[:place] + draw.randbytes(draw.randint(1, 8)) + content[place:]
    if kind == "long":
        return content + b"description: " + b"x" * draw.choice([10_000, 900_000, 3_000_000]) + b"\n"
    if kind == "keys":
        return content + b"".join(b"key%d: 1\n" % number for number in range(40_000))
    first = "{k: 1, l: 2}" if kind == "merge" else "[1, 2, 3]"
    lines = [f"notes: &a {first}"]
    for one, two in pairwise("abcdefghijk"):
        ten = f"[{', '.join([f'*{one}'] * 10)}]"
        lines.append(f"{two}: &{two} " + (f"{{<<: {ten}}}" if kind == "merge" else ten))
    return content + "\n".join(lines).encode() + b"\n"


def _override(draw: random.Random) -> str:
    values = [
        *map(str, NUMBERS),
        "[]",
        "{}",
        "[1, 2]",
        "{a: 1}",
        "null",
        "smoke",
        "x",
        "'",
        "&a [*a]",
    ]
    return f"{draw.choice(PATHS)}={draw.choice(values)}"


def warm() -> None:
    """Import what a check needs, once for all cases; nothing may start a thread before a fork."""
    import accelerate.utils  # noqa: F401
    import datasets  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torchmetrics.classification  # noqa: F401
    import transformers  # noqa: F401

    import limbeck.cli
    import limbeck.data.load
    import limbeck.pipeline.check  # noqa: F401


def run(case: Case, folder: Path) -> Outcome:
    """Run `limbeck check` on a case, in a fork."""
    recipe, output = folder / "recipe.yaml", folder / "output"
    recipe.write_bytes(case.content)
    number = os.fork()
    if number == 0:
        _child(recipe, output, case.overrides)
    deadline = time.monotonic() + WALL
    while True:
        done, status, used = os.wait4(number, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(number, 9)
        time.sleep(0.01)
    return Outcome(
        case,
        os.waitstatus_to_exitcode(status),
        used.ru_utime + used.ru_stime,
        used.ru_maxrss * 1024,
        output.read_text(errors="replace"),
    )


def _child(recipe: Path, output: Path, overrides: tuple[str, ...]) -> None:
    import limbeck.cli

    code = 99
    try:
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(target, stream)
        # Three times what is allowed: what goes beyond is told by the figures, not by a signal.
        resource.setrlimit(resource.RLIMIT_CPU, (3 * SECONDS, 3 * SECONDS))
        resource.setrlimit(resource.RLIMIT_DATA, (4 * BYTES, 4 * BYTES))
        os.chdir(recipe.parent)
        more = [part for one in overrides for part in ("--set", one)]
        sys.argv = ["limbeck", "check", str(recipe), "--out", "run", *more]
        try:
            limbeck.cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    """Run all cases, and end with 1 if any breaks the contract."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="The number of one case, whose output is shown.")
    options = parser.parse_args()
    warm()
    codes: dict[int, int] = {}
    broken, slowest, largest = 0, 0.0, 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        for case in cases(options.cases, options.seed):
            if options.only not in (None, case.number):
                continue
            outcome = run(case, Path(place))
            if case.number % 50 == 49:
                print(f"{case.number + 1} cases, {time.monotonic() - started:.0f} s", flush=True)
            codes[outcome.code] = codes.get(outcome.code, 0) + 1
            slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.bytes)
            if outcome.faults or options.only is not None:
                broken += bool(outcome.faults)
                print(f"case {case.number} ({case.origin}): {', '.join(outcome.faults)}")
                print(f"  overrides {case.overrides}\n  {outcome.output[-1500:]}", flush=True)
    found = {"codes": codes, "broken": broken, "slowest": round(slowest, 1)}
    print(json.dumps({**found, "largest_gib": round(largest / 2**30, 2)}))
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
