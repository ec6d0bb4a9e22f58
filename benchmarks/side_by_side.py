"""Students made in five ways beside one teacher, over all questions: what does compressing change?

Label-only, distilled, pruned, int8 and low-rank students of about the same net; every figure is
that of the exported file of one seed, with what became of it beside the teacher. A table in
Markdown, a line a finding.

    OMP_NUM_THREADS=1 python benchmarks/side_by_side.py --data digits [--out runs/side_by_side]
    OMP_NUM_THREADS=1 python benchmarks/side_by_side.py --data fashion_mnist --rows 6000
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from limbeck.pipeline.runner import run
from limbeck.pipeline.validate import validate
from limbeck.report.result import RunResult
from limbeck.report.sections import sections

LABELS = [{"task": {"weight": 1.0}}]
TEACHING = {"digits": {"epochs": 12}, "fashion_mnist": {"epochs": 8, "batch_size": 128}}
DISTILLING = {
    "digits": {"epochs": 40, "learning_rate": 0.02, "cache_teacher": True},
    "fashion_mnist": {"epochs": 6, "learning_rate": 0.01, "batch_size": 128, "cache_teacher": True},
}
WIDTHS = {"digits": (64, 8), "fashion_mnist": (32, 16)}


def variants(data: str) -> dict[str, list[dict[str, Any]]]:
    """Give the stages of each student, after the teacher was taught."""
    distil = {"distill": {**DISTILLING[data], "baseline": False}}
    recover = {"epochs": 3, "learning_rate": 0.003, "cache_teacher": True}
    labels = {
        **DISTILLING[data],
        "objective": LABELS,
        "baseline": False,
        "cache_teacher": False,
    }
    return {
        "labels alone": [{"distill": labels}],
        "distilled": [distil],
        "pruned": [
            distil,
            {"prune": {"method": "magnitude", "sparsity": 0.8, "finetune": recover}},
        ],
        "int8": [distil, {"quantize": {"method": "int8_static"}}],
        "low rank": [
            distil,
            {"factorize": {"method": "svd", "flops": 0.6, "finetune": recover}},
        ],
    }


def recipe(data: str, stages: list[dict[str, Any]], rows: int | None) -> dict[str, Any]:
    """Write the recipe of a student."""
    teacher, student = WIDTHS[data]
    source: dict[str, Any] = {"source": "sklearn", "name": "digits"}
    if data != "digits":
        source = {
            "source": "parquet",
            "name": data,
            "files": {"train": f"{data}/train.parquet", "test": f"{data}/test.parquet"},
            "classes": [str(number) for number in range(10)],
            "max_samples": {"train": rows, "validation": rows // 5} if rows else {},
        }
    return {
        "name": "side_by_side",
        "task": "image_classification",
        "data": source,
        "teacher": {"source": "limbeck", "name": "digits_cnn", "width": teacher},
        "student": {"source": "limbeck", "name": "digits_cnn", "width": student},
        "threads": 1,
        "stages": [{"train_teacher": TEACHING[data]}, *stages, {"export": {}}, {"evaluate": {}}],
    }


def table(results: dict[str, RunResult]) -> str:
    """Set the students beside each other, a line a finding, with the teacher's figure last."""
    lines: dict[str, dict[str, str]] = {}
    for name, result in results.items():
        for section in sections(result):
            for line in section.lines:
                cells = lines.setdefault(line.name, {})
                cells[name] = f"{line.student} {line.sign}"
                cells["teacher"] = line.teacher
    columns = [*results, "teacher"]
    head = f"| | {' | '.join(columns)} |\n|-|{'-:|' * len(columns)}\n"
    return head + "\n".join(
        f"| {name} | {' | '.join(cells.get(column, '') for column in columns)} |"
        for name, cells in lines.items()
    )


def main() -> None:
    """Make and examine every student, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=WIDTHS, default="digits")
    parser.add_argument("--rows", type=int, help="for training; all if not given")
    parser.add_argument("--out", type=Path, default=Path("runs/side_by_side"))
    arguments = parser.parse_args()
    results = {}
    for name, stages in variants(arguments.data).items():
        # One folder: the stages that students share are done once.
        content = recipe(arguments.data, stages, arguments.rows)
        results[name] = run(validate(content), out=arguments.out / arguments.data)
        print(name, flush=True)
    written = table(results)
    (arguments.out / f"{arguments.data}.md").write_text(written + "\n")
    print(written)


if __name__ == "__main__":
    main()
