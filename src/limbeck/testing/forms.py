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
from limbeck.targets import (
    CategoricalTargets,
    DenseTargets,
    HeadTargets,
    SampledTargets,
    TopKTargets,
)
from limbeck.testing.subject import (
    CLASSES,
    TEMPERATURE,
    Inputs,
    Subject,
    floating,
    largest,
    parts,
    unequal,
)

_PADDING, _PAD_LOGIT = 3, 7.0  # more classes on one side, with large logits


def padding(subject: Subject) -> Iterator[str]:
    """Test law 12: a padded vocabulary does not change the result."""
    inputs = subject.draw()
    value, [gradient] = subject(inputs), subject.gradient(inputs)
    classes = gradient.shape[1]
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
        message = f"padding matters: {case}"
        yield from unequal(subject(padded), value, f"{message} changes the value")
        [wide] = subject.gradient(padded)
        yield from unequal(wide[:, :classes], gradient, f"{message} changes the gradient")
        if size := largest([wide[:, classes:]]):
            yield f"{message} has a gradient of {size:.1e}"


def _padded(inputs: Inputs, logit: float) -> Inputs:
    return inputs.map(floating(lambda logits: F.pad(logits, (0, _PADDING), value=logit)))


def all_forms(logits: Tensor) -> dict[str, CategoricalTargets]:
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
    value, gradient = subject(inputs), subject.gradient(inputs)
    for form, targets in all_forms(parts(inputs.second)[0]).items():
        given, message = (
            inputs.but(targets=targets),
            f"{form} of all classes differs from the dense",
        )
        yield from unequal(subject(given), value, f"{message} value")
        yield from unequal(subject.gradient(given), gradient, f"{message} gradient")
    yield from _sampled(subject, inputs)


def _sampled(subject: Subject, inputs: Inputs, classes: int = 3, draws: int = 2) -> Iterator[str]:
    """Test that the expectation over every possible sample equals the dense value."""
    student, teacher = (parts(side)[0][:1, :classes] for side in (inputs.student, inputs.second))
    drawn = torch.tensor(list(product(range(classes), repeat=draws)))
    counts = F.one_hot(drawn, classes).sum(1)
    dense = Inputs(student, teacher)
    repeated = dense.rows(torch.zeros(len(drawn), dtype=torch.long))
    value, [gradient] = subject(dense), subject.gradient(dense)
    degree = subject.settings(dense).get("temperature", 1.0)
    log_p = (teacher / degree).log_softmax(1).expand(len(drawn), -1)
    uniform = torch.full_like(log_p, -math.log(classes))
    ids = torch.arange(classes).expand(len(drawn), -1)
    for case, proposal in (("the teacher's", None), ("uniform", uniform)):
        targets = SampledTargets(ids, counts, log_p, proposal, degree, classes)
        probability = ((log_p if proposal is None else uniform) * counts).sum(1).exp()
        given = repeated.but(targets=targets)
        try:
            values, [gradients] = subject(given), subject.gradient(given)
        except InputError:
            if subject.bound("kind").get("kind", "forward_kl") == "forward_kl":
                raise
            return  # other kinds are not an expectation under the teacher, and may raise
        message = f"sampled targets, drawn with {case} probabilities, bias"
        yield from unequal((probability * values).sum(), value.sum(), f"{message} the value")
        yield from unequal(probability @ gradients, gradient[0], f"{message} the gradient")


def ends(subject: Subject) -> Iterator[str]:
    """Test law 13: `jsd` requires 0 < beta < 1, and has the correct limits."""
    inputs = subject.draw()
    plain = {"normalized": False} if subject.has("normalized") else {}
    for beta in (0.0, 1.0, -0.1, 1.5, math.nan):
        yield from _accepted(subject, inputs, beta)
    middle = subject(inputs, beta=0.5, **plain)
    swapped = Inputs(parts(inputs.second)[0], inputs.student)
    for beta in (0.1, 0.3, 0.9):
        value = subject(inputs, beta=beta, **plain)
        mirrored = subject(swapped, beta=1 - beta, **plain)
        message = f"jsd with beta = {beta} is not that of 1 - beta with the sides exchanged"
        yield from unequal(value, mirrored, message)
    for beta in (1e-6, 1 - 1e-6):
        value = subject(inputs, beta=beta, **plain)
        if not (value < 1e-3 * middle).all():
            yield f"jsd tends to 0 at the ends; with beta = {beta} it is {value.max():.3g}"
    if subject.has("normalized"):
        yield from _continuous(subject, inputs)


def _accepted(subject: Subject, inputs: Inputs, beta: float) -> Iterator[str]:
    """Yield a violation if an invalid beta raises no error that names the KL kinds."""
    try:
        value = subject(inputs, beta=beta)
    except Exception as error:  # a user's own loss may raise any exception
        if "kl" not in str(error).lower():
            yield f"the error for beta = {beta} does not name the KL kinds: {error}"
    else:
        yield f"beta = {beta} raises no error; the value is {value[0].item():.3g}"


def _continuous(subject: Subject, inputs: Inputs) -> Iterator[str]:
    degree = TEMPERATURE if subject.has("temperature") else 1.0
    q, p = ((parts(side)[0] / degree).log_softmax(1) for side in (inputs.student, inputs.second))
    limits = {1e-6: (p.exp() * (p - q)).sum(1), 1 - 1e-6: (q.exp() * (q - p)).sum(1)}
    for beta, limit in limits.items():
        value = subject(inputs, beta=beta, normalized=True)
        name = "forward_kl" if beta < 0.5 else "reverse_kl"
        message = f"normalized jsd with beta = {beta} is not {name}"
        yield from unequal(value, limit * degree**2, message, 1e-4)


_ELEMENTS, _HIDDEN = 7, 4  # 7 elements: blocks of several leave a remainder
_BLOCKS = (1, 100, 250, 10**9)  # bytes: of one element, of a few, and of all


def fused(subject: Subject) -> Iterator[str]:
    """Test law 10: fused equals dense, in blocks of any size, with all optional arguments."""
    generator = subject.generator
    hidden, weight, teacher = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((_ELEMENTS, _HIDDEN), (CLASSES, _HIDDEN), (_ELEMENTS, CLASSES))
    )
    dense, fixed = _dense(subject), _fixed(subject)
    blocks = [{"block_bytes": size} for size in _BLOCKS] if subject.has("block_bytes") else [{}]
    for extra in _extras(subject):
        expected, expected_gradient = _call(dense, hidden, weight, DenseTargets(teacher), extra)
        for (form, targets), block in product(all_forms(teacher).items(), blocks):
            given = extra | block
            value, gradient = _call(subject.loss, hidden, weight, targets, given | fixed)
            case = f"of {form}{_written(given)}"
            yield from unequal(value, expected, f"the fused value {case} is not the dense value")
            message = f"the fused gradient {case} is not the dense gradient"
            yield from unequal(gradient, expected_gradient, message)
    value, gradient = _call(subject.loss, hidden[:0], weight, DenseTargets(teacher[:0]), fixed)
    if value != 0 or largest(gradient) != 0:
        yield f"the loss of an empty batch is {value.item():.3g}, not 0"


def _extras(subject: Subject) -> list[dict[str, Any]]:
    """Return the optional arguments of the loss: one by one, and all together."""
    generator = subject.generator
    extras: list[dict[str, Any]] = [
        {"bias": torch.randn(CLASSES, generator=generator, dtype=torch.float64)},
        {"softcap": 1.5},
        {"reduction": "sum"},
        {"weights": torch.rand(_ELEMENTS, generator=generator, dtype=torch.float64)},
        {"labels": torch.randint(CLASSES, (_ELEMENTS,), generator=generator), "label_weight": 0.5},
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
    targets: CategoricalTargets,
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
    settings = subject.bound("kind", "beta", "normalized")
    settings.setdefault("kind", "jsd" if subject.has("beta") else "forward_kl")
    degree = _fixed(subject).get("temperature", 1.0)

    def dense(hidden: Tensor, weight: Tensor, targets: DenseTargets, **extra: Any) -> Tensor:
        logits = hidden @ weight.T + extra.get("bias", 0.0)
        if "softcap" in extra:
            logits = extra["softcap"] * (logits / extra["softcap"]).tanh()
        values = divergence(logits, targets, temperature=degree, **settings)
        if "labels" in extra:
            values = values + extra["label_weight"] * cross_entropy(logits, extra["labels"])
        shares = extra.get("weights", torch.ones_like(values))
        total = (values * shares).sum()
        return total if extra.get("reduction") == "sum" else total / shares.sum()

    return dense


def _written(settings: dict[str, Any]) -> str:
    shown = {name: "..." if isinstance(v, Tensor) else v for name, v in settings.items()}
    return "".join(f", {name}={value}" for name, value in shown.items())
