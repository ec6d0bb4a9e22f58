"""Trees as a module: against scikit-learn's own predictions, saved and loaded, and refusals."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification

from limbeck.errors import InputError
from limbeck.export.weights import load_weights, save_weights
from limbeck.models.build import build
from limbeck.models.sources.sklearn import names
from limbeck.models.spec import ModelSpec
from limbeck.models.trees import LEAST, TreeEnsemble, estimator_of

SMALL = {"n_estimators": 7, "max_iter": 7}


@pytest.fixture(scope="module")
def rows():
    """Rows with ties between features and thresholds, three classes and unequal weights."""
    features, labels = make_classification(300, 8, n_informative=5, n_classes=3, random_state=0)
    features[:, 0] = np.round(4 * features[:, 0]) / 4
    weights = np.random.default_rng(0).uniform(0.1, 2, size=300)
    return features.astype(np.float32), labels, weights.astype(np.float32)


def small(name):
    known = estimator_of(name, {}).get_params()
    return {key: value for key, value in SMALL.items() if key in known}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", [name for name in names() if name.endswith("Classifier")])
def test_logits_are_those_of_the_probabilities_of_scikit_learn(rows, name, classes):
    features, labels, weights = rows
    labels = labels % classes
    model = TreeEnsemble(classes, name, small(name))
    model.fit(features, labels, weights, seed=3)
    reference = estimator_of(name, {**small(name), "random_state": 3})
    expected = reference.fit(features, labels, sample_weight=weights).predict_proba(features)
    expected = expected.clip(LEAST) / expected.clip(LEAST).sum(1, keepdims=True)
    found = model(torch.from_numpy(features)).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in names() if name.endswith("Regressor")])
def test_values_are_those_of_scikit_learn(rows, name):
    features, labels, weights = rows
    targets = (features[:, 1] * 2 + labels)[:, None]
    model = TreeEnsemble(1, name, small(name))
    model.fit(features, targets, weights, seed=3)
    reference = estimator_of(name, {**small(name), "random_state": 3})
    expected = reference.fit(features, targets[:, 0], sample_weight=weights).predict(features)
    found = model(torch.from_numpy(features))[:, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_forest_predicts_several_targets(rows):
    features, labels, _ = rows
    targets = np.stack([features[:, 1], labels], axis=1)
    model = TreeEnsemble(2, "RandomForestRegressor", {"n_estimators": 3})
    model.fit(features, targets, seed=0)
    expected = estimator_of("RandomForestRegressor", {"n_estimators": 3, "random_state": 0})
    expected = expected.fit(features, targets).predict(features)
    np.testing.assert_allclose(model(torch.from_numpy(features)).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["RandomForestClassifier", "HistGradientBoostingClassifier"])
def test_a_class_without_a_training_row_has_the_least_probability(rows, name):
    features, labels, _ = rows
    model = TreeEnsemble(4, name, small(name))
    model.fit(features, np.where(labels == 1, 3, labels), seed=0)
    assert model(torch.from_numpy(features)).softmax(1)[:, 1].max() < 1e-4


def test_saved_trees_are_loaded_into_a_fresh_module(rows, tmp_path):
    features, labels, _ = rows
    spec = ModelSpec(source="sklearn", name="RandomForestClassifier", n_estimators=3)
    model = build(spec, classes=3, table_features=8)
    model.fit(features, labels, seed=0)
    save_weights(model, tmp_path / "model.safetensors")
    loaded = build(spec, classes=3, table_features=8)
    load_weights(loaded, tmp_path / "model.safetensors")
    given = torch.from_numpy(features)
    assert torch.equal(loaded(given), model(given))
    begun = spec.model_copy(update={"checkpoint": str(tmp_path / "model.safetensors")})
    assert torch.equal(build(begun, classes=3, table_features=8)(given), model(given))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_children_that_form_no_trees_are_refused(rows):
    features, labels, _ = rows
    model = TreeEnsemble(3, "DecisionTreeClassifier", {})
    model.fit(features, labels, seed=0)
    state = model.state_dict()
    state["first_child"] = state["first_child"].flip(0)  # a cycle would never end
    with pytest.raises(InputError, match="nodes that form no trees"):
        TreeEnsemble(3, "DecisionTreeClassifier", {}).load_state_dict(state)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": "RandomForestClasifier"}, 'did you mean "RandomForestClassifier"'),
        ({"name": "SVC"}, "RandomForestClassifier"),
        ({"n_estimatorz": 3}, 'did you mean "n_estimators"'),
        ({"n_estimators": 0}, "int in the range"),
        ({"criterion": "giny"}, "'criterion' parameter"),
        ({"random_state": 1}, "random_state"),
        ({"class_names": ["a", "b"]}, "model.class_names"),
        ({"name": "GradientBoostingClassifier", "loss": "exponential"}, "without a link function"),
    ],
)
def test_what_an_estimator_does_not_take_is_refused(given, expected):
    spec = ModelSpec(**{"source": "sklearn", "name": "RandomForestClassifier", **given})
    with pytest.raises(InputError, match=expected):
        build(spec, classes=2, table_features=3)
