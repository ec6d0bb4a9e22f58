"""Run the command line many times for the price of one import: a warm process that forks.

Reads one JSON object a line (argv, cwd, env, kill, signal, largest, quick, out, err) and replies
with one (code, seconds). Every child runs the real `limbeck.cli.main`. Imported only: nothing has
started a thread before a fork.
"""

import importlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any


def warm() -> None:
    """Import all that a run needs."""
    others = "accelerate.utils datasets onnxruntime.quantization sklearn.datasets"
    modules = "cli data.load pipeline.runner pipeline.load_recipe pipeline.validate report.verdict"
    stages = "distill export load quantize train_teacher"
    for name in [
        *others.split(),
        "torchmetrics.classification",
        *(f"limbeck.{name}" for name in modules.split()),
        *(f"limbeck.pipeline.stages.{name}" for name in stages.split()),
    ]:
        importlib.import_module(name)


def quicken() -> None:
    """Leave out what takes long and makes no bit of a student: a second exporter, measuring."""
    import limbeck.evaluate.measure as measure
    import limbeck.pipeline.artefact_results as examine
    import limbeck.pipeline.artefacts as artefacts

    artefacts.to_onnx = quick_onnx
    brief = {"seconds": 0.01, "throughput_seconds": 0.01, "energy_method": "off"}
    examine.measure = lambda files, example, **settings: measure.measure(files, example, **brief)
    measure.peak_memory = lambda path, feeds: 1_000_000


def quick_onnx(model: Any, task: Any, example: Any, path: Path) -> None:
    """Export by torch's older exporter, which takes a tenth of the time; errors by the newer."""
    import warnings

    import torch

    from limbeck.core.files import replacing
    from limbeck.export.onnx import to_onnx

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            batch = dict(zip(task.inputs, tensors, strict=True))
            return task.outputs(self.model, batch)["logits"]

    names = list(task.inputs)
    try:
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Positional().eval(),
                tuple(example[name] for name in names),
                str(temporary),
                dynamo=False,
                input_names=names,
                output_names=["logits"],
                dynamic_axes={name: {0: "batch"} for name in [*names, "logits"]},
            )
    except Exception:
        to_onnx(model, task, example, path)


def pretend(found: dict[str, str]) -> None:
    """Let packages have other versions than those installed."""
    from importlib import metadata

    version = metadata.version
    metadata.version = lambda name: found.get(name) or version(name)


def child(order: dict[str, Any]) -> None:
    """Be the command line."""
    import limbeck.cli

    os.chdir(order["cwd"])
    os.environ.update(order.get("env", {}))
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    if largest := order.get("largest"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if version := order.get("version"):
        pretend(version)
    if order.get("quick"):
        quicken()
    sys.argv = ["limbeck", *order["argv"]]
    code = 0
    try:
        limbeck.cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _due(moment: float | str, seconds: float, folder: str) -> bool:
    """Return whether the seconds have passed, or the file exists."""
    if isinstance(moment, str):
        return os.path.exists(os.path.join(folder, moment))
    return seconds >= moment


def serve(order: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait, and send the signal when its moment has come."""
    started = time.monotonic()
    number = os.fork()
    if number == 0:
        child(order)
    moment = order.get("kill")
    while True:
        done, status = os.waitpid(number, os.WNOHANG)
        seconds = time.monotonic() - started
        if done:
            return {"code": os.waitstatus_to_exitcode(status), "seconds": seconds}
        if moment is not None and _due(moment, seconds, order["cwd"]):
            os.kill(number, order.get("signal", signal.SIGKILL))
            moment = None
        if seconds > 240:
            os.kill(number, signal.SIGKILL)
        time.sleep(0.002)


if __name__ == "__main__":
    warm()
    # In the pipe, not on standard output: children would share it.
    replies = os.fdopen(os.dup(1), "w")
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), file=replies, flush=True)
