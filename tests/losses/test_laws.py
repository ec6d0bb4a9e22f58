"""Every loss under every law that applies. `trials` has a file for each of the modules.

A trial is a `functools.partial` of `check_loss`, with a reference in numpy or scipy, written from
the paper's formula; a loss has one for each of its forms.
"""

import functools
import importlib
import inspect
import os
import pkgutil
import re

import pytest
from loss_trials import EACH, FILES, TRIALS

from limbeck import losses
from limbeck.errors import InputError
from limbeck.testing import LAWS, BrokenLawError

# How many laws each kind keeps, when at most one is left out of those that always apply.
LEAST = {
    "divergence": 11,
    "response": 8,
    "hard_label": 8,
    "feature": 7,
    "relation": 7,
    "batch": 7,
    "fused": 11,
}
SEEDS = range(3) if os.environ.get("LIMBECK_DRAWS") == "explore" else range(1)
NO_SOURCE = {"cross_entropy"}  # older than the papers


@functools.cache
def tried(name, place, seed):
    trial = TRIALS[name][place]
    # Transforms take the most time, and depend on the draw the least.
    fewer = {"without": [*trial.keywords.get("without", ()), 15]} if seed else {}
    return trial(seed=seed, **fewer)


def defined():
    """Return the names of all public functions that compare a student, and cite a source."""
    names = set()
    for module in pkgutil.iter_modules(losses.__path__, f"{losses.__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if not inspect.isfunction(value) or value.__module__ != module.name:
                continue
            compares = {"student", "hidden"} & set(inspect.signature(value).parameters)
            if compares and not name.startswith("_") and "Source:" in (value.__doc__ or ""):
                names.add(name)
    return names


def test_every_loss_has_trials():
    assert sorted(TRIALS) == sorted(losses.__all__)
    assert all(TRIALS.values())


def test_no_loss_has_trials_in_two_files():
    assert sum(map(len, FILES.values())) == len(TRIALS)


def test_all_losses_are_exported():
    assert defined() | NO_SOURCE == set(losses.__all__)
    assert sorted(set(losses.__all__)) == losses.__all__


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("name", "place"), EACH)
def test_every_law_holds(name, place, seed):
    kind = TRIALS[name][place].keywords["kind"]
    assert len(tried(name, place, seed)) >= LEAST[kind] - (seed > 0)


@pytest.mark.parametrize(("name", "place"), EACH)
def test_every_trial_has_a_definition(name, place):
    trial = TRIALS[name][place]
    # The dense form, which has one, is the definition of the fused.
    assert trial.keywords["kind"] == "fused" or callable(trial.keywords["reference"])


@pytest.mark.parametrize("kind", LEAST)
def test_every_kind_has_a_trial(kind):
    assert any(trial.keywords["kind"] == kind for trials in TRIALS.values() for trial in trials)


def test_batch_losses_are_listed():
    scalar = ("batch", "fused", "relation")
    found = {name for name, trials in TRIALS.items() if trials[0].keywords["kind"] in scalar}
    assert found == losses.BATCH_LOSSES


def test_every_law_applies_to_a_trial():
    seen = set()
    for parameters in EACH:
        try:
            seen.update(tried(*parameters, 0))
        except BrokenLawError as error:  # `test_every_law_holds` reports it
            seen.add(error.law)
    assert seen == set(LAWS)


@pytest.mark.parametrize("name", losses.__all__)
def test_find_returns_each_loss_by_name(name):
    assert losses.find(name) is getattr(losses, name)
    assert losses.find(name).__name__ == name


def test_find_suggests_names():
    with pytest.raises(InputError, match='did you mean "fitnet_hint"'):
        losses.find("fitnets_hint")
    with pytest.raises(InputError):
        losses.find("find")


@pytest.mark.parametrize("name", losses.__all__)
def test_every_docstring_is_complete(name):
    text = inspect.getdoc(losses.find(name))
    summary = text.partition("\n")[0]
    assert summary.endswith(".")
    assert "$$" in text, "the formula"
    assert re.search(r"`\[(elements|samples)", text), "the shapes"
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert f"\n{section}\n" in text
    assert ">>> " in text
    assert name in NO_SOURCE or re.search(r"Source: .*\d{4}", text, re.DOTALL)


@pytest.mark.parametrize("name", losses.__all__)
def test_settings_are_keyword_only(name):
    parameters = list(inspect.signature(losses.find(name)).parameters.values())
    tensors = 3 if name == "fused_divergence" else 2
    first, rest = parameters[:tensors], parameters[tensors:]
    assert all(parameter.default is parameter.empty for parameter in first)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in rest)
