"""The laws catch what they are made to catch: each bug here is one that libraries ship.

Every wrong loss stands with exactly the laws that it breaks, so that no law raises false alarms.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from limbeck.core.tensors import precise, without_autocast
from limbeck.errors import InputError
from limbeck.losses import (
    cross_entropy,
    divergence,
    fitnet_hint,
    fused_divergence,
    logit_mse,
    soft_target_kl,
)
from limbeck.targets import DenseTargets, TopKTargets
from limbeck.testing import LAWS, BrokenLawError, audit_loss, check_loss


def broken(loss, kind, **settings):
    verdicts = audit_loss(loss, kind=kind, **settings)
    return {law for law, message in verdicts.items() if message is not None}


# Divergences.


def mean_over_the_batch(student, teacher, *, temperature):
    return soft_target_kl(student, teacher, temperature=temperature).mean()


def over_the_batch(student, teacher, *, temperature):
    value = soft_target_kl(student, teacher, temperature=temperature)
    return value / len(value)


def over_the_vocabulary(student, teacher, *, temperature):
    return soft_target_kl(student, teacher, temperature=temperature) / student.shape[1]


def cross_entropy_called_kl(student, teacher, *, temperature):
    q = (precise(student) / temperature).log_softmax(1).clamp_min(-1e9)
    p = (precise(teacher.detach()) / temperature).softmax(1)
    return -(p * q).sum(1) * temperature**2


def in_half_precision(student, teacher, *, temperature):
    q, p = ((x / temperature).log_softmax(1) for x in (student, teacher.detach()))
    return precise(F.kl_div(q, p, reduction="none", log_target=True).sum(1)) * temperature**2


def in_single_precision(student, teacher, *, temperature):
    return soft_target_kl(student.float(), teacher.float(), temperature=temperature)


def without_square(student, teacher, *, temperature):
    return soft_target_kl(student, teacher, temperature=temperature) / temperature**2


def square_on_value_only(student, teacher, *, temperature):
    value = soft_target_kl(student, teacher, temperature=temperature)
    return value.detach() + (value - value.detach()) / temperature**2


def into_teacher(student, teacher, *, temperature):
    value = soft_target_kl(student, teacher, temperature=temperature)
    seen = precise(teacher).clamp_min(-1e9)
    return value + (seen - seen.detach()).sum(1)


def wrong_way_round(student, teacher, *, temperature):
    targets = DenseTargets(teacher)
    return divergence(student, targets, kind="reverse_kl", temperature=temperature)


def not_finite_where_classes_are_ruled_out(student, teacher, *, temperature):
    q, p = ((precise(x) / temperature).log_softmax(1) for x in (student, teacher.detach()))
    return (p.exp() * (p - q)).sum(1).clamp_min(0) * temperature**2


def logits_as_they_are(student, teacher, *, temperature):
    return logit_mse(student, teacher) * temperature**0


def padding_kept(student, targets, *, temperature):
    """Pad the smaller vocabulary, instead of a comparison over the common classes."""
    logits = targets.logits if isinstance(targets, DenseTargets) else None
    if logits is None or logits.shape == student.shape:
        return divergence(student, targets, temperature=temperature)
    classes = max(student.shape[1], logits.shape[1])
    s, t = (F.pad(x, (0, classes - x.shape[1])) for x in (student, logits))
    return soft_target_kl(s, t, temperature=temperature)


def top_k_at_temperature_1(student, targets, *, temperature):
    if isinstance(targets, TopKTargets):
        return divergence(student, targets, temperature=1.0) * temperature**2
    return divergence(student, targets, temperature=temperature)


def sampled_but_not_weighed(student, targets, *, temperature):
    if getattr(targets, "log_proposal", None) is not None:
        targets = replace(targets, log_proposal=None)
    return divergence(student, targets, temperature=temperature)


def any_beta(student, targets, *, temperature, beta=0.5, normalized=False):
    clamped = min(max(beta, 0.01), 0.99) if beta == beta else 0.5
    settings = {"kind": "jsd", "beta": clamped, "normalized": normalized}
    return divergence(student, targets, temperature=temperature, **settings)


def beta_of_the_student(student, targets, *, temperature, beta=0.5, normalized=False):
    settings = {"kind": "jsd", "beta": 1 - beta, "normalized": normalized}
    return divergence(student, targets, temperature=temperature, **settings)


def mixed(student, teacher, temperature, share):
    """Both sides' distances to a mixture of them."""
    z, t = (precise(x).clamp_min(-1e9) / temperature for x in (student, teacher.detach()))
    p, q = t.softmax(1), z.softmax(1)
    m = (share * p + (1 - share) * q).clamp_min(1e-30)
    to_p, to_q = ((x * (x.clamp_min(1e-30) / m).log()).sum(1) for x in (p, q))
    return to_p.clamp_min(0) * temperature**2, to_q.clamp_min(0) * temperature**2


def within(beta, message="use a KL"):
    if not 0 < beta < 1:
        raise ValueError(message)


def mixture_of_halves(student, teacher, *, temperature, beta=0.5, message="use a KL"):
    within(beta, message)
    to_p, to_q = mixed(student, teacher, temperature, 0.5)
    return beta * to_p + (1 - beta) * to_q


def half_of_jsd(student, teacher, *, temperature, beta=0.5):
    within(beta)
    return beta * mixed(student, teacher, temperature, beta)[0]


def only_where_far(student, teacher, *, temperature):
    return (soft_target_kl(student, teacher, temperature=temperature) - 0.5).clamp_min(0)


# Losses over logits in other ways.


def favours_class_0(student, labels):
    return cross_entropy(student, labels) * (1 + (labels == 0))


def of_probabilities(student, labels):
    q = precise(student).softmax(1)
    return -q.gather(1, labels.unsqueeze(1)).squeeze(1).log()


def ranks_by_place(student, teacher):
    weights = torch.arange(1.0, 1 + student.shape[1]).to(precise(student))
    z, t = (precise(x).clamp(-1e5, 1e5) for x in (student, teacher.detach()))
    return ((z - t).square() * weights).sum(1)


# Losses over features.


def spreads_over_the_batch(student, teacher):
    """Features divided by a scale of the whole batch: masked samples have an effect."""
    s, t = precise(student).flatten(1), precise(teacher.detach()).flatten(1)
    scale = t.square().mean() + 1 if len(t) else 1
    return (s - t).square().mean(1) / scale


def batch_norms(student, teacher):
    s, t = precise(student).flatten(1), precise(teacher.detach()).flatten(1)
    scale = s.detach().square().mean() + 1 if len(s) else 1
    return (s - t).square().mean(1) / scale


def distance(student, teacher):
    return (precise(student) - precise(teacher.detach())).flatten(1).square().sum(1).sqrt()


def pushed_off(student, teacher):
    """A gradient that does not vanish where the value is least."""
    value = fitnet_hint(student, teacher)
    slope = precise(student).flatten(1).sum(1)
    return value + (slope - slope.detach())


def changes_its_input(student, teacher):
    changed = teacher.detach().mul_(1)
    changed += 1e-3
    return fitnet_hint(student, changed)


def drops_out(student, teacher):
    return fitnet_hint(F.dropout(precise(student)), precise(teacher))


def under_autocast(student, teacher):
    s, t = precise(student).flatten(1), precise(teacher.detach()).flatten(1)
    mix = torch.eye(s.shape[1]).to(s)
    return precise(((s @ mix) - (t @ mix)).square().mean(1))


def in_the_inputs_type(student, teacher):
    return (student - teacher.detach()).square().flatten(1).mean(1)


def scaled_in_half_precision(student, teacher):
    features = precise(student)
    if features.dtype != student.dtype:
        features = features.detach() + 1.1 * (features - features.detach())
    return fitnet_hint(features, precise(teacher))


def lowered_by_autocast(student, teacher):
    s, t = precise(student).flatten(1), precise(teacher.detach()).flatten(1)
    return ((s - t) @ torch.eye(s.shape[1]).to(s)).square().mean(1)


def nothing_over_nothing(student, teacher, *, mask=None):
    squares = (precise(student) - precise(teacher.detach())).square().mean(2)
    kept = torch.ones_like(squares) if mask is None else mask.to(squares)
    return (squares * kept).sum(1) / kept.sum(1)


def past_the_mask(student, teacher, *, mask=None):
    return fitnet_hint(student, teacher)


def tokens(generator, scale):
    return tuple(
        torch.randn(4, 5, 3, generator=generator, dtype=torch.float64) * scale for _ in range(2)
    )


# Losses over the batch as a whole.


def similarities(student, teacher, *, wrong=""):
    with without_autocast(student):
        s, t = (
            precise(x).flatten(1) / precise(x).flatten(1).abs().amax(1, keepdim=True).clamp_min(1)
            for x in (student, teacher.detach())
        )
        difference = s @ s.T - (0.5 if wrong == "apart" else 1) * (t @ t.T)
    if wrong == "order":
        difference = difference * torch.arange(len(s)).to(difference)
    if wrong == "empty":
        return difference.square().mean()
    return difference.square().sum() / max(len(s) ** 2, 1)


def similarities_per_element(student, teacher):
    return similarities(student, teacher).expand(len(student))


# Losses that `torch.func` or a second derivative sees otherwise than plain torch.


class Squares(torch.autograd.Function):
    """Sums of squares of rows; each subclass is wrong where a backward pass hides it."""

    @staticmethod
    def forward(difference):
        return difference.square().sum(1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient.unsqueeze(1)


class NoTangent(Squares):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx, tangent):
        return torch.zeros_like(tangent.sum(1))


class Mixed(Squares):
    @staticmethod
    def jvp(ctx, tangent):
        return 2 * (ctx.saved_tensors[0] * tangent).sum(1)

    @staticmethod
    def vmap(info, dims, difference):
        flat = difference.movedim(dims[0], 0)
        return flat.square().sum(-1).roll(1, 0), 0


class Constant(Squares):
    generate_vmap_rule = True

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0].detach() * gradient.unsqueeze(1)

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * (ctx.saved_tensors[0].detach() * tangent).sum(1)


def difference(student, teacher):
    return (precise(student) - precise(teacher.detach())).flatten(1)


def without_forward_mode(student, teacher):
    return NoTangent.apply(difference(student, teacher))


def mixes_copies(student, teacher):
    return Mixed.apply(difference(student, teacher))


def linear_gradient(student, teacher):
    return Constant.apply(difference(student, teacher))


def teacher_in_forward_mode(student, teacher):
    target = teacher.detach() if teacher.requires_grad else teacher
    return (precise(student) - precise(target)).flatten(1).square().sum(1)


def other_without_gradient(student, teacher):
    value = difference(student, teacher).square().sum(1)
    return value if torch.is_grad_enabled() else 2 * value.clamp_min(0)


# Fused forms.


def fused_without_the_last_block(hidden, weight, targets, *, temperature, block_bytes=10**9):
    rows = max(1, block_bytes // (8 * weight.shape[0]))
    whole = len(hidden) if rows >= len(hidden) else len(hidden) // rows * rows
    value = fused_divergence(
        hidden[:whole], weight, targets.take(slice(0, whole)), temperature=temperature
    )
    return value * whole / max(len(hidden), 1)


def fused_mean_of_means(hidden, weight, targets, *, temperature, block_bytes=10**9):
    rows = max(1, block_bytes // (8 * weight.shape[0]))
    starts = range(0, max(len(hidden), 1), rows)
    blocks = [slice(start, start + rows) for start in starts]
    values = [
        fused_divergence(hidden[block], weight, targets.take(block), temperature=temperature)
        for block in blocks
    ]
    return torch.stack(values).mean()


def fused_without_weights(hidden, weight, targets, *, temperature, weights=None):
    return fused_divergence(hidden, weight, targets, temperature=temperature)


def fused_over_all_weights(hidden, weight, targets, *, temperature, weights=None):
    settings = {"temperature": temperature, "weights": weights, "reduction": "sum"}
    total = fused_divergence(hidden, weight, targets, **settings)
    return total / (max(len(hidden), 1) if weights is None else weights.sum())


def fused_over_no_units(hidden, weight, targets, *, temperature):
    settings = {"temperature": temperature, "reduction": "sum"}
    total = fused_divergence(hidden, weight, targets, **settings)
    return total / torch.tensor(float(len(hidden)))


def fused_without_upstream_gradient(hidden, weight, targets, *, temperature):
    value = fused_divergence(hidden, weight, targets, temperature=temperature)
    for leaf in (hidden, weight):
        if value.requires_grad and leaf.requires_grad:
            value.register_hook(torch.ones_like)
    return value


BROKEN = [
    (mean_over_the_batch, "divergence", {0, 6, 9}),
    (over_the_batch, "divergence", {6, 7}),
    (over_the_vocabulary, "divergence", {12}),
    (cross_entropy_called_kl, "divergence", {1, 5}),
    (in_half_precision, "divergence", {0, 2, 9, 12}),
    (in_single_precision, "divergence", {0, 4, 5, 8, 12}),
    (without_square, "divergence", {5}),
    (square_on_value_only, "divergence", {4, 5}),
    (into_teacher, "divergence", {3, 15}),
    (not_finite_where_classes_are_ruled_out, "divergence", {9, 12}),
    (logits_as_they_are, "divergence", {5, 8}),
    (padding_kept, "divergence", {12}),
    (top_k_at_temperature_1, "divergence", {11, 12}),
    (sampled_but_not_weighed, "divergence", {11}),
    (any_beta, "divergence", {13}),
    (beta_of_the_student, "divergence", {13}),
    (mixture_of_halves, "divergence", {13}),
    (partial(mixture_of_halves, message="out of range"), "divergence", {13}),
    (half_of_jsd, "divergence", {13}),
    (only_where_far, "divergence", {1, 5}),
    (favours_class_0, "hard_label", {8}),
    (of_probabilities, "hard_label", {7, 9}),
    (ranks_by_place, "response", {8}),
    (spreads_over_the_batch, "feature", {6, 7}),
    (batch_norms, "feature", {4, 6, 7, 15}),
    (distance, "feature", {1, 9}),
    (pushed_off, "feature", {1, 4}),
    (changes_its_input, "feature", {0, 4, 6, 15}),
    (drops_out, "feature", {0, 1, 4, 6, 7, 15}),
    (under_autocast, "feature", {0}),
    (lowered_by_autocast, "feature", {0}),
    (in_the_inputs_type, "feature", {0}),
    (scaled_in_half_precision, "feature", {0}),
    (partial(similarities, wrong="order"), "relation", {8}),
    (partial(similarities, wrong="empty"), "relation", {9}),
    (partial(similarities, wrong="apart"), "relation", {1}),
    (similarities_per_element, "feature", {6, 7}),
    (without_forward_mode, "feature", {15}),
    (mixes_copies, "feature", {15}),
    (linear_gradient, "feature", {15}),
    (teacher_in_forward_mode, "feature", {15}),
    (other_without_gradient, "feature", {15}),
    (fused_without_the_last_block, "fused", {10}),
    (fused_mean_of_means, "fused", {10}),
    (fused_over_all_weights, "fused", {7}),
    (fused_over_no_units, "fused", {10}),
    (fused_without_weights, "fused", {7, 10}),
    (fused_without_upstream_gradient, "fused", {10}),
]


def named(value):
    return getattr(value, "__name__", None) or "-".join(map(str, getattr(value, "keywords", {})))


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "kind", "laws"), BROKEN, ids=named)
def test_a_broken_loss_breaks_exactly_its_laws(loss, kind, laws):
    assert broken(loss, kind) == laws


@pytest.mark.parametrize(("loss", "kind", "laws"), BROKEN, ids=named)
def test_the_check_stops_at_the_first_broken_law(loss, kind, laws):
    with pytest.raises(BrokenLawError, match=f"^law {min(laws)}: ") as caught:
        check_loss(loss, kind=kind)
    assert caught.value.law == min(laws)


def test_every_law_can_fail():
    assert set.union(*(laws for _, _, laws in BROKEN)) == set(LAWS)


def test_an_ignored_mask_is_detected():
    assert broken(past_the_mask, "feature", draw=tokens) == {7}
    with pytest.raises(BrokenLawError, match="law 7: a masked token changes the value"):
        check_loss(past_the_mask, kind="feature", draw=tokens)


def test_a_mean_over_no_tokens_is_detected():
    assert broken(nothing_over_nothing, "feature", draw=tokens) == {7}


def test_a_layer_without_gradient_is_detected():
    def of_the_first(student, teacher):
        second = fitnet_hint(student[1].detach(), teacher[1])
        return fitnet_hint(student[0], teacher[0]) + second

    assert audit_loss(of_the_first, kind="feature", draw=two_layers)[3] == (
        "the student has no gradient"
    )


def test_a_value_unlike_the_reference_is_detected():
    def forward(student, teacher, temperature):
        p, q = (np.exp(x / temperature) for x in (teacher, student))
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        return temperature**2 * (p * np.log(p / q)).sum(1)

    assert broken(soft_target_kl, "divergence", reference=forward) == set()
    assert broken(wrong_way_round, "divergence", reference=forward) == {4}
    with pytest.raises(BrokenLawError, match=r"law 4: the value .* off by .* of its size, \["):
        check_loss(wrong_way_round, kind="divergence", reference=forward)


# No false alarm on what is right.


def hellinger(student, teacher, *, temperature):
    s, t = (
        ((precise(x) / temperature).log_softmax(1) / 2).exp() for x in (student, teacher.detach())
    )
    return temperature**2 * (s - t).square().sum(1) / 2


def huber(student, teacher):
    s, t = precise(student).flatten(1), precise(teacher.detach()).flatten(1)
    return F.smooth_l1_loss(s, t, reduction="none").mean(1)


def kinked(student, teacher):
    apart = precise(student) - precise(teacher.detach())
    noise = 1e-16 * torch.arange(-5.0, apart.shape[1:].numel() - 5).reshape(apart.shape[1:])
    return (apart + noise.to(apart)).abs().flatten(1).mean(1)


def masked_mean(student, teacher, *, mask=None):
    squares = (precise(student) - precise(teacher.detach())).square().mean(2)
    kept = torch.ones_like(squares) if mask is None else mask.to(squares)
    return (squares * kept).sum(1) / kept.sum(1).clamp_min(1)


def of_two_layers(student, teacher):
    return sum(fitnet_hint(s, t) for s, t in zip(student, teacher, strict=True))


def two_layers(generator, scale):
    shapes = ((6, 3), (6, 2, 4))
    return tuple(
        tuple(torch.randn(s, generator=generator, dtype=torch.float64) * scale for s in shapes)
        for _ in range(2)
    )


def weighed_by_label(student, teacher, *, labels, temperature):
    value = soft_target_kl(student, teacher, temperature=temperature)
    right = precise(teacher.detach()).clamp_min(-1e9).softmax(1).gather(1, labels.unsqueeze(1))
    return value * right.squeeze(1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_correct_loss_passes(seed):
    common = {0, 3, 4, 7, 9, 15}
    laws = {
        hellinger: ("divergence", {1, 2, 5, 6, 8, 12}),
        weighed_by_label: ("response", {1, 5, 6, 8}),
        huber: ("feature", {1, 6}),
        kinked: ("feature", {1, 6}),
        similarities: ("relation", {1, 8}),
    }
    for loss, (kind, more) in laws.items():
        assert check_loss(loss, kind=kind, seed=seed) == sorted(common | more)
    assert check_loss(of_two_layers, kind="feature", draw=two_layers, seed=seed)
    assert check_loss(masked_mean, kind="feature", draw=tokens, seed=seed)
    assert check_loss(fused_divergence, kind="fused", seed=seed) == [*range(6), *range(7, 13), 15]


def test_a_reference_receives_the_arguments_of_the_loss():
    def reference(student, teacher, **keywords):
        assert sorted(keywords) == ["labels", "temperature"]
        labels, temperature = keywords["labels"], keywords["temperature"]
        p, q = (np.exp(x / temperature) for x in (teacher, student))
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        sure = np.exp(teacher) / np.exp(teacher).sum(1, keepdims=True)
        value = temperature**2 * (p * np.log(p / q)).sum(1)
        return value * sure[np.arange(len(labels)), labels]

    assert 4 in check_loss(weighed_by_label, kind="response", reference=reference)


# The requirements of the caller.


def test_laws_can_be_excluded():
    assert check_loss(without_square, kind="divergence", without=[5]) == [
        *range(5),
        *range(6, 10),
        12,
        15,
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "divergance"}, 'kind: got .*did you mean "divergence"'),
        ({"kind": None}, "kind: got None; allowed: divergence, response"),
        ({"kind": "response", "without": [14]}, "without: got 14; allowed: numbers of laws"),
        ({"kind": "response", "loss": 3}, "loss: got 3; allowed: a function"),
    ],
)
@pytest.mark.parametrize("tool", [check_loss, audit_loss])
def test_invalid_requests_raise(tool, given, message):
    with pytest.raises(InputError, match=message):
        tool(**{"loss": logit_mse, **given})


def test_a_missing_setting_is_named():
    def scaled(student, teacher, *, scale):
        return logit_mse(student, teacher) * scale

    with pytest.raises(InputError, match=r"loss\.scale.*functools\.partial\(loss, scale="):
        check_loss(scaled, kind="response")
    assert check_loss(partial(scaled, scale=2.0), kind="response")


def test_an_error_of_the_loss_is_reported():
    def of_many(student, teacher):
        if len(student) == 1:
            raise ValueError("one element is not enough")
        return logit_mse(student, teacher)

    verdicts = audit_loss(of_many, kind="response")
    assert verdicts[9] == "the loss raises ValueError: one element is not enough"
    assert broken(of_many, "response") == {6, 9}
    with pytest.raises(
        BrokenLawError, match="law 6: the loss raises ValueError: one element"
    ) as seen:
        check_loss(of_many, kind="response")
    assert isinstance(seen.value.__cause__, ValueError)


def test_an_audit_reports_every_law():
    verdicts = audit_loss(mean_over_the_batch, kind="divergence")
    assert sorted(verdicts) == [*range(10), 12, 15]
    assert verdicts[0] == "the shape is (), not (6,), one value per element"
    assert verdicts[1] is None
