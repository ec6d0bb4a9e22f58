"""All problems of a recipe are reported at once, with path, value, allowed values and fix."""

import copy

import pytest

from limbeck.errors import InputError
from limbeck.pipeline.load_recipe import read, resolve, shipped_recipes
from limbeck.pipeline.validate import validate

DIGITS = read(shipped_recipes()["vision/digits"])


def problems(**changes):
    """Return the problems of the digits recipe after changes; None removes a key."""
    content = copy.deepcopy(DIGITS)
    for key, value in changes.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    with pytest.raises(InputError) as caught:
        validate(content)
    return {problem.where: problem for problem in caught.value.problems}


def test_every_problem_is_listed_at_once():
    found = problems(
        task="image_clasification",
        data={"source": "sql", "name": "digits"},
        student={"source": "limbek", "name": "digits_cnn"},
        budget={"sise_kb": 4, "drop": {"accuracy": -1}},
        seeds=[0, -1],
        stages=[
            {"train_teacher": {"epoks": 3}},
            {"distill": {"epochs": 0, "objective": [{"soft_target_kl": {"temprature": 4}}]}},
            {"quantise": {}},
            5,
        ],
    )
    assert set(found) == {
        "task",
        "data.source",
        "student.source",
        "budget.sise_kb",
        "budget.drop.accuracy",
        "seeds.1",
        "stages.train_teacher.epoks",
        "stages.distill.epochs",
        "stages.distill.objective.0.soft_target_kl.temprature",
        "stages.2",
        "stages.3",
    }
    assert '"image_classification"' in found["task"].fix
    assert found["budget.sise_kb"].fix == 'did you mean "size_kb"?'
    assert '"epochs"' in found["stages.train_teacher.epoks"].fix
    assert '"limbeck"' in str(found["student.source"])
    assert '"quantize"' in found["stages.2"].fix


@pytest.mark.parametrize(
    ("stages", "where", "word"),
    [
        ([{"distill": {"epochs": 1}}], "stages.distill", "train_teacher"),
        ([{"quantize": {}}], "stages.quantize", "distill"),
        ([{"export": {}}], "stages.export", "distill"),
        (
            [
                {"train_teacher": {"epochs": 1}},
                {"distill": {"epochs": 1}},
                {"quantize": {}},
                {"quantize": {}},
            ],
            "stages.3.quantize",
            "once",
        ),
    ],
)
def test_stages_in_a_wrong_order_are_refused(stages, where, word):
    assert word in problems(stages=stages)[where].fix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": None}, "task: field required"),
        ({"student": {"source": "limbeck"}}, "student.name: field required. `source: limbeck`"),
        ({"data": {"source": "csv"}}, "data.files.train: field required. `source: csv` needs"),
        ({"stages": [{"train_teacher": {}}]}, "stages.train_teacher.epochs: field required"),
        (
            {"stages": [{"prune": {"method": "movement"}}]},
            "stages.prune.sparsity: field required. The hard threshold needs it.",
        ),
    ],
)
def test_a_missing_field_is_required_in_one_form(change, message):
    assert any(str(one).startswith(message) for one in problems(**change).values())


@pytest.mark.parametrize("part", ["numeric", "categorical"])
def test_the_label_among_the_features_is_reported_at_its_list(part):
    files = {"train": "a.csv"}
    found = problems(data={"source": "csv", "files": files, "table": {part: ["label", "age"]}})
    assert found[f"data.table.{part}"].given == "label"


def test_a_missing_model_is_named_with_the_stage_that_requires_it():
    assert "distill" in str(problems(student=None)["student"])
    assert "train_teacher" in str(problems(teacher=None)["teacher"])


def test_a_teacher_that_no_stage_trains_or_loads_is_refused():
    found = problems(stages=[{"distill": {"epochs": 1, "objective": ["task"]}}])
    assert "checkpoint" in found["teacher"].fix


def test_a_teacher_with_weights_needs_no_training_stage():
    content = {**DIGITS, "teacher": {**DIGITS["teacher"], "checkpoint": "teacher.safetensors"}}
    validate({**content, "stages": DIGITS["stages"][1:]})


def test_settings_that_the_method_ignores_are_refused():
    stages = [*DIGITS["stages"][:2], {"quantize": {"method": "int8_dynamic", "ranges": "entropy"}}]
    assert "stages.quantize.ranges" in problems(stages=stages)


def test_the_hugging_face_folder_requires_transformers():
    stages = [*DIGITS["stages"][:2], {"export": {"format": ["onnx", "huggingface"]}}]
    assert "stages.export.format" in problems(stages=stages)


def test_an_accuracy_drop_needs_a_teacher():
    stages = [{"distill": {"epochs": 1, "objective": ["task"]}}]
    found = problems(stages=stages, teacher=None, budget={"drop": {"accuracy": 0.1}})
    assert "budget.drop" in found


def test_limits_of_scores_are_those_of_the_task():
    found = problems(budget={"drop": {"acuracy": 0.1}, "score": {"accuracy": 1.5}})
    assert set(found) == {"budget.drop", "budget.score.accuracy"}


def test_an_ensemble_has_no_features_to_tap():
    term = {"fitnet_hint": {"student": "features", "teacher": "features"}}
    stages = [DIGITS["stages"][0], {"distill": {"epochs": 1, "objective": [term]}}]
    found = problems(stages=stages, teacher=[DIGITS["teacher"], DIGITS["teacher"]])
    assert "stages.distill.objective" in found


def test_cached_outputs_have_no_features():
    term = {"fitnet_hint": {"student": "features", "teacher": "features"}}
    stages = [
        DIGITS["stages"][0],
        {"distill": {"epochs": 1, "objective": [term], "cache_teacher": True}},
    ]
    assert "stages.distill.cache_teacher" in problems(stages=stages)


def test_two_half_precisions_are_refused():
    stages = [
        {"train_teacher": {"epochs": 1, "precision": "float16"}},
        {"distill": {"epochs": 1, "precision": "bfloat16"}},
    ]
    assert "stages.distill.precision" in problems(stages=stages)


def test_infinities_are_refused_at_every_place():
    stages = [
        {"train_teacher": {"epochs": 1, "checkpoint_every": float("inf")}},
        *DIGITS["stages"][1:],
    ]
    assert "stages.train_teacher.checkpoint_every" in problems(stages=stages)
    assert "teacher.width" in problems(teacher={**DIGITS["teacher"], "width": float("nan")})


def test_an_empty_ensemble_and_no_stages_are_refused():
    assert "teacher" in problems(teacher=[])
    assert "stages" in problems(stages=[])


def test_same_seed_twice_is_refused():
    assert "seeds" in problems(seeds=[1, 1])


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_are_valid_in_every_profile(name):
    recipe = read(shipped_recipes()[name])
    for profile in ("default", *recipe.get("profiles", {})):
        resolved = resolve(name, [f"profile={profile}"])
        assert resolved.profile == profile
        assert resolved.profiles == {}


def test_former_keys_of_a_budget_name_those_of_today():
    found = problems(budget={"accuracy": 0.9, "accuracy_drop": 0.02})
    assert found["budget.accuracy"].allowed == "score: {accuracy: 0.9}"
    assert found["budget.accuracy_drop"].allowed == "drop: {accuracy: 0.02}"


def test_a_limit_above_the_largest_score_is_refused():
    recipe = copy.deepcopy(read(shipped_recipes()["tabular/diabetes"]))
    validate(recipe | {"budget": {"score": {"r2": 1.0}}})
    with pytest.raises(InputError, match=r"budget\.score\.r2: got 1\.5; allowed: at most 1"):
        validate(recipe | {"budget": {"score": {"r2": 1.5}}})
    with pytest.raises(InputError, match=r"targets and unlabelled are given.; allowed: one"):
        validate(recipe | {"data": recipe["data"] | {"unlabelled": True}})


def test_an_objective_may_be_the_name_of_a_method():
    def terms(objective):
        recipe = copy.deepcopy(read(shipped_recipes()["vision/digits"]))
        recipe["stages"][1]["distill"]["objective"] = objective
        return validate(recipe).parsed_stages()[1][1].terms().terms

    assert terms("hinton") == terms({"hinton": {}})
    with pytest.raises(InputError, match=r'objective: got .hintn.;.*did you mean "hinton"'):
        terms("hintn")
    with pytest.raises(InputError, match=r"objective.fitnets.student: field required"):
        terms("fitnets")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"teacher": "digits_cnn"},
            r"teacher: got 'digits_cnn'; allowed: a mapping with keys of sou",
        ),
        ({"data": 3}, r"data: got 3; allowed: a mapping with keys of source, name"),
        ({"budget": "small"}, r"budget: got 'small'; allowed: a mapping with keys of size_kb"),
    ],
)
def test_a_value_in_place_of_a_mapping_names_the_keys(change, message):
    recipe = copy.deepcopy(read(shipped_recipes()["vision/digits"]))
    with pytest.raises(InputError, match=message):
        validate(recipe | change)


def test_a_shared_teacher_starts_from_nothing_that_each_seed_trains():
    distill = {"distill": {"epochs": 1, "objective": ["task"]}}
    later = {"train_teacher": {"epochs": 1, "seed": 0}}
    found = problems(stages=[distill, later])
    assert "none after `distill`" in found["stages.train_teacher.seed"].allowed
    content = copy.deepcopy(DIGITS)
    content["stages"] = [later, distill]
    validate(content)


ADULT = read(shipped_recipes()["tabular/adult"])
TREES = {"source": "sklearn", "name": "RandomForestClassifier"}


@pytest.mark.parametrize(
    ("changes", "where", "expected"),
    [
        ({"student": TREES}, "student", "gradient descent"),
        ({"task": "tabular_ordinal"}, "teacher.name", "is for tabular_classification"),
        (
            {"teacher": TREES | {"name": "RandomForestRegressor"}},
            "teacher.name",
            "is for tabular_regression",
        ),
        ({"train": {"epochs": 3}}, "stages.train_teacher.epochs", "`seed` alone"),
        (
            {
                "distill": {
                    "objective": ["task", {"fitnet_hint": {"student": "blocks", "teacher": "x"}}]
                }
            },
            "stages.distill.objective",
            "no intermediate features",
        ),
        ({"distill": {"scheme": "data_free", "steps": 1}}, "stages.distill.scheme", "gradient to"),
        (
            {"distill": {"scheme": "mutual", "epochs": 1, "peers": [TREES]}},
            "stages.distill.peers.0.name",
            "gradient descent",
        ),
    ],
)
def test_trees_teach_tables_and_nothing_else(changes, where, expected):
    content = copy.deepcopy(ADULT)
    stages = [
        {"train_teacher": changes.get("train", {"seed": 0})},
        {"distill": {"epochs": 1, **changes.get("distill", {})}},
    ]
    if "steps" in changes.get("distill", {}):
        del stages[1]["distill"]["epochs"]
    known = {key: one for key, one in changes.items() if key not in {"train", "distill"}}
    content |= {"teacher": TREES, "stages": stages, **known}
    with pytest.raises(InputError) as caught:
        validate(content)
    problems = {one.where: f"{one.allowed} {one.fix}" for one in caught.value.problems}
    assert expected in problems.get(where, f"none there: {caught.value}")


def test_one_of_several_teachers_is_trained_by_gradient_descent():
    content = copy.deepcopy(ADULT)
    content["teacher"] = [TREES, ADULT["student"]]
    content["stages"] = [{"train_teacher": {}}, {"distill": {"epochs": 1}}]
    with pytest.raises(InputError, match=r"train_teacher\.epochs: field required"):
        validate(content)
    content["stages"][0] = {"train_teacher": {"epochs": 1}}
    validate(content)
