"""Laws 11 to 13: target types, padded vocabularies, and the limits of `jsd`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses import cross_entropy, divergence
from limbeck.targets import DenseTargets, HeadTargets, SampledTargets, Targets, TopKTargets
from limbeck.testing.subject import (
    CLASSES,
    TEMPERATURE,
    Inputs,
    Subject,
    apart,
    farthest,
    largest,
    parts,
)

_EXACT = 1e-9
_PADDING, _PAD_LOGIT = 3, 7.0  # more classes on one side, with large logits


def padding(subject: Subject) -> Iterator[str]:
    """Test law 12: a padded vocabulary does not change the result."""
    inputs = subject.draw()
    value, [slope] = subject(inputs), subject.gradient(inputs)
    classes = slope.shape[1]
    cases = {}
    if subject.kind != "fused":  # its logits are a product, in which -inf becomes NaN
        cases["classes of -inf on both sides"] = _padded(inputs, -math.inf)
    if subject.takes_targets:
        both = _padded(inputs, _PAD_LOGIT)
        cases["the student's padding"] = inputs.but(student=both.student)
        cases["the teacher's padding"] = inputs.but(second=both.second)
        for form, targets in all_forms(parts(both.second)[0]).items():
            cases[f"the teacher's padding, of {form}"] = inputs.but(targets=targets)
    for case, padded in cases.items():
        if not (off := apart(subject(padded), value)) < _EXACT:
            yield f"padding matters: {case} changes the value by {off:.1e} of its size"
        [wide] = subject.gradient(padded)
        if not (off := apart(wide[:, :classes], slope)) < _EXACT:
            yield f"padding matters: {case} changes the gradient by {off:.1e} of its size"
        if reached := largest([wide[:, classes:]]):
            yield f"padding matters: {case} gets a gradient of {reached:.1e}"


def _padded(inputs: Inputs, logit: float) -> Inputs:
    def pad(logits: Any) -> Any:
        return F.pad(logits, (0, _PADDING), value=logit) if logits.is_floating_point() else logits

    return inputs.but(student=pad(inputs.student), second=pad(inputs.second))


def all_forms(logits: Tensor) -> dict[str, Targets]:
    """Return every target type that is equivalent to all logits."""
    classes = logits.shape[1]
    return {
        "DenseTargets": DenseTargets(logits),
        "TopKTargets, tail in a bucket": TopKTargets.of(logits, classes, tail="bucket"),
        "TopKTargets, renormalized": TopKTargets.of(logits, classes, tail="renormalize"),
        "HeadTargets": HeadTargets(logits, torch.eye(classes).to(logits)),
    }


def sparse(subject: Subject) -> Iterator[str]:
    """Test law 11: top-k of all classes equals dense; sampled targets are unbiased."""
    inputs = subject.draw()
    value, slopes = subject(inputs), subject.gradient(inputs)
    for form, targets in all_forms(parts(inputs.second)[0]).items():
        given = inputs.but(targets=targets)
        if not (off := apart(subject(given), value)) < _EXACT:
            yield f"{form} of all classes is off the dense value by {off:.1e}"
        if not (off := farthest(subject.gradient(given), slopes)) < _EXACT:
            yield f"{form} of all classes is off the dense gradient by {off:.1e}"
    yield from _sampled(subject, inputs)


def _sampled(subject: Subject, inputs: Inputs, classes: int = 3, draws: int = 2) -> Iterator[str]:
    """Compute the expectation over every possible sample: it equals the dense value."""
    student, teacher = (parts(side)[0][:1, :classes] for side in (inputs.student, inputs.second))
    drawn = torch.tensor(list(product(range(classes), repeat=draws)))
    counts = F.one_hot(drawn, classes).sum(1)
    dense = Inputs(student, teacher)
    many = dense.rows(torch.zeros(len(drawn), dtype=torch.long))
    value, [slope] = subject(dense), subject.gradient(dense)
    degree = subject.settings(dense).get("temperature", 1.0)
    log_p = (teacher / degree).log_softmax(1).expand(len(drawn), -1)
    flat = torch.full_like(log_p, -math.log(classes))
    for case, proposal in (("the teacher's own", None), ("equal", flat)):
        ids = torch.arange(classes).expand(len(drawn), -1)
        targets = SampledTargets(ids, counts, log_p, proposal, degree, classes)
        likely = ((log_p if proposal is None else flat) * counts).sum(1).exp()
        given = many.but(targets=targets)
        try:
            values, [slopes] = subject(given), subject.gradient(given)
        except InputError:
            if subject.bound("kind").get("kind", "forward_kl") == "forward_kl":
                raise
            return  # other kinds are not an expectation under the teacher, and may raise
        if not (off := apart((likely * values).sum(), value.sum())) < _EXACT:
            yield f"sampled targets, drawn with {case} odds, bias the value by {off:.1e}"
        if not (off := apart(likely @ slopes, slope[0])) < _EXACT:
            yield f"sampled targets, drawn with {case} odds, bias the gradient by {off:.1e}"


def ends(subject: Subject) -> Iterator[str]:
    """Test law 13: `jsd` requires 0 < beta < 1, and has the correct limits."""
    inputs = subject.draw()
    plain = {"normalized": False} if subject.has("normalized") else {}
    for beta in (0.0, 1.0, -0.1, 1.5, math.nan):
        yield from _refused(subject, inputs, beta)
    middle = subject(inputs, beta=0.5, **plain)
    swapped = Inputs(parts(inputs.second)[0], inputs.student)
    for beta in (0.1, 0.3, 0.9):
        value, mirrored = (
            subject(inputs, beta=beta, **plain),
            subject(swapped, beta=1 - beta, **plain),
        )
        if not (off := apart(value, mirrored)) < _EXACT:
            yield f"jsd with beta = {beta} is not that of 1 - beta, sides exchanged: {off:.1e} off"
    for beta in (1e-6, 1 - 1e-6):
        value = subject(inputs, beta=beta, **plain)
        if not (value < 1e-3 * middle).all():
            yield f"jsd tends to 0 at the ends; with beta = {beta} it is {value.max():.3g}"
    if subject.has("normalized"):
        yield from _continuous(subject, inputs)


def _refused(subject: Subject, inputs: Inputs, beta: float) -> Iterator[str]:
    try:
        value = subject(inputs, beta=beta)
    except Exception as error:  # a user's own loss may raise any exception
        if "kl" not in str(error).lower():
            yield f"the error for beta = {beta} does not point to the KL kinds: {error}"
    else:
        yield f"beta = {beta} is not refused; it gives {value[0].item():.3g}"


def _continuous(subject: Subject, inputs: Inputs) -> Iterator[str]:
    degree = TEMPERATURE if subject.has("temperature") else 1.0
    q, p = ((parts(side)[0] / degree).log_softmax(1) for side in (inputs.student, inputs.second))
    limits = {1e-6: (p.exp() * (p - q)).sum(1), 1 - 1e-6: (q.exp() * (q - p)).sum(1)}
    for beta, limit in limits.items():
        value = subject(inputs, beta=beta, normalized=True)
        if not (off := apart(value, limit * degree**2)) < 1e-4:
            name = "forward_kl" if beta < 0.5 else "reverse_kl"
            yield f"normalized jsd with beta = {beta} is not {name}: off by {off:.1e} of its size"


_UNITS, _HIDDEN = 7, 4  # 7: blocks of more than one element and of fewer than all leave a remainder
_BLOCKS = (1, 100, 250, 10**9)  # bytes: of one element, of a few, and of all


def fused(subject: Subject) -> Iterator[str]:
    """Test law 10: fused equals dense, in blocks of any size, with all optional arguments."""
    generator = subject.generator
    hidden, weight, teacher = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((_UNITS, _HIDDEN), (CLASSES, _HIDDEN), (_UNITS, CLASSES))
    )
    dense, fixed = _dense(subject), _fixed(subject)
    blocks = [{"block_bytes": size} for size in _BLOCKS] if subject.has("block_bytes") else [{}]
    for extra in _extras(subject):
        expected, slopes = _call(dense, hidden, weight, DenseTargets(teacher), extra)
        for form, targets in all_forms(teacher).items():
            for block in blocks:
                given = extra | block
                value, ours = _call(subject.loss, hidden, weight, targets, given | fixed)
                if not (off := apart(value, expected)) < _EXACT:
                    yield f"fused is off the dense value by {off:.1e}: {form}{_said(given)}"
                if not (off := farthest(ours, slopes)) < _EXACT:
                    yield f"fused is off the dense gradient by {off:.1e}: {form}{_said(given)}"
    value, slopes = _call(subject.loss, hidden[:0], weight, DenseTargets(teacher[:0]), fixed)
    if value != 0 or largest(slopes) != 0:
        yield f"no units give 0, not {value.item():.3g}"


def _extras(subject: Subject) -> list[dict[str, Any]]:
    """Return the optional arguments of the loss: one by one, and all together."""
    generator = subject.generator
    extras: list[dict[str, Any]] = [
        {"bias": torch.randn(CLASSES, generator=generator, dtype=torch.float64)},
        {"softcap": 1.5},
        {"reduction": "sum"},
        {"weights": torch.rand(_UNITS, generator=generator, dtype=torch.float64)},
        {
            "labels": torch.randint(CLASSES, (_UNITS,), generator=generator),
            "label_weight": 0.5,
        },
    ]
    extras = [extra for extra in extras if subject.has(*extra)]
    together = {name: value for extra in extras for name, value in extra.items()}
    return [{}, *extras, together]


def _fixed(subject: Subject) -> dict[str, Any]:
    return {"temperature": TEMPERATURE} if subject.has("temperature") else {}


def _call(
    loss: Callable[..., Tensor],
    hidden: Tensor,
    weight: Tensor,
    targets: Targets,
    settings: dict[str, Any],
) -> tuple[Tensor, list[Tensor]]:
    """Return the value, and the gradient of three times the value for all trainable inputs."""
    learned = {"hidden": hidden, "weight": weight}
    if "bias" in settings:
        learned["bias"] = settings["bias"]
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in learned.items()}
    given = {name: leaves.get(name, value) for name, value in settings.items()}
    value = loss(leaves["hidden"], leaves["weight"], targets, **given)
    return value.detach(), list(torch.autograd.grad(3 * value, list(leaves.values())))


def _dense(subject: Subject) -> Callable[..., Tensor]:
    """Return the dense form, from all logits at once."""
    settings = subject.bound("kind", "beta", "normalized")
    settings.setdefault("kind", "jsd" if subject.has("beta") else "forward_kl")
    degree = _fixed(subject).get("temperature", 1.0)

    def dense(
        hidden: Tensor,
        weight: Tensor,
        targets: DenseTargets,
        *,
        bias: Tensor | None = None,
        softcap: float | None = None,
        labels: Tensor | None = None,
        label_weight: float = 1.0,
        weights: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
        if softcap is not None:
            logits = softcap * (logits / softcap).tanh()
        values = divergence(logits, targets, temperature=degree, **settings)
        if labels is not None:
            values = values + label_weight * cross_entropy(logits, labels)
        shares = torch.ones_like(values) if weights is None else weights
        total = (values * shares).sum()
        return total if reduction == "sum" else total / shares.sum()

    return dense


def _said(settings: dict[str, Any]) -> str:
    shown = {name: "..." if isinstance(v, Tensor) else v for name, v in settings.items()}
    return "".join(f", {name}={value}" for name, value in shown.items())
