"""Early exits: branches of the exported file, thresholds, expected FLOPs, training, and a run."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import limbeck
from limbeck import losses
from limbeck.compress.method import apply
from limbeck.compress.onnx_weights import QuantizeError
from limbeck.compress.quantizers.float16 import Float16
from limbeck.compress.quantizers.int8_dynamic import Int8Dynamic
from limbeck.compress.quantizers.int8_static import Int8Static
from limbeck.errors import InputError
from limbeck.evaluate.flops import flops, flops_of_exits
from limbeck.export import slim
from limbeck.export.compact.onnx import pack
from limbeck.export.invariance import check_invariance
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor, TorchPredictor
from limbeck.models.nets.early_exit_cnn import early_exit_cnn
from limbeck.objective import Objective, methods
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.stages.early_exit import EarlyExit, choose_threshold
from limbeck.pipeline.validate import validate
from limbeck.report.load import load_run
from limbeck.schemes import SchemeInputs
from limbeck.schemes.early_exit import EarlyExitSettings
from limbeck.tasks.image_classification import ImageClassification
from limbeck.teachers import FrozenTeacher

TASK = ImageClassification(classes=("a", "b", "c", "d"))


def made(**given):
    torch.manual_seed(0)
    return early_exit_cnn(4, width=4, depth=1, **given).eval()


def images(count=24):
    generator = torch.Generator().manual_seed(1)
    # Of several sizes, so that confidences differ.
    size = torch.linspace(0.2, 6, count).reshape(-1, 1, 1, 1)
    return {"image": size * torch.randn(count, 1, 12, 12, generator=generator)}


def thresholds_of(model, batch):
    """Return thresholds at which about a third of the samples leave at each exit."""
    with torch.no_grad():
        logits = model.exit_logits(batch["image"])
    found = []
    for one, share in zip(logits[:-1], (1 / 3, 1 / 2), strict=False):
        values = np.sort(one.softmax(1).amax(1).numpy())[::-1]
        place = round(share * len(values))
        found.append(float(values[place - 1 : place + 1].mean()))
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model, batch = made(), images()
    folder = tmp_path_factory.mktemp("exits")
    to_onnx(model, TASK, batch, folder / "plain.onnx")
    apply(model, [{"kind": "exits", "thresholds": thresholds_of(model, batch), "rates": [1, 0, 0]}])
    to_onnx(model, TASK, batch, folder / "exits.onnx")
    return model, batch, folder


def test_a_sample_has_the_logits_of_its_exit_in_any_batch(exported):
    model, batch, folder = exported
    with torch.no_grad():
        every = torch.stack(model.exit_logits(batch["image"]))
    confident = every[:-1].softmax(-1).amax(-1) >= torch.tensor(model.exit_thresholds)[:, None]
    exit_of = torch.cat([confident, torch.ones(1, len(every[0]), dtype=torch.bool)]).int().argmax(0)
    assert exit_of.bincount(minlength=3).min() >= 4
    expected = every[exit_of, torch.arange(len(exit_of))].numpy()
    file = OnnxPredictor(folder / "exits.onnx")
    for predictor in (TorchPredictor(model, TASK), file):
        np.testing.assert_allclose(predictor.predict(batch)["logits"], expected, atol=1e-5)
        check_invariance(predictor, batch, where="student")
    for row in range(len(exit_of)):
        one = {"image": batch["image"][row : row + 1]}
        np.testing.assert_allclose(file.predict(one)["logits"][0], expected[row], atol=1e-5)


def test_the_file_branches_where_there_are_thresholds(exported):
    _, _, folder = exported
    plain, exits = (onnx.load(folder / name) for name in ("plain.onnx", "exits.onnx"))
    assert [list(slim.graphs(one)) == [one.graph] for one in (plain, exits)] == [True, False]
    kinds = [node.op_type for graph in slim.graphs(exits) for node in graph.node]
    assert kinds.count("If") == 2
    assert "BatchNormalization" not in kinds
    convolutions = [node.op_type for node in exits.graph.node].count("Conv")
    assert convolutions == 2 < kinds.count("Conv")  # the first block and its exit always run
    # Weights lie in the branch that reads them, which ONNX Runtime then prepares.
    outside = {weight.name for weight in exits.graph.initializer}
    assert any(name.startswith("blocks.0") for name in outside)
    assert not any(name.startswith(("blocks.1", "blocks.2", "exits.2")) for name in outside)
    weights = {weight.name for weight in plain.graph.initializer}
    assert not any(name.startswith(("exits.0", "exits.1")) for name in weights)


def test_flops_are_those_of_the_paths_by_their_rates(exported):
    model, batch, _ = exported
    sample = {"image": batch["image"][:1]}
    kept = model.exit_thresholds
    paths = flops_of_exits(model, TASK, sample)
    assert model.exit_thresholds == kept
    assert paths == sorted(paths)
    assert paths[0] == 2 * (144 * 9 * 4) + 2 * (9 * 9 * 4 * 8) + 2 * 8 * 4
    plain = flops(made(), TASK, sample)
    heads = 2 * (9 * 9 * 4 * 8) + 2 * 8 * 4 + 2 * (4 * 9 * 8 * 16) + 2 * 16 * 4
    assert paths[2] == plain + heads
    model.exit_rates = (0.5, 0.3, 0.2)
    assert flops(model, TASK, batch) == round(np.dot(model.exit_rates, paths))


def test_int8_of_a_file_with_branches_is_refused_and_half_precision_works(exported):
    model, batch, folder = exported
    source, target = folder / "exits.onnx", folder / "small.onnx"
    calibration = [{"image": batch["image"].numpy()}]
    for method in (Int8Static(), Int8Dynamic()):
        with pytest.raises(QuantizeError, match="layers inside If, the branches of early exits"):
            method.write(source, target, calibration=calibration)
    record = Float16().write(source, target, calibration=calibration)
    assert record.quantized["Conv"] == 5
    same = TorchPredictor(model, TASK).predict(batch)["logits"]
    close = np.abs(OnnxPredictor(target).predict(batch)["logits"] - same).max(1) < 0.05
    assert close.mean() > 0.8  # a sample near a threshold may leave elsewhere


def test_sparse_weights_inside_branches_are_packed_without_loss(exported):
    model, batch, folder = exported
    sparse = copy.deepcopy(model)
    with torch.no_grad():
        for weight in sparse.parameters():
            if weight.ndim == 4:
                weight[torch.rand_like(weight) < 0.9] = 0
    path = folder / "sparse.onnx"
    to_onnx(sparse, TASK, batch, path)
    before, size = OnnxPredictor(path).predict(batch)["logits"], path.stat().st_size
    pack(path)
    assert path.stat().st_size < size
    np.testing.assert_array_equal(OnnxPredictor(path).predict(batch)["logits"], before)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(10, 120), st.floats(0, 0.2), st.integers(2, 4))
def test_the_threshold_is_the_lowest_that_keeps_the_score(seed, rows, drop, exits):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, rows)
    signal = np.linspace(0.5, 3, exits)[:, None, None] * np.eye(3)[labels]
    logits = random.normal(size=(exits, rows, 3)) + signal

    def score(one):
        return float((one.argmax(1) == labels).mean())

    def taken(threshold):
        """Return the logits and the exit of each sample, one by one."""
        out, places = [], []
        for row in range(rows):
            for place in range(exits):
                p = np.exp(logits[place, row]) / np.exp(logits[place, row]).sum()
                if place == exits - 1 or p.max() >= threshold:
                    out.append(logits[place, row])
                    places.append(place)
                    break
        return np.stack(out), np.bincount(places, minlength=exits) / rows

    try:
        found = choose_threshold(logits, score, drop=drop)
    except InputError:
        values = np.exp(logits[:-1]) / np.exp(logits[:-1]).sum(-1, keepdims=True)
        top = np.unique(values.max(-1))[::-1]
        # Not even the most confident samples may leave early.
        assert any(score(taken(value)[0]) < score(logits[-1]) - drop for value in top[:3])
        return
    assert found.score == score(taken(found.threshold)[0]) >= score(logits[-1]) - drop - 1e-9
    assert found.full == score(logits[-1])
    np.testing.assert_allclose(found.rates, taken(found.threshold)[1])


def test_without_a_good_exit_no_threshold_is_chosen():
    right = np.eye(2)[[0, 1] * 10]
    logits = np.stack([right[:, ::-1] * np.linspace(1, 4, 20)[:, None], right])
    labels = right.argmax(1)
    with pytest.raises(InputError, match=r"drop: got 0\.01; allowed: a drop within which some"):
        choose_threshold(logits, lambda one: float((one.argmax(1) == labels).mean()), drop=0.01)


def inputs_of(batch, teacher=None):
    return SchemeInputs(
        task=TASK,
        objective=lambda: Objective(methods.hinton(temperature=2.0)),
        probe=batch,
        teacher=FrozenTeacher(teacher or nn.Sequential(nn.Flatten(), nn.Linear(144, 4)), TASK),
    )


def test_exits_learn_from_the_last_one_of_the_student():
    batch = {**images(8), "labels": torch.arange(8) % 4, "weight": torch.linspace(0, 2, 8)}
    model = made()
    options = {"exit_weight": 0.5, "exit_temperature": 3.0}
    scheme = EarlyExitSettings(**options).build_scheme(model, inputs_of(batch))
    model.train()
    found = scheme.step(batch, 0.0)
    *early, last = model.exit_logits(batch["image"])
    each = sum(losses.soft_target_kl(one, last.detach(), temperature=3.0) for one in early)
    expected = (each * batch["weight"]).sum() / batch["weight"].sum()
    torch.testing.assert_close(found.terms["exits"].raw, expected.detach())
    torch.testing.assert_close(found.terms["exits"].weighted, 0.5 * expected.detach())
    # Micro-batches of a step have its divisor.
    whole = {"logits": batch["weight"].sum(), "logits/labels": batch["weight"].sum()}
    model.eval()  # without the statistics of a batch
    for part in model.modules():
        part.training = isinstance(part, type(model))
    halves = [{name: one[rows] for name, one in batch.items()} for rows in (slice(3), slice(3, 8))]
    parts = sum(scheme.step(half, 0.0, whole).terms["exits"].raw for half in halves)
    torch.testing.assert_close(parts, scheme.step(batch, 0.0).terms["exits"].raw)


def test_a_student_without_exits_is_refused():
    batch = {**images(8), "labels": torch.arange(8) % 4}
    student = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
    message = r"student: got 'Sequential, without early exits'.*early_exit_cnn"
    with pytest.raises(InputError, match=message):
        EarlyExitSettings().build_scheme(student, inputs_of(batch))
    trial = SimpleNamespace(student=student, batch=batch, context=SimpleNamespace(task=TASK))
    with pytest.raises(InputError, match=message):
        EarlyExit().dry_run(trial, where="stages.early_exit")


RECIPE = {
    "name": "exits",
    "task": "image_ordinal",  # digits have an order
    "data": {"source": "sklearn", "name": "digits", "class_weights": "balanced"},
    "budget": {"score": {"quadratic_kappa": 0.5, "rank_mae": 2.0}},
    "student": {"source": "limbeck", "name": "early_exit_cnn", "width": 4, "depth": 1},
    "threads": 1,
    "stages": [
        {"distill": {"epochs": 6, "learning_rate": 0.02, "objective": "label_only"}},
        {"early_exit": {"drop": 0.02}},
        {"export": {}},
    ],
}


def test_a_task_without_classes_is_refused():
    with pytest.raises(
        InputError, match=r"stages\.early_exit\.drop: got 'task: tabular_regression"
    ):
        validate({**RECIPE, "task": "tabular_regression"})
    stages = [*RECIPE["stages"][:1], {"early_exit": {"drop": -1}}, {"export": {}}]
    with pytest.raises(InputError, match=r"stages\.early_exit\.drop"):
        validate({**RECIPE, "stages": stages})


def test_a_model_is_not_changed_after_its_thresholds_are_chosen():
    *first, end = RECIPE["stages"]
    changes = [
        {"prune": {"method": "magnitude", "sparsity": 0.5}},
        {"distill": {"epochs": 1, "objective": "label_only"}},
    ]
    message = r"stages\.prune: got 'prune'; allowed: a stage before `early_exit`(?s:.*)distill: got"
    with pytest.raises(InputError, match=message) as found:
        validate({**RECIPE, "stages": [*first, *changes, end]})
    assert len(found.value.problems) == 2
    validate({**RECIPE, "stages": [*first, *changes, {"early_exit": {}}, end]})
    validate({**RECIPE, "stages": [*first, {"quantize": {"method": "float16"}}, end]})


@pytest.mark.slow
def test_a_run_ships_a_student_with_exits(tmp_path):
    result = limbeck.run(Recipe.model_validate(RECIPE), out=tmp_path / "run")
    file = tmp_path / "run/student/model.onnx"
    assert any(node.op_type == "If" for node in onnx.load(file).graph.node)
    [stage] = [one for one in result.chain if one.stage == "early_exit"]
    record = json.loads((tmp_path / "run/stages/02-early_exit/record.json").read_text())
    [change] = record["artefacts"][0]["changes"]
    assert change["rates"][-1] < 0.9
    assert sum(change["rates"]) == pytest.approx(1)
    before, after = (link.measured[0] for link in (result.chain[0], stage))
    assert after.validation_score >= before.validation_score - 0.02 - 1e-9
    assert after.cost.flops < before.cost.flops
    notes = " ".join(record["notes"])
    assert "expected FLOPs per sample" in notes
    assert "mean latency over" in notes
    assert load_run(tmp_path / "run").shipped.measured[0].cost.flops == after.cost.flops
    image = np.zeros((8, 8), np.uint8)
    assert limbeck.load_student(tmp_path / "run").predict(image).label in map(str, range(10))
    # The task's scores are of ordered classes.
    assert result.metric.name == "quadratic_kappa"
    assert [one.metric.name for one in result.budget] == ["quadratic_kappa", "rank_mae"]
    assert all(one.met for one in result.budget)
