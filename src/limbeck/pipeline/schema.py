"""JSON schema of a recipe, for editors; `python -m limbeck.pipeline.schema` writes it."""

from __future__ import annotations

import inspect
from typing import Any

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

FILE = SHIPPED / "schema.json"
NUMBER = {"type": "number"}
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


def recipe_schema() -> dict[str, Any]:
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
        "description": "What `limbeck run` takes.",
    }


def _stage(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Build the schema of one stage: its name with settings; without, if none is required."""
    kind: type[Stage] = STAGES.load(name)
    settings = kind.model_json_schema()
    definitions.update(settings.pop("$defs", {}))
    if issubclass(kind, Compression):
        settings = _of_every_method(settings, kind.registry, definitions)
    if name == "distill":
        _describe_objective(settings, definitions)
    definitions[f"stage_{name}"] = settings
    reference: dict[str, Any] = {"$ref": f"#/$defs/stage_{name}"}
    allowed = reference if settings.get("required") else {"anyOf": [reference, {"type": "null"}]}
    return _one(name, allowed, str(settings.get("description", "")))


def _describe_objective(settings: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Describe an objective as terms or a method, defined once for all stages."""
    definitions.setdefault("term", {"oneOf": _terms()})
    definitions.setdefault("named_method", {"oneOf": _methods()})
    terms, named = settings["properties"]["objective"]["anyOf"]
    terms["items"] = {"$ref": "#/$defs/term"}
    named.clear()
    named["$ref"] = "#/$defs/named_method"


def _of_every_method(
    settings: dict[str, Any], registry: Registry, definitions: dict[str, Any]
) -> dict[str, Any]:
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


def _terms() -> list[dict[str, Any]]:
    """Return the schemas of all terms: the loss by name, with common and loss-specific settings."""
    task = _settings({"weight": WEIGHT}, [])
    terms = [
        _one("task", {"anyOf": [task, {"type": "null"}]}, "The task's own loss."),
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
        properties = {one.name: _argument(one) for one in parameters}
        required = [one.name for one in parameters if one.default is one.empty]
        terms += _named(name, loss, {**OF_ANY_TERM, **properties}, required)
        if not required:
            terms.append({"const": name})
    return terms


def _methods() -> list[dict[str, Any]]:
    """Return the schemas of all named methods."""
    found = []
    for name in methods.__all__:
        method = methods.find(name)
        parameters = list(inspect.signature(method).parameters.values())
        required = [one.name for one in parameters if one.default is one.empty]
        found += _named(name, method, {one.name: {} for one in parameters}, required)
    return found


def _named(
    name: str, thing: Any, properties: dict[str, Any], required: list[str]
) -> list[dict[str, Any]]:
    """Return the schemas of `{name: {settings}}`; without settings where none is required."""
    settings = _settings(properties, required)
    allowed = settings if required else {"anyOf": [settings, {"type": "null"}]}
    return [_one(name, allowed, (inspect.getdoc(thing) or "").split("\n", 1)[0])]


def _argument(parameter: inspect.Parameter) -> dict[str, Any]:
    """Return the schema of a loss's argument, from its annotation as text."""
    annotation = str(parameter.annotation)
    if "float" in annotation:
        return NUMBER_OR_SCHEDULE
    kind = SIMPLE.get(annotation.split(" |")[0])
    return {} if kind is None else {"type": [kind, "null"] if "None" in annotation else kind}


def _settings(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    settings = {"type": "object", "properties": properties, "additionalProperties": False}
    return settings | ({"required": required} if required else {})


def _one(name: str, settings: dict[str, Any], description: str) -> dict[str, Any]:
    """Return the schema of a mapping with this one key."""
    return {**_settings({name: settings}, [name]), "description": description.split("\n", 1)[0]}


if __name__ == "__main__":
    write_json(FILE, recipe_schema())
