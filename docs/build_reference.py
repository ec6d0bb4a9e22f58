"""Generate the reference in docs/recipes.md from the models that validate a recipe.

`python docs/build_reference.py` updates the page; a test checks that it is current.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from limbeck.core.registry import Registry

PAGE = Path(__file__).parent / "recipes.md"
BEGIN, END = "<!-- reference: written by build_reference.py -->", "<!-- end of reference -->"

# Descriptions of fields that have none, by class and field.
MEANINGS = {
    "Recipe.description": "One line, for `limbeck list recipes`.",
    "Recipe.data": "The source of the samples, see [data](#data).",
    "Recipe.student": "The model that ships, see [models](#teacher-and-student).",
    "Recipe.budget": "The limits of the student, see [budget](#budget).",
    "Recipe.seeds": "One run per seed; the verdict has their mean and its interval. The student of "
    "the first seed ships.",
    "Recipe.device": "`auto` uses an accelerator if there is one.",
    "Recipe.trackers": "Accelerate trackers that also receive the rows of `log.jsonl`.",
    "Budget.parameters": "The largest number of parameters.",
    "Columns.image": "The column of images.",
    "Columns.text": "The column of texts.",
    "Columns.label": "The column of labels.",
    "WordPieceSpec.vocab_size": "The size of the vocabulary, including special tokens.",
    "Training.optimizer": "The optimiser.",
    "Training.learning_rate": "The peak learning rate, after warm-up.",
    "Training.precision": "The autocast precision; losses are always in float32.",
    "Compression.method": "One of the methods below, with its settings as further keys.",
}

# Types that the schema does not describe briefly.
TAKES = {"Recipe.teacher": "mapping or list of mappings", "Distill.scheme": "string"}


def reference() -> str:
    """Build every table."""
    from limbeck.data import spec as data
    from limbeck.data.label import LABELS
    from limbeck.data.modality import modalities
    from limbeck.models.spec import Expect, Loading, ModelSpec, Normalization
    from limbeck.pipeline.compression import Compression, FineTune
    from limbeck.pipeline.recipe import Budget, Recipe
    from limbeck.pipeline.stages import STAGES
    from limbeck.schemes import SCHEMES
    from limbeck.training import Training

    parts = ["### The recipe", _table(Recipe)]
    parts += ["### data", _table(data.DataSpec)]
    keys = [one.keys for one in modalities()]
    keys += [LABELS.load(name).keys for name in LABELS.names()]
    for name, model in [
        ("columns", data.Columns),
        ("split", data.SplitSpec),
        *(one for part in keys for one in _nested(part)),
    ]:
        parts += [f"#### data.{name}", _table(model)]
    parts += ["### teacher and student", _table(ModelSpec)]
    parts += ["Any other key is an argument of the model: `width: 64`.", _model_names()]
    parts += ["#### teacher.loading", _table(Loading)]
    parts += ["#### teacher.expect", _table(Expect)]
    parts += ["#### teacher.normalization", _table(Normalization)]
    parts += ["### budget", _table(Budget), "### stages", "A stage is `- name: {settings}`."]
    trained = set(Training.model_fields)
    for name in STAGES.builtin():
        stage = STAGES.load(name)
        parts += [f"#### {name}", _first_line(stage)]
        own = set(stage.model_fields) - trained
        if own:
            parts.append(_table(stage, own))
        if trained <= set(stage.model_fields):
            parts.append("And the settings of [training](#training).")
        elif not own:
            parts.append("It has no settings.")
        if issubclass(stage, Compression):
            parts += _ways(stage.registry, "method")
        if name == "distill":
            parts += _ways(SCHEMES, "scheme")
    own = set(FineTune.model_fields) - trained
    parts += ["#### finetune", _first_line(FineTune), _table(FineTune, own)]
    parts.append("And the settings of [training](#training).")
    parts += ["#### training", "Of `train_teacher`, `distill` and `finetune`.", _table(Training)]
    parts += ["### objective", _objective(), "### methods", _methods()]
    parts += ["### schedules", _schedules()]
    return "\n\n".join(parts)


def _nested(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """List the sections of a model by their path; one whose only key is a section is a key."""
    for name, field in model.model_fields.items():
        for part in _models(field.annotation):
            inner = list(_nested(part, f"{prefix}{name}."))
            if len(inner) != len(part.model_fields):
                yield f"{prefix}{name}", part
            yield from inner


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for part in getattr(annotation, "__args__", ()) for one in _models(part)]


def _ways(registry: Registry, key: str) -> Iterator[str]:
    """Describe everything in a registry that a key of a stage names, with its settings."""
    for name in registry.builtin():
        method = registry.load(name)
        yield f"`{key}: {name}`. {_first_line(method)}"
        if method.model_fields:
            yield _table(method)


def _table(model: type[BaseModel], only: set[str] | None = None) -> str:
    schema = model.model_json_schema()
    rows = ["| key | type | default | meaning |", "|-|-|-|-|"]
    for name, field in schema["properties"].items():
        if only is not None and name not in only:
            continue
        absent = "required" if name in schema.get("required", ()) else _default(field)
        takes = TAKES.get(f"{model.__name__}.{name}") or _takes(field, schema)
        rows.append(f"| `{name}` | {takes} | {absent} | {meaning(model, name)} |")
    return "\n".join(rows)


def meaning(model: type[BaseModel], name: str) -> str:
    """Return the description of a field: its own, the docstring's, or that in MEANINGS.

    Raises:
        KeyError: There is none.
    """
    for kind in model.__mro__:
        described = model.model_fields[name].description
        found = described or _attributes(kind).get(name) or MEANINGS.get(f"{kind.__name__}.{name}")
        if found:
            return found.replace("|", "\\|")
    raise KeyError(f"{model.__name__}.{name}: describe it there, or in MEANINGS")


def _attributes(model: type) -> dict[str, str]:
    """Read the Attributes section of a docstring."""
    section = re.search(r"\nAttributes:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(model) or "", re.DOTALL)
    if section is None:
        return {}
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section[1], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value in (None, "", [], {}) or isinstance(value, dict):
        return "-"
    return f"`{yaml.safe_dump(value, default_flow_style=True, width=200).splitlines()[0]}`"


def _takes(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """Describe the type of a JSON schema."""
    if "$ref" in field:
        return _takes(schema["$defs"][field["$ref"].split("/")[-1]], schema)
    if "anyOf" in field:
        kinds = [_takes(one, schema) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if "const" in field:
        return f"`{json.dumps(field['const']).strip(chr(34))}`"
    kind = field.get("type")
    if kind == "array":
        return f"list of {_many(_takes(field['items'], schema))}" if field.get("items") else "list"
    if kind == "object":
        return "mapping"
    names = {
        "integer": "integer",
        "number": "number",
        "string": "string",
        "boolean": "boolean",
    }
    return names.get(str(kind), "anything") + _bounds(field)


def _many(what: str) -> str:
    return re.sub(r"^(integer|number|string|mapping)", r"\1s", what)


def _bounds(field: dict[str, Any]) -> str:
    words = {
        "minimum": "from",
        "exclusiveMinimum": "above",
        "maximum": "to",
        "exclusiveMaximum": "below",
    }
    found = [f"{word} {field[key]:,.12g}" for key, word in words.items() if key in field]
    return f" {' '.join(found)}" if found else ""


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n", 1)[0].replace("\n", " ")


def _model_names() -> str:
    from limbeck.models.spec import names

    known = ", ".join(f"`{name}`" for name in names("limbeck"))
    return (
        f"Names of `limbeck`: {known}. `timm`, `torchvision` and `transformers` have their own; "
        "`python` takes `file.py:function` or `package.module:function`, called with `classes`, "
        "`channels` and `vocab_size` if it has these parameters.\n\n" + _net_arguments()
    )


def _net_arguments() -> str:
    """List the arguments of limbeck's models, from signature and docstring."""
    import importlib

    from limbeck.models.arguments import DATA_ARGUMENTS
    from limbeck.models.sources.limbeck import file_of_net, names

    rows = ["| net | argument | default | meaning |", "|-|-|-|-|"]
    for name in names():
        module = importlib.import_module(f"limbeck.models.nets.{file_of_net(name).stem}")
        # Nets of one file have the same arguments: the first one documents them.
        docs = "\n".join(inspect.getdoc(getattr(module, net)) or "" for net in module.__all__)
        described = dict(re.findall(r"^\s{4,8}(\w+): (.+)$", docs, re.M))
        for key, parameter in inspect.signature(getattr(module, name)).parameters.items():
            if key not in DATA_ARGUMENTS:
                rows.append(f"| `{name}` | `{key}` | `{parameter.default}` | {described[key]} |")
    return "\n".join(rows)


def _objective() -> str:
    from limbeck import losses
    from limbeck.connectors import BUILDERS
    from limbeck.core.annotations import describe, json_schema
    from limbeck.objective.terms import Term, signature_of

    described = _arguments(Term)
    settings = ["| setting of any term | meaning |", "|-|-|"]
    settings += [
        f"| `{name}` | {described[name]} |"
        for name in inspect.signature(Term).parameters
        if name in described and name != "loss"
    ]
    rows = ["| loss | settings | description |", "|-|-|-|"]
    rows.append("| `task` | - | The task's own loss, on the labels. |")
    for name in sorted(losses.__all__):
        loss = getattr(losses, name)
        # The outputs of a trained connector are not settings.
        learned = name in BUILDERS
        signature = signature_of(loss)
        types = {key: json_schema(signature.hints[key]) for key in signature.keywords}
        # Neither are tensors, which a recipe cannot contain.
        keywords = {key: one for key, one in signature.keywords.items() if describe(types[key])}
        own = _settings(keywords, types, learned=learned)
        rows.append(f"| `{name}` | {own} | {_first_line(loss)} |")
    rows.append("| `python:file.py:function` | its keyword parameters | A user-defined loss. |")
    return "\n".join(settings) + "\n\nRequired settings are bold.\n\n" + "\n".join(rows)


def _methods() -> str:
    from limbeck.objective import methods

    rows = ["| method | settings | description |", "|-|-|-|"]
    for name in sorted(methods.__all__):
        method = methods.find(name)
        own = _settings(inspect.signature(method).parameters)
        rows.append(f"| `{name}` | {own} | {_first_line(method)} |")
    text = (
        "In place of a list of terms, `objective` may be one of these: `{name: {settings}}`. "
        "Required settings are bold."
    )
    return text + "\n\n" + "\n".join(rows)


def _settings(
    parameters: Mapping[str, inspect.Parameter],
    types: Mapping[str, dict[str, Any]] | None = None,
    *,
    learned: bool = False,
) -> str:
    """List the settings with their types, those without a default in bold."""
    named = (
        (f"**`{name}`**" if one.default is one.empty and not learned else f"`{name}`")
        + (f" ({_takes(types[name], {})})" if types else "")
        for name, one in parameters.items()
    )
    return ", ".join(named) or "-"


def _arguments(thing: Any) -> dict[str, str]:
    section = re.search(r"\nArgs:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(thing) or "", re.DOTALL)
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.M)
    return {name: " ".join(text.split()) for name, text in found}


def _schedules() -> str:
    from dataclasses import fields

    from limbeck.objective import element_weights, schedules

    def rows(title: str, kinds: Mapping[str, type]) -> Iterator[str]:
        yield f"| {title} | description |"
        yield "|-|-|"
        for name, kind in kinds.items():
            form = ", ".join(f"{field.name}: ..." for field in fields(kind))
            yield f"| `{{{name}: {{{form}}}}}` | {_first_line(kind)} |"

    per_element = (
        "A weight may also be set per element, and so may the temperature of "
        "`soft_target_kl`, `divergence` and `dkd`:"
    )
    progress = "\n".join(rows("schedule", schedules.KINDS))
    return f"{progress}\n\n{per_element}\n\n" + "\n".join(
        rows("per element", element_weights.KINDS)
    )


def updated(page: str) -> str:
    """Insert the reference into a page, between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
