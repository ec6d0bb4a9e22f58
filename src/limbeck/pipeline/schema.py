"""JSON schema of a recipe, for editors; `python -m limbeck.pipeline.schema` writes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, get_type_hints

from limbeck import losses
from limbeck.core.annotations import describe, json_schema
from limbeck.core.files import write_json
from limbeck.core.registry import PYTHON, Registry
from limbeck.data.spec import SOURCES as DATA_SOURCES
from limbeck.models.spec import SOURCES as MODEL_SOURCES
from limbeck.objective import methods
from limbeck.objective.element_weights import PerElement
from limbeck.objective.schedules import Spec
from limbeck.objective.terms import (
    AUTO,
    Paths,
    ScheduleSpec,
    setting_type,
    signature_of,
)
from limbeck.pipeline.compression import Compression
from limbeck.pipeline.load_recipe import SHIPPED
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.stages import STAGES
from limbeck.pipeline.stages.distill import Distill, with_scheme
from limbeck.schemes import SCHEMES
from limbeck.tasks import TASKS

Schema: TypeAlias = dict[str, Any]

FILE = SHIPPED / "schema.json"
NUMBER_OR_SCHEDULE = json_schema(setting_type(float))
SHARED: dict[str, Schema] = {
    "output": {"type": "string", "description": "A task's output; by default the primary one."},
    "paths": json_schema(Paths),
    "weight": {"anyOf": [*NUMBER_OR_SCHEDULE["anyOf"], {"const": AUTO}]},
    "number_or_schedule": NUMBER_OR_SCHEDULE,
    "schedule": json_schema(ScheduleSpec),
}
"""Definitions that many terms share."""

OWN: Schema = {"type": "string", "pattern": f"^{PYTHON}"}
"""A name of the user's own object."""

OF_ANY_TERM = {
    "output": SHARED["output"],
    "student": {
        "$ref": "#/$defs/paths",
        "description": "The path of a layer, or several; by default the output itself.",
    },
    "teacher": {
        "$ref": "#/$defs/paths",
        "description": "`labels`, or the path of a layer, or several; by default the targets.",
    },
    "connector": {"anyOf": [{"enum": ["auto", "none"]}, {"type": "object"}]},
    "weight": SHARED["weight"],
}


def recipe_schema() -> Schema:
    """Build the JSON schema of a recipe: its own keys, every stage, term and source.

    It covers single values; relations between values, such as the order of stages, are checked by
    the recipe's own validation.

    Example:
        >>> recipe_schema()["title"]
        'A limbeck recipe'
    """
    schema = Recipe.model_json_schema()
    definitions, keys = schema["$defs"], schema["properties"]
    keys["task"]["anyOf"] = [{"enum": TASKS.builtin()}, OWN]
    definitions["DataSpec"]["properties"]["source"]["enum"] = DATA_SOURCES.builtin()
    definitions["ModelSpec"]["properties"]["source"]["enum"] = MODEL_SOURCES.builtin()
    keys["stages"]["items"] = {"oneOf": [_stage(name, definitions) for name in STAGES.builtin()]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "A limbeck recipe",
        "description": "A recipe for `limbeck run`.",
    }


def _stage(name: str, definitions: Schema) -> Schema:
    """Build the schema of one stage: its name with settings; without, if none is required."""
    kind: type[Stage] = STAGES.load(name)
    settings = kind.model_json_schema()
    definitions.update(settings.pop("$defs", {}))
    if issubclass(kind, Compression):
        settings = _of_every_method(settings, kind.registry, definitions)
    if issubclass(kind, Distill):
        settings = _of_every_scheme(settings, definitions)
    definitions[f"stage_{name}"] = settings
    reference = {"$ref": f"#/$defs/stage_{name}"}
    required = settings.get("required")
    return _one(name, _given(reference, required), str(settings.get("description", "")))


def _describe_objective(settings: Schema, definitions: Schema) -> None:
    """Describe an objective as terms or a method, defined once for all stages."""
    if "term" not in definitions:
        definitions.update(SHARED)
        definitions["term"] = {"oneOf": _referring(_terms())}
        plain = [name for name in methods.__all__ if not _required(methods.find(name))]
        named = [*_referring(list(map(_method, methods.__all__))), {"enum": plain}]
        definitions["named_method"] = {"oneOf": named}
    terms, named = settings["properties"]["objective"]["anyOf"]
    terms["items"] = {"$ref": "#/$defs/term"}
    named.clear()
    named["$ref"] = "#/$defs/named_method"


def _referring(part: Any) -> Any:
    """Replace the parts of a schema that are shared by references."""
    for name, shared in SHARED.items():
        if part == shared:
            return {"$ref": f"#/$defs/{name}"}
    if isinstance(part, list):
        return list(map(_referring, part))
    if isinstance(part, dict):
        return {key: _referring(value) for key, value in part.items()}
    return part


def _of_every_method(settings: Schema, registry: Registry, definitions: Schema) -> Schema:
    """Build the schema of a stage per method, with the method's settings beside the stage's own."""
    _describe_objective(definitions["FineTune"], definitions)
    branches, own = [], settings["properties"]
    default = own["method"]["default"]
    for name in registry.builtin():
        method = registry.load(name).model_json_schema()
        definitions.update(method.pop("$defs", {}))
        properties = {**own, "method": {"const": name}, **method["properties"]}
        required = [*method.get("required", []), *([] if name == default else ["method"])]
        branches.append(_settings(properties, required))
    return {"anyOf": branches, "description": settings.get("description", "")}


def _of_every_scheme(settings: Schema, definitions: Schema) -> Schema:
    """Build the schema of a distillation per scheme, with the scheme's settings beside its own."""
    branches = []
    for name in SCHEMES.builtin():
        kind = with_scheme(name)
        scheme = kind.model_json_schema()
        definitions.update(scheme.pop("$defs", {}))
        _describe_objective(scheme, definitions)
        required = scheme.get("required", []) + ([] if kind is Distill else ["scheme"])
        branches.append(_settings(scheme["properties"], required))
    own = {"type": "object", "properties": {"scheme": OWN}, "required": ["scheme"]}
    return {
        "anyOf": [*branches, own],
        "required": settings.get("required", []),
        "description": settings["description"],
    }


def _terms() -> list[Schema]:
    terms = [
        _one(
            "task",
            _given(_settings({key: SHARED[key] for key in ("output", "weight")}, []), []),
            "The task's own loss.",
        ),
        {"const": "task"},
        {
            "type": "object",
            "patternProperties": {f"^{PYTHON}": {"type": ["object", "null"]}},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
            "description": f"A loss of your own: {PYTHON}file.py:function.",
        },
    ]
    for name in losses.__all__:
        loss = losses.find(name)
        signature = signature_of(loss)
        required = [name for name, one in signature.keywords.items() if one.default is one.empty]
        types = {key: json_schema(setting_type(signature.hints[key])) for key in signature.keywords}
        # A recipe cannot contain tensors, which have no description.
        own = {key: schema for key, schema in types.items() if describe(schema)}
        properties = {**OF_ANY_TERM, **own}
        settings = _given(_settings(properties, required), required)
        terms.append(_one(name, settings, inspect.getdoc(loss) or ""))
        if not required:
            terms.append({"const": name})
    return terms


def _method(name: str) -> Schema:
    method = methods.find(name)
    parameters = inspect.signature(method).parameters.values()
    required = _required(method)
    hints = get_type_hints(method, include_extras=True)
    settings = _settings({one.name: _argument(hints[one.name]) for one in parameters}, required)
    return _one(name, _given(settings, required), inspect.getdoc(method) or "")


def _required(method: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(method).parameters.values()
    return [one.name for one in parameters if one.default is one.empty]


def _argument(hint: Any) -> Schema:
    """Return the schema of a method's argument; one that terms take unchanged is as a weight."""
    return SHARED["weight"] if hint in (Spec, Spec | PerElement) else json_schema(hint)


def _settings(properties: Schema, required: list[str]) -> Schema:
    settings = {"type": "object", "properties": properties, "additionalProperties": False}
    return settings | ({"required": required} if required else {})


def _given(settings: Schema, required: list[str] | None) -> Schema:
    """Allow null instead of settings of which none is required."""
    return settings if required else {"anyOf": [settings, {"type": "null"}]}


def _one(name: str, settings: Schema, description: str) -> Schema:
    """Return the schema of a mapping with this one key."""
    return {**_settings({name: settings}, [name]), "description": description.split("\n", 1)[0]}


if __name__ == "__main__":
    write_json(FILE, recipe_schema())
