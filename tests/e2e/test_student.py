"""The student folder works alone, and its figures are those that the run reports."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BLOCK = """
import sys


class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is blocked")


sys.meta_path.insert(0, Block())
"""

ONNX = """
import json
import os
import numpy as np, onnxruntime
from PIL import Image

samples = np.load("../samples.npz")
prepare = json.load(open("preprocess.json"))
session = onnxruntime.InferenceSession("model.onnx")
right = 0
for number, label in enumerate(samples["labels"]):
    image = Image.open(f"../{number}.png").convert(prepare["mode"])
    height, width = prepare["size"]
    pixels = np.asarray(image, dtype=np.float32).reshape(height, width, prepare["channels"])
    # From the 256 levels of a file to those of the data, which are not rounded anew.
    pixels = np.round(pixels * np.float32(prepare["divide_by"] / 255))
    pixels = pixels / np.float32(prepare["divide_by"])
    pixels = (pixels - np.float32(prepare["mean"])) / np.float32(prepare["std"])
    image = pixels.transpose(2, 0, 1)[None]
    (logits,) = session.run(["logits"], {"image": image})
    right += int(logits[0].argmax() == label)
assert "torch" not in sys.modules and "limbeck" not in sys.modules
print(right / len(samples["labels"]))
"""

TORCH = """
import numpy as np, torch
from safetensors.torch import load_file
from architecture import build

samples = np.load("../samples.npz")
model = build()
model.load_state_dict(load_file("model.safetensors"))
model.eval()
with torch.no_grad():
    logits = model(torch.from_numpy(samples["images"]))
assert "limbeck" not in sys.modules
print(float((logits.argmax(1).numpy() == samples["labels"]).mean()))
"""


def alone(script: str, folder: Path, *, blocked: set[str]) -> str:
    """Run a script in a folder, where some modules cannot be imported."""
    text = BLOCK.replace("{blocked}", repr(blocked)) + script
    ended = subprocess.run(
        [sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def away(finished, tmp_path_factory) -> Path:
    """A copy of the student folder elsewhere, and the test samples as images next to it."""
    import numpy as np

    from limbeck.data.load import load
    from limbeck.pipeline.load_recipe import resolve

    place = tmp_path_factory.mktemp("away")
    shutil.copytree(finished / "student", place / "student")
    data = load(resolve(str(finished / "recipe.yaml")).data, workdir=place)
    (batch,) = data.test.batches(len(data.test))
    np.savez(place / "samples.npz", images=batch["image"].numpy(), labels=batch["labels"].numpy())
    for number in range(len(data.test)):
        data.test.raw(number)["image"].save(place / f"{number}.png")
    return place


@pytest.fixture(scope="module")
def result(finished) -> dict:
    return json.loads((finished / "run.json").read_text())


def test_the_onnx_file_predicts_as_reported_without_limbeck_and_torch(away, result):
    output = alone(ONNX, away / "student", blocked={"limbeck", "torch", "datasets"})
    assert float(output) == result["chain"][-1]["measured"][0]["scores"][0]["value"]


def test_the_weights_predict_as_reported_without_limbeck(away, result):
    output = alone(TORCH, away / "student", blocked={"limbeck"})
    distilled = next(link for link in result["chain"] if link["stage"] == "distill")
    assert float(output) == pytest.approx(distilled["measured"][0]["scores"][0]["value"], abs=1e-9)


def test_the_snippets_of_the_card_run(away):
    folder = away / "student"
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 2
    shutil.copyfile(away / "0.png", folder / "image.png")
    try:
        output = alone("\n".join(snippets), folder, blocked={"limbeck"})
    finally:
        (folder / "image.png").unlink()
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    assert re.fullmatch(r"classes \['\d'\]", output)


def test_the_onnx_file_names_its_classes(away):
    script = (
        "import json, onnxruntime\n"
        "session = onnxruntime.InferenceSession('model.onnx')\n"
        "print(json.loads(session.get_modelmeta().custom_metadata_map['classes']))\n"
    )
    output = alone(script, away / "student", blocked={"limbeck", "torch"})
    assert output == str([str(digit) for digit in range(10)])
    prepare = json.loads((away / "student" / "preprocess.json").read_text())
    assert prepare["classes"] == [str(digit) for digit in range(10)]


def test_the_passport_verifies_until_a_file_is_changed(away):
    from typer.testing import CliRunner

    from limbeck.cli import _app

    folder = away / "student"
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    untouched = CliRunner().invoke(_app(), ["verify", str(folder)])
    assert untouched.exit_code == 0, untouched.output
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\x00")
    tampered = CliRunner().invoke(_app(), ["verify", str(folder / "passport.json")])
    assert tampered.exit_code == 1
    assert "model.safetensors" in tampered.output


def test_the_same_student_is_exported_to_the_same_bytes(finished, tmp_path):
    """The real exporter twice in one process: its names and order may not depend on what was."""
    import torch

    from limbeck.export.onnx import to_onnx
    from limbeck.export.weights import load_weights
    from limbeck.models.build import build
    from limbeck.pipeline.load_recipe import resolve
    from limbeck.tasks import TASKS

    recipe = resolve(str(finished / "recipe.yaml"))
    model = build(recipe.student, classes=10, channels=1)
    stage = finished / "stages" / "02-distill"
    load_weights(model, stage / "model.safetensors")
    task = TASKS.load(recipe.task)(classes=tuple("0123456789"))
    to_onnx(model.eval(), task, {"image": torch.zeros(2, 1, 8, 8)}, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == (stage / "model.onnx").read_bytes()


def test_report_and_compare_draw_without_torch(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("stages"))
    (tmp_path / "run" / "report.html").unlink()
    script = (
        "import sys\nfrom limbeck.cli import _app\n"
        "for argv in (['report', 'run'], ['compare', 'run', 'run', '--html', 'both.html']):\n"
        "    _app()(argv, standalone_mode=False)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    loaded = alone(script, tmp_path, blocked=set()).split()
    assert not {"torch", "onnxruntime", "datasets", "transformers", "timm"} & set(loaded)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "both.html").is_file()


def _fifo(stage: Path, record: dict) -> None:
    (stage / "model.onnx").unlink()
    os.mkfifo(stage / "model.onnx")


def _outside(stage: Path, record: dict) -> None:
    shutil.copyfile(stage / "model.onnx", stage.parent / "elsewhere.onnx")
    record["artefacts"][0]["file"] = "../elsewhere.onnx"
    record["files"]["../elsewhere.onnx"] = record["files"].pop("model.onnx")


def _external(stage: Path, record: dict) -> None:
    """Refer to a device for the weights, and state the right hash of the file."""
    import hashlib

    import onnx

    model = onnx.load(stage / "model.onnx")
    weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../../../../../../dev/zero")
    (stage / "model.onnx").write_bytes(model.SerializeToString())
    digest = hashlib.sha256((stage / "model.onnx").read_bytes()).hexdigest()
    record["files"]["model.onnx"] = digest


@pytest.mark.parametrize("change", [_fifo, _outside, _external])
def test_an_untrusted_run_folder_is_refused_without_hanging(finished, tmp_path, change):
    from typer.testing import CliRunner

    from limbeck.cli import _app

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    stage = next((run / "stages").glob("*-export"))
    record = json.loads((stage / "record.json").read_text())
    change(stage, record)
    (stage / "record.json").write_text(json.dumps(record))
    ended = CliRunner().invoke(_app(), ["evaluate", str(run), "--evaluations", "calibration"])
    assert ended.exit_code == 2, ended.output
    assert "Traceback" not in ended.output
    assert "allowed" in ended.output


def test_the_run_folder_as_it_was_is_evaluated_again(finished, tmp_path):
    from typer.testing import CliRunner

    from limbeck.cli import _app

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    ended = CliRunner().invoke(_app(), ["evaluate", str(run), "--evaluations", "calibration"])
    assert ended.exit_code == 0, ended.output
