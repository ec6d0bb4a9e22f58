"""Fingerprints are equal for equal contents, and differ for others."""

import hashlib

import pytest
import torch

from limbeck.core import fingerprint


def test_json_does_not_depend_on_the_order_of_keys():
    assert fingerprint.of_json({"a": 1, "b": [2]}) == fingerprint.of_json({"b": [2], "a": 1})
    assert fingerprint.of_json([1, 2]) != fingerprint.of_json([2, 1])


def test_a_file_is_hashed_by_its_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"bytes" * 100_000)
    assert fingerprint.of_file(tmp_path / "file") == hashlib.sha256(b"bytes" * 100_000).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"v": torch.zeros(4)},
        {"w": torch.zeros(2, 2)},
        {"w": torch.zeros(4, dtype=torch.float64)},
        {"w": torch.tensor([0.0, 0.0, 0.0, -0.0])},
        {"w": torch.zeros(4), "v": torch.zeros(0)},
    ],
)
def test_tensors_differ_by_name_shape_type_and_bits(other):
    assert fingerprint.of_tensors({"w": torch.zeros(4)}) != fingerprint.of_tensors(other)


def test_tensors_are_hashed_independently_of_memory_layout():
    square = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    assert fingerprint.of_tensors({"w": square.T}) == fingerprint.of_tensors(
        {"w": square.T.contiguous()}
    )
    assert fingerprint.of_tensors({"n": torch.tensor(3)})


def test_packages_of_presentation_are_not_hashed(tmp_path, monkeypatch):
    for name in ("losses/kl.py", "cli/run.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("a = 1\n")
    monkeypatch.setattr(fingerprint, "__file__", str(tmp_path / "core/fingerprint.py"))
    before = fingerprint.of_code()
    (tmp_path / "cli/run.py").write_text("a = 2\n")
    assert fingerprint.of_code() == before
    (tmp_path / "losses/kl.py").write_text("a = 2\n")
    assert fingerprint.of_code() != before


def test_links_to_folders_are_followed_and_cycles_are_not(tmp_path):
    for name in ("train/dog", "elsewhere/cat"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").write_bytes(name.encode())
    (tmp_path / "train/cat").symlink_to(tmp_path / "elsewhere/cat")
    (tmp_path / "train/cat/cycle").symlink_to(tmp_path / "train")
    found = fingerprint.files_of(tmp_path / "train")
    assert list(found) == ["cat/1.png", "dog/1.png"]
