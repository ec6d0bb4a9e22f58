"""A student folder makes its model in a process of its own, or the student is refused."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

from limbeck.core.imports import find, local_modules
from limbeck.errors import InputError
from limbeck.export.standalone import check_standalone
from limbeck.export.weights import save_weights
from limbeck.report.usage import loading_code

TIED = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.body = nn.Linear(16, 16)
        self.again = self.body  # one module under two names
        self.out = nn.Linear(16, 40, bias=False)
        self.out.weight = self.embed.weight
        self.head = nn.Linear(40, 3)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None]
        x = (self.embed(input_ids) * mask).sum(1) / mask.sum(1)
        return self.head(self.out(self.again(self.body(x))))


def build():
    return Net()
"""

CODES = {
    "reads": (
        "import json\nfrom torch import nn\n"
        "WIDTH = json.load(open('{beside}'))['width']\n"
        "def build():\n    return nn.Sequential(nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3))\n",
        "settings.json",
    ),
    "limbeck": (
        "from torch import nn\nfrom limbeck import losses\n"
        "def build():\n    return nn.Linear(4, 3)\n",
        "No module named 'limbeck'",
    ),
    "drawn": (
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(4, 3)\n"
        "        self.basis = torch.randn(4, 4)\n"
        "    def forward(self, x):\n"
        "        return super().forward(x @ self.basis)\n"
        "def build():\n    return Net()\n",
        '"logits" differs by',
    ),
}


def built(text: str, folder: Path) -> torch.nn.Module:
    (folder / "architecture.py").write_text(text)
    namespace: dict = {}
    exec(compile(text, "architecture.py", "exec"), namespace)
    model = namespace["build"]().eval()
    save_weights(model, folder / "model.safetensors")
    return model


@pytest.fixture
def student(tmp_path: Path) -> Path:
    folder = tmp_path / "student"
    folder.mkdir()
    return folder


def test_model_card_code_loads_tied_weights(student):
    torch.manual_seed(0)
    model = built(TIED, student)
    ids = torch.randint(0, 40, (4, 7))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = model(**batch).detach().numpy()
    inputs = {name: tensor.numpy() for name, tensor in batch.items()}
    code = loading_code("text_classification", "text")
    check_standalone(student, code, inputs, expected, where="student")
    from safetensors import safe_open

    with safe_open(student / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert names == {"embed.weight", "body.weight", "body.bias", "head.weight", "head.bias"}
    assert sorted(path.name for path in student.iterdir()) == [
        "architecture.py",
        "model.safetensors",
    ]


@pytest.mark.parametrize("kind", CODES)
def test_code_that_needs_other_files_is_rejected(kind, student, tmp_path):
    (tmp_path / "settings.json").write_text('{"width": 5}')
    text, reason = CODES[kind]
    model = built(text.replace("{beside}", str(tmp_path / "settings.json")), student)
    features = torch.randn(5, 4)
    code = loading_code("tabular_classification", "table")
    with pytest.raises(InputError) as caught:
        check_standalone(
            student,
            code,
            {"features": features.numpy()},
            model(features).detach().numpy(),
            where="student.name",
        )
    message = str(caught.value)
    assert message.startswith("student.name: ")
    assert reason in message
    assert "Traceback" not in message


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A user's project: a package with relative imports, a file beside it, and one on a path."""
    files = {
        "zoo/__init__.py": "",
        "zoo/net.py": "from .parts import blocks\nimport numpy, json\ndef build(): return blocks\n",
        "zoo/unused.py": "",
        "zoo/parts/__init__.py": "",
        "zoo/parts/blocks.py": "from ..widths import WIDTH\n",
        "zoo/widths.py": "import elsewhere_widths\nWIDTH = elsewhere_widths.WIDTH\n",
        "alone.py": "def build():\n    from zoo import widths\n    return widths.WIDTH\n",
        "lib/elsewhere_widths.py": "WIDTH = 8\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    importlib.invalidate_caches()
    yield tmp_path
    for name in [one for one in sys.modules if one.split(".")[0] in {"zoo", "elsewhere_widths"}]:
        del sys.modules[name]


def test_user_modules_are_found_in_packages_files_and_paths(project):
    find("zoo.net:build", where="x")
    own = ["zoo", "zoo.net", "zoo.parts", "zoo.parts.blocks", "zoo.widths", "elsewhere_widths"]
    assert sorted(local_modules("zoo.net:build")) == sorted(own)
    find("alone.py:build", where="x")()
    found = local_modules("alone.py:build")
    assert sorted(found) == ["elsewhere_widths", "zoo", "zoo.widths"]
    assert found["elsewhere_widths"] == project / "lib" / "elsewhere_widths.py"


@pytest.mark.slow  # a whole run, and three processes that import torch
def test_run_ships_the_modules_that_the_student_imports(tmp_path, monkeypatch, quick_measuring):
    from limbeck.pipeline.load_recipe import resolve
    from limbeck.pipeline.runner import run

    (tmp_path / "mixers").mkdir()
    (tmp_path / "mixers" / "__init__.py").write_text("from .mlp import Mixer\n")
    (tmp_path / "mixers" / "mlp.py").write_text(
        "from torch import nn\nclass Mixer(nn.Linear):\n    pass\n"
    )
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom mixers import Mixer\n"
        "def build(classes):\n    return nn.Sequential(nn.Flatten(), Mixer(64, classes))\n"
    )
    (tmp_path / "r.yaml").write_text(
        "name: ships\ntask: image_classification\n"
        "data: {source: sklearn, name: digits, max_samples: {train: 90, validation: 60, test: "
        "40}}\nstudent: {source: python, name: 'net.py:build'}\n"
        "stages:\n  - distill: {epochs: 1, objective: [{cross_entropy: {weight: 1}}]}\n"
        "  - export: {format: onnx}\nthreads: 1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    run(resolve("r.yaml", []), out=tmp_path / "out")
    shipped = tmp_path / "out" / "student"
    assert (shipped / "mixers" / "mlp.py").is_file()
    assert (shipped / "mixers" / "__init__.py").is_file()
    (tmp_path / "net.py").write_text(
        "from pathlib import Path\nfrom torch import nn\n"
        "WIDTH = int((Path(__file__).parent / 'width.txt').read_text())\n"
        "def build(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    (tmp_path / "width.txt").write_text("3")
    with pytest.raises(InputError, match=r"student\.name: .*width\.txt"):
        run(resolve("r.yaml", []), out=tmp_path / "other")
