"""Models of transformers, from a configuration, a local folder or the Hugging Face hub.

Classifiers of texts, images and tokens, and causal language models.

`{source: transformers, name: bert, num_hidden_layers: 4, hidden_size: 128}` has fresh weights;
`{source: transformers, path: folder}` has the folder's, and a fresh head if there is none.
"""

from __future__ import annotations

import pprint
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.imports import require
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.models.arguments import call, check_names, with_build
from limbeck.models.folder import check_folder, read_config
from limbeck.models.source import Fit, Source
from limbeck.models.statement import (
    PREPROCESSOR,
    Statement,
    if_type,
    names_of,
    normalization_of,
    of_checkpoint,
    read_json,
    size_of,
)

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec

TOKENS, CAUSAL = "AutoModelForTokenClassification", "AutoModelForCausalLM"
BY_ELEMENT = {"token": TOKENS, "next token": CAUSAL}
"""The class of models by what a prediction describes."""
CLASSES = (
    *("AutoModelForSequenceClassification", "AutoModelForImageClassification"),
    *(TOKENS, CAUSAL),
)
ALLOWED = "a model type that transformers makes a classifier or a causal language model of"
# Settings about where and with what a configuration was written, not about the model.
WRITER_SETTINGS = {"transformers_version", "_name_or_path", "dtype", "torch_dtype"}
# PIL's numbers of its resampling filters.
RESAMPLING = {"0": "nearest", "1": "lanczos", "2": "bilinear", "3": "bicubic", "4": "box"}


def names() -> list[str]:
    """Return the model types that transformers has a classifier or a causal model for."""
    kinds = require("transformers", extra="text").CONFIG_MAPPING
    return sorted(kind for kind in kinds if _auto_class(kinds[kind]) is not None)


def _auto_class(config: type, fit: Fit | None = None) -> str | None:
    """Return the class for texts, else for images; with both (Perceiver) the data decides.

    For predictions per token or of next tokens it is that for these; without data any class that
    exists.
    """
    found = [name for name in CLASSES if config in _mapping(name)]
    if fit is not None:
        own = BY_ELEMENT.get(fit.element)
        special = BY_ELEMENT.values()
        found = [name for name in found if name == own or (own is None and name not in special)]
    images = fit is not None and fit.channels is not None
    return (found[-1] if images else found[0]) if found else None


def _mapping(auto_class: str) -> Any:
    """Return the models of a class by configuration class; a look-up imports the module."""
    return getattr(require("transformers", extra="text"), auto_class)._model_mapping


def _import_models(kind: Any) -> None:
    for name in CLASSES:
        if kind in _mapping(name):
            _ = _mapping(name)[kind]


def _config(spec: ModelSpec, fit: Fit) -> Any:
    if spec.folder is not None:
        return _config_of(spec.folder, fit, fresh=spec.loading.head == "fresh")
    check(spec)
    kind = require("transformers", extra="text").CONFIG_MAPPING[spec.name]
    if _auto_class(kind, fit) is None:
        given = f"{spec.name}, with a prediction per {fit.element}"
        raise InputError(Problem("model.name", given, ALLOWED))
    known = _arguments_of(kind)
    fitted = {"vocab_size": fit.vocab_size, "num_channels": fit.channels}
    data = {key: value for key, value in fitted.items() if value is not None and key in known}
    if fit.element not in BY_ELEMENT or fit.element == "token":
        data["num_labels"] = fit.classes
    settings = {**data, **_tokens(kind, fit), **spec.arguments}
    config = call(kind, settings, where=f"model ({spec.name})")
    # For a type with several classifiers (DeiT, LeViT), transformers uses this list.
    config.architectures = config.architectures or []
    return config


def check(spec: ModelSpec) -> None:
    """Check the model type and the arguments; a folder is checked when it is read."""
    if spec.path is not None:
        return
    kinds = require("transformers", extra="text").CONFIG_MAPPING
    if spec.name not in kinds or _auto_class(kinds[spec.name]) is None:
        fix = did_you_mean(spec.name, set(kinds) - {spec.name})
        raise InputError(Problem("model.name", spec.name, ALLOWED, fix))
    known = _arguments_of(kinds[spec.name])
    check_names(spec.arguments, known, where=f"model ({spec.name})")


def _arguments_of(kind: Any) -> set[str]:
    return {*kind().to_dict(), *kind.attribute_map} - WRITER_SETTINGS - {"architectures"}


def _tokens(kind: type, fit: Fit) -> dict[str, int | None]:
    """Return the tokenizer's padding token, and no other special token beyond its vocabulary."""
    if fit.vocab_size is None:
        return {}
    default = kind().to_dict()
    tokens: dict[str, int | None] = {}
    for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        if isinstance(default.get(name), int) and default[name] >= fit.vocab_size:
            tokens[name] = None
    if fit.pad_token is not None and "pad_token_id" in default:
        tokens["pad_token_id"] = fit.pad_token
    return tokens


def _config_of(path: str, fit: Fit, *, fresh: bool) -> Any:
    """Read a folder's configuration; raise an error if it does not fit the data."""
    transformers = require("transformers", extra="text")
    content = read_config(path, transformers.CONFIG_MAPPING)
    kind = transformers.CONFIG_MAPPING[content["model_type"]]
    name = _auto_class(kind, fit)
    if name is None:
        raise InputError(Problem("model.path", f"{path}: {content['model_type']}", ALLOWED))
    _import_models(kind)
    check_folder(path, content, getattr(transformers, name), kind)
    config = kind.from_dict(content)
    problems = []
    causal = name == CAUSAL
    # Classes of decoders end in other names: LlamaForCausalLM, GPT2LMHeadModel.
    own = ("CausalLM", "LMHead") if causal else (name.removeprefix("AutoModelFor"),)
    has_head = not fresh and any(part in one for one in config.architectures or [] for part in own)
    if has_head and not causal and config.num_labels != fit.classes:
        given = f"{path}: a model for {config.num_labels} classes"
        fix = "To train a new head on its body: `loading: {head: fresh}`."
        allowed = f"the {fit.classes} classes of the data"
        problems.append(Problem("model.path", given, allowed, fix))
    tokens = getattr(config, "vocab_size", None)
    if fit.vocab_size and isinstance(tokens, int) and fit.vocab_size > tokens:
        given = f"{path}: a model for {tokens} tokens"
        fix = "Use the model's own tokenizer: data.text.tokenizer."
        problems.append(Problem("model.path", given, f"the data's {fit.vocab_size} tokens", fix))
    if causal and not has_head:
        given = f"{path}: {', '.join(config.architectures or ['no head'])}"
        problems.append(Problem("model.path", given, "a causal language model, with its head"))
    if problems:
        raise InputError(*problems)
    if not has_head:
        config.num_labels = fit.classes
    # Decoders read the last token before the padding. If positions start after the padding id,
    # another padding token implies another tokenizer, and the configuration is not changed.
    follows = not causal and fit.pad_token is not None and config.model_type not in OFFSET_POSITIONS
    if follows and getattr(config, "pad_token_id", fit.pad_token) != fit.pad_token:
        config.pad_token_id = fit.pad_token
    return config


def build(spec: ModelSpec, fit: Fit) -> nn.Module:
    """Build a model from a configuration, or load it from a folder."""
    import torch

    transformers = require("transformers", extra="text")
    config = _config(spec, fit)
    make = getattr(transformers, str(_auto_class(type(config), fit)))
    if spec.folder is None:
        return call(make.from_config, {"config": config}, where=f"model ({spec.name})")
    arguments = {
        "pretrained_model_name_or_path": spec.folder,
        "config": config,
        "local_files_only": True,
        "output_loading_info": True,
        "trust_remote_code": False,
        "ignore_mismatched_sizes": spec.loading.head == "fresh",
        # Not the dtype of the file, in which training would run.
        "dtype": torch.float32,
    }
    with _quiet():
        model, info = call(make.from_pretrained, arguments, where="model.path")
    # A head may be new, and so may its pooler; other missing weights mean a wrong folder.
    body = f"{model.base_model_prefix}."
    holes = sorted(
        name for name in info["missing_keys"] if name.startswith(body) and "pooler" not in name
    )
    if holes:
        given = f"{spec.path}: nothing for {', '.join(holes[:8])} ({len(holes)} in all)"
        raise InputError(Problem("model.path", given, "every tensor of the model's body"))
    model.fresh_parameters = tuple(sorted(info["missing_keys"]))
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable the library's report and progress bar, which limbeck replaces."""
    logging = require("transformers", extra="text").utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def architecture(spec: ModelSpec, fit: Fit) -> str:
    """Return source text that builds the model from its configuration; it needs transformers."""
    config = _config(spec, fit)
    content = {key: value for key, value in config.to_dict().items() if key not in WRITER_SETTINGS}
    kind = content.pop("model_type")
    make = _auto_class(type(config), fit)
    text = f'''"""As transformers builds it: pip install transformers."""

from transformers import AutoConfig, {make}

CONFIG = {pprint.pformat(content, width=100, sort_dicts=True)}


def _model():
    return {make}.from_config(AutoConfig.for_model({kind!r}, **CONFIG))'''
    return with_build(text, "_model", {})


# Their positions start after the padding token's id.
OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet"}
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model",
    "tokenizer.model", "spm.model",
)  # fmt: skip


def states(spec: ModelSpec) -> Statement:
    """Read config.json, preprocessor_config.json and the tokenizer's files of a folder."""
    if spec.folder is None:
        return of_checkpoint(spec)
    folder = Path(spec.folder)
    config = read_json(folder / "config.json")
    positions, pad = config.get("max_position_embeddings"), config.get("pad_token_id")
    if isinstance(positions, int) and str(config.get("model_type")) in OFFSET_POSITIONS:
        positions -= 1 + (pad if isinstance(pad, int) else 0)
    kinds = config.get("architectures")
    has_head = isinstance(kinds, list) and any("Classification" in str(kind) for kind in kinds)
    has_tokenizer = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return replace(
        _pixels(folder / PREPROCESSOR),
        origin=str(folder),
        class_names=_class_names(config.get("id2label"), folder) if has_head else None,
        tokenizer=folder if has_tokenizer else None,
        vocab_size=if_type(config.get("vocab_size"), int),
        max_length=if_type(positions, int),
        pad=if_type(pad, int),
    )


def _class_names(id2label: object, folder: Path) -> tuple[str, ...] | None:
    """Return the names of `id2label`; raise an error for duplicate names."""
    if isinstance(id2label, dict):
        names = [str(name) for name in id2label.values()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            where = f"{folder / 'config.json'}: id2label"
            fix = "Correct the file: the classes of these outputs are ambiguous."
            raise InputError(Problem(where, ", ".join(twice[:8]), "each class name once", fix))
    return names_of(id2label)


def _pixels(path: Path) -> Statement:
    """Read an image processor's settings, converted to pixels in [0, 1]."""
    config = read_json(path)
    if not config:
        return Statement()
    rescale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1
    if not isinstance(rescale, int | float) or not rescale:
        return Statement()
    mean, std = config.get("image_mean"), config.get("image_std")
    if not config.get("do_normalize", mean is not None):
        channels = len(mean) if isinstance(mean, list) else 3
        mean, std = [0.0] * channels, [1.0] * channels
    if isinstance(mean, list) and config.get("rescale_offset"):
        mean = [one + 1 for one in mean]
    return Statement(
        normalization=normalization_of(mean, std, scale=255 * rescale),
        size=size_of(config.get("crop_size") if config.get("do_center_crop") else None)
        or size_of(config.get("size") if config.get("do_resize", True) else None),
        interpolation=RESAMPLING.get(str(config.get("resample"))),
    )


def preload(spec: ModelSpec) -> None:
    """Import the modules of a model type."""
    kinds = require("transformers", extra="text").CONFIG_MAPPING
    if spec.name in kinds:
        _import_models(kinds[spec.name])


source = Source(
    build=build, architecture=architecture, names=names, states=states, preload=preload, check=check
)
