"""Every two ways of compressing after one another, on four kinds of net: a model beside its file.

What is printed is how far the exported file's answers lie from the model's, in shares of the
largest answer; or the reason why the second way refuses. It ends with 1 if a pair does neither.

    PYTHONPATH=tests/support OMP_NUM_THREADS=1 python benchmarks/pairs.py [--net cnn] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from every_method import SETTINGS, attempt, changed, method, of_models
from four_nets import NETS, Subject, subject

from limbeck.export.compact.onnx import pack
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor

FEW_BITS = 2e-2
"""What a value just between two steps, rounded either way, may move an answer by."""
MOVED = 0.5
"""What making a file smaller after training may move an answer by: it is no exact step."""


def pair(net: str, first: str, second: str, folder: Path) -> dict[str, Any]:
    """Do two things to a fresh net, and compare its file with it."""
    made = subject(net)
    for name in (first, second):
        if name not in of_models():
            return {"apart": _file(made, name, folder), "allowed": MOVED}
        changes, why = attempt(lambda name=name: changed(name, made, made.model))
        if changes is None:
            return {"refused": f"{name}: {why}"}
    few = any(name.startswith("quantize") for name in (first, second))
    return {"apart": _apart(made, _exported(made, folder)), "allowed": FEW_BITS if few else 1e-4}


def _exported(made: Subject, folder: Path) -> Path:
    path = folder / "model.onnx"
    to_onnx(made.model, made.task, made.batch, path)
    pack(path)
    return path


def _file(made: Subject, name: str, folder: Path) -> float | str:
    plain, small = folder / "plain.onnx", folder / "small.onnx"
    to_onnx(made.model, made.task, made.batch, plain)
    batches = [{key: tensor.numpy() for key, tensor in made.batch.items()}]
    record, why = attempt(lambda: method(name).write(plain, small, calibration=batches))
    if record is None:
        return f"refused: {why}"
    pack(small)
    return _apart(made, small)


def _apart(made: Subject, path: Path) -> float:
    answered = OnnxPredictor(path, threads=1).predict(made.batch)["logits"]
    expected = made.logits().numpy()
    return float(np.abs(answered - expected).max() / max(1.0, np.abs(expected).max()))


def main() -> int:
    """Try all pairs, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", action="append", choices=NETS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found: list[dict[str, Any]] = []
    for net in arguments.net or NETS:
        for first in of_models():
            for second in SETTINGS:
                began = time.perf_counter()
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        result = pair(net, first, second, Path(folder))
                    except Exception as error:
                        result = {"broken": f"{type(error).__name__}: {error}"[:300]}
                found.append({"net": net, "first": first, "second": second, **result})
                print(_line(found[-1], time.perf_counter() - began), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    wrong = [one for one in found if not _holds(one)]
    refused = sum("refused" in str(one) for one in found)
    print(f"{len(found)} pairs, {refused} refused, {len(wrong)} wrong")
    return bool(wrong)


def _holds(one: dict[str, Any]) -> bool:
    if "refused" in one or isinstance(one.get("apart"), str):
        return True
    return "broken" not in one and one["apart"] <= one["allowed"]


def _line(one: dict[str, Any], seconds: float) -> str:
    said = one.get("refused") or one.get("broken") or one["apart"]
    said = f"{said:.1e}" if isinstance(said, float) else said
    sign = "ok   " if _holds(one) else "WRONG"
    return f"{sign} {one['net']:5} {one['first']:18} {one['second']:22} {seconds:4.1f} s  {said}"


if __name__ == "__main__":
    sys.exit(main())
