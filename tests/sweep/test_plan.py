"""Every choice is validated against the recipe before anything runs."""

import pickle

import pytest

from limbeck.errors import InputError
from limbeck.pipeline.load_recipe import resolve
from limbeck.sweep.plan import costs_of, directions, plan, values, with_settings
from limbeck.sweep.sampler import Sampler, Selected
from limbeck.sweep.space import space_of


@pytest.fixture
def planned(tmp_path):
    """Plan a sweep of digits over some options."""

    def make(*varied: str, sets: tuple[str, ...] = (), **more):
        given = {"costs": ("size", "latency"), "out": tmp_path / "sweep", **more}
        return plan(resolve("digits", sets), space_of(varied, None), **given)

    return make


def refused(planned, *varied: str, **more) -> str:
    with pytest.raises(InputError) as error:
        planned(*varied, **more)
    return str(error.value)


def test_a_plan_can_be_pickled_for_another_process(planned):
    made = planned("student.width=4,8", "stages.distill.epochs=1..3")
    again = pickle.loads(pickle.dumps(made))
    assert again == made
    assert again.recipe.name == "digits"


def test_settings_are_applied_as_by_set(planned):
    made = planned("student.width=4,8", "stages.distill.epochs=1..3")
    recipe = with_settings(made.content, {"student.width": 4, "stages.distill.epochs": 2})
    expected = resolve("digits", ["student.width=4", "stages.distill.epochs=2"])
    assert recipe == expected.model_copy(update={"stages": expected.stages[:-1]})
    whole = resolve("digits").model_dump(mode="json")
    assert "evaluate" in whole["stages"][-1]
    # No trial is evaluated: evaluations select nothing.
    assert made.content == whole | {"stages": whole["stages"][:-1]}


def test_a_profile_is_applied_before_the_choices(planned):
    made = planned("student.width=4,8", sets=("profile=smoke",))
    assert with_settings(made.content, {"student.width": 8}).seeds == [0]


@pytest.mark.parametrize(
    ("varied", "words"),
    [
        ("stages.distil.epochs=1,2", ('did you mean "distill"',)),
        ("stages.distill.epoch=1,2", ("stages.distill.epoch=1", 'did you mean "epochs"')),
        ("stages.distill.epochs=-1..2", ("stages.distill.epochs=-1",)),
        ("stages.quantize.method=int8_static,int9", ("stages.quantize.method=int9",)),
        ("student.width.x=1,2", ("--vary student.width.x", "something with parts")),
        ("studnet.width=4,8", ("studnet",)),
        ("profile=smoke,default", ("--vary profile", "--set")),
        ("budget.size_kb=1,2", ("--vary budget.size_kb", "changes the artefacts")),
        ("seeds=[0],[0,0]", ("seeds",)),
    ],
)
def test_a_choice_that_does_not_fit_the_recipe_is_refused(planned, tmp_path, varied, words):
    text = refused(planned, varied)
    for word in words:
        assert word in text
    assert not (tmp_path / "sweep").exists()


def test_all_problems_are_reported_together(planned, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    text = refused(
        planned, "stages.distill.epochs=0,-3,4", "stages.quantize.method=a,b", out=tmp_path,
        sampler=Sampler.grid,
    )  # fmt: skip
    for word in ("epochs=-3", "method=a", "method=b", "notes.txt"):
        assert word in text
    assert "epochs=4" not in text


def test_a_recipe_without_export_is_refused(planned):
    stages = "stages=[train_teacher: {epochs: 1}, distill: {epochs: 1}]"
    assert "export" in refused(planned, "student.width=4,8", sets=(stages,))


def test_a_baseline_selects_only_where_one_is_trained(planned):
    varied = "stages.distill.baseline.learning_rate=0.01,0.02"
    assert planned(varied, select=Selected.baseline).select == "baseline"
    without = ("stages.distill.baseline=false",)
    text = refused(planned, "student.width=4,8", sets=without, select=Selected.baseline)
    assert "--select: got 'baseline'; allowed: student, without a `distill` stage" in text


def test_a_grid_must_be_finite(planned):
    varied = "stages.distill.learning_rate=0.01..0.1"
    assert "--sampler" in refused(planned, varied, sampler=Sampler.grid)
    made = planned(f"{varied}:0.03", "student.width=4,8", sampler=Sampler.grid)
    assert made.trials == 8
    assert planned("student.width=4,8").trials == 20
    assert planned("student.width=4,8", sampler=Sampler.grid, trials=1).trials == 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("latency,sise", 'did you mean "size"'),
        ("accuracy,size", "got 'accuracy'"),
        ("size,size", "once"),
    ],
)
def test_invalid_costs_are_refused(text, word):
    with pytest.raises(InputError, match=word):
        costs_of(text)


def test_costs_are_taken_in_the_order_given(figures):
    costs = costs_of("energy ,flops")
    assert costs == ("energy", "flops")
    assert directions(costs) == ["maximize", "minimize", "minimize"]
    assert values(figures(0.9, 100, 1, energy=0.5), costs) == [0.9, 0.5, 4000]
    with pytest.raises(Exception, match="energy was not measured"):
        values(figures(0.9, 100, 1), costs)
