"""The range in a parameter's annotation holds in a recipe and in a call."""

import inspect
from functools import partial

import pytest
import torch

from limbeck import losses
from limbeck.core.annotations import OnlyWith, json_schema
from limbeck.errors import InputError
from limbeck.objective import Objective
from limbeck.objective.terms import signature_of
from limbeck.targets import DenseTargets

LOGITS, MAPS, STATES = torch.zeros(2, 3), torch.rand(2, 4, 2, 2), torch.zeros(2, 3, 4)
LABELS = torch.tensor([0, 2])
POSITIONAL = {
    "attention_kl": (torch.full((2, 1, 3, 3), 1 / 3),) * 2,
    "divergence": (LOGITS, DenseTargets(LOGITS)),
    "fused_divergence": (LOGITS, torch.zeros(5, 3), DenseTargets(torch.zeros(2, 5))),
    "label_smoothing": (LOGITS, LABELS),
    "sigmoid_focal": (LOGITS, LABELS),
    "minilm_relation": (STATES, STATES),
}
REQUIRED = {"margin": -1.0, "smoothing": 0.1, "temperature": 1.0, "variance": 1.0}
NOT_FINITE = (float("nan"), float("inf"))


def parameters(name):
    """Yield the settings of a loss with their JSON schemas and annotations."""
    signature = signature_of(losses.find(name))
    for key in signature.keywords:
        yield key, json_schema(signature.hints[key]), signature.hints[key]


def values(schema):
    """Return values inside, at the ends, and values outside of a range."""
    if "anyOf" in schema:
        schema = next(one for one in schema["anyOf"] if one["type"] != "null")
    if "items" in schema:
        inside, outside = values(schema["items"])
        return [[one] for one in inside], [[], *([one] for one in outside)]
    if "enum" in schema:
        return schema["enum"], ["unknown"]
    number, step = (int, 1) if schema.get("type") == "integer" else (float, 0.5)
    ends = {word: number(schema[key]) for key, word in NAMES.items() if key in schema}
    inside = [ends[key] for key in ("least", "most") if key in ends]
    inside += [ends["above"] + step] if ends.keys() == {"above"} else []
    outside = [ends[key] for key in ("above", "below") if key in ends]
    outside += [ends[key] + by for key, by in (("least", -step), ("most", step)) if key in ends]
    return inside, [*outside, *NOT_FINITE] if outside else []


NAMES = {
    "exclusiveMinimum": "above",
    "exclusiveMaximum": "below",
    "minimum": "least",
    "maximum": "most",
}
RANGES = [
    (name, key, *values(schema)) for name in losses.__all__ for key, schema, _ in parameters(name)
]


def call_and_recipe(name, settings):
    """Return the call of a loss, and the construction of an objective, with these settings."""
    signature = inspect.signature(losses.find(name)).parameters
    needed = {
        key: value
        for key, value in REQUIRED.items()
        if key in signature and signature[key].default is inspect.Parameter.empty
    }
    labels = {"labels": LABELS} if name == "dkd" else {}
    logits = losses.find(name).__module__.endswith(("divergences", "classification", "quantiles"))
    inputs = POSITIONAL.get(name, (LOGITS, LOGITS) if logits else (MAPS, MAPS))
    if name == "minilm_relation":
        needed |= {"heads": 2}
    given = needed | settings
    call = partial(inspect.unwrap(losses.find(name)), *inputs, **labels, **given)
    return call, partial(Objective.from_recipe, [{name: given}])


@pytest.mark.parametrize(("name", "key", "inside", "outside"), RANGES)
def test_a_value_out_of_range_is_refused_by_recipe_and_call(name, key, inside, outside):
    for value in inside:
        for use in call_and_recipe(name, {key: value}):
            use()
    for value in outside:
        for use in call_and_recipe(name, {key: value}):
            with pytest.raises(InputError) as caught:
                use()
            assert f"{name}.{key}" in caught.value.problems[0].where


def test_every_number_of_a_loss_has_a_range():
    free = {
        f"{name}.{key}"
        for name in losses.__all__
        for key, schema, _ in parameters(name)
        if any(one.get("type") in ("number", "integer") for one in schema.get("anyOf", [schema]))
        and not values(schema)[1]
    }
    assert free == {"fused_divergence.label_weight"}


def test_a_setting_of_one_choice_only_is_refused_with_the_others():
    found = 0
    for name in losses.__all__:
        hints = {key: hint for key, _, hint in parameters(name)}
        for key, hint in hints.items():
            for constraint in getattr(hint, "__metadata__", ()):
                if isinstance(constraint, OnlyWith):
                    choices = values(json_schema(hints[constraint.parameter]))[0]
                    value = {"beta": 0.5, "normalized": True}.get(key, 2)
                    for choice in choices:
                        settings = {key: value, constraint.parameter: choice}
                        for use in call_and_recipe(name, settings):
                            if choice == constraint.choice:
                                use()
                                continue
                            with pytest.raises(InputError, match=f"{name}.{key}.*{constraint}"):
                                use()
                    found += 1
    assert found == 6
