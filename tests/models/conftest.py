from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

ALONE = """
import sys
sys.modules["limbeck"] = None  # any import of it fails
sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import load_file, save_file
from architecture import build
model = build()
model.load_state_dict(load_file(sys.argv[1] + "/model.safetensors"))
inputs = load_file(sys.argv[1] + "/inputs.safetensors")
with torch.inference_mode():
    output = model.eval()(**inputs)
save_file({"logits": getattr(output, "logits", output).contiguous()}, sys.argv[1] + "/out")
"""


@pytest.fixture
def alone(tmp_path: Path) -> Callable[..., torch.Tensor]:
    """Return a function that runs an architecture.py with weights in a process without limbeck."""

    def run(model: nn.Module, text: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        (tmp_path / "architecture.py").write_text(text)
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        save_file(inputs, tmp_path / "inputs.safetensors")
        environment = {**os.environ, "PYTHONPATH": ""}
        command = [sys.executable, "-c", ALONE, str(tmp_path)]
        subprocess.run(command, check=True, env=environment, cwd=tmp_path)
        return load_file(tmp_path / "out")["logits"]

    return run
