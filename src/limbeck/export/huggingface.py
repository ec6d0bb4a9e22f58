"""Export of a transformers model to a Hugging Face folder for `from_pretrained` and optimum."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.core.files import replacing_folder, write_bytes
from limbeck.core.imports import require
from limbeck.errors import InputError, Problem
from limbeck.export import slim
from limbeck.export.quiet import quiet
from limbeck.export.reading import read_model

# Model inputs whose name in transformers and optimum differs from the task's.
INPUTS = {"image": "pixel_values"}
SPECIAL = {
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "bos_token": ("<s>", "<|endoftext|>"),
    "eos_token": ("</s>", "<|endoftext|>"),
}
"""Usual names of special tokens, for tokenizers without their own configuration."""


def to_folder(
    model: nn.Module,
    path: Path,
    *,
    classes: Sequence[str] = (),
    tokenizer: Any = None,
    image_processor: Mapping[str, Any] | None = None,
    onnx: Path | None = None,
    readme: str = "",
    special_tokens: Mapping[str, int] | None = None,
) -> None:
    """Write a transformers model as a Hugging Face folder, atomically.

    The folder contains `config.json` with class names and the tokenizer's padding token,
    `model.safetensors`, and the optional parts: the tokenizer, `preprocessor_config.json`,
    `model.onnx` with the input names of transformers (read by optimum), `README.md`.

    Args:
        model: A transformers model; the names of the classes are set in its configuration.
        path: The folder; an existing one is replaced.
        classes: The classes' names, in the order of the outputs.
        tokenizer: A transformers tokenizer to save with the model.
        image_processor: The content of `preprocessor_config.json`.
        onnx: The exported file to copy into the folder.
        readme: The text of `README.md`.
        special_tokens: The ids of `bos`, `eos` and `pad` of a language model, for
            `generation_config.json`.

    Raises:
        InputError: transformers is not installed, or the model is not one of its models.
        WriteError: The folder cannot be written to.
    """
    transformers = require("transformers", extra="text")
    if not isinstance(model, transformers.PreTrainedModel):
        allowed = "a transformers model, for the Hugging Face folder"
        fix = "Export ONNX or safetensors instead."
        raise InputError(Problem("export", type(model).__name__, allowed, fix))
    _configure(model.config, classes, tokenizer)
    if special_tokens:
        ids = {f"{name}_token_id": number for name, number in special_tokens.items()}
        for name, number in ids.items():
            setattr(model.config, name, number)
        model.generation_config = transformers.GenerationConfig(**ids)
    with replacing_folder(path) as folder:
        with quiet():
            model.save_pretrained(folder, safe_serialization=True)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
                _generalize_class(folder / "tokenizer_config.json")
        if image_processor is not None:
            _write_json(folder / "preprocessor_config.json", image_processor)
        if onnx is not None:
            graph = read_model(onnx)
            slim.rename(graph, lambda name: INPUTS.get(name, name))
            write_bytes(folder / "model.onnx", graph.SerializeToString())
        if readme:
            (folder / "README.md").write_text(readme, encoding="utf-8")


def _configure(config: Any, classes: Sequence[str], tokenizer: Any) -> None:
    if classes:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: number for number, name in enumerate(classes)}
        config.problem_type = "single_label_classification"
    if tokenizer is not None and tokenizer.pad_token_id is not None:
        config.pad_token_id = tokenizer.pad_token_id


def _generalize_class(path: Path) -> None:
    """Write the general class name that both transformers 4 and 5 support."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("tokenizer_class") == "TokenizersBackend":
        _write_json(path, {**content, "tokenizer_class": "PreTrainedTokenizerFast"})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")


def make_tokenizer(
    text: str,
    *,
    max_length: int,
    inputs: Sequence[str],
    beside: Path | None,
    samples: list[str],
    special_tokens: Mapping[str, int] | None = None,
    chat_template: str | None = None,
) -> Any:
    """Build the transformers tokenizer of a tokenizer.json.

    Class and special tokens are those of the tokenizer's original folder, if it produces the same
    tokens on the samples; otherwise the class is `PreTrainedTokenizerFast`.

    Args:
        text: The content of tokenizer.json, with its truncation and padding.
        max_length: Maximum number of tokens; longer texts are truncated.
        inputs: The model inputs that the tokenizer produces.
        beside: The tokenizer's original folder, if any.
        samples: Real texts on which the tokens are compared.
        special_tokens: The ids of `bos`, `eos` and `pad` of a language model, whose prompts are
            padded on the left.
        chat_template: Its chat template.

    Raises:
        InputError: transformers or tokenizers is not installed.
    """
    transformers = require("transformers", extra="text")
    encoder = require("tokenizers", extra="text").Tokenizer.from_str(text)
    padding, truncation = encoder.padding or {}, encoder.truncation or {}
    settings: dict[str, Any] = {
        "model_max_length": max_length,
        "model_input_names": list(inputs),
        "padding_side": padding.get("direction", "right").lower(),
        "truncation_side": truncation.get("direction", "right").lower(),
        "clean_up_tokenization_spaces": False,
    }
    if padding:
        settings["pad_token"] = padding["pad_token"]
    for name, number in (special_tokens or {}).items():
        settings[f"{name}_token"] = encoder.id_to_token(number)
    if special_tokens:
        settings["padding_side"] = "left"
    if chat_template is not None:
        settings["chat_template"] = chat_template
    original = _original_class(transformers, beside, settings)
    if original is not None and _same_tokens(original, encoder, samples):
        return original
    vocabulary = encoder.get_vocab()
    for role, names in SPECIAL.items():
        for name in [name for name in names if name in vocabulary][:1]:
            settings.setdefault(role, name)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=encoder, **settings)


def _original_class(transformers: Any, beside: Path | None, settings: Mapping[str, Any]) -> Any:
    if beside is None or not (beside / "tokenizer_config.json").is_file():
        return None
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(
                beside, local_files_only=True, trust_remote_code=False, **settings
            )
    # A folder may refer to a class that is not installed, or lack its files: any error is possible.
    except Exception:
        return None


def _same_tokens(tokenizer: Any, encoder: Any, samples: list[str]) -> bool:
    with quiet():
        found = tokenizer(samples, truncation=True)["input_ids"] if samples else []
    expected = [
        [number for number, real in zip(one.ids, one.attention_mask, strict=True) if real]
        for one in encoder.encode_batch(samples)
    ]
    return list(map(list, found)) == expected


def image_processor(
    *,
    size: tuple[int, int],
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    resample: str,
    shorter_side: int | None = None,
) -> dict[str, Any]:
    """Return the content of `preprocessor_config.json` for image files.

    With `shorter_side` the shorter side is resized to it, and `size` is cropped from the centre.

    Example:
        >>> scale = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        >>> config = image_processor(size=(8, 8), channels=3, resample="bilinear", **scale)
        >>> config["size"], config["resample"]
        ({'height': 8, 'width': 8}, 2)
    """
    from PIL import Image

    sides = {"height": size[0], "width": size[1]}
    resize: dict[str, Any] = {"image_processor_type": "ViTImageProcessor", "size": sides}
    if shorter_side is not None:
        resize = {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": shorter_side},
            "do_center_crop": True,
            "crop_size": sides,
        }
    return {
        **resize,
        "do_convert_rgb": channels == 3,
        "do_resize": True,
        "resample": int(Image.Resampling[resample.upper()]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
