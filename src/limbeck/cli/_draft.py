"""Drafts of recipes for the user's own data, from the names and contents of its files."""

from __future__ import annotations

import csv
import gzip
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from limbeck.errors import InputError, Problem, check_choice

Settings: TypeAlias = dict[str, object]

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
LABELS = ("label", "labels", "target", "class", "y")
"""Usual names of a label column, in the order of preference."""

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
ROWS = 1000
"""The number of rows of a table that are read."""

MOST_VALUES, WORDS = 50, 4
"""The most values of a categorical column, and the mean number of words of a text."""
MOST_CLASSES = 20
"""A label of more different numbers is a regression's target."""
MOST_NAMES = 1000
SIZE = 32

BERT: dict[str, Settings] = {
    "teacher": {
        "source": "transformers",
        "name": "bert",
        "num_hidden_layers": 4,
        "hidden_size": 128,
        "num_attention_heads": 4,
        "intermediate_size": 512,
    },
    "student": {
        "source": "transformers",
        "name": "bert",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "intermediate_size": 256,
    },
}
MODELS: dict[str, dict[str, Settings]] = {
    "image_classification": {
        "teacher": {"source": "limbeck", "name": "resnet56"},
        "student": {"source": "limbeck", "name": "resnet20"},
    },
    "text_classification": BERT,
    "tabular_classification": {
        "teacher": {"source": "limbeck", "name": "tabular_mlp", "width": 128, "depth": 3},
        "student": {"source": "limbeck", "name": "tabular_mlp", "width": 16, "depth": 1},
    },
}
MODELS["audio_classification"] = {
    "teacher": {"source": "limbeck", "name": "audio_cnn", "width": 32, "dropout": 0.2},
    "student": {"source": "limbeck", "name": "audio_cnn", "width": 8},
}
MODELS["tabular_regression"] = MODELS["tabular_classification"]


@dataclass(frozen=True)
class Choices:
    """The user's choices for a draft; what is None is read from the data.

    Attributes:
        label: The column of labels, or of a regression's target.
        text: The column of texts.
        teacher: The teacher, `source:name`, or a checkpoint of it: `source:name@file`.
        student: The student, in the same form.
    """

    label: str | None = None
    text: str | None = None
    teacher: str | None = None
    student: str | None = None


def draft(data: Path, name: str, choices: Choices) -> str:
    """Write a recipe as YAML, for a folder of images or of sound files, or a CSV file.

    Args:
        data: A folder with a folder of images or sound files per class, or with such folders in
            `train` and `test`; or a CSV file with a header.
        name: The recipe's name.
        choices: The user's choices.

    Raises:
        InputError: The data cannot be read, or a column is missing.
    """
    if data.is_dir():
        task, settings = _files(data, choices)
    elif data.is_file() and data.name.endswith(TABLES):
        task, settings = _table(data, choices)
    else:
        fix = "" if data.exists() else f"No such file: {data.absolute()}"
        allowed = f"a folder of images or sounds, or a file that ends in {', '.join(TABLES)}"
        raise InputError(Problem("--data", str(data), allowed, fix))
    models = {
        role: model_of(given, where=f"--{role}") if given else MODELS[task][role]
        for role, given in (("teacher", choices.teacher), ("student", choices.student))
    }
    loaded = "checkpoint" in models["teacher"]
    return "\n".join(_lines(name, task, settings, models, loaded=loaded)) + "\n"


def model_of(given: str, *, where: str) -> Settings:
    """Return the settings of a model from `source:name` or `source:name@checkpoint`.

    Example:
        >>> model_of("torchvision:resnet18@/models/weights.pth", where="--teacher")
        {'source': 'torchvision', 'name': 'resnet18', 'checkpoint': '/models/weights.pth'}
    """
    from limbeck.models.spec import SOURCES

    source, colon, name = given.partition(":")
    if not colon or not name:
        raise InputError(Problem(where, given, "source:name, such as torchvision:resnet18"))
    check_choice(source, SOURCES.names(), where=where)
    name, at, checkpoint = name.partition("@")
    found: Settings = {"source": source, "name": name}
    return found | ({"checkpoint": str(Path(checkpoint).absolute())} if at else {})


def _files(folder: Path, choices: Choices) -> tuple[str, Settings]:
    """Return the task, and the settings of a folder of images or of sound files."""
    for key, given in (("--label", choices.label), ("--text", choices.text)):
        if given is not None:
            raise InputError(Problem(key, given, "nothing, for a folder of images or sounds"))
    inside = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    files = {
        split: inside[word]
        for split, words in SPLITS.items()
        for word in [next((one for one in words if one in inside), "")]
        if word
    }
    found = files if "train" in files else {"train": folder}
    settings: Settings = {"files": {split: str(path.absolute()) for split, path in found.items()}}
    if sounds := _sounds(found["train"]):
        return "audio_classification", {"source": "audiofolder", **settings, "audio": sounds}
    return "image_classification", {"source": "imagefolder", **settings, "image": {"size": SIZE}}


def _sounds(folder: Path) -> Settings | None:
    """Return rate and length of the sound files in a folder; None if there are none.

    The rate is that of most files, and the length that of all but a twentieth of them.

    Raises:
        InputError: None of the files can be read, or soundfile is not installed.
    """
    from limbeck.core.imports import require
    from limbeck.data.modalities.audio import SUFFIXES

    paths = sorted(one for one in folder.glob("*/*") if one.suffix.lower() in SUFFIXES)
    if not paths:
        return None
    soundfile = require("soundfile", extra="audio")
    rates, seconds = Counter[int](), list[float]()
    for path in paths[:: -(-len(paths) // ROWS)]:
        try:
            stated = soundfile.info(str(path))
        except soundfile.SoundFileError:
            continue  # named by the check of the recipe
        rates[stated.samplerate] += 1
        seconds.append(stated.duration)
    if not seconds:
        raise InputError(Problem("--data", str(folder), "sound files that libsndfile can read"))
    longest = sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]
    length = min(max(0.1, math.ceil(longest * 10) / 10), 600.0)
    return {"rate": rates.most_common(1)[0][0], "seconds": length}


def _table(file: Path, choices: Choices) -> tuple[str, Settings]:
    """Return the task, and the settings of the data."""
    columns = _columns(file)
    if not columns or not any(map(len, columns.values())):
        raise InputError(Problem("--data", str(file), "a header, and rows below it"))
    for key, given in (("--label", choices.label), ("--text", choices.text)):
        if given is not None:
            check_choice(given, list(columns), where=key)
    known = {name.lower(): name for name in columns}
    label = choices.label or next((known[one] for one in LABELS if one in known), list(columns)[-1])
    others = {name: cells for name, cells in columns.items() if name != label}
    settings: Settings = {"source": "csv", "files": {"train": str(file.absolute())}}
    text = choices.text or next((n for n, cells in others.items() if _is_text(cells)), None)
    if text is not None:
        settings |= {"columns": {"text": text, "label": label}, **_classes(file, label)}
        return "text_classification", settings | {"text": {"max_length": 64}}
    table = {
        "numeric": [name for name, cells in others.items() if _is_numeric(cells)],
        "categorical": [
            name
            for name, cells in others.items()
            if not _is_numeric(cells) and len({*cells}) <= MOST_VALUES
        ],
    }
    settings["table"] = {kind: names for kind, names in table.items() if names}
    if not settings["table"]:
        allowed = "columns of numbers, or of a few values, or of texts"
        raise InputError(Problem("--data", f"{file}: {', '.join(others)}", allowed))
    cells = columns[label]
    if _is_numeric(cells) and len({*cells}) > MOST_CLASSES:
        return "tabular_regression", settings | {"targets": [label]}
    return "tabular_classification", settings | {
        "columns": {"label": label},
        **_classes(file, label),
    }


def _classes(file: Path, label: str) -> Settings:
    """Return the class names in a label column, in order; none if they are numbers from 0."""
    values = {*_columns(file, rows=None)[label]}
    if len(values) > MOST_NAMES:
        allowed = f"a column of {MOST_NAMES:,} classes at most"
        raise InputError(Problem("--label", f"{label}: {len(values):,} values", allowed))
    if values == {str(number) for number in range(len(values))}:
        return {}
    return {"classes": sorted(values)}


def _columns(file: Path, *, rows: int | None = ROWS) -> dict[str, list[str]]:
    """Read the first rows of a CSV file, or all, by column, without empty cells."""
    opened = gzip.open if file.name.endswith(".gz") else open
    try:
        with opened(file, "rt", encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter="\t" if ".tsv" in file.suffixes else ",")
            names = [name for name in reader.fieldnames or () if name]
            found: dict[str, list[str]] = {name: [] for name in names}
            for row in islice(reader, rows):
                for name in names:
                    if row.get(name):
                        found[name].append(str(row[name]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(Problem("--data", str(file), "a CSV file in UTF-8", str(error))) from error
    return found


def _is_numeric(cells: Sequence[str]) -> bool:
    try:
        return bool(cells) and all(abs(float(cell)) < float("inf") for cell in cells)
    except ValueError:
        return False


def _is_text(cells: Sequence[str]) -> bool:
    words = sum(len(cell.split()) for cell in cells)
    return len(cells) > 0 and words / len(cells) >= WORDS and len({*cells}) > len(cells) / 2


def _lines(
    name: str,
    task: str,
    data: Settings,
    models: Mapping[str, Settings],
    *,
    loaded: bool,
) -> Iterator[str]:
    score = "r2" if task == "tabular_regression" else "accuracy"
    terms = (
        ["task: {weight: 0.3}", "logit_mse: {weight: 0.7}"]
        if task == "tabular_regression"
        else ["task: {weight: 0.1}", "soft_target_kl: {temperature: 4.0, weight: 0.9}"]
    )
    yield f"name: {_flow(name)}"
    yield f"task: {task}"
    yield "data:"
    for key, value in data.items():
        yield f"  {key}: {_flow(value)}"
    for role, model in models.items():
        yield f"{role}: {_flow(model)}"
    yield "# The largest allowed loss, and as needed size_kb, latency_ms, memory_mb."
    yield f"budget: {{drop: {{{score}: 0.02}}}}"
    yield "stages:"
    if not loaded:
        yield "  - train_teacher: {epochs: 10}"
    yield "  - distill:"
    yield "      epochs: 20"
    yield "      objective:"
    for term in terms:
        yield f"        - {term}"
    method = "int8_dynamic" if task == "text_classification" else "int8_static"
    yield f"  - quantize: {{method: {method}}}"
    yield "  - export: {format: onnx}"


def _flow(value: object) -> str:
    """Write a value in YAML's flow style, in one line."""
    import yaml

    text: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return text.removesuffix("...\n").strip()
