"""The claims about compression, each held against what this machine measures on real clothes.

Every variant is a recipe of its own, run on several seeds with the same teacher; what is compared
are the exported files, on all test samples. Few training rows and small nets: two cores.

    OMP_NUM_THREADS=1 python benchmarks/compression.py --out runs/compression [--only bits]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.pipeline.runner import run
from limbeck.pipeline.validate import validate
from limbeck.report.result import RunResult

TRAIN = {"batch_size": 128, "cache_teacher": True}
LABELS = [{"task": {"weight": 1.0}}]


@dataclass(frozen=True)
class Variant:
    """One row: what is done after the teacher was taught."""

    name: str
    stages: list[dict[str, Any]]


def distilled(epochs: int = 6) -> dict[str, Any]:
    """The student that most variants go on from."""
    return {"distill": {"epochs": epochs, "learning_rate": 0.01, "baseline": False, **TRAIN}}


def groups() -> dict[str, list[Variant]]:
    """Give the variants by claim; all of a group stand on one teacher and one student."""
    return {
        "int8": [Variant("float", []), Variant("int8", [{"quantize": {"method": "int8_static"}}])],
        "bits": list(_bits()),
        "sparse": list(_sparse()),
        "rank": list(_ranks()),
        "size": list(_size()),
        "order": list(_orders()),
    }


def _bits() -> Iterator[Variant]:
    recovery = {"epochs": 2, "learning_rate": 0.001, "batch_size": 128}
    ways = {
        "PTQ": {},
        "QAT": {"finetune": {**recovery, "objective": LABELS}},
        "QAD": {"finetune": {**recovery, "cache_teacher": True}},
    }
    for bits, step, kept in (
        (4, "minmax", ("PTQ",)),
        (4, "learned", ("QAT", "QAD")),
        (2, "minmax", ("PTQ", "QAD")),
        (2, "learned", ("QAT", "QAD")),
    ):
        for way in kept:
            settings = {"method": "uniform", "bits": bits, "step": step, **ways[way]}
            yield Variant(f"{way} {bits} bits, {step}", [{"quantize": settings}])


def _sparse() -> Iterator[Variant]:
    recovery = {"epochs": 4, "learning_rate": 0.003, "batch_size": 128}
    teacher, labels = {**recovery, "cache_teacher": True}, {**recovery, "objective": LABELS}
    for name, settings, recover in (
        ("random, under the teacher", {"method": "random"}, teacher),
        ("magnitude, on labels", {"method": "magnitude"}, labels),
        ("magnitude, under the teacher", {"method": "magnitude"}, teacher),
        (
            "gradual magnitude, under the teacher",
            {"method": "magnitude", "schedule": "cubic"},
            teacher,
        ),
        ("movement (gradient), on labels", {"method": "movement", "score": "gradient"}, labels),
        (
            "movement (gradient), under the teacher",
            {"method": "movement", "score": "gradient"},
            teacher,
        ),
        (
            "movement (distance), under the teacher",
            {"method": "movement", "score": "distance"},
            teacher,
        ),
    ):
        asked = {**settings, "sparsity": 0.95, "finetune": recover}
        yield Variant(name, [{"prune": asked}])


def _ranks() -> Iterator[Variant]:
    yield Variant("dense", [])
    for share in (0.75, 0.5, 0.25):
        yield Variant(f"flops {share}", [{"factorize": {"method": "svd", "flops": share}}])
        whitened = {"method": "svd", "flops": share, "whiten": True}
        yield Variant(f"flops {share}, whitened", [{"factorize": whitened}])


def _size() -> Iterator[Variant]:
    """About an eighth of the float file, by each technique alone."""
    recover = {"epochs": 3, "learning_rate": 0.003, **TRAIN}
    yield Variant(
        "quantised: 4 bits",
        [{"quantize": {"method": "uniform", "bits": 4, "step": "learned", "finetune": recover}}],
    )
    yield Variant(
        "masked", [{"prune": {"method": "magnitude", "sparsity": 0.9, "finetune": recover}}]
    )
    yield Variant(
        "channels", [{"prune": {"method": "channels", "parameters": 0.12, "finetune": recover}}]
    )
    yield Variant(
        "factorised", [{"factorize": {"method": "svd", "parameters": 0.2, "finetune": recover}}]
    )


def _orders() -> Iterator[Variant]:
    recover = {"epochs": 1, "learning_rate": 0.003, **TRAIN}
    steps = {
        "prune": {"prune": {"method": "channels", "parameters": 0.5, "finetune": recover}},
        "factorise": {"factorize": {"method": "svd", "parameters": 0.6, "finetune": recover}},
        "distil": distilled(2),
    }
    for order in (
        ("prune", "distil", "factorise"),
        ("factorise", "distil", "prune"),
        ("prune", "factorise", "distil"),
        ("factorise", "prune", "distil"),
    ):
        stages = [steps[name] for name in order]
        yield Variant(" → ".join(order), [*stages, {"quantize": {"method": "int8_static"}}])


def recipe(
    group: str, variant: Variant, *, seeds: int, rows: int, teacher: int, student: int
) -> dict[str, Any]:
    """Write the recipe of a variant."""
    alone = group == "order"
    first = [] if alone else [distilled()]
    content = {
        "name": "compression",
        "task": "image_classification",
        "data": {
            "source": "parquet",
            "name": "fashion_mnist",
            "files": {
                "train": "fashion_mnist/train.parquet",
                "test": "fashion_mnist/test.parquet",
            },
            "classes": [str(number) for number in range(10)],
            "max_samples": {"train": rows, "validation": rows // 5},
        },
        "teacher": {"source": "limbeck", "name": "digits_cnn", "width": teacher},
        "seeds": list(range(seeds)),
        "threads": 1,
        "stages": [
            {"train_teacher": {"epochs": 8, "batch_size": 128}},
            *first,
            *variant.stages,
            {"export": {}},
        ],
    }
    return (
        content
        if alone
        else content | {"student": {"source": "limbeck", "name": "digits_cnn", "width": student}}
    )


def row(variant: Variant, result: RunResult) -> dict[str, Any]:
    """Keep of a run what the tables need."""
    shipped, teacher = result.shipped, result.chain[0]
    cost = shipped.measured[0].cost
    return {
        "name": variant.name,
        "what": [link.what for link in result.chain],
        "accuracy": shipped.score.model_dump(),
        "teacher": teacher.score.model_dump(),
        "teacher_bytes": teacher.measured[0].cost.size_bytes,
        "bytes": [one.cost.size_bytes for one in shipped.measured],
        "flops": cost.flops,
        "parameters": cost.parameters,
        "latency_ms": next(one.p50 for one in cost.latency if one.threads == 1),
    }


def main() -> None:
    """Run the variants, and print a row of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/compression"))
    parser.add_argument("--only", action="append", choices=groups())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=6_000, help="for training")
    parser.add_argument("--teacher", type=int, default=32, help="its width")
    parser.add_argument("--student", type=int, default=16, help="its width")
    arguments = parser.parse_args()
    sizes = {name: getattr(arguments, name) for name in ("seeds", "rows", "teacher", "student")}
    found: dict[str, list[dict[str, Any]]] = {}
    for group in arguments.only or groups():
        for variant in groups()[group]:
            content = recipe(group, variant, **sizes)
            # One folder: the stages that variants share are done once.
            result = run(validate(content), out=arguments.out / "run")
            found.setdefault(group, []).append(row(variant, result))
            print(line(found[group][-1]), flush=True)
            path = arguments.out / f"{group}.json"
            path.write_text(json.dumps(found[group], indent=1) + "\n")


def line(found: dict[str, Any]) -> str:
    """Write a row of a table."""
    accuracy, size = found["accuracy"], found["bytes"][0]
    between = accuracy["interval"]
    interval = "" if between is None else f" ± {50 * (between['high'] - between['low']):.2f}"
    return (
        f"| {found['name']} | {100 * accuracy['mean']:.2f}{interval} | {size / 1000:.1f} | "
        f"{found['teacher_bytes'] / size:.1f} | {found['flops'] / 1e6:.2f} | "
        f"{found['latency_ms']:.3f} |"
    )


if __name__ == "__main__":
    main()
