"""Mutate a small Hugging Face folder 500 times: each has to load, or to end in one clear error.

`python benchmarks/fuzz_models.py [COUNT] [SEED]` prints what failed, and a table of outcomes.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fuzz_folders import make_folder, run, use


def main(count: int = 500, seed: int = 0) -> int:
    """Run all mutations, and return how many ended otherwise than they may."""
    outcomes: Counter[tuple[str, int]] = Counter()
    slowest, largest, wrong = 0.0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        workdir = Path(name)
        make_folder(workdir / "folder")
        use(workdir / "folder", workdir)  # imports are done before the first fork
        for tried in run(workdir / "folder", count=count, seed=seed, workdir=workdir):
            outcomes[tried.what.split(":")[0], tried.code] += 1
            slowest, largest = max(slowest, tried.seconds), max(largest, tried.bytes)
            if not tried.fine:
                wrong += 1
                figures = f"{tried.code} {tried.seconds:.1f} s {tried.bytes / 2**20:.0f} MiB"
                print(f"{tried.number}: {tried.what}: {figures}: {tried.message}", flush=True)
    print("| first file changed | exit code | mutations |\n|-|-|-|")
    for (file, code), number in sorted(outcomes.items()):
        print(f"| {file} | {code} | {number} |")
    print(f"{wrong} of {count} wrong; slowest {slowest:.1f} s, largest {largest / 2**20:.0f} MiB")
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, main(*(int(word) for word in sys.argv[1:]))))
