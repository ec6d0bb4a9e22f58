"""Untrusted Hugging Face folders, tokenizers and arguments end in one clear error."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from limbeck.core.process import LimitError, call_limited
from limbeck.data.modalities.text import TextSpec
from limbeck.errors import InputError
from limbeck.models.build import build
from limbeck.models.spec import ModelSpec

pytest.importorskip("transformers")
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY["intermediate_size"] = 16


@pytest.fixture(autouse=True)
def short_cpu_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.core.process.CPU_SECONDS", 1)


def test_a_child_is_held_to_its_limits() -> None:
    def endless() -> None:
        while True:
            pass

    assert call_limited(lambda: {"a": [1]}) == {"a": [1]}
    with pytest.raises(LimitError, match="1 s of computing"):
        call_limited(endless, seconds=1)
    with pytest.raises(LimitError, match="GiB"):
        call_limited(lambda: len(bytearray(2**32)), memory=2**30)
    with pytest.raises(LimitError, match="ZeroDivisionError") as caught:
        call_limited(lambda: 1 // 0)
    assert not caught.value.exceeded
    with pytest.raises(LimitError):
        call_limited(lambda: os.abort())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    spec = ModelSpec(source="transformers", name="bert", **TINY)
    build(spec, classes=3, vocab_size=20).save_pretrained(folder)
    return folder


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the hub's client, which reaches no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_model_of_the_hub_is_loaded_by_its_name(saved: Path, offline: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    stored = offline / "models--limbeck-tests--tiny-bert"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text(revision)
    shutil.copytree(saved, stored / "snapshots" / revision)
    spec = ModelSpec(source="transformers", path="limbeck-tests/tiny-bert")
    assert spec.folder == str(stored / "snapshots" / revision)
    model, expected = (
        build(one, classes=3, vocab_size=20)
        for one in (spec, ModelSpec(source="transformers", path=str(saved)))
    )
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    stated = spec.model_copy(update={"revision": revision})
    assert stated.folder == spec.folder
    with pytest.raises(InputError, match=r"model\.path: got 'limbeck-tests/tiny-bert'"):
        _ = spec.model_copy(update={"revision": "f" * 40}).folder


def test_a_folder_comes_before_a_model_of_the_hub(
    saved: Path, offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec(source="transformers", path="limbeck-tests/local-bert")
    with pytest.raises(InputError, match=r"LIMBECK_DATA, or a name on the hub.*the hub responded"):
        _ = spec.folder
    shutil.copytree(saved, tmp_path / "data" / "limbeck-tests" / "local-bert")
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path / "data"))
    assert spec.folder == str(tmp_path / "data" / "limbeck-tests" / "local-bert")
    with pytest.raises(ValidationError, match="revision is given"):
        ModelSpec(source="transformers", name="bert", revision="main")


def _deep(levels: int) -> str:
    return "[" * levels + "]" * levels


CONFIGS: dict[str, Callable[[dict[str, Any]], object]] = {
    "empty": lambda config: "",
    "not JSON": lambda config: "{'model_type': 'bert'}",
    "number": lambda config: 7,
    "deep": lambda config: '{"model_type": "bert", "x": ' + _deep(200) + "}",
    "deeper than Python": lambda config: _deep(200_000),
    "not a number": lambda config: '{"model_type": "bert", "layer_norm_eps": NaN}',
    "no model_type": lambda config: {k: v for k, v in config.items() if k != "model_type"},
    "list as model_type": lambda config: {**config, "model_type": ["bert"]},
    "unknown, with code": lambda config: {
        **config,
        "model_type": "mine",
        "auto_map": {"AutoConfig": "evil.Config"},
    },
    "words for numbers": lambda config: {**config, "hidden_size": "large"},
    "labels as text": lambda config: {**config, "id2label": "none"},
    "numbers for names": lambda config: {**config, "architectures": [7]},
    "negative": lambda config: {**config, "hidden_size": -16},
    "many layers": lambda config: {**config, "num_hidden_layers": 10**7},
    "wide": lambda config: {**config, "hidden_size": 10**9},
    "large vocabulary": lambda config: {**config, "vocab_size": 10**10},
    "quantised": lambda config: {**config, "quantization_config": {"quant_method": "gptq"}},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations(saved: Path, tmp_path: Path, case: str) -> None:
    config = json.loads((saved / "config.json").read_text())
    changed = CONFIGS[case](config)
    text = changed if isinstance(changed, str) else json.dumps(changed)
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"model\.path"):
        build(ModelSpec(source="transformers", path=str(tmp_path)), classes=3, vocab_size=20)


def test_code_that_a_configuration_names_is_ignored(saved: Path, tmp_path: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "evil.Model"}
    config["attn_implementation"] = "external/kernel"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    model = build(ModelSpec(source="transformers", path=str(tmp_path)), classes=3, vocab_size=20)
    assert type(model).__name__ == "BertForSequenceClassification"


@pytest.mark.parametrize("kind", ["device", "pipe", "header", "pickle", "absent"])
def test_weights(saved: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    file = tmp_path / "model.safetensors"
    if kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "header":
        file.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    elif kind == "pickle":
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"model\.(path|checkpoint)"):
        build(ModelSpec(source="transformers", path=str(tmp_path)), classes=3, vocab_size=20)


@pytest.mark.parametrize(
    ("source", "name", "arguments"),
    [
        ("limbeck", "tabular_mlp", {"width": 10**6, "depth": 5}),
        ("transformers", "bert", {"num_hidden_layers": 10**7}),
        ("transformers", "bert", {**TINY, "intermediate_size": 10**12}),
    ],
)
def test_arguments_that_make_a_model_too_large(
    source: str, name: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=rf"model \({name}\)"):
        build(
            ModelSpec(source=source, name=name, **arguments),
            classes=3,
            vocab_size=20 if source == "transformers" else None,
            table_features=4 if source == "limbeck" else None,
        )


def _tokenizer() -> dict[str, Any]:
    from limbeck.data.modalities.text import _tokenizers as tokenizers

    return json.loads(tokenizers.train(["some words to train on"] * 20, 60).to_str())


def _exploding(content: dict[str, Any]) -> None:
    twice = {"type": "Replace", "pattern": {"Regex": "."}, "content": "aa"}
    content["normalizer"] = {"type": "Sequence", "normalizers": [twice] * 40}


def _no_unknown(content: dict[str, Any]) -> None:
    content["model"]["unk_token"] = "[NOTHING]"


def _beyond(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["a"] = 2**31


def _padded(content: dict[str, Any]) -> None:
    content["padding"] = {
        "strategy": {"Fixed": 10**9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 10**6,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }


@pytest.mark.parametrize("change", [_exploding, _no_unknown, _beyond, _padded])
def test_tokenizers(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    from limbeck.data.modalities.text import _tokenizers as tokenizers

    content = _tokenizer()
    change(content)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    spec = TextSpec(tokenizer=str(tmp_path), max_length=16)
    with pytest.raises(InputError, match=r"data\.text\.tokenizer"):
        tokenizers.make(spec, ["some words"], workdir=tmp_path)


def test_irregular_tokenizer_files(tmp_path: Path) -> None:
    from limbeck.data.modalities.text import _tokenizers as tokenizers

    (tmp_path / "tokenizer.json").symlink_to("/dev/zero")
    for text in ("", "[]", _deep(100_000)):
        (tmp_path / "other.json").write_text(text)
        spec = TextSpec(tokenizer=str(tmp_path / "other.json"), max_length=16)
        with pytest.raises(InputError, match=r"data\.text\.tokenizer"):
            tokenizers.make(spec, ["some words"], workdir=tmp_path)
    with pytest.raises(InputError, match="not a regular file"):
        tokenizers.make(TextSpec(tokenizer=str(tmp_path), max_length=16), ["x"], workdir=tmp_path)


def test_gaps_in_the_ids_get_rows(tmp_path: Path) -> None:
    from limbeck.data.modalities.text import _tokenizers as tokenizers

    content = _tokenizer()
    content["model"]["vocab"]["zebra"] = 500
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    spec = TextSpec(tokenizer=str(tmp_path), max_length=16)
    assert tokenizers.make(spec, ["zebra"], workdir=tmp_path).vocab_size == 501


def test_a_sample_of_mutations(tmp_path: Path) -> None:
    from fuzz_folders import make_folder, run, use

    make_folder(tmp_path / "folder")
    use(tmp_path / "folder", tmp_path)
    tried = list(run(tmp_path / "folder", count=8, seed=1, workdir=tmp_path))
    # Time is not held here: other tests run beside this one.
    assert [one for one in tried if one.code not in {0, 2}] == []
    assert 2 in {one.code for one in tried}
    assert max(one.bytes for one in tried) < 2**31
