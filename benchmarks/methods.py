"""The methods of the catalogue side by side: one teacher, one student, CIFAR-10.

A published ResNet-56 (93.39 % of the test rows) teaches a ResNet-8 on a few thousand rows. All
methods have the same rows, augmented views, steps, learning rate and initial weights; the weights
of terms are the published ones. The teacher's logits and features are recorded once.

    OMP_NUM_THREADS=1 python benchmarks/methods.py FOLDER [--methods hinton dkd] [--seeds 0 1 2]

Each training is a line of FOLDER/results.jsonl, and is not repeated: a run that was interrupted
continues. At the end a table of the means over seeds is printed in Markdown, with 95 % intervals of
the differences from labels alone, paired by seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import yaml
from _digits import over_seeds
from accelerate import Accelerator
from torch import Tensor, nn

from limbeck.data.load import Data, load
from limbeck.data.rows import Batch
from limbeck.data.spec import DataSpec
from limbeck.models.build import build
from limbeck.models.spec import ModelSpec
from limbeck.objective import Objective, TrainingSet, methods
from limbeck.pipeline.load_recipe import resolve
from limbeck.pipeline.recipe import Recipe
from limbeck.schemes import Offline
from limbeck.targets import Answer, DenseTargets
from limbeck.tasks.image_classification import ImageClassification
from limbeck.teachers import FrozenTeacher
from limbeck.training import Training, fit

STAGES = ("layer1", "layer2", "layer3")
LAST, POOLED, NORMS = "layer3", "pool", tuple(f"{stage}.{{}}.bn2" for stage in STAGES)
BLOCKS = {"student": 0, "teacher": 8}
"""The last block of each stage."""

LAYERS: dict[str, tuple[str, ...] | str] = {
    **dict.fromkeys(("at", "nst", "ofd", "vid"), STAGES),
    **dict.fromkeys(("sp", "fitnets", "ft"), LAST),
    **dict.fromkeys(("rkd", "cc", "pkt", "crd"), POOLED),
    "fsp": STAGES,
    "review_kd": (*STAGES, POOLED),
    "ab": NORMS,
    "ofd": NORMS,
}
"""The layers that a method of features compares; the others compare logits."""

METHODS = (
    "label_only", "hinton", "dkd", "dist", "logit_standardization", "fitnets", "at", "rkd", "crd",
    "review_kd", "mlkd", "ttm", "wttm", "sp", "vid", "ft", "pkt", "cc", "nst", "fsp", "ofd", "ab",
)  # fmt: skip


def objective(method: str) -> Objective:
    """Build a method, `NAME` or `NAME: {settings}`, on the layers of this table."""
    read = yaml.safe_load(method)
    name, settings = (read, {}) if isinstance(read, str) else next(iter(read.items()))
    layers = LAYERS.get(name)
    paths = [] if layers is None else [_at(layers, block) for block in BLOCKS.values()]
    return Objective(methods.find(name)(*paths, **settings))


def _at(paths: tuple[str, ...] | str, block: int) -> list[str] | str:
    return paths if isinstance(paths, str) else [path.format(block) for path in paths]


class RecordedTeacher(nn.Module):
    """The logits and features of a teacher for all rows and views, in float16.

    Args:
        file: The file of the record, written if it does not exist.
        teacher: The teacher.
        paths: The modules whose outputs are recorded.
        data: The rows.
    """

    fingerprint = "recorded"

    def __init__(self, file: Path, teacher: FrozenTeacher, paths: list[str], data: Data) -> None:
        super().__init__()
        self._rows = len(data.train)
        if not file.exists():
            teacher.add_taps(paths)
            parts = [
                [one.half() for one in (answer.logits, *(answer.taps[path] for path in paths))]
                for answer in map(teacher.answer, _views(data))
            ]
            names = ["logits", *paths]
            columns = zip(*parts, strict=True)
            record = {name: torch.cat(one) for name, one in zip(names, columns, strict=True)}
            torch.save(record, file)
        self._record: dict[str, Tensor] = torch.load(file, weights_only=True, mmap=True)
        self._taps: set[str] = set()

    def add_taps(self, paths: Iterable[str]) -> None:
        """Return the outputs of these modules too."""
        self._taps.update(paths)

    def answer(self, batch: Batch) -> Answer:
        """Look up the answers of a batch."""
        rows = batch["view"] * self._rows + batch["index"]
        found = {name: self._record[name][rows].float() for name in ("logits", *self._taps)}
        return Answer({"logits": DenseTargets(found.pop("logits"))}, found)


def _views(data: Data) -> Iterable[Batch]:
    for view in range(data.train.views or 1):
        data.train.set_epoch(view)
        for start in range(0, len(data.train), 250):
            yield data.train.__getitems__(list(range(start, min(start + 250, len(data.train)))))


class Bench:
    """The data, the models and the record that all trainings share."""

    def __init__(self, folder: Path, recipe: Recipe, *, rows: int, features: bool) -> None:
        spec: DataSpec = recipe.data
        limits = {**spec.max_samples, "train": rows}
        self.data = load(spec.model_copy(update={"max_samples": limits}), workdir=folder)
        self.task = ImageClassification(classes=self.data.classes)
        self.student = recipe.student
        teacher = FrozenTeacher(self.build(recipe.teachers[0]), self.task)
        norms = [path.format(BLOCKS["teacher"]) for path in NORMS]
        paths = [*STAGES, POOLED, *norms] if features else []
        file = folder / f"teacher_{len(self.data.train)}_{self.data.train.views}_{len(paths)}.pt"
        self.teacher = RecordedTeacher(file, teacher, paths, self.data)

    def build(self, spec: ModelSpec) -> nn.Module:
        """Build a model for the data."""
        return build(spec, classes=len(self.task.classes), channels=3)

    def accuracy(self, model: nn.Module, split: str) -> float:
        """Compute the accuracy on a split, in per cent."""
        rows = getattr(self.data, split).for_evaluation()
        model.eval()
        with torch.inference_mode():
            right = [
                (model(batch["image"]).argmax(1) == batch["labels"]).sum()
                for batch in rows.batches(250)
            ]
        return 100 * float(sum(right)) / len(rows)

    def train(self, method: str, settings: Training, seed: int) -> nn.Module:
        """Train a student by a method."""
        torch.manual_seed(seed)
        model, aim = self.build(self.student), objective(method)
        scheme = Offline(
            model,
            self.task,
            aim,
            teacher=self.teacher if aim.needs_teacher else None,
            probe=self.data.train.__getitems__(list(range(8))),
            training_set=TrainingSet(samples=len(self.data.train)),
        )
        with tempfile.TemporaryDirectory() as folder:
            fit(
                scheme,
                train=self.data.train,
                validate=lambda _: {"none": 0.0},
                settings=settings,
                folder=Path(folder),
                seed=seed,
                accelerator=Accelerator(cpu=True),
            )
        return model


def table(lines: list[dict[str, object]], split: str) -> str:
    """Write the means over seeds, and the differences from labels alone."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        found.setdefault(str(line["method"]), {})[int(line["seed"])] = float(line[split])
    seconds = {str(line["method"]): float(line["seconds"]) for line in lines}
    base = found.get("label_only", {})
    rows = ["| method | accuracy, % | difference from labels alone, points | seeds | CPU s |"]
    rows.append("|-|-:|-:|-:|-:|")
    for method, values in sorted(found.items(), key=lambda one: -np.mean([*one[1].values()])):
        both = sorted(values.keys() & base.keys())
        gain = np.array([values[seed] - base[seed] for seed in both])
        known = method != "label_only" and len(both) > 1
        difference = over_seeds(gain, "+") if known else "-"
        mean, count = np.mean([*values.values()]), len(values)
        rows.append(f"| `{method}` | {mean:.1f} | {difference} | {count} | {seconds[method]:.0f} |")
    return "\n".join(rows)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01])
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    file = given.folder / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    recipe = resolve("vision/cifar10", [f"data.augment.views={given.views}"])
    shared = {
        "rows": given.rows,
        "epochs": given.epochs,
        "batch": given.batch_size,
        "views": given.views,
    }
    bench = None
    for seed in given.seeds:
        for method in given.methods:
            for rate in given.rates:
                key = {**shared, "method": method, "seed": seed, "rate": rate}
                if any(key.items() <= line.items() and given.split in line for line in lines):
                    continue
                bench = bench or Bench(
                    given.folder,
                    recipe,
                    rows=given.rows,
                    features=not LAYERS.keys().isdisjoint(given.methods),
                )
                settings = Training(
                    epochs=given.epochs,
                    batch_size=given.batch_size,
                    learning_rate=rate,
                    precision="bfloat16",
                    keep="last",
                    checkpoint_every=1e9,
                )
                start = time.process_time()
                model = bench.train(method, settings, seed)
                seconds = round(time.process_time() - start, 1)
                score = bench.accuracy(model, given.split)
                lines.append({**key, "seconds": seconds, given.split: score})
                print(lines[-1], flush=True)
                with file.open("a") as stream:
                    print(json.dumps(lines[-1]), file=stream)
    for rate in given.rates:
        key = {**shared, "rate": rate}
        print(f"\nLearning rate {rate}\n")
        print(
            table([x for x in lines if key.items() <= x.items() and given.split in x], given.split)
        )


if __name__ == "__main__":
    main()
