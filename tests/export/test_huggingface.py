"""The folder is one that transformers itself loads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.core.files import WriteError
from limbeck.errors import InputError
from limbeck.export.huggingface import image_processor, make_tokenizer, to_folder
from limbeck.export.invariance import check_invariance
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor
from limbeck.export.quiet import quiet
from limbeck.tasks.image_classification import ImageClassification
from limbeck.tasks.text_classification import TextClassification


def test_loaded_folder_has_the_same_logits(bert, tmp_path):
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


def test_model_without_transformers_is_rejected(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match=r"Linear.*transformers model"):
        to_folder(nn.Linear(2, 2), tmp_path / "student")


def test_unwritable_target_raises_write_error(bert, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        to_folder(bert, tmp_path / "file" / "student")


TEXTS = [
    "a gorgeous , witty , seductive movie .",
    "unflinchingly bleak and desperate",
    "it 's slow -- very , very slow .",
    "an ugly-duckling tale so hideously and clumsily made it feels accidental . " * 4,
    "warm",
]
MODELS = {
    "gpt2": {"n_layer": 1, "n_head": 2},
    "modernbert": {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
}


@pytest.fixture(scope="module")
def preprocess():
    """A tokenizer that was trained here, whose padding token is not the models' own."""
    from limbeck.data.modalities.text import TextPreprocess
    from limbeck.data.modalities.text import _tokenizers as tokenizers

    tokenizer = tokenizers.train(TEXTS, 80)
    pad = tokenizer.token_to_id(tokenizers.PAD)
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizers.PAD)
    size = tokenizer.get_vocab_size()
    return TextPreprocess(tokenizer.to_str(), 16, pad, size, classes=("rotten", "fresh"))


def built(kind: str, preprocess) -> nn.Module:
    from limbeck.models.build import build
    from limbeck.models.spec import ModelSpec

    width = {"n_embd": 16} if kind == "gpt2" else {"hidden_size": 16}
    spec = ModelSpec.model_validate(
        {"source": "transformers", "name": kind, **width, **MODELS[kind]}
    )
    torch.manual_seed(0)
    fit = preprocess.model_inputs()
    model = build(spec, classes=2, class_names=preprocess.classes, **fit).eval()
    for (
        parameter
    ) in model.parameters():  # an untrained head has nearly the same logits for every text
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def tokenizer_of(preprocess, beside=None):
    return make_tokenizer(
        preprocess.tokenizer,
        max_length=preprocess.max_length,
        inputs=("input_ids", "attention_mask"),
        beside=beside,
        samples=TEXTS,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_transformers_pipeline_matches_the_onnx_file(kind, preprocess, tmp_path):
    """The padding token follows the tokenizer, long texts are cut, and classes have names."""
    transformers = pytest.importorskip("transformers")
    task, model = TextClassification(preprocess.classes), built(kind, preprocess)
    batch = {name: torch.from_numpy(one) for name, one in preprocess(TEXTS).items()}
    to_onnx(model, task, batch, tmp_path / "model.onnx")
    check_invariance(OnnxPredictor(tmp_path / "model.onnx"), batch, where=kind)
    logits = OnnxPredictor(tmp_path / "model.onnx").predict(batch)["logits"]
    to_folder(
        model,
        tmp_path / "hf",
        classes=preprocess.classes,
        tokenizer=tokenizer_of(preprocess),
        onnx=tmp_path / "model.onnx",
        readme="# student\n",
    )
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert names == {
        "README.md", "config.json", "model.onnx", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    settings = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 16
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["pad_token_id"] == preprocess.pad
    assert config["label2id"] == {"rotten": 0, "fresh": 1}
    with quiet():
        classify = transformers.pipeline(
            "text-classification", model=str(tmp_path / "hf"), truncation=True, top_k=None
        )
        found = classify(TEXTS, batch_size=3)
    scores = [{one["label"]: one["score"] for one in row} for row in found]
    expected = torch.tensor(logits).softmax(-1)
    assert scores == [
        {
            "rotten": pytest.approx(float(row[0]), abs=1e-4),
            "fresh": pytest.approx(float(row[1]), abs=1e-4),
        }
        for row in expected
    ]
    assert expected[:, 0].std() > 1e-3  # or agreeing would be easy


def test_tokenizer_class_is_kept_if_tokens_are_equal(preprocess, tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer

    own = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(preprocess.tokenizer),
        pad_token="[PAD]", unk_token="[UNK]", additional_special_tokens=["[EXTRA]"],
    )  # fmt: skip
    own.save_pretrained(tmp_path / "own")
    kept = tokenizer_of(preprocess, tmp_path / "own")
    assert "[EXTRA]" in kept.all_special_tokens
    config = tmp_path / "own" / "tokenizer_config.json"
    content = json.loads(config.read_text()) | {"tokenizer_class": "NoSuchTokenizer"}
    config.write_text(json.dumps(content))
    for beside in (tmp_path / "own", tmp_path / "nothing"):
        general = tokenizer_of(preprocess, beside)
        encoder = Tokenizer.from_str(preprocess.tokenizer)
        assert general(TEXTS, truncation=True, padding=True)["input_ids"] == [
            one.ids for one in encoder.encode_batch(TEXTS)
        ]


def test_image_folder_has_a_processor_and_the_input_name_of_optimum(tmp_path):
    transformers = pytest.importorskip("transformers")
    import onnxruntime
    from PIL import Image

    from limbeck.data.modalities.image import ImagePreprocess

    class Logits(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values=image).logits

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=8, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    prepare = ImagePreprocess((16, 16), 3, 255.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    images = [
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 12, 3), np.uint8))
        for seed in range(3)
    ]
    image = prepare(images)["image"]
    batch = {"image": torch.from_numpy(image)}
    to_onnx(Logits(model), ImageClassification(tuple("abc")), batch, tmp_path / "model.onnx")
    processor = image_processor(
        size=prepare.size, channels=3, mean=prepare.mean, std=prepare.std, resample="bilinear"
    )
    to_folder(
        model, tmp_path / "hf", classes=("cat", "dog", "owl"), image_processor=processor,
        onnx=tmp_path / "model.onnx",
    )  # fmt: skip
    loaded = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    pixels = loaded(images, return_tensors="np")["pixel_values"]
    assert np.abs(pixels - image).mean() < 0.03
    session = onnxruntime.InferenceSession(tmp_path / "hf" / "model.onnx")
    (logits,) = session.run(["logits"], {"pixel_values": image})
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    assert again.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    with torch.no_grad():
        expected = again(pixel_values=batch["image"]).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
