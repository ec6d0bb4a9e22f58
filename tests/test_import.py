"""Importing limbeck loads no heavy package, and every public name exists."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import limbeck

HEAVY = {
    *(
        "accelerate",
        "datasets",
        "lightning",
        "numpy",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "pandas",
    ),
    *("pydantic", "rich", "scipy", "sklearn", "timm", "torch", "torchmetrics", "torchvision"),
    *("transformers", "yaml"),
}


def loaded_by(script: str) -> set[str]:
    """List the packages that a script loads in a process of its own."""
    text = f"import json, sys\n{script}\nprint(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(ended.stdout.splitlines()[-1])}


def test_import_loads_nothing_heavy():
    loaded = loaded_by("import limbeck")
    assert not loaded & HEAVY
    assert "typer" not in loaded


def test_help_loads_nothing_heavy():
    help_of = "from limbeck.cli import _app\n_app()([{}'--help'], standalone_mode=False)"
    assert not loaded_by(help_of.format("")) & HEAVY
    # Typer imports pydantic for the types of a command's options.
    assert not loaded_by(help_of.format("'run', ")) & (HEAVY - {"pydantic"})


def test_preprocessing_and_the_onnx_predictor_need_no_torch():
    images = "from limbeck.data.images import open_image"
    assert "torch" not in loaded_by(f"{images}\nimport limbeck.data.preprocess")
    assert "torch" not in loaded_by("import limbeck.export.predictor")


@pytest.mark.parametrize("name", limbeck.__all__)
def test_public_names_exist(name):
    assert getattr(limbeck, name) is not None
    assert name in dir(limbeck)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = limbeck.no_such_name


def test_type_checkers_see_every_public_name():
    text = (Path(limbeck.__file__)).read_text()
    declared = text.split("if TYPE_CHECKING:")[1].split("_MODULES")[0]
    for name in limbeck.__all__:
        assert name in declared
