"""Kill real runs at random moments, resume each, and compare every bit with an undisturbed run.

The suite does the same by forks of a warm process and a quick exporter (tests/road/test_kill.py);
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
data: {source: sklearn, name: digits, limit: {train: 400, validation: 60, test: 80}}
teacher: {source: limbeck, name: digits_cnn, width: 8}
student: {source: limbeck, name: digits_cnn, width: 4}
threads: 1
stages:
  - teach: {epochs: 8, checkpoint_every: 0}
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


def main() -> None:
    """Kill, resume, compare; say what was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        (whole / "recipe.yaml").write_text(RECIPE)
        clock = time.monotonic()
        if start(whole).wait() != 0:
            raise SystemExit("the undisturbed run failed")
        seconds = time.monotonic() - clock
        expected = contents(whole / "run")
        print(f"undisturbed: {seconds:.1f} s, {len(expected)} files compared")
        same = 0
        for number in range(options.kills):
            here = Path(place) / str(number)
            here.mkdir()
            (here / "recipe.yaml").write_text(RECIPE)
            moment = draw.uniform(0.0, 1.0) * seconds
            running = start(here)
            try:
                code = running.wait(timeout=moment)
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
                code = running.wait()
            stages = [path.parent.name for path in sorted(here.glob("run/stages/*/record.json"))]
            resumed = start(here, "--resume").wait()
            equal = contents(here / "run") == expected
            same += equal and resumed == 0
            print(
                f"{number:3d}  at {moment:5.1f} s  exit {code}  done: {', '.join(stages) or 'none'}"
                f"  resumed: exit {resumed}, {'the same bits' if equal else 'OTHER BITS'}",
                flush=True,
            )
        print(f"{same} of {options.kills} runs ended with the same bits")
        raise SystemExit(0 if same == options.kills else 1)


if __name__ == "__main__":
    main()
