"""Metadata in a trained model's files about its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from limbeck.core import files
from limbeck.errors import InputError

if TYPE_CHECKING:
    from limbeck.models.spec import ModelSpec, Normalization

T = TypeVar("T")
# Above the size of any model configuration.
LARGEST = 10_000_000
PREPROCESS, PREPROCESSOR, TIMM = "preprocess.json", "preprocessor_config.json", "config.json"


@dataclass(frozen=True)
class Statement:
    """Metadata in a trained model's files about its training; None if not stated.

    Attributes:
        origin: The files read, for messages.
        class_names: The classes in the order of the model's logits.
        normalization: The channel statistics of pixels in [0, 1].
        size: Height and width of the images.
        interpolation: The interpolation of the resize: `bilinear`, `bicubic`, ...
        tokenizer: The folder of the tokenizer's files.
        vocab_size: The number of rows of the embedding table.
        max_length: The number of token positions of the model.
        pad: The id of the padding token.
        preprocess: The content of the preprocess.json beside the weights.
    """

    origin: str = ""
    class_names: tuple[str, ...] | None = None
    normalization: Normalization | None = None
    size: tuple[int, int] | None = None
    interpolation: str | None = None
    tokenizer: Path | None = None
    vocab_size: int | None = None
    max_length: int | None = None
    pad: int | None = None
    preprocess: Mapping[str, Any] | None = None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON mapping; return an empty one if the file is missing, oversized or malformed.

    Example:
        >>> read_json(Path("no-such-file.json"))
        {}
    """
    try:
        content = files.read_json(path, limit=LARGEST)
    except InputError:
        return {}
    return content if isinstance(content, dict) else {}


def normalization_of(mean: object, std: object, *, scale: float = 1.0) -> Normalization | None:
    """Return channel statistics if they are well-formed, else None.

    `scale` is the value of a white pixel in the unit of `mean` and `std`.

    Example:
        >>> normalization_of([127.5], [255.0], scale=255.0).mean
        (0.5,)
    """
    from pydantic import ValidationError

    from limbeck.models.spec import Normalization

    if not isinstance(mean, list | tuple) or not isinstance(std, list | tuple):
        return None
    try:
        # Rounded, so that 0.485 * 255 / 255 is 0.485 again.
        parts = [tuple(round(float(one) / scale, 9) for one in part) for part in (mean, std)]
        return Normalization(mean=parts[0], std=parts[1])
    except (TypeError, ValueError, OverflowError, ZeroDivisionError, ValidationError):
        return None


def names_of(names: object) -> tuple[str, ...] | None:
    """Return class names if they are a list or an `{index: name}` mapping, complete and distinct.

    Example:
        >>> names_of({"1": "dog", "0": "cat"})
        ('cat', 'dog')
        >>> names_of({"0": "cat", "2": "dog"}) is None
        True
    """
    if isinstance(names, Mapping):
        try:
            numbered = {int(number): name for number, name in names.items()}
        except (TypeError, ValueError):
            return None
        if sorted(numbered) != list(range(len(numbered))):
            return None
        names = [numbered[number] for number in range(len(numbered))]
    if not isinstance(names, list | tuple) or not names:
        return None
    found = tuple(str(name) for name in names)
    return found if len(set(found)) == len(found) else None


def size_of(size: object) -> tuple[int, int] | None:
    """Return height and width from the forms used in configurations.

    Example:
        >>> size_of({"height": 8, "width": 6}), size_of([3, 8, 6]), size_of(224)
        ((8, 6), (8, 6), (224, 224))
    """
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        size = [size.get("height", edge), size.get("width", edge)]
    if isinstance(size, int):
        size = [size, size]
    match size:
        case [*_, int(height), int(width)]:
            return height, width
    return None


def if_type(value: object, kind: type[T]) -> T | None:
    """Return a value if it is of a type, else None; a bool is not an int."""
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def of_student(folder: Path) -> Statement:
    """Read the preprocess.json of a student folder, which describes the data it was trained on."""
    path = folder / PREPROCESS
    content = read_json(path)
    if not isinstance(content.get("kind"), str):
        return Statement()
    has_tokenizer = "tokenizer" in content and (folder / "tokenizer.json").is_file()
    return Statement(
        origin=str(path),
        class_names=names_of(content.get("classes")),
        normalization=normalization_of(content.get("mean"), content.get("std")),
        size=size_of(content.get("size")),
        interpolation=if_type(content.get("resample"), str),
        tokenizer=folder if has_tokenizer else None,
        vocab_size=if_type(content.get("vocab_size"), int),
        pad=if_type(content.get("pad"), int),
        preprocess=content,
    )


def of_checkpoint(spec: ModelSpec) -> Statement:
    """Read the metadata beside a model's checkpoint; return an empty statement if it has none."""
    from limbeck.models.checkpoint import find

    return Statement() if spec.checkpoint is None else beside(find(spec.checkpoint))


def beside(file: Path) -> Statement:
    """Read the metadata beside a weight file: of a student folder, or of a stage's run."""
    found = of_student(file.parent)
    if found.origin:
        return found
    # runs/NAME/stages/01-train_teacher/[member-0/]model.safetensors: one preprocessing per run.
    stages = next((folder for folder in file.parents[:3] if folder.name == "stages"), None)
    return Statement() if stages is None else of_student(stages.parent / "student")


def of_timm(config: Mapping[str, object], origin: str) -> Statement:
    """Read a timm `pretrained_cfg`, or a config.json of a timm folder that holds one."""
    inner = config.get("pretrained_cfg", config)
    if not isinstance(inner, Mapping) or "mean" not in inner:
        return Statement()
    names = inner.get("label_names") or config.get("label_names")
    return Statement(
        origin=origin,
        class_names=names_of(names),
        normalization=normalization_of(inner.get("mean"), inner.get("std")),
        size=size_of(inner.get("input_size")),
        interpolation=if_type(inner.get("interpolation"), str),
    )
