"""Weights come back bit for bit, whatever their memory looks like."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from limbeck.core import fingerprint
from limbeck.core.files import WriteError
from limbeck.errors import LimbeckError
from limbeck.export.weights import load_weights, save_weights


class Tied(nn.Module):
    """All that trips a plain save: a tied weight, a transposed one, views, buffers, types."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.turned = nn.Parameter(torch.randn(3, 5).t())
        self.brief = nn.Parameter(torch.randn(4).bfloat16())
        shared = torch.randn(1000)
        self.register_buffer("low", shared[:10])
        self.register_buffer("high", shared[5:15])
        self.register_buffer("empty", torch.empty(0))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("passing", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x))


def test_load_weights_inverts_save_weights(tmp_path):
    model, other = Tied(), Tied()
    save_weights(model, tmp_path / "m.safetensors")
    load_weights(other, tmp_path / "m.safetensors")
    assert fingerprint.of_tensors(other.state_dict()) == fingerprint.of_tensors(model.state_dict())
    assert other.head.weight is other.embedding.weight


def test_tied_weights_and_views_are_written_once(tmp_path):
    save_weights(Tied(), path := tmp_path / "m.safetensors")
    with safe_open(path, framework="pt") as file:
        assert "head.weight" not in set(file.keys())
        assert file.metadata()["head.weight"] == "embedding.weight"
    assert path.stat().st_size < 1500  # the views' memory of 4000 bytes stays behind


def test_safetensors_reads_the_file(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    save_weights(model, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="np") as file:
        assert set(file.keys()) == set(model.state_dict())


def test_weights_of_another_architecture_are_rejected(tmp_path):
    save_weights(nn.Sequential(nn.Linear(3, 2)), tmp_path / "m.safetensors")
    with pytest.raises(LimbeckError, match=r"0\.weight is \(2, 3\), the model has \(2, 4\)"):
        load_weights(nn.Sequential(nn.Linear(4, 2)), tmp_path / "m.safetensors")
    with pytest.raises(LimbeckError, match=r"1\.weight is missing.*0\.weight is not in the model"):
        load_weights(nn.Sequential(nn.ReLU(), nn.Linear(3, 2)), tmp_path / "m.safetensors")


def test_missing_or_truncated_file_is_rejected(tmp_path):
    model = nn.Linear(30, 20)
    with pytest.raises(LimbeckError, match="no such file"):
        load_weights(model, tmp_path / "m.safetensors")
    save_weights(model, path := tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LimbeckError, match="damaged"):
        load_weights(model, path)


def test_unwritable_target_raises_write_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        save_weights(nn.Linear(2, 2), tmp_path / "file" / "m.safetensors")
