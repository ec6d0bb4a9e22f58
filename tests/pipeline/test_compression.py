"""Invalid chains of compression stages are refused by validation."""

import pytest

from limbeck.errors import InputError
from limbeck.pipeline.validate import validate

RECIPE = {
    "name": "chain",
    "task": "image_classification",
    "data": {"source": "sklearn", "name": "digits"},
    "teacher": {"source": "limbeck", "name": "digits_cnn", "width": 8},
}
TEACH = {"train_teacher": {"epochs": 1}}
DISTILL = {"distill": {"epochs": 1}}
STUDENT = {"source": "limbeck", "name": "digits_cnn", "width": 4}


def problems(*stages, **changed):
    with pytest.raises(InputError) as refused:
        validate({**RECIPE, **changed, "stages": list(stages)})
    return {problem.where: problem for problem in refused.value.problems}


def test_a_student_may_start_from_the_teacher():
    stages = [TEACH, {"prune": {"sparsity": 0.5}}, DISTILL, {"quantize": {"method": "int8_static"}}]
    assert (
        validate({**RECIPE, "stages": stages}).student_spec
        == validate({**RECIPE, "stages": [TEACH]}).teachers[0]
    )


def test_a_student_cannot_start_from_an_ensemble():
    several = [RECIPE["teacher"], RECIPE["teacher"]]
    assert "student" in problems(TEACH, {"prune": {"sparsity": 0.5}}, teacher=several)


def test_a_student_must_be_distilled_before_it_is_pruned():
    found = problems(TEACH, {"prune": {"sparsity": 0.5}}, student=STUDENT)
    assert "distill" in found["stages.prune"].fix


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5])
def test_sparsity_is_a_share(sparsity):
    assert "stages.prune.sparsity" in problems(TEACH, {"prune": {"sparsity": sparsity}})


def test_a_setting_of_another_method_is_unknown():
    found = problems(TEACH, {"prune": {"sparsity": 0.5, "rank": 3}})
    assert "stages.prune.rank" in found


def test_an_unknown_method_is_refused_with_the_nearest():
    found = problems(TEACH, {"prune": {"method": "magnitud", "sparsity": 0.5}})
    assert '"magnitude"' in found["stages.prune.method"].fix


def test_movement_pruning_requires_fine_tuning():
    found = problems(TEACH, {"prune": {"method": "movement", "sparsity": 0.5}})
    assert "finetune" in found["stages.prune.finetune"].fix


def test_training_after_a_quantised_file_is_refused():
    stages = [TEACH, DISTILL, {"quantize": {"method": "int8_static"}}, DISTILL]
    assert "order" in problems(*stages, student=STUDENT)["stages.3.distill"].fix


def test_a_model_is_quantised_once():
    stages = [TEACH, DISTILL, {"quantize": {"method": "uniform"}}, {"quantize": {}}]
    assert "once" in problems(*stages, student=STUDENT)["stages.3.quantize"].fix


@pytest.mark.parametrize("name", ["finetune", "role"])
def test_a_file_method_refuses_fine_tuning_and_role(name):
    value = {"epochs": 1} if name == "finetune" else "teacher"
    found = problems(TEACH, DISTILL, {"quantize": {name: value}}, student=STUDENT)
    assert f"stages.quantize.{name}" in found


def test_fine_tuning_is_validated_like_a_training():
    found = problems(
        TEACH,
        {
            "prune": {
                "sparsity": 0.5,
                "finetune": {"epochs": 0, "objective": [{"soft_taget_kl": {}}]},
            }
        },
    )
    assert "stages.prune.finetune.epochs" in found
    assert any("soft_target_kl" in problem.fix for problem in found.values())


def test_features_in_fine_tuning_under_an_ensemble_are_refused():
    term = {"fitnet_hint": {"student": "features", "teacher": "features"}}
    settings = {"sparsity": 0.5, "finetune": {"epochs": 1, "objective": [term]}}
    several = [RECIPE["teacher"], RECIPE["teacher"]]
    found = problems(TEACH, DISTILL, {"prune": settings}, teacher=several, student=STUDENT)
    assert "stages.prune.finetune.objective" in found
