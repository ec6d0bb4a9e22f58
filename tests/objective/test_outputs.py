"""Several outputs with their own elements: classes over anchors, boxes over some of them."""

import inspect
import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck import losses
from limbeck.errors import InputError
from limbeck.objective import Objective, Term
from limbeck.schemes import Offline
from limbeck.targets import (
    Answer,
    BernoulliTargets,
    DenseTargets,
    HeadTargets,
    Layout,
    SampledTargets,
    TopKTargets,
    ValueTargets,
)
from limbeck.tasks import Output, Response
from limbeck.teachers import EnsembleTeacher, FrozenTeacher, TargetForm

ANCHORS, CLASSES = 4, 5


class Detector(nn.Module):
    """Classes, tags and boxes of four anchors per image."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.classes = nn.Linear(8, CLASSES)
        self.tags, self.boxes = nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, points):
        features = self.body(points).tanh()
        return self.classes(features), self.tags(features), self.boxes(features)


class Detection:
    """Labels are over all anchors, boxes over those with an object only."""

    name, inputs, classes = "detection", ("points",), tuple("abcde")
    kinds: Mapping[str, str] = {"classes": "categorical", "tags": "binary", "boxes": "value"}

    def outputs(self, model, batch):
        return dict(zip(self.kinds, model(batch["points"]), strict=True))

    def weights(self, batch):
        anchors, objects = batch["anchor_weight"].flatten(), batch["objects"].flatten()
        return {"classes": anchors, "tags": anchors, "boxes": anchors[objects]}

    def labelled(self, batch):
        return {}

    def respond(self, model, batch, taps=None):
        outputs, objects = self.outputs(model, batch), batch["objects"].flatten()
        sample_of = torch.arange(len(objects)) // ANCHORS
        weights, found = self.weights(batch), {}
        for name, values in outputs.items():
            kept = objects if name == "boxes" else torch.ones_like(objects)
            found[name] = Output(
                values.flatten(0, 1)[kept],
                weights=weights[name],
                sample_of=sample_of[kept],
                labels=batch[name].flatten(0, 1)[kept] if name in batch else None,
            )
        return Response(found, index=batch.get("index"), taps={} if taps is None else taps.take())

    def loss(self, response):
        classes, boxes = response.outputs["classes"], response.outputs["boxes"]
        return {
            "classes": F.cross_entropy(classes.values, classes.labels, reduction="none"),
            "boxes": (boxes.values - boxes.labels).abs().sum(1),
        }


def batch_of(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, ANCHORS)
    return {
        "points": torch.randn(*shape, 6, generator=generator, dtype=torch.float64),
        "classes": torch.randint(CLASSES, shape, generator=generator),
        "boxes": torch.rand(*shape, 4, generator=generator, dtype=torch.float64),
        "objects": torch.rand(*shape, generator=generator) < 0.4,
        "anchor_weight": torch.rand(*shape, generator=generator, dtype=torch.float64).round(
            decimals=1
        ),
        "index": torch.arange(samples),
        "view": torch.zeros(samples, dtype=torch.long),
    }


def rows(batch, kept):
    return {name: tensor[kept] for name, tensor in batch.items()}


TERMS = [
    Term("task", weight=0.5),
    Term("soft_target_kl", temperature=3.0),
    Term("logit_mse", output="tags"),
    Term("logit_mse", output="boxes", weight=2.0),
    Term("fitnet_hint", student="body", teacher="body", output="boxes"),
    Term("rkd_distance", output="classes", weight=0.1),
]


def scheme_of(terms=None, teacher=None, **form):
    torch.manual_seed(1)
    task, student = Detection(), Detector().double()
    frozen = FrozenTeacher(Detector().double(), task, **form)
    objective = Objective(terms or TERMS)
    return Offline(student, task, objective, teacher=teacher or frozen, probe=batch_of(3))


def gradient(scheme, parts):
    """Accumulate the gradient of a step over its micro-batches."""
    scheme.zero_grad()
    masses = [scheme.total_weights(part) for part in parts]
    total = {name: sum(mass[name] for mass in masses) for name in masses[0]}
    losses = [scheme.step(part, 0.3, total) for part in parts]
    sum(one.total for one in losses).backward()
    gradients = {name: p.grad for name, p in scheme.named_parameters() if p.grad is not None}
    return sum(one.total.detach() for one in losses), gradients


@pytest.mark.parametrize("cuts", [(0, 1, 8), (0, 3, 4, 8), (0, 2, 4, 6, 8)])
def test_the_cut_of_a_step_changes_no_gradient_of_any_output(cuts):
    scheme = scheme_of([term for term in TERMS if term.loss != "rkd_distance"])
    batch = batch_of(8)
    batch["objects"][1] = False  # the first micro-batches may have no box at all
    parts = [rows(batch, slice(a, b)) for a, b in itertools.pairwise(cuts)]
    total, gradients = gradient(scheme, parts)
    whole = scheme.step(batch, 0.3)
    torch.testing.assert_close(total, whole.total.detach())
    scheme.zero_grad()
    whole.total.backward()
    for name, parameter in scheme.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad)


def test_each_output_is_a_mean_over_its_own_elements():
    scheme, batch = scheme_of(), batch_of(8)
    terms = scheme.step(batch, 0.0).terms
    response = Detection().respond(scheme.student, batch)
    answer = scheme.teacher.answer(batch)
    parts = Detection().loss(response)
    task = sum(
        (value * response.outputs[name].weights).sum() / response.outputs[name].weights.sum()
        for name, value in parts.items()
    )
    torch.testing.assert_close(terms["task"].raw, task.detach())
    boxes = response.outputs["boxes"]
    each = (boxes.values - answer.targets["boxes"].mean).square().mean(1)
    expected = (each * boxes.weights).sum() / boxes.weights.sum()
    torch.testing.assert_close(terms["logit_mse_2"].raw, expected.detach())


def test_elements_of_weight_zero_change_nothing():
    # Features are of whole samples, whose inputs this test changes.
    scheme = scheme_of([term for term in TERMS if term.loss != "fitnet_hint"])
    batch = batch_of(8)
    batch["anchor_weight"][:, 0] = 0
    expected, gradients = gradient(scheme, [batch])
    moved = {**batch, "classes": batch["classes"].clone(), "boxes": batch["boxes"].clone()}
    moved["classes"][:, 0], moved["boxes"][:, 0] = 0, 9.0
    points = batch["points"].clone()
    points[:, 0] *= 7
    found, others = gradient(scheme, [{**moved, "points": points}])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(others, gradients)


def test_a_task_term_may_name_one_output():
    both, one = scheme_of([Term("task")]), scheme_of([Term("task", output="boxes")])
    batch = batch_of(4)
    response = Detection().respond(one.student, batch)
    each, weights = Detection().loss(response)["boxes"], response.outputs["boxes"].weights
    expected = (each * weights).sum() / weights.sum()
    torch.testing.assert_close(one.step(batch, 0.0).total, expected)
    assert both.step(batch, 0.0).total > one.step(batch, 0.0).total


def test_an_unknown_output_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r'output: got .boxs.;.* did you mean "boxes"'):
        scheme_of([Term("logit_mse", output="boxs")])


@pytest.mark.parametrize("loss", sorted(losses.OUTPUT_KINDS))
def test_a_loss_is_refused_on_an_output_of_another_kind(loss):
    output = "boxes" if losses.OUTPUT_KINDS[loss] == "categorical" else "classes"
    parameters = inspect.signature(losses.find(loss)).parameters
    given = {
        name: value
        for name, value in {"temperature": 2.0, "smoothing": 0.1}.items()
        if name in parameters and parameters[name].default is inspect.Parameter.empty
    }
    objective = Objective([Term(loss, output=output, **given)])
    with pytest.raises(
        InputError, match=rf"^{loss}: got 'the output {output}, of kind \w+'; allowed: an output of"
    ):
        objective.check_outputs(Detection.kinds)


def test_a_teacher_without_the_output_is_refused_with_those_it_has():
    class Other:
        fingerprint = "other"

        def answer(self, batch):
            return Answer({"classes": DenseTargets(torch.zeros(3 * ANCHORS, CLASSES))})

    scheme = scheme_of([Term("logit_mse", output="boxes")], teacher=Other())
    with pytest.raises(InputError, match=r"output: got .boxes.;.*the teacher's outputs: classes"):
        scheme.step(batch_of(3), 0.0)


def test_targets_of_each_kind():
    targets = scheme_of().teacher.answer(batch_of(2)).targets
    assert {name: type(one) for name, one in targets.items()} == {
        "classes": DenseTargets,
        "tags": BernoulliTargets,
        "boxes": ValueTargets,
    }


def test_labels_may_be_absent():
    scheme = scheme_of([Term("soft_target_kl", temperature=2.0), Term("logit_mse", output="boxes")])
    batch = {key: one for key, one in batch_of(4).items() if key not in ("classes", "boxes")}
    assert scheme.step(batch, 0.0).total.isfinite()
    with pytest.raises(InputError, match="without labels"):
        scheme_of([Term("cross_entropy")]).step(batch, 0.0)


# -- forms of the teacher's targets ---------------------------------------------------------------


def divergence():
    return [Term("divergence", kind="forward_kl", temperature=1.0)]


def test_top_k_of_all_classes_equals_dense():
    batch = batch_of(6)
    dense = gradient(scheme_of(divergence()), [batch])
    top = scheme_of(divergence(), targets=TargetForm("top_k", k=CLASSES))
    assert isinstance(top.teacher.answer(batch).primary, TopKTargets)
    torch.testing.assert_close(gradient(top, [batch]), dense)


def test_sampled_targets_depend_on_the_sample_and_not_on_the_batch():
    scheme = scheme_of(divergence(), targets="sampled")
    batch = batch_of(8)
    whole = scheme.teacher.answer(batch).primary
    order = torch.tensor([5, 2, 7])
    some = scheme.teacher.answer(rows(batch, order)).primary
    assert isinstance(some, SampledTargets)
    elements = (order[:, None] * ANCHORS + torch.arange(ANCHORS)).flatten()

    def drawn(targets, row):
        pairs = zip(targets.ids[row].tolist(), targets.counts[row].tolist(), strict=True)
        return {label: count for label, count in pairs if count}

    for row, element in enumerate(elements):
        assert drawn(some, row) == drawn(whole, element)
    other_view = {**batch, "view": batch["view"] + 1}
    again = scheme.teacher.answer(other_view).primary
    assert again.ids.shape != whole.ids.shape or not torch.equal(again.counts, whole.counts)


def test_sampled_gradients_equal_dense_ones_in_expectation():
    batch = batch_of(4)
    _, expected = gradient(scheme_of(divergence()), [batch])
    found = {name: torch.zeros_like(one) for name, one in expected.items()}
    seeds = 200
    for seed in range(seeds):
        form = TargetForm("sampled", draws=8, seed=seed)
        _, one = gradient(scheme_of(divergence(), targets=form), [batch])
        for name in found:
            found[name] += one[name] / seeds
    for name, tensor in expected.items():
        error = (found[name] - tensor).norm() / tensor.norm().clamp_min(1e-9)
        assert error < 0.15, name


def test_sampling_needs_the_index_of_each_sample():
    teacher = FrozenTeacher(Detector().double(), Detection(), targets="sampled")
    with pytest.raises(InputError, match="index, int64"):
        teacher.answer({k: v for k, v in batch_of(2).items() if k != "index"})


def test_head_targets_need_a_head():
    teacher = FrozenTeacher(Detector().double(), Detection(), targets="head")
    with pytest.raises(InputError, match="hidden states and a head"):
        teacher.answer(batch_of(2))


class WithHead(Detection):
    """Classes as hidden states and a head, which the teacher's targets may keep."""

    def respond(self, model, batch, taps=None):
        response = super().respond(model, batch, taps)
        hidden = model.body(batch["points"]).tanh().flatten(0, 1)
        output = replace(response.primary, values=None, hidden=hidden, head=model.classes)
        return replace(response, outputs={**response.outputs, "classes": output})


def test_head_targets_give_the_gradient_of_dense_ones():
    batch = batch_of(5)
    dense = gradient(scheme_of(divergence()), [batch])
    torch.manual_seed(1)
    task, student = WithHead(), Detector().double()
    teacher = FrozenTeacher(Detector().double(), task, targets="head")
    assert isinstance(teacher.answer(batch).primary, HeadTargets)
    term = Term("fused_divergence", kind="forward_kl", temperature=1.0)
    objective = Objective([term])
    scheme = Offline(student, task, objective, teacher=teacher, probe=batch)
    torch.testing.assert_close(gradient(scheme, [batch]), dense)


@pytest.mark.parametrize("form", ["dense", TargetForm("top_k", k=2)])
def test_a_teacher_equal_to_the_student_gives_zero(form):
    batch, terms = batch_of(5), divergence()
    scheme = scheme_of(terms)
    answer = FrozenTeacher(scheme.student, Detection(), targets=form).answer(batch)
    response = Detection().respond(scheme.student, batch)
    assert abs(float(Objective(terms)(response, answer).total)) < 1e-9


# -- stored targets -------------------------------------------------------------------------------


def stored(form, samples=7):
    batch = batch_of(samples)
    teacher = FrozenTeacher(Detector().double(), Detection(), targets=form)
    answer = teacher.answer(rows(batch, slice(0, 2)))
    layout = Layout.of(without_boxes(answer.targets), samples=2)
    packed = layout.pack(without_boxes(teacher.answer(batch).targets), samples=samples)
    return batch, teacher, layout, packed


def without_boxes(targets):
    """Boxes have as many elements as there are objects, so that they have no fixed record."""
    return {name: one for name, one in targets.items() if name != "boxes"}


@pytest.mark.parametrize(
    "form", ["dense", TargetForm("top_k", k=3), TargetForm("sampled", draws=6)]
)
def test_stored_targets_give_the_same_loss_in_any_order(form):
    torch.manual_seed(3)
    batch, teacher, layout, packed = stored(form)
    order = torch.tensor([4, 0, 6])
    found = layout.unpack(packed[order.numpy()])
    expected = teacher.answer(rows(batch, order)).targets
    objective = Objective(divergence())
    student = Detection().respond(Detector().double(), rows(batch, order))
    totals = [objective(student, Answer(one)).total for one in (found, expected)]
    torch.testing.assert_close(*totals, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["tags"].logits, expected["tags"].logits.float())


def test_a_number_of_elements_that_varies_has_no_fixed_record():
    targets = {"boxes": ValueTargets(torch.zeros(5, 4))}
    with pytest.raises(InputError, match="boxes: 5 elements"):
        Layout.of(targets, samples=2)


def test_numbers_beyond_the_precision_are_refused():
    layout = Layout.of({"x": ValueTargets(torch.zeros(1, 1))}, samples=1, precision="float16")
    with pytest.raises(InputError, match="x: NaN or infinity for row 1"):
        layout.pack({"x": ValueTargets(torch.tensor([[0.0], [1e6]]))}, samples=2)


# -- ensembles ------------------------------------------------------------------------------------


class Fixed:
    def __init__(self, **targets):
        self.targets = targets
        self.fingerprint = "fixed"

    def answer(self, batch):
        return Answer(self.targets)


def test_an_ensemble_averages_each_kind():
    first = Fixed(
        tags=BernoulliTargets(torch.tensor([[0.0, math.log(3)]])),
        boxes=ValueTargets(torch.tensor([[1.0]]), torch.tensor([[2.0]])),
    )
    second = Fixed(
        tags=BernoulliTargets(torch.tensor([[0.0, -math.log(3)]])),
        boxes=ValueTargets(torch.tensor([[5.0]]), torch.tensor([[0.0]])),
    )
    targets = EnsembleTeacher([first, second]).answer({}).targets
    torch.testing.assert_close(targets["tags"].logits.sigmoid(), torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(targets["boxes"].mean, torch.tensor([[3.0]]))
    variance = 4.0 + (4.0 + 0.0) / 2  # between the members, and their mean within
    torch.testing.assert_close(targets["boxes"].deviation, torch.tensor([[math.sqrt(variance)]]))


def test_members_with_other_outputs_are_refused():
    members = [
        Fixed(tags=BernoulliTargets(torch.zeros(1, 2))),
        Fixed(boxes=ValueTargets(torch.zeros(1, 2))),
    ]
    with pytest.raises(InputError, match="the same outputs"):
        EnsembleTeacher(members).answer({})
