"""The folder is one that transformers itself loads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.atomic import WriteError
from limbeck.errors import InputError
from limbeck.export.huggingface import to_folder


def test_the_folder_loads_with_the_same_answers(bert, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "stale.txt").write_text("from the last run")
    to_folder(bert, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert list(tmp_path.iterdir()) == [folder]
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    bert.eval()
    batch = {"input_ids": torch.randint(100, (3, 9)), "attention_mask": torch.ones(3, 9).long()}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, bert(**batch).logits)


def test_another_kind_of_model_is_refused(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match=r"Linear.*transformers model"):
        to_folder(nn.Linear(2, 2), tmp_path / "student")


def test_an_unwritable_target(bert, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        to_folder(bert, tmp_path / "file" / "student")
