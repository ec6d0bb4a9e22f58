"""Token sequences: what is predicted, how documents are packed, and chats by their template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.load import Data, load
from limbeck.data.modalities.language._samples import token_sizes
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
STORIES = ["the cat sat on the mat", "a dog ran", "the dog sat", "the cat ran on", "a mat"] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with an end token and a chat template."""
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["</s>", "<|user|>", "<|assistant|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(STORIES, trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"eos_token": "</s>", "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def loaded(tmp_path: Path, folder: Path, rows: list[dict], **language: object) -> Data:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    language = {"tokenizer": str(folder), "max_length": 32, **language}
    spec = DataSpec(source="json", files={"train": str(file)}, language=language, max_overlap=1.0)
    return load(spec, workdir=tmp_path)


def predicted(data: Data, row: int = 0) -> str:
    batch = data.train.for_evaluation().__getitems__([row])
    labels = batch["labels"][0]
    ids = labels[labels != -100].tolist()
    return data.preprocess.encoder.decode(ids, skip_special_tokens=False)


def test_documents_are_packed_without_a_loss(tmp_path: Path, folder: Path) -> None:
    data = loaded(tmp_path, folder, [{"text": one} for one in STORIES], max_length=8)
    parts = [data.train, data.validation, data.test]
    batches = [next(iter(part.batches(99))) for part in parts]
    found = []
    for one in batches:
        rows = zip(one["input_ids"], one["attention_mask"], strict=True)
        ids = [row[mask.bool()] for row, mask in rows]
        assert all(len(row) == 8 for row in ids[:-1])
        text = data.preprocess.encoder.decode(torch.cat(ids).tolist(), skip_special_tokens=False)
        # A last sequence of one token, whose prediction has no context, is left out.
        found += text.removesuffix("</s>").split("</s>")
    assert sorted(found) == sorted(STORIES)
    # The first token of each sequence follows nothing; all others are predicted.
    for one in batches:
        expected = one["input_ids"].masked_fill(one["attention_mask"] == 0, -100)
        expected[:, 0] = -100
        assert torch.equal(one["labels"], expected)


def test_only_a_response_is_predicted(tmp_path: Path, folder: Path) -> None:
    rows = [{"q": f"the cat {n}", "a": "sat on"} for n in range(20)]
    data = loaded(tmp_path, folder, rows, prompt="q", response="a")
    assert predicted(data) == "sat on</s>"
    batch = data.train.__getitems__([0])
    assert int(batch["target_bytes"].sum()) == len("sat on")


def test_only_the_messages_of_the_assistant_are_predicted(tmp_path: Path, folder: Path) -> None:
    chat = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "sat"},
        {"role": "user", "content": "on"},
        {"role": "assistant", "content": "the mat"},
    ]
    data = loaded(tmp_path, folder, [{"chat": chat}] * 20, messages="chat")
    assert predicted(data) == "sat</s>the mat</s>"


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "template"),
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
         "empty assistant mask"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ],
)  # fmt: skip
def test_a_template_that_hides_the_assistant_is_refused(
    tmp_path: Path, folder: Path, template: str, match: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    config = {"eos_token": "</s>", "chat_template": template}
    (other / "tokenizer_config.json").write_text(json.dumps(config))
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "dog"}]
    with pytest.raises(InputError, match=match):
        loaded(tmp_path, other, [{"chat": chat}] * 20, messages="chat")


def test_rows_without_a_response_are_named(tmp_path: Path, folder: Path) -> None:
    rows = [{"q": "the cat", "a": "sat"}] * 19 + [{"q": "the", "a": None}]
    with pytest.raises(InputError, match="None"):
        loaded(tmp_path, folder, rows, prompt="q", response="a")
    long = [{"q": "the cat sat on the mat " * 9, "a": "ran"}] * 20
    with pytest.raises(InputError, match="no predicted token"):
        loaded(tmp_path, folder, long, prompt="q", response="a", max_length=8)
    chats = [{"chat": [{"role": "user", "content": "a"}]}] * 20
    with pytest.raises(InputError, match="assistant"):
        loaded(tmp_path, folder, chats, messages="chat")


def test_settings_that_contradict_each_other_are_refused() -> None:
    for own, match in (
        ({"prompt": "q"}, "both, or none"),
        ({"prompt": "q", "response": "a", "messages": "chat"}, "one of them"),
        ({"messages": "chat", "packing": True}, "for documents"),
        ({"messages": "chat", "separator": "--"}, "for documents"),
    ):
        with pytest.raises(ValueError, match=match):
            DataSpec(source="json", files={"train": "x"}, language={"tokenizer": "t", **own})


def test_text_files_are_divided_at_the_separator(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "stories.txt"
    file.write_text("\n--\n".join(STORIES))
    language = {"tokenizer": str(folder), "separator": "--", "max_length": 16}
    spec = DataSpec(source="text", files={"train": str(file)}, language=language, max_overlap=1.0)
    data = load(spec, workdir=tmp_path)
    assert data.facts.train + data.facts.validation + data.facts.test == len(STORIES)
    file.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match="text can read"):
        load(spec, workdir=tmp_path)


@settings(max_examples=60)
@given(st.text(max_size=40))
def test_the_bytes_of_tokens_are_those_of_the_text(text: str) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([], trainer)
    encoded = tokenizer.encode(text)
    assert sum(token_sizes(text, encoded.offsets)) == len(text.encode())
