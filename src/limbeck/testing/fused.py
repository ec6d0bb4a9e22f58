"""Law 10: the fused form equals the dense form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from limbeck.losses import cross_entropy, divergence
from limbeck.targets import DenseTargets, Targets
from limbeck.testing.distance import apart, farthest, largest
from limbeck.testing.forms import all_forms
from limbeck.testing.subject import CLASSES, TEMPERATURE, Subject

_EXACT = 1e-9
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
