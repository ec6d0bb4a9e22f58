"""Kill real runs at random moments, resume each, and compare every bit with an undisturbed run.

The suite does the same by forks of a warm process and a quick exporter (tests/e2e/test_kill.py);
here it is the command line as a user types it, imports, real export, examination and all.

    python benchmarks/kill.py --kills 20
"""

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
name: killed
task: image_classification
data: {source: sklearn, name: digits, max_samples: {train: 400, validation: 60, test: 80}}
teacher: {source: limbeck, name: digits_cnn, width: 8}
student: {source: limbeck, name: digits_cnn, width: 4}
threads: 1
stages:
  - train_teacher: {epochs: 8, checkpoint_every: 0}
  - distill: {epochs: 8, checkpoint_every: 0}
  - quantize: {method: int8_static}
  - export: {format: onnx}
"""


def contents(run: Path) -> dict[str, str]:
    """Hash the weights and the exported files of every stage, and the student's."""
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in ("*.safetensors", "*.onnx")
        for path in sorted(run.rglob(kind))
    }


def start(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start `limbeck run` in a folder."""
    command = [sys.executable, "-m", "limbeck", "run", "recipe.yaml", "--out", "run", *more]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)


def marked(folder: Path, running: subprocess.Popen[bytes]) -> float:
    """Wait for the run folder to be made: imports are over then, and kills begin to matter."""
    clock = time.monotonic()
    while not (folder / "run" / "recipe.yaml").exists() and running.poll() is None:
        time.sleep(0.01)
    return time.monotonic() - clock


def undisturbed(folder: Path) -> tuple[dict[str, str], float]:
    """Run once, and give the hashes and the seconds from the folder's making to the end."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    running = start(folder)
    before = marked(folder, running)
    clock = time.monotonic()
    if running.wait() != 0:
        raise SystemExit("the undisturbed run failed")
    seconds = time.monotonic() - clock
    expected = contents(folder / "run")
    print(
        f"undisturbed: {before:.1f} + {seconds:.1f} s, {len(expected)} files compared", flush=True
    )
    return expected, seconds


def killed(folder: Path, moment: float) -> str:
    """Run until a moment after the folder's making, kill, and say what was there."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    running = start(folder)
    marked(folder, running)
    try:
        running.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGKILL)
        running.wait()
    done = [path.parent.name for path in sorted(folder.glob("run/stages/*/record.json"))]
    steps = [path.stem.lstrip("0") for path in sorted(folder.rglob("checkpoint/*.safetensors"))]
    return f"done: {', '.join(done) or '-'}; checkpoints: {', '.join(steps) or '-'}"


def main() -> None:
    """Kill, resume, compare; say what was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    same = 0
    with tempfile.TemporaryDirectory() as place:
        expected, seconds = undisturbed(Path(place) / "whole")
        for number in range(options.kills):
            here, moment = Path(place) / str(number), draw.uniform(0.0, 1.0) * seconds
            there = killed(here, moment)
            resumed = start(here, "--resume").wait()
            equal = resumed == 0 and contents(here / "run") == expected
            same += equal
            verdict = "the same bits" if equal else f"OTHER BITS, exit {resumed}"
            print(f"{number + 1:3d}  killed at {moment:5.1f} s; {there}; {verdict}", flush=True)
    print(f"{same} of {options.kills} runs ended with the same bits")
    raise SystemExit(0 if same == options.kills else 1)


if __name__ == "__main__":
    main()
