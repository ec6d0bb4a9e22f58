"""JSON schema of a recipe, for editors; `python -m limbeck.pipeline.schema` writes it."""

from __future__ import annotations

import inspect
from typing import Any, TypeAlias

from limbeck import losses
from limbeck.core.files import write_json
from limbeck.core.registry import Registry
from limbeck.data.spec import SOURCES as DATA_SOURCES
from limbeck.models.spec import SOURCES as MODEL_SOURCES
from limbeck.objective import methods
from limbeck.objective.terms import AUTO, PYTHON, signature_of
from limbeck.pipeline.compression import Compression
from limbeck.pipeline.load_recipe import SHIPPED
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.stages import STAGES
from limbeck.tasks import TASKS

Schema: TypeAlias = dict[str, Any]

FILE = SHIPPED / "schema.json"
NUMBER: Schema = {"type": "number"}
# A schedule: its kind mapped to its settings.
SCHEDULE = {"type": "object", "minProperties": 1, "maxProperties": 1}
NUMBER_OR_SCHEDULE = {"anyOf": [NUMBER, SCHEDULE]}
WEIGHT = {"anyOf": [NUMBER, SCHEDULE, {"const": AUTO}]}
PATHS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
OF_ANY_TERM = {
    "student": {**PATHS, "description": "An output, or the path of a layer, or several."},
    "teacher": {**PATHS, "description": "logits, labels, or the path of a layer, or several."},
    "connector": {"anyOf": [{"enum": ["auto", "none"]}, {"type": "object"}]},
    "weight": WEIGHT,
}
SIMPLE = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}


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
    keys["task"]["enum"] = TASKS.names()
    definitions["DataSpec"]["properties"]["source"]["enum"] = DATA_SOURCES.names()
    definitions["ModelSpec"]["properties"]["source"]["enum"] = MODEL_SOURCES.names()
    keys["stages"]["items"] = {"oneOf": [_stage(name, definitions) for name in STAGES.names()]}
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
    if name == "distill":
        _describe_objective(settings, definitions)
    definitions[f"stage_{name}"] = settings
    reference = {"$ref": f"#/$defs/stage_{name}"}
    required = settings.get("required")
    return _one(name, _given(reference, required), str(settings.get("description", "")))


def _describe_objective(settings: Schema, definitions: Schema) -> None:
    """Describe an objective as terms or a method, defined once for all stages."""
    definitions.setdefault("term", {"oneOf": _terms()})
    definitions.setdefault("named_method", {"oneOf": list(map(_method, methods.__all__))})
    terms, named = settings["properties"]["objective"]["anyOf"]
    terms["items"] = {"$ref": "#/$defs/term"}
    named.clear()
    named["$ref"] = "#/$defs/named_method"


def _of_every_method(settings: Schema, registry: Registry, definitions: Schema) -> Schema:
    """Build the schema of a stage per method, with the method's settings beside the stage's own."""
    _describe_objective(definitions["FineTune"], definitions)
    branches, own = [], settings["properties"]
    default = own["method"]["default"]
    for name in registry.names():
        method = registry.load(name).model_json_schema()
        definitions.update(method.pop("$defs", {}))
        properties = {**own, "method": {"const": name}, **method["properties"]}
        required = [*method.get("required", []), *([] if name == default else ["method"])]
        branches.append(_settings(properties, required))
    return {"anyOf": branches, "description": settings.get("description", "")}


def _terms() -> list[Schema]:
    terms = [
        _one("task", _given(_settings({"weight": WEIGHT}, []), []), "The task's own loss."),
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
        parameters = list(signature_of(loss).keywords.values())
        required = [one.name for one in parameters if one.default is one.empty]
        properties = {**OF_ANY_TERM, **{one.name: _argument(one) for one in parameters}}
        settings = _given(_settings(properties, required), required)
        terms.append(_one(name, settings, inspect.getdoc(loss) or ""))
        if not required:
            terms.append({"const": name})
    return terms


def _method(name: str) -> Schema:
    method = methods.find(name)
    parameters = inspect.signature(method).parameters.values()
    required = [one.name for one in parameters if one.default is one.empty]
    settings = _settings({one.name: {} for one in parameters}, required)
    return _one(name, _given(settings, required), inspect.getdoc(method) or "")


def _argument(parameter: inspect.Parameter) -> Schema:
    """Return the schema of a loss's argument, from its annotation as text."""
    annotation = str(parameter.annotation)
    if "float" in annotation:
        return NUMBER_OR_SCHEDULE
    kind = SIMPLE.get(annotation.split(" |")[0])
    return {} if kind is None else {"type": [kind, "null"] if "None" in annotation else kind}


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
