"""Named methods: each is a list of terms that an objective takes."""

import inspect

import pytest

from limbeck import losses
from limbeck.errors import InputError
from limbeck.objective import Objective, methods
from limbeck.objective.terms import Term

PATHS = {
    "ab": ("a", "b"),
    "at": (["a", "c"], ["b", "d"]),
    "cc": ("a", "b"),
    "crd": ("a", "b"),
    "distilbert": ("a", "b"),
    "fitnets": ("a", "b"),
    "fsp": (["a", "c"], ["b", "d"]),
    "ft": ("a", "b"),
    "minilm": ("a", "b"),
    "nst": ("a", "b"),
    "ofd": (["a", "c"], ["b", "d"]),
    "pkt": ("a", "b"),
    "review_kd": (["a", "c"], ["b", "d"]),
    "rkd": ("a", "b"),
    "sp": ("a", "b"),
    "vid": ("a", "b"),
}
SETTINGS = {
    "tinybert": {
        "student_layers": 2,
        "teacher_layers": 4,
        "student_heads": 2,
        "teacher_heads": 2,
    }
}


def terms_of(name):
    return methods.find(name)(*PATHS.get(name, ()), **SETTINGS.get(name, {}))


@pytest.mark.parametrize("name", methods.__all__)
def test_an_objective_takes_every_method(name):
    terms = terms_of(name)
    assert all(isinstance(term, Term) for term in terms)
    assert Objective(terms).needs_teacher == (name != "label_only")
    assert all(term.loss == "task" or term.loss in losses.__all__ for term in terms)


@pytest.mark.parametrize("name", methods.__all__)
def test_every_method_names_its_source(name):
    text = inspect.getdoc(methods.find(name))
    assert text.split("\n", 1)[0].endswith(".")
    assert ">>>" in text
    assert "Source:" in text or name == "label_only"


def test_the_published_names_are_there():
    assert set(methods.__all__) >= {
        *("hinton", "fitnets", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ft", "nst", "crd"),
        *("ofd", "review_kd", "dkd", "dist", "ttm", "logit_standardization", "mlkd"),
        *("distilbert", "tinybert", "minilm"),
    }


def test_a_recipe_names_a_method_instead_of_terms():
    settings = {"student": "a", "teacher": "b", "angle": 10.0}
    assert Objective.from_recipe({"rkd": settings}).terms == tuple(
        methods.rkd("a", "b", angle=10.0)
    )


@pytest.mark.parametrize(
    ("entry", "where"),
    [
        ({"hintn": {}}, "objective"),
        ({"rkd": {"student": "a"}}, "objective.rkd.teacher"),
        ({"rkd": {"student": "a", "teacher": "b", "angel": 1}}, "objective.rkd.angel"),
        ({"rkd": 3}, "objective.rkd"),
        ({"at": {"student": ["a", "b"], "teacher": "c"}}, "objective.at.teacher"),
        ({"hinton": {"temperature": -1}}, "objective.soft_target_kl.temperature"),
        ({"hinton": {}, "rkd": {}}, "objective"),
    ],
)
def test_errors_name_the_key(entry, where):
    with pytest.raises(InputError) as caught:
        Objective.from_recipe(entry)
    assert where in [problem.where for problem in caught.value.problems]
