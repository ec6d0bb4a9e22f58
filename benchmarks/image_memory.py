"""The memory until the first training steps, for a folder of many encoded images.

Makes class folders of JPEG files, hard links to a few different ones, loads them in a new process
as a recipe does, and trains a small net for some steps. Prints one JSON object: the peak of
resident memory of the process and of its workers, read while it runs, with the part that is no
mapped file.

    OMP_NUM_THREADS=1 python benchmarks/image_memory.py --images 1000000 --folder /tmp/million
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

PER_CLASS, DIFFERENT = 1000, 50
"""Images per class folder, and different files in it."""
SIDE, STEPS = 64, 5
MIB = 2**20


def make_folder(folder: Path, images: int, *, seed: int = 0) -> None:
    """Write class folders with JPEG files; the last tenth of the classes are for validation."""
    random = np.random.default_rng(seed)
    for label in range(-(-images // PER_CLASS)):
        own = folder / "images" / f"class{label:05d}"
        if own.is_dir():
            continue
        partial = own.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        count = min(PER_CLASS, images - label * PER_CLASS)
        for number in range(count):
            path, first = partial / f"{number:06d}.jpg", partial / f"{number % DIFFERENT:06d}.jpg"
            if path.exists():
                continue
            if number < DIFFERENT:
                pixels = random.integers(0, 256, (SIDE + 16, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path, quality=60)
            else:
                os.link(first, path)
        partial.rename(own)


def train(folder: Path, workers: int | None) -> dict[str, float]:
    """Load the folder and train for some steps; return the seconds and the numbers of samples."""
    import torch
    from accelerate import Accelerator
    from torch import nn

    from limbeck.data.load import load
    from limbeck.data.spec import DataSpec
    from limbeck.objective import Objective, Term
    from limbeck.schemes import Offline
    from limbeck.tasks.image_classification import ImageClassification
    from limbeck.training import Training, fit

    start = time.monotonic()
    spec = DataSpec(
        source="imagefolder",
        files={"train": str(folder / "images")},
        image={"size": 224, "decode": "on_demand"},
        augment={"flip": True, "mixup": 0.2},
        max_overlap=1,
        validation=0.01,
        test=0.01,
    )
    data = load(spec, workdir=folder)
    loaded = time.monotonic()
    student = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, len(data.classes)),
    )
    task, probe = ImageClassification(data.classes), data.train.__getitems__([0, 1])
    scheme = Offline(student, task, Objective.of([Term("task")]), probe=probe)
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    fit(
        scheme,
        train=data.train,
        validate=lambda _: {"accuracy": 0.0},
        settings=Training(steps=STEPS, num_workers=workers, batch_size=64),
        folder=folder / f"run{os.getpid()}",
        seed=0,
        accelerator=accelerator,
    )
    return {
        "images": len(data.train) + len(data.validation) + len(data.test),
        "load_seconds": loaded - start,
        "steps_seconds": time.monotonic() - loaded,
    }


def resident(process: int) -> Counter[str]:
    """Return the resident memory of a process, in bytes: all, and what is no mapped file."""
    found: Counter[str] = Counter()
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            found[name] = int(value.split()[0]) * 1024
    return found


def children(process: int) -> list[int]:
    """Return the child processes of a process."""
    try:
        tasks = Path(f"/proc/{process}/task").iterdir()
        return [int(one) for task in tasks for one in (task / "children").read_text().split()]
    except OSError:
        return []


def measure(folder: Path, workers: int | None) -> Mapping[str, float]:
    """Run `train` in a new process, and read its memory and that of its workers meanwhile."""
    command = [sys.executable, __file__, "--folder", str(folder), "--train"]
    command += [] if workers is None else ["--workers", str(workers)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak: Counter[str] = Counter()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            own = resident(child.pid)
            below = sum((resident(one) for one in children(child.pid)), Counter())
            for name, value in own.items():
                peak[name] = max(peak[name], value)
                # Pages that workers share with their parent count once for each.
                peak[f"{name} of workers"] = max(peak[f"{name} of workers"], below[name])

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = child.communicate()
    ended.set()
    watcher.join()
    if child.returncode:
        raise SystemExit(child.returncode)
    megabytes = {f"{name}, MiB": round(value / MIB) for name, value in peak.items()}
    return {**json.loads(output.splitlines()[-1]), **megabytes}


def main() -> None:
    """Make the folder if needed, measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--train", action="store_true")
    given = parser.parse_args()
    if given.train:
        print(json.dumps(train(given.folder, given.workers)))
        return
    make_folder(given.folder, given.images)
    print(json.dumps(measure(given.folder, given.workers)))


if __name__ == "__main__":
    main()
