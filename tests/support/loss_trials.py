"""The trials of every loss, from the files of `tests/losses/trials`."""

import importlib.util
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "losses" / "trials"


def _load(path):
    spec = importlib.util.spec_from_file_location(f"trials_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TRIALS


FILES = {path.name: _load(path) for path in sorted(FOLDER.glob("*.py"))}
TRIALS = {name: trials for file in FILES.values() for name, trials in file.items()}
EACH = [(name, place) for name, trials in TRIALS.items() for place in range(len(trials))]
