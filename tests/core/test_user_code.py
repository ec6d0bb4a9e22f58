"""Fingerprints of user code include every module and file that it depends on."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.core import imports, user_code
from limbeck.errors import InputError
from limbeck.models.build import build
from limbeck.models.spec import ModelSpec
from limbeck.pipeline.reuse import Inputs

NET = """
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        from package.layers import width

        self.body = nn.Linear(4, width())
        self.head = nn.Linear(width(), classes)
        self.settings = json.loads((HERE / "settings.json").read_text())
        with torch.no_grad():
            self.head.bias.copy_(torch.from_numpy(np.load(HERE / "bias.npy")))

    def forward(self, features):
        from package import activations

        return self.head(activations.bend(self.body(features)))


def net(classes):
    return Net(classes)
"""
LEAF = "from . import root\n\n\ndef width():\n    return root.WIDTH\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a package whose model imports in functions and reads two files when it is built."""
    folder = tmp_path / "package"
    folder.mkdir()
    for name, text in {
        "__init__": "",
        "net": NET,
        "layers": LEAF,
        "root": "WIDTH = 3\n",
        "activations": "def bend(values):\n    return values.relu()\n",
        "other": "UNUSED = 1\n",
    }.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "settings.json").write_text('{"slope": 1}')
    np.save(folder / "one.npy", np.zeros(2, dtype=np.float32))
    np.save(folder / "two.npy", np.ones(2, dtype=np.float32))
    (folder / "bias.npy").symlink_to("one.npy")
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "package"]:
        del sys.modules[name]
    sys.path[:] = [place for place in sys.path if place != str(tmp_path)]


def model(spec="package.net:net", **settings):
    torch.manual_seed(0)
    made = partial(build, classes=2, table_features=4)
    return Inputs(made).model(ModelSpec(source="python", name=spec, **settings), "student")


def edited(path: Path, old: str, new: str) -> None:
    """Replace a text by one of the same length, and leave the file's times as they are."""
    assert len(old) == len(new)
    before = path.stat()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("spec", ["package.net:net", "package/net.py:net"])
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("net.py", "self.body(features)", "self.body(-feature)"),
        ("root.py", "3", "5"),  # imported by a module that is imported inside of a function
        ("activations.py", "relu", "tanh"),  # imported when the model runs, not when it is built
        ("settings.json", "1", "2"),
        ("__init__.py", "", ""),
    ],
)
def test_an_edit_of_any_dependency_changes_the_fingerprint(spec, file, old, new, package):
    if spec.startswith("package/"):
        sys.path.append(str(package.parent))
    before = model(spec)
    assert model(spec) == before
    edited(package / file, old, new)
    assert (model(spec) != before) == (old != new)


def test_the_source_is_executed_and_not_cached_bytecode(package):
    function = imports.find("package.layers:width", where="model.name")
    assert function() == 3
    edited(package / "root.py", "3", "7")
    assert imports.find("package.layers:width", where="model.name")() == 7
    (package / "alone.py").write_text("def f():\n    return 1\n")
    assert imports.find("package/alone.py:f", where="x")() == 1
    edited(package / "alone.py", "1", "2")
    assert imports.find("package/alone.py:f", where="x")() == 2


def test_a_link_to_another_file_changes_the_fingerprint(package):
    before = model()
    (package / "bias.npy").unlink()
    (package / "bias.npy").symlink_to("two.npy")
    assert model() != before


def test_an_edit_of_an_unused_module_changes_nothing(package):
    before = model()
    (package / "other.py").write_text("UNUSED = 2\n")
    assert model() == before


def test_a_module_imported_by_a_computed_name_is_included(package):
    (package / "root.py").write_text(
        "import importlib\nOTHER = 'pack' + 'age.other'\n"
        "WIDTH = importlib.import_module(OTHER).UNUSED + 2\n"
    )
    before = model()
    (package / "other.py").write_text("UNUSED = 9\n")
    assert model() != before


def test_a_moved_folder_has_the_same_fingerprint(package, monkeypatch, tmp_path_factory):
    sys.path.append(str(package.parent))
    before = model("package/net.py:net")
    here = tmp_path_factory.mktemp("moved")
    (package.parent / "package").rename(here / "package")
    monkeypatch.chdir(here)
    sys.path.append(str(here))
    sys.path.remove(str(package.parent))
    user_code._EXECUTED.clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "package"]:
        del sys.modules[name]
    assert model("package/net.py:net") == before
    sys.path.remove(str(here))


@pytest.mark.slow
def test_a_fingerprint_is_equal_in_every_process(package):
    code = (
        "import sys; sys.path[:0] = ['tests']\n"
        "from limbeck.models.build import build\nfrom limbeck.models.spec import ModelSpec\n"
        "from limbeck.core import fingerprint\nimport torch\ntorch.manual_seed(0)\n"
        "spec = ModelSpec(source='python', name='package.net:net')\n"
        "print(fingerprint.of_module(build(spec, classes=2, table_features=4)))\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(found) == 1


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path):
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(
            "from dataclasses import dataclass\n\n\n@dataclass\nclass Size:\n"
            f"    n: int = {value}\n\n\ndef size():\n    return Size().n\n"
        )
    one, two = (imports.find(f"{tmp_path}/{name}/net.py:size", where="x") for name in "ab")
    assert (one(), two()) == (1, 2)
    assert sys.modules[one.__module__] is not sys.modules[two.__module__]
    assert one.__globals__ is vars(sys.modules[one.__module__])


def test_a_loss_depends_on_the_files_that_it_reads(tmp_path):
    (tmp_path / "scale.json").write_text("2")
    (tmp_path / "loss.py").write_text(
        "import json\nfrom pathlib import Path\n"
        "SCALE = json.loads((Path(__file__).parent / 'scale.json').read_text())\n\n\n"
        "def loss(student, teacher):\n    return SCALE * (student - teacher).square().mean(-1)\n"
    )
    name = f"{tmp_path}/loss.py:loss"
    imports.find(name, where="x")
    before = imports.fingerprint_of(name)
    edited(tmp_path / "scale.json", "2", "3")
    imports.find(name, where="x")
    assert imports.fingerprint_of(name) != before


def test_reads_exclude_written_and_installed_files(tmp_path):
    user_code.install()
    (tmp_path / "given.txt").write_text("given")
    with user_code.reads() as read:
        (tmp_path / "made.txt").write_text("made")
        for name in ("given.txt", "made.txt"):
            (tmp_path / name).read_text()
        Path(json.__file__).read_text()
        Path(np.__file__).read_text()
    found = user_code.hash_reads(read, but=[tmp_path / "nowhere"])
    assert list(found) == [str(tmp_path / "given.txt")]
    assert user_code.unchanged(found)
    (tmp_path / "given.txt").write_text("other")
    assert not user_code.unchanged(found)
    assert not user_code.hash_reads(read, but=[tmp_path])


def test_nothing_is_imported_while_imports_are_deferred(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    with imports.deferred():
        imports.find(f"{tmp_path}/evil.py:f", where="x")
        with pytest.raises(InputError):
            imports.find("evil", where="x")
