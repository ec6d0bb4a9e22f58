"""Recipes that name the user's own objects, or those of plug-ins."""

from types import SimpleNamespace

import pytest
from own_module import write_own_module

from limbeck.errors import InputError
from limbeck.pipeline import reuse
from limbeck.pipeline.stages.distill import Distill
from limbeck.pipeline.trust import named_code
from limbeck.pipeline.validate import check_code, validate


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_own_module(tmp_path)


RECIPE = {
    "name": "mine",
    "task": "python:mine.py:Mine",
    "data": {"source": "sklearn", "name": "digits"},
    "teacher": {"source": "limbeck", "name": "digits_cnn", "width": 8},
    "student": {"source": "limbeck", "name": "digits_cnn", "width": 4},
    "stages": [
        {"train_teacher": {"epochs": 1}},
        {"distill": {"scheme": "python:mine.py:MineSettings", "epochs": 1, "strength": 2.0}},
    ],
}


def test_a_recipe_names_its_own_task_and_scheme(mine):

    recipe = validate(RECIPE)  # nothing is imported here
    assert named_code(recipe) == [
        ("task", "mine.py:Mine"),
        ("stages.distill.scheme", "mine.py:MineSettings"),
    ]
    (_, _), (_, stage) = check_code(recipe)
    assert stage.strength == 2.0
    assert stage.own_code() == ["mine.py:MineSettings"]
    with pytest.raises(InputError, match=r"distill\.x: got 1"):
        check_code(validate(with_settings(x=1)))
    with pytest.raises(InputError, match=r"scheme: got 'python:mine.py:absolute'; .*settings"):
        check_code(validate(with_settings(scheme="python:mine.py:absolute")))


def with_settings(**settings):
    first, second = RECIPE["stages"]
    return RECIPE | {"stages": [first, {"distill": second["distill"] | settings}]}


def key(recipe, name, stage):
    """The key of a stage, of data and a machine that stay the same."""
    data = SimpleNamespace(
        train=SimpleNamespace(augmentation=None),
        facts=SimpleNamespace(fingerprint="rows"),
        preprocess=SimpleNamespace(fingerprint="pixels"),
    )
    accelerator = SimpleNamespace(num_processes=1)
    context = SimpleNamespace(recipe=recipe, data=data, seed=0, accelerator=accelerator)
    inputs = reuse.Inputs(lambda spec: None)
    inputs.__dict__["code"] = "limbeck"  # not hashed anew here
    inputs.model = lambda spec, where: {}
    return reuse.key_of(name, stage, SimpleNamespace(key="before"), context, inputs=inputs)


def test_a_stage_depends_on_the_code_of_task_scheme_and_loss(mine):
    def keys():
        recipe = validate(RECIPE)
        stages = check_code(recipe)
        from limbeck.tasks import TASKS

        TASKS.load(recipe.task)
        return [key(recipe, name, stage) for name, stage in stages]

    first = keys()
    assert keys() == first
    mine.write_text(mine.read_text() + "\n\nLATER = 1\n")
    assert not set(keys()) & set(first)


def test_a_stage_depends_on_the_plugins_that_it_names(mine, monkeypatch):
    from limbeck.core import plugins

    recipe = validate(RECIPE | {"task": "image_classification"})
    stage = Distill(epochs=1)
    hashes = {"kd.parts:Loss": "a"}
    added = plugins.Plugin("third_party", "limbeck.losses", "kd.parts:Loss", "kd", "1.0")
    before = key(recipe, "distill", stage)
    monkeypatch.setattr(plugins, "_installed", lambda path: (added,))
    monkeypatch.setattr(plugins.Plugin, "fingerprint", lambda one: [("file", hashes[one.value])])
    monkeypatch.setattr(plugins.Plugin, "load", lambda one, where: lambda student, teacher: student)
    assert key(recipe, "distill", stage) == before  # installed, and not used
    using = Distill(epochs=1, objective=[{"third_party": {}}])
    assert using.own_code() == ["kd.parts:Loss"]
    first = key(recipe, "distill", using)
    hashes["kd.parts:Loss"] = "b"
    assert key(recipe, "distill", using) != first
