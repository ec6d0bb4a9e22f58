"""`--set` and profiles change the settings at their paths, and report unknown paths."""

import copy

import pytest

from limbeck.errors import InputError
from limbeck.pipeline.load_recipe import apply_profile, parse_override, put, resolve

RECIPE = {
    "name": "digits",
    "data": {"image": None},
    "seeds": [0, 1],
    "teacher": [{"name": "a", "width": 1}, {"name": "b", "width": 2}],
    "stages": [
        {"train_teacher": {"epochs": 20}},
        {"distill": {"objective": [{"task": None}, {"soft_target_kl": {"temperature": 4.0}}]}},
        {"quantize": None},
    ],
}


def after(path, value):
    content = copy.deepcopy(RECIPE)
    put(content, path, value)
    return content


def test_a_stage_is_found_by_name():
    assert after("stages.train_teacher.epochs", 5)["stages"][0] == {"train_teacher": {"epochs": 5}}


def test_a_stage_is_found_by_number_with_or_without_its_name():
    for path in ("stages.0.epochs", "stages.0.train_teacher.epochs"):
        assert after(path, 5)["stages"][0] == {"train_teacher": {"epochs": 5}}


def test_settings_of_a_stage_without_any_are_created():
    for path in ("stages.quantize.method", "stages.2.method"):
        assert after(path, "int8_dynamic")["stages"][2] == {"quantize": {"method": "int8_dynamic"}}


def test_a_term_is_found_by_name():
    changed = after("stages.distill.objective.soft_target_kl.temperature", 2.0)
    assert changed["stages"][1]["distill"]["objective"][1] == {
        "soft_target_kl": {"temperature": 2.0}
    }


def test_items_of_plain_lists_are_found_by_number():
    assert after("seeds.1", 7)["seeds"] == [0, 7]
    assert after("teacher.1.width", 7)["teacher"][1] == {"name": "b", "width": 7}


def test_null_and_missing_parts_are_created():
    assert after("data.image.size", 8)["data"] == {"image": {"size": 8}}
    assert after("budget.size_kb", 8)["budget"] == {"size_kb": 8}


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("stages.distil.epochs", '"distill"'),
        ("stages.9.epochs", "train_teacher, distill, quantize"),
        ("name.first", "something with parts"),
        ("stages.train_teacher.epochs.more", "something with parts"),
    ],
)
def test_an_unknown_path_is_refused(path, word):
    with pytest.raises(InputError, match="--set") as caught:
        after(path, 1)
    assert word in str(caught.value)


def test_an_ambiguous_name_requires_a_number():
    content = {"stages": [{"distill": {}}, {"distill": {}}]}
    with pytest.raises(InputError, match="number"):
        put(content, "stages.distill.epochs", 1)
    put(content, "stages.1.distill.epochs", 1)
    assert content["stages"] == [{"distill": {}}, {"distill": {"epochs": 1}}]


@pytest.mark.parametrize("text", ["epochs", "=5", "a..b=1", ".a=1"])
def test_an_override_without_path_or_value_is_refused(text):
    with pytest.raises(InputError, match="path=value"):
        parse_override(text)


def test_all_invalid_overrides_are_reported_together():
    with pytest.raises(InputError) as caught:
        resolve(
            "digits", ["stages.tech.epochs=5", "nonsense", "profile=smok", "seeds=[", "name.x=1"]
        )
    assert len(caught.value.problems) == 5
    assert 'did you mean "smoke"?' in str(caught.value)


def test_overrides_are_applied_after_the_profile():
    recipe = resolve("digits", ["stages.train_teacher.epochs=7", "profile=smoke"])
    assert recipe.stages[0] == {"train_teacher": {"epochs": 7}}
    assert recipe.stages[1]["distill"]["epochs"] == 1


def test_a_resolved_recipe_resolves_to_itself(tmp_path):
    import yaml

    recipe = resolve("digits", ["profile=smoke", "stages.train_teacher.epochs=7"])
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert resolve(str(path)) == recipe


def test_all_wrong_paths_of_a_profile_are_reported():
    content = {**RECIPE, "profiles": {"smoke": {"stages.tech.epochs": 1, "name.x": 2}}}
    with pytest.raises(InputError) as caught:
        apply_profile(content, "smoke")
    assert [problem.where for problem in caught.value.problems] == [
        "profiles.smoke stages.tech.epochs",
        "profiles.smoke name.x",
    ]


def test_a_missing_recipe_is_reported_with_the_nearest_name(tmp_path):
    with pytest.raises(InputError, match='did you mean "digits"'):
        resolve("digit")
    with pytest.raises(InputError, match="a file that exists"):
        resolve(str(tmp_path / "none.yaml"))
    with pytest.raises(InputError):
        resolve("x" * 5000)
