"""The JSON schema agrees with the recipe's own validation, as far as it can."""

import copy
import functools
import json

import jsonschema
import pytest

from limbeck import losses
from limbeck.objective.terms import DEFAULTS
from limbeck.pipeline import recipe_schema
from limbeck.pipeline.load_recipe import read, resolve, shipped_recipes
from limbeck.pipeline.schema import FILE
from limbeck.pipeline.stages import STAGES

DIGITS = read(shipped_recipes()["vision/digits"])


# Not at import: the schema takes seconds, and every worker of the tests imports this file.
@functools.cache
def schema():
    return recipe_schema()


@functools.cache
def check():
    return jsonschema.Draft202012Validator(schema())


def test_the_committed_schema_is_current():
    # Otherwise: python -m limbeck.pipeline.schema
    assert json.loads(FILE.read_text()) == schema()


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_are_valid_as_written_and_resolved(name):
    check().validate(read(shipped_recipes()[name]))
    check().validate(resolve(name, ["profile=smoke"]).model_dump(mode="json"))


def test_every_stage_and_loss_is_in_it():
    text = json.dumps(schema())
    for name in [*STAGES.names(), *losses.__all__]:
        assert f'"{name}"' in text


def test_every_setting_of_a_term_is_in_it():
    content = copy.deepcopy(DIGITS)
    settings = {"output": "logits", "student": "0", "teacher": "0", "connector": "auto"}
    assert settings.keys() | {"weight"} == DEFAULTS.keys()
    terms = [{"fitnet_hint": {**settings, "weight": 1.0}}, {"task": {"output": "logits"}}]
    content["stages"][1]["distill"]["objective"] = terms
    check().validate(content)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("task",), "image_clasification"),
        (("stages", 0), {"teech": {"epochs": 1}}),
        (("stages", 0, "train_teacher", "epochs"), 0),
        (("stages", 0, "train_teacher", "epoks"), 1),
        (("stages", 1, "distill", "objective", 1), {"soft_target_kl": {"temprature": 4}}),
        (("stages", 1, "distill", "objective", 1), {"soft_target_kl": {}}),
        (("stages", 1, "distill", "objective", 1), {"soft_target_kl": {"temperature": 0}}),
        (("stages", 1, "distill", "objective", 1), {"attention_transfer": {"power": 9}}),
        (("stages", 1, "distill", "objective", 1), {"gram": {"scale": "gatis"}}),
        (("stages", 1, "distill", "objective", 1), {"crd": {"positives": 1}}),
        (("stages", 1, "distill", "objective"), {"tinybert": {"student_layers": "many"}}),
        (("stages", 2, "quantize", "method"), "int4"),
        (("data", "source"), "sql"),
        (("student", "source"), "limbek"),
        (("budget", "sise_kb"), 1),
    ],
)
def test_it_refuses_what_the_recipe_refuses(place, value):
    content = copy.deepcopy(DIGITS)
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    assert not check().is_valid(content)
