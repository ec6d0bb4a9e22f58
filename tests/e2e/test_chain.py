"""A whole chain of compression: every stage measured on its export, and the student alone again."""

import json
import subprocess
import sys

import pytest
import yaml

CHAIN = """
name: chain
task: image_classification
data: {source: sklearn, name: digits, max_samples: {train: 300, validation: 60, test: 80}}
teacher: {source: limbeck, name: digits_cnn, width: 24}
seeds: [0]
threads: 1
stages:
  - train_teacher: {epochs: 4}
  - prune: {method: channels, ratio: 0.5}
  - distill: {epochs: 2, learning_rate: 0.01}
  - prune: {method: magnitude, sparsity: 0.5, finetune: {epochs: 1}}
  - factorize: {method: svd, parameters: 0.7}
  - quantize: {method: uniform, bits: 4, activation_bits: 8, finetune: {epochs: 2}}
  - export: {format: onnx}
"""

ALONE = """
import torch
from safetensors.torch import load_file
from architecture import build

model = build()
model.load_state_dict(load_file("model.safetensors"))
model.eval()
assert "limbeck" not in sys.modules
print(tuple(model(torch.zeros(2, 1, 8, 8)).shape), sum(p.numel() for p in model.parameters()))
"""


@pytest.fixture(scope="module")
def chain(forks, tmp_path_factory):
    place = tmp_path_factory.mktemp("chain")
    (place / "chain.yaml").write_text(CHAIN)
    ended = forks("run", "chain.yaml", "--out", "run", cwd=place)
    assert ended.code == 0, ended.err + ended.out
    return place


@pytest.fixture(scope="module")
def result(chain):
    return json.loads((chain / "run" / "run.json").read_text())


def test_every_stage_is_measured_on_what_it_exports(result):
    stages = [link["stage"] for link in result["chain"]]
    assert stages == [
        "train_teacher",
        "prune",
        "distill",
        "prune",
        "factorize",
        "quantize",
        "export",
    ]
    for link in result["chain"]:
        (measured,) = link["measured"]
        assert measured["cost"]["size_bytes"] > 0
        assert measured["parity"] is None or measured["parity"]["max_abs_difference"] < 1e-3


def test_structure_shrinks_and_files_follow(result):
    costs = [link["measured"][0]["cost"] for link in result["chain"]]
    teach, channels, distill, masked, factors, bits, shipped = costs
    assert channels["parameters"] < 0.5 * teach["parameters"]
    assert channels["flops"] < 0.5 * teach["flops"]
    assert distill["parameters"] == channels["parameters"]
    assert masked["size_bytes"] < distill["size_bytes"]
    assert factors["parameters"] <= 0.71 * distill["parameters"]
    assert bits["size_bytes"] < factors["size_bytes"]
    # What ships carries its passport in short.
    assert 0 < shipped["size_bytes"] - bits["size_bytes"] < 1000


def test_the_student_is_built_without_limbeck(chain):
    block = (
        "import sys\nclass Block:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'limbeck': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", block + ALONE],
        cwd=chain / "run" / "student",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("(2, 10)")


def made(chain):
    """When each stage's record was written, by the stage's folder."""
    folders = sorted((chain / "run" / "stages").iterdir())
    return {folder.name: (folder / "record.json").stat().st_mtime_ns for folder in folders}


def test_stages_are_done_once(chain, forks):
    before = made(chain)
    assert len(before) == 7
    assert forks("run", "chain.yaml", "--out", "run", cwd=chain).code == 0
    assert made(chain) == before


def test_what_follows_a_change_is_done_anew(chain, forks):
    before, recipe = made(chain), yaml.safe_load(CHAIN)
    recipe["stages"][5]["quantize"]["bits"] = 8
    (chain / "other.yaml").write_text(yaml.safe_dump(recipe))
    ended = forks("run", "other.yaml", "--out", "run", cwd=chain)
    assert ended.code == 0, ended.err
    changed = {name for name, when in made(chain).items() if before[name] != when}
    assert changed == {"06-quantize", "07-export"}
