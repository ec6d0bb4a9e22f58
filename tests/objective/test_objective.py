import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from pydantic import PositiveFloat
from torch import nn

from limbeck import losses
from limbeck.errors import InputError, LimbeckError
from limbeck.objective import Losses, Objective, Term, TermLoss, TrainingSet, methods
from limbeck.objective.schedules import Linear
from limbeck.targets import Answer, DenseTargets
from limbeck.tasks import Output, Response


def respond(logits, labels, weights, sample_of, taps=None):
    output = Output(logits, weights=weights, sample_of=sample_of, labels=labels)
    return Response({"logits": output}, taps=taps or {})


def with_output(response, **changes):
    return replace(response, outputs={"logits": replace(response.primary, **changes)})


def answered(logits, taps=None):
    return Answer({"logits": DenseTargets(logits)}, taps or {})


def task_loss(response):
    return {"logits": losses.cross_entropy(response.primary.values, response.primary.labels)}


@pytest.fixture
def pair():
    """Six elements of three samples, two of them without weight; a map of features a sample."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    response = respond(
        logits=randn(6, 4).requires_grad_(),
        labels=torch.tensor([0, 1, 2, 3, 0, 1]),
        weights=torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, 0.5]),
        sample_of=torch.tensor([0, 0, 1, 1, 2, 2]),
        taps={"body": randn(3, 5, 2, 2).requires_grad_()},
    )
    return response, answered(randn(6, 4), {"stem.0": randn(3, 5, 2, 2)})


def hint(**settings):
    return Term("fitnet_hint", student="body", teacher="stem.0", **settings)


def test_terms_are_weighted_means_over_units(pair):
    response, answer = pair
    objective = Objective(methods.hinton(temperature=4.0, alpha=0.1))
    result = objective(response, answer, task_loss=task_loss)
    w, logits = response.primary.weights, response.primary.values
    task = (w * task_loss(response)["logits"]).sum() / w.sum()
    soft = losses.soft_target_kl(logits, answer.logits, temperature=4.0)
    soft = (w * soft).sum() / w.sum()
    assert list(result.terms) == ["task", "soft_target_kl"]
    torch.testing.assert_close(result.terms["task"].raw, task.detach())
    torch.testing.assert_close(result.terms["soft_target_kl"].weighted, 0.9 * soft.detach())
    torch.testing.assert_close(result.total, 0.1 * task + 0.9 * soft)


def test_features_weigh_what_their_units_weigh_together(pair):
    response, answer = pair
    objective = Objective([hint()])
    objective.connect(response, answer)
    value = losses.fitnet_hint(response.taps["body"], answer.taps["stem.0"])
    carried = torch.tensor([1.0, 3.0, 0.5])
    expected = (carried * value).sum() / response.primary.weights.sum()
    torch.testing.assert_close(objective(response, answer).total, expected)


def gradients(objective, response, answer, scale=1.0):
    leaves = [response.primary.values, response.taps["body"]]
    total = objective(response, answer, task_loss=task_loss).total * scale
    return torch.autograd.grad(total, leaves)


def test_any_split_into_micro_batches_gives_the_same_gradient(pair):
    response, answer = pair
    objective = Objective([*methods.hinton(), hint(weight=3.0)])
    objective.connect(response, answer)
    whole = gradients(objective, response, answer)
    mass = response.primary.weights.sum()
    summed = [torch.zeros_like(part) for part in whole]
    for elements, samples in ((slice(0, 2), slice(0, 1)), (slice(2, 6), slice(1, 3))):
        part = respond(
            logits=response.primary.values[elements],
            labels=response.primary.labels[elements],
            weights=response.primary.weights[elements],
            sample_of=response.primary.sample_of[elements] - samples.start,
            taps={"body": response.taps["body"][samples]},
        )
        result = answered(
            answer.logits[elements],
            {"stem.0": answer.taps["stem.0"][samples]},
        )
        total = (
            objective(part, result, task_loss=task_loss).total * part.primary.weights.sum() / mass
        )
        leaves = [response.primary.values, response.taps["body"]]
        for sum_, gradient in zip(summed, torch.autograd.grad(total, leaves), strict=True):
            sum_ += gradient
    for sum_, gradient in zip(summed, whole, strict=True):
        torch.testing.assert_close(sum_, gradient)


def test_masked_units_get_no_gradient_and_an_empty_batch_gives_zero(pair):
    response, answer = pair
    objective = Objective([*methods.hinton(), hint()])
    objective.connect(response, answer)
    logits, features = gradients(objective, response, answer)
    assert not logits[response.primary.weights == 0].any()
    assert features.abs().sum(dim=(1, 2, 3)).all()
    nothing = with_output(response, weights=torch.zeros(6))
    total = objective(nothing, answer, task_loss=task_loss).total
    assert total.item() == 0
    assert not any(gradient.any() for gradient in gradients(objective, nothing, answer))


def batch_coupled(student, teacher):
    return (student.mean() - teacher.mean()).square()


def test_scalars_are_taken_as_they_are_over_what_counts(pair):
    response, answer = pair
    counts = response.primary.weights > 0
    objective = Objective([Term(batch_coupled, weight=2.0)])
    expected = 2 * batch_coupled(response.primary.values[counts], answer.logits[counts])
    for _ in range(2):  # the second time it is known beforehand that the answer is a scalar
        torch.testing.assert_close(objective(response, answer).total, expected)
    everything = with_output(response, weights=torch.ones(6))
    expected = 2 * batch_coupled(response.primary.values, answer.logits)
    torch.testing.assert_close(objective(everything, answer).total, expected)


def test_scalars_of_a_batch_without_weight_are_zero(pair):
    response, answer = pair
    objective = Objective([Term(batch_coupled)])
    total = objective(with_output(response, weights=torch.zeros(6)), answer).total
    assert total.item() == 0
    total.backward()
    assert not response.primary.values.grad.any()


def test_a_scalar_over_features_leaves_out_whole_samples(pair):
    response, answer = pair
    quiet = with_output(response, weights=torch.tensor([1.0, 0, 0, 0, 0, 2.0]))
    term = Term(batch_coupled, student="body", teacher="stem.0", connector="none")
    kept = torch.tensor([0, 2])
    expected = batch_coupled(response.taps["body"][kept], answer.taps["stem.0"][kept])
    torch.testing.assert_close(Objective([term])(quiet, answer).total, expected)


def test_a_loss_gets_what_it_names_from_the_batch(pair):
    response, answer = pair
    seen = {}

    def curious(student, teacher, *, labels, index=None, mask=None):
        seen.update(labels=labels, index=index, mask=mask)
        return student.sum(1)

    Objective([Term(curious)])(response, answer)
    assert seen == {"labels": response.primary.labels, "index": None, "mask": None}

    def content(student, teacher, *, labels=None, mask=None):
        seen.update(labels=labels, mask=mask)
        return student.sum(1)

    padded = replace(response, mask=torch.ones(3, 2).bool())
    Objective([Term(content)])(padded, answer)
    assert seen["mask"] is padded.mask
    assert seen["labels"] is None  # it can do without

    def demanding(student, teacher, *, index):
        return student.sum(1)

    with pytest.raises(InputError, match="demanding: got 'a response without index'"):
        Objective([Term(demanding)])(response, answer)


def test_a_pattern_stands_for_several_layers(pair):
    response, answer = pair
    taps = {"layer1": torch.randn(3, 2), "layer2": torch.randn(3, 2), "head": torch.randn(3, 2)}
    deep = replace(response, taps=taps)
    teacher_output = replace(answer, taps={"block1": torch.ones(3, 2), "block2": torch.ones(3, 2)})

    def each(student, teacher):
        return sum(
            (one - other).square().sum(1) for one, other in zip(student, teacher, strict=True)
        )

    term = Term(each, student="layer*", teacher="block?", connector="none")
    objective = Objective([term])
    assert objective.student_taps == ["layer*"]
    listed = Term(
        each, student=["layer1", "layer2"], teacher=["block1", "block2"], connector="none"
    )
    torch.testing.assert_close(
        objective(deep, teacher_output).total, Objective([listed])(deep, teacher_output).total
    )
    with pytest.raises(InputError, match=r"each.student: got 'stage\*'"):
        Objective([Term(each, student="stage*", teacher="block*", connector="none")])(
            deep, teacher_output
        )


def test_a_loss_over_hidden_states_weighs_units_itself(pair):
    response, answer = pair
    head = nn.Linear(7, 4)
    hidden = torch.randn(6, 7, requires_grad=True)
    large = with_output(response, values=None, hidden=hidden, head=head)
    result = Objective([Term("fused_divergence", temperature=2.0)])(large, answer).total
    small = with_output(response, values=head(hidden))
    plain = Objective([Term("divergence", temperature=2.0)])(small, answer).total
    torch.testing.assert_close(result, plain)
    torch.testing.assert_close(
        torch.autograd.grad(result, [hidden, head.weight, head.bias]),
        torch.autograd.grad(plain, [hidden, head.weight, head.bias]),
    )
    with_labels = Term("fused_divergence", temperature=2.0, label_weight=0.5)
    both = Objective([with_labels])(large, answer).total
    hard = Objective([Term("cross_entropy", weight=0.5)])(small, answer).total
    torch.testing.assert_close(both, plain + hard)
    with pytest.raises(InputError, match="logits only"):
        Objective([with_labels])(response, answer)


def test_a_loss_over_several_layers_gets_all_of_them(pair):
    response, answer = pair

    def flow_like(student, teacher):
        assert [one.shape for one in student] == [one.shape for one in teacher]
        return (student[0] - teacher[1]).flatten(1).square().sum(1)

    term = Term(flow_like, student=["body", "body"], teacher=["stem.0", "stem.0"], connector="none")
    objective = Objective([term])
    assert (objective.student_taps, objective.teacher_taps) == (["body"], ["stem.0"])
    assert objective(response, answer).total.isfinite()


def test_weights_and_temperatures_differ_per_element(pair):
    response, answer = pair
    logits, teacher = response.primary.values, answer.logits
    term = Term(
        "soft_target_kl",
        weight={"teacher_confidence": {"low": 0.0, "high": 1.0}},
        temperature={"logit_spread": {"scale": 2.0}},
    )
    result = Objective([term])(response, answer).total
    temperature = 2 * teacher.std(1, correction=0)
    each = torch.stack(
        [
            losses.soft_target_kl(logits[n : n + 1], teacher[n : n + 1], temperature=t)[0]
            for n, t in enumerate(temperature.tolist())
        ]
    )
    weights = response.primary.weights * teacher.softmax(1).amax(1)
    torch.testing.assert_close(result, (weights * each).sum() / response.primary.weights.sum())
    divergence = Term("divergence", temperature={"logit_spread": {"scale": 2.0}})
    expected = (response.primary.weights * each).sum() / response.primary.weights.sum()
    torch.testing.assert_close(Objective([divergence])(response, answer).total, expected)


def test_only_some_arguments_differ_per_element():
    spread = {"logit_spread": {}}
    for term in (Term("label_smoothing", smoothing=spread), Term("ttm", temperature=spread)):
        with pytest.raises(InputError, match="differ per element"):
            Objective([term])
    with pytest.raises(InputError, match="low"):
        Objective([Term("task", weight={"teacher_entropy": {"high": 1}})])


def test_a_weight_by_the_teacher_needs_one():
    weighed = Term("task", weight={"teacher_entropy": {"low": 0, "high": 1}})
    assert Objective([weighed]).needs_teacher
    assert not Objective([Term("task", weight={"class_balanced": {}})]).needs_teacher


def test_rare_classes_can_weigh_more(pair):
    response, _ = pair
    objective = Objective([Term("task", weight={"class_balanced": {"beta": 0.99}})])
    with pytest.raises(InputError, match="no counts"):
        objective(response, None, task_loss=task_loss)
    objective.connect(response, None, TrainingSet(100, (70, 20, 9, 1)))
    by_class = torch.tensor([(1 - 0.99) / (1 - 0.99**n) for n in (70, 20, 9, 1)])
    by_class *= 100 / (by_class * torch.tensor([70, 20, 9, 1])).sum()
    w = response.primary.weights
    expected = (
        w * by_class[response.primary.labels] * task_loss(response)["logits"]
    ).sum() / w.sum()
    torch.testing.assert_close(objective(response, None, task_loss=task_loss).total, expected)


def test_a_loss_of_ones_own_is_named_by_its_file(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def squared(student, teacher, *, scale=1.0):\n"
        "    return scale * (student - teacher.detach()).square().mean(1)\n"
    )
    objective = Objective.from_recipe([{"python:mine.py:squared": {"scale": 2.0}}])
    result = objective(*pair)
    assert list(result.terms) == ["squared"]
    plain = Objective([Term("logit_mse")])(*pair)
    torch.testing.assert_close(result.total, 2 * plain.total)
    with pytest.raises(InputError, match='did you mean "scale"'):
        Objective.from_recipe([{"python:mine.py:squared": {"sclae": 2.0}}])
    with pytest.raises(InputError, match="no such file"):
        Objective.from_recipe([{"python:other.py:squared": {}}])


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"scale": 0}, "scale"),
        ({"scale": {"linear": {"start": 1, "end": 0}}}, "scale.linear.end"),
        ({"layers": ["a"]}, "layers"),
        ({"layers": {"a": 1}}, "layers"),
        ({"mode": "main"}, "mode"),
    ],
)
def test_the_annotations_of_a_users_own_loss_are_checked(settings, where):
    def own(
        student,
        teacher,
        *,
        scale: PositiveFloat = 1.0,
        layers: tuple[int, ...] = (),
        mode: Literal["mean", "sum"] = "mean",
        table: dict[str, int] | None = None,
        free=None,
    ): ...

    Objective([Term(own, scale=2, layers=[1, 2], mode="sum", table={"a": 1}, free=object())])
    with pytest.raises(InputError) as caught:
        Objective([Term(own, **settings)])
    assert [one.where for one in caught.value.problems] == [f"objective.0.own.{where}"]


def test_weights_and_temperatures_follow_schedules(pair):
    response, answer = pair
    objective = Objective(
        [
            Term(
                "soft_target_kl",
                weight={"linear": {"start": 1, "end": 0}},
                temperature=Linear(start=10, end=1),
            )
        ]
    )
    for progress, weight, temperature in ((0.0, 1, 10), (0.5, 0.5, 5.5), (1.0, 0, 1)):
        plain = Objective([Term("soft_target_kl", temperature=temperature)])
        result = objective(response, answer, progress=progress).terms["soft_target_kl"]
        expected = plain(response, answer).total.detach()
        torch.testing.assert_close(result.raw, expected)
        torch.testing.assert_close(result.weighted, weight * expected)


def test_the_second_argument_follows_from_its_name(pair):
    response, answer = pair
    seen = {}

    def on_labels(student, labels):
        seen["labels"] = labels
        return student.sum(1)

    def on_targets(student, targets):
        seen["targets"] = targets
        return student.sum(1)

    def on_teacher(student, teacher):
        seen["teacher"] = teacher
        return student.sum(1)

    Objective([Term(on_labels), Term(on_targets), Term(on_teacher)])(response, answer)
    assert seen["labels"] is response.primary.labels
    assert seen["targets"] is answer.primary
    assert seen["teacher"] is answer.logits
    Objective([Term(on_teacher, teacher="labels")])(response, None)
    assert seen["teacher"] is response.primary.labels


def test_names_are_unique_and_taps_are_listed(pair):
    objective = Objective([hint(), hint(), Term("task"), Term("divergence", temperature=2.0)])
    response, answer = pair
    objective.connect(response, answer)
    result = objective(response, answer, task_loss=task_loss)
    assert list(result.terms) == ["fitnet_hint", "fitnet_hint_2", "task", "divergence"]
    assert objective.student_taps == ["body"]
    assert objective.teacher_taps == ["stem.0"]


def test_label_only_objectives_need_no_teacher(pair):
    response, _ = pair
    objective = Objective([*methods.label_only(), Term("label_smoothing", smoothing=0.1)])
    assert not objective.needs_teacher
    assert Objective(methods.hinton()).needs_teacher
    assert objective.student_taps == objective.teacher_taps == []
    assert objective(response, None, task_loss=task_loss).total.isfinite()
    with pytest.raises(InputError, match="a teacher"):
        Objective(methods.hinton())(response, None, task_loss=task_loss)


def test_connectors_train_with_the_student_and_are_built_once(pair):
    response, answer = pair
    wide = replace(answer, taps={"stem.0": torch.randn(3, 7, 4, 4)})
    objective = Objective([hint()])
    with pytest.raises(InputError, match=r"Call objective\.connect"):
        objective(response, wide)
    objective.connect(response, wide)
    built = objective.connectors["fitnet_hint"]
    objective(response, wide).total.backward()
    assert all(parameter.grad is not None for parameter in objective.connectors.parameters())
    objective.connect(response, wide)
    assert objective.connectors["fitnet_hint"] is built


def test_a_connector_can_be_given_or_left_out(pair):
    response, answer = pair
    given = nn.Conv2d(5, 5, 1)
    objective = Objective([hint(connector=given), hint(connector="none")])
    assert list(objective.connectors.parameters()) == list(given.parameters())
    assert objective(response, answer).total.isfinite()


def test_features_that_cannot_be_joined_name_their_terms(pair):
    response, answer = pair
    objective = Objective([hint(), hint()])
    with pytest.raises(InputError) as caught:
        objective.connect(response, replace(answer, taps={"stem.0": torch.zeros(3, 5, 2, 2, 2)}))
    assert [problem.where for problem in caught.value.problems] == [
        "fitnet_hint.connector",
        "fitnet_hint_2.connector",
    ]


def test_only_the_total_carries_a_gradient(pair):
    result = Objective(methods.hinton())(*pair, task_loss=task_loss)
    assert result.total.requires_grad
    assert not any(part.requires_grad for term in result.terms.values() for part in term)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_term(pair, bad):
    response, answer = pair

    def spoiled(student, teacher):
        return student.sum(1) * bad

    objective = Objective([Term("soft_target_kl", temperature=4.0), Term(spoiled, weight=0.0)])
    with pytest.raises(LimbeckError, match="not finite: spoiled = nan") as caught:
        objective(response, answer).check()
    assert not isinstance(caught.value, InputError)
    one = torch.tensor(1.0)
    Losses(one, {"task": TermLoss(one, one)}).check()


def test_a_loss_of_a_wrong_shape_is_named(pair):
    def twice(student, teacher):
        return torch.cat([student.sum(1)] * 2)

    with pytest.raises(InputError, match=r"twice: got \(12,\)"):
        Objective([Term(twice)])(*pair)


PROBLEMS = [
    ({"soft_target_kl": {"temprature": 4.0}}, "soft_target_kl.temprature", '"temperature"'),
    ({"soft_target_kl": {}}, "soft_target_kl.temperature", ""),
    ({"soft_target_kl": None}, "soft_target_kl.temperature", ""),
    ({"soft_target_kl": {"temperature": -1}}, "soft_target_kl.temperature", ""),
    ({"soft_target_kl": {"temperature": "hot"}}, "soft_target_kl.temperature", ""),
    ({"soft_target_kl": {"temperature": None}}, "soft_target_kl.temperature", ""),
    (
        {"soft_target_kl": {"temperature": {"linear": {"start": 4, "end": 0}}}},
        "soft_target_kl.temperature.linear.end",
        "",
    ),
    (
        {"soft_target_kl": {"temperature": {"step": {"values": [4, 0, 1], "at": [0.2, 0.4]}}}},
        "soft_target_kl.temperature.step.values.1",
        "",
    ),
    ({"soft_target_kl": {"temperature": "4"}}, "soft_target_kl.temperature", ""),
    ({"soft_target_kl": {"temperature": True}}, "soft_target_kl.temperature", ""),
    ({"mlkd": {"temperatures": [2, 0]}}, "mlkd.temperatures", ""),
    (
        {"minilm_relation": {"heads": {"linear": {"start": 1, "end": 2}}}},
        "minilm_relation.heads",
        "",
    ),
    ({"crd": {"negatives": 3}}, "crd.negatives", ""),
    (
        {"soft_target_kl": {"temperature": {"linear": {"start": 4, "ende": 1}}}},
        "soft_target_kl.temperature.linear.ende",
        '"end"',
    ),
    ({"soft_taget_kl": {"temperature": 1}}, "soft_taget_kl", '"soft_target_kl"'),
    ({"taks": {}}, "taks", '"task"'),
    ({"task": {"wieght": 1}}, "task.wieght", '"weight"'),
    ({"task": {"temperature": 1}}, "task.temperature", ""),
    ({"task": {"weight": "much"}}, "task.weight", ""),
    ({"task": {"weight": None}}, "task.weight", ""),
    ({"task": {"weight": "atuo"}}, "task.weight", ""),
    ({"task": {"self": 1}}, "task.self", ""),
    ({"task": {"loss": 1}}, "task.loss", ""),
    ({"task": 3}, "task", ""),
    ({"fitnet_hint": {"connector": "atuo"}}, "fitnet_hint.connector", '"auto"'),
    ({"fitnet_hint": {"connector": {"rate": 1}}}, "fitnet_hint.connector.rate", ""),
    ({"factor_transfer": {"connector": {"rat": 1}}}, "factor_transfer.connector.rat", '"rate"'),
    ({"crd": {"connector": {"negatives": -1}}}, "crd.connector.negatives", ""),
    ({"attention_mse": {"connector": {}}}, "attention_mse.connector.student_heads", ""),
    ({"fitnet_hint": {"student": 3}}, "fitnet_hint.student", ""),
    ({"divergence": {"kind": "forwardkl", "temperature": 1}}, "divergence.kind", '"forward_kl"'),
    ({"divergence": {"kind": ["jsd"], "temperature": 1}}, "divergence.kind", ""),
    ({"divergence": {"kind": "jsd", "beta": 1, "temperature": 1}}, "divergence.beta", ""),
    ({"divergence": {"beta": 0.5, "temperature": 1}}, "divergence.beta", ""),
    (
        {"divergence": {"kind": "jsd", "normalized": "yes", "temperature": 1}},
        "divergence.normalized",
        "",
    ),
    ({"label_smoothing": {"smoothing": 1}}, "label_smoothing.smoothing", ""),
]


@pytest.mark.parametrize(("entry", "where", "fix"), PROBLEMS)
def test_errors_in_a_recipe_name_the_key(entry, where, fix):
    with pytest.raises(InputError) as caught:
        Objective.from_recipe([{"task": {}}, entry], where="stages.distill.objective")
    problems = {problem.where: problem for problem in caught.value.problems}
    place = f"stages.distill.objective.1.{where}"
    assert place in problems
    assert fix in problems[place].fix


@pytest.mark.parametrize(
    ("term", "allowed"),
    [
        (Term("soft_target_kl", temperature=0), "a finite number above 0 or a schedule"),
        (Term("ttm", temperature=Linear(start=4, end=0)), "a finite number above 0$"),
        (Term("dkd", alpha=-1), "a finite number at least 0 or a schedule"),
        (Term("mlkd", temperatures=[]), "a list of finite numbers above 0"),
        (Term("minilm_relation", heads=0), "a whole number above 0"),
        (Term("attention_transfer", power=9, norm="sum"), "at least 1 and at most 8"),
        (Term("rkd_angle", triplets=9, similarity="kl"), 'only with similarity="huber"'),
    ],
)
def test_messages_state_the_range(term, allowed):
    with pytest.raises(InputError, match=f"{term.loss}.*allowed: .*{allowed}"):
        Objective([term])


def test_an_unknown_key_is_one_problem():
    with pytest.raises(InputError) as caught:
        Objective([Term("soft_target_kl", temprature={"linera": {}})])
    assert [one.where for one in caught.value.problems] == ["objective.0.soft_target_kl.temprature"]


def test_every_mistake_is_listed_at_once():
    entries = [entry for entry, _, _ in PROBLEMS]
    with pytest.raises(InputError) as caught:
        Objective.from_recipe(entries)
    listed = [problem.where for problem in caught.value.problems]
    assert all(f"objective.{i}.{where}" in listed for i, (_, where, _) in enumerate(PROBLEMS))


@pytest.mark.parametrize(
    "entries", [None, "task", {}, [], [3], [{}], [{"task": {}, "dkd": {}}], [{1: {}}], {"task": {}}]
)
def test_what_is_no_list_of_terms_is_refused(entries):
    with pytest.raises(InputError, match="objective"):
        Objective.from_recipe(entries)


def test_recipe_and_python_forms_are_equal():
    recipe = Objective.from_recipe(
        [
            {"task": {"weight": 0.1}},
            {"soft_target_kl": {"weight": 0.9, "temperature": 4.0}},
            "task",
            {"fitnet_hint": {"student": "a.b", "teacher": "c"}},
        ]
    )
    assert recipe.terms == (
        *methods.hinton(),
        Term("task"),
        Term("fitnet_hint", student="a.b", teacher="c"),
    )
    assert recipe.student_taps == ["a.b"]


def test_python_forms_are_checked_too():
    with pytest.raises(InputError, match="at least one term"):
        Objective([])
    with pytest.raises(InputError, match='did you mean "temperature"'):
        Objective([Term("soft_target_kl", temprature=4.0)])
    with pytest.raises(InputError, match="task_loss"):
        Objective([Term("task")])(None_response(), None)


def None_response():  # noqa: N802
    one = torch.ones(1)
    return respond(one, one.long(), one, torch.zeros(1, dtype=torch.long))


def test_methods_are_terms():
    assert methods.fitnets("a", "b", weight=10) == [
        Term("task"),
        Term("fitnet_hint", student="a", teacher="b", weight=10),
    ]
    assert Objective(methods.fitnets("a", "b")).teacher_taps == ["b"]
    assert methods.hinton(temperature=2.0, alpha=0.3) == [
        Term("task", weight=0.3),
        Term("soft_target_kl", temperature=2.0, weight=0.7),
    ]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_weights_of_tensors_are_finite_and_at_least_zero(wrong):
    objective = Objective([Term("soft_target_kl", temperature=2.0)])
    student, teacher = torch.randn(3, 2), torch.randn(3, 2)
    weights = torch.tensor([1.0, wrong, 1.0])
    with pytest.raises(InputError, match=rf"weights: got {wrong}; allowed: finite weights of at"):
        objective.compute(student, teacher, weights=weights)
    assert objective.compute(student, teacher, weights=torch.zeros(3)).total == 0
    value = torch.func.vmap(lambda w: objective.compute(student, teacher, weights=w).total)
    expected = objective.compute(student, teacher, weights=torch.ones(3)).total
    torch.testing.assert_close(value(torch.ones(2, 3)), expected.expand(2))


def test_class_balanced_weights_need_exclusive_classes():
    objective = Objective([Term("binary_kl", temperature=1.0, weight={"class_balanced": {}})])
    with pytest.raises(InputError, match=r"binary_kl.weight: got .class_balanced, on the output"):
        objective.check_outputs({"logits": "binary"})
