"""A peer's function under trial: how it is called, and what each law has seen.

This runs in the peer's own environment, with limbeck's source on the path: the laws are those of
`limbeck.testing`. The shape of the answer (law 0) is limbeck's own contract and asked of nobody.
"""

from __future__ import annotations

import inspect
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.testing import LAWS, audit_loss
from limbeck.testing.subject import OF_LOGITS, TEMPERATURE, Draw, Kind, Reference, Subject, parts

Pair = Callable[[Tensor, Tensor], Tensor]
Masked = Callable[[Tensor, Tensor, Tensor], Tensor]

_OURS = (0, 7)  # our contract of shapes; and our objective's weights, for which `masked` stands in
_ROUNDING = (
    1e-5  # less is the rounding of a function that computes in float32, whatever it is given
)
_LAST_BIT = 1e-6  # of a sum of float32: not what makes a loss negative in training
_OFF = re.compile(
    r"(?:off by|the value by|the gradient by|zero at student = teacher, not) (-?[\d.e+-]+)"
)
_EMPTY = "an empty batch"  # what no elements give is a matter of contract, too
NO_STUDENT_SIDE = ("-inf on the student's side", "-inf on other classes")
NO_TEACHER_SIDE = ("-inf on the teacher's side", "-inf on other classes")


@dataclass(frozen=True)
class Trial:
    """A function of a peer, and the maths that its name promises.

    Attributes:
        function: Its name, as a caller writes it.
        promise: The formula that it is held to.
        loss: The function as (student, teacher, *, temperature), one value per element or a scalar.
        kind: What it compares, as `limbeck.testing` has it.
        definition: The formula in numpy, for law 4.
        how: How it was called, where that is not plain.
        draw: Its inputs, where the usual ones do not fit.
        without: Laws that are not asked of it.
        excused: Cases of law 9 in which the formula itself is infinite.
        mean: Over several elements, if the mean is the only reduction: law 6 applies.
        masked: The same with a mask, true where an element counts: law 7 is asked of it.
        ends: The same as (student, teacher, beta): law 13 is asked of it.
        instead: What it may compute, if not what it promises: a name and a formula each.
    """

    function: str
    promise: str
    loss: Callable[..., Tensor]
    kind: Kind
    definition: Reference | None = None
    how: str = ""
    draw: Draw | None = None
    without: Sequence[int] = ()
    excused: Sequence[str] = ()
    mean: Pair | None = None
    masked: Masked | None = None
    ends: Callable[[Tensor, Tensor, float], Tensor] | None = None
    instead: Mapping[str, Reference] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What the laws have seen of a function; None is a law that holds."""

    function: str
    promise: str
    how: str
    seen: dict[int, str | None] = field(default_factory=dict)


def per_element(call: Pair) -> Callable[..., Tensor]:
    """Call what reduces over a batch for each element alone, so that only the formula is judged."""

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        elements = [
            call(*pair).reshape(()) for pair in zip(student.split(1), teacher.split(1), strict=True)
        ]
        return torch.stack(elements) if len(student) else student.flatten(1).sum(1)

    return loss


def by_unit_at(call: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """Do the same with what takes a temperature."""

    def loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
        return per_element(lambda one, other: call(one, other, temperature))(student, teacher)

    return loss


def whole(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Spare what is about a batch a batch of nothing."""

    def loss(student: Any, teacher: Any) -> Tensor:
        layers = parts(student)
        if not len(layers[0]):
            return torch.stack([layer.sum() for layer in layers]).sum()
        return call(student, teacher)

    return loss


def judge(trial: Trial) -> Verdict:
    """Try every law that applies."""
    audited = audit_loss(
        trial.loss,
        kind=trial.kind,
        reference=trial.definition,
        draw=trial.draw,
        without={*_OURS, *trial.without},
    )
    seen = {law: broken and _worst(law, trial) for law, broken in audited.items()}
    own = {6: _split, 7: _padding, 13: _ends}
    asked = {6: trial.mean, 7: trial.masked, 13: trial.ends}
    seen |= {law: _first(own[law](call)) for law, call in asked.items() if call is not None}
    return Verdict(trial.function, trial.promise, trial.how, dict(sorted(seen.items())))


def report(distributions: Sequence[str], trials: Sequence[Trial], left_out: dict[str, str]) -> None:
    """Write what was seen to the file that the driver has named."""
    found = {
        "versions": {name: version(name) for name in (*distributions, "torch")},
        "python": platform.python_version(),
        "verdicts": [asdict(judge(trial)) for trial in trials],
        "left_out": left_out,
    }
    Path(sys.argv[1]).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _worst(law: int, trial: Trial) -> str | None:
    """Give what counts most of all that a law has seen: an audit ends at the first."""
    subject = Subject(trial.loss, trial.kind, trial.definition, 0, trial.draw)
    messages = [one for one in _all(LAWS[law](subject)) if _counts(one, trial)]
    if not messages:
        return None
    if law == 2:
        return min(messages, key=_lowest)
    if law == 4:
        return messages[0] + _example(trial) + _explanation(trial, subject)
    return messages[0].replace(": off by inf of its size", " to what is not a number")


def _lowest(message: str) -> float:
    number = re.match(r"-?[\d.]+(e[+-]?\d+)?", message)
    return float(number[0]) if number else 0.0


def _all(law: Iterator[str]) -> Iterator[str]:
    try:
        yield from law
    except Exception as error:  # a peer's function may raise anything
        yield _raised(error)


def _first(law: Iterator[str]) -> str | None:
    return next(_all(law), None)


def _raised(error: Exception) -> str:
    return f"raises {type(error).__name__}: {str(error).splitlines()[0][:120]}"


def _counts(message: str, trial: Trial) -> bool:
    off = _OFF.search(message)
    rounding = (off is not None and abs(float(off[1])) < _ROUNDING) or (
        "is negative" in message and _lowest(message) > -_LAST_BIT
    )
    return not (
        rounding or message.startswith(_EMPTY) or any(case in message for case in trial.excused)
    )


def _example(trial: Trial) -> str:
    """Show the formula and the function at inputs that can be checked by hand."""
    if trial.kind not in OF_LOGITS or trial.definition is None or trial.draw is not None:
        return ""
    student, teacher = torch.zeros(1, 4).double(), torch.tensor([[2.0, 0.0, 0.0, 0.0]]).double()
    warm = "temperature" in inspect.signature(trial.loss).parameters
    settings = {"temperature": TEMPERATURE} if warm else {}
    given = trial.loss(student, teacher, **settings).item()
    wanted = float(trial.definition(student.numpy(), teacher.numpy(), **settings).item())
    return (
        f"; at student (0, 0, 0, 0), teacher (2, 0, 0, 0){', T = 2' if warm else ''} it is "
        f"{given:.4f}, the definition {wanted:.4f}"
    )


def _explanation(trial: Trial, subject: Subject) -> str:
    """Say what it computes instead, where that is known."""
    inputs = subject.draw()
    value = subject(inputs).detach()
    ours, theirs = (
        tuple(part.numpy() for part in parts(side)) for side in (inputs.student, inputs.second)
    )
    if isinstance(inputs.student, Tensor):
        ours, theirs = ours[0], theirs[0]
    settings = subject.settings(inputs)
    for name, formula in trial.instead.items():
        other = torch.as_tensor(formula(ours, theirs, **settings))
        if torch.allclose(value.double(), other, rtol=1e-4, atol=1e-7):
            return f"; it is {name}"
    return ""


def _logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 5, generator=generator).double() for _ in range(2))
    return student, teacher


def _slope(call: Pair, student: Tensor, teacher: Tensor) -> Tensor:
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(call(leaf, teacher), leaf)[0]


def _split(mean: Pair) -> Iterator[str]:
    """6: micro-batches of 1 and 5 elements, each with its mean, as in gradient accumulation."""
    student, teacher = _logits()
    together = _slope(mean, student, teacher)
    apart = torch.cat(
        [_slope(mean, student[rows], teacher[rows]) / 2 for rows in (slice(0, 1), slice(1, 6))]
    )
    off = ((apart - together).abs().max() / together.abs().max()).item()
    if off > _ROUNDING:
        yield (
            "a mean of means: over micro-batches of 1 and 5 elements, the gradient is off by "
            f"{off:.1e} of its size"
        )


def _padding(masked: Masked) -> Iterator[str]:
    """7: what is masked counts as if it were not there."""
    student, teacher = _logits()
    counts = torch.tensor([True, False, True, True, False, True])
    spoilt = torch.where(counts.unsqueeze(1), student, 100 * student)
    value = masked(spoilt, teacher, counts).item()
    expected = masked(student[counts], teacher[counts], counts[counts]).item()
    if abs(value - expected) > _ROUNDING * abs(expected):
        yield f"padding counts: 2 of 6 elements masked, {value:.4g}; without them {expected:.4g}"
    slope = _slope(lambda one, other: masked(one, other, counts), spoilt, teacher)
    if (reached := slope[~counts].abs().max().item()) > 0:
        yield f"padding is trained on: a gradient of {reached:.1e} reaches elements that are masked"
    nothing = torch.zeros_like(counts)
    if (left := masked(student, teacher, nothing).item()) != 0:
        yield f"a batch that is masked as a whole gives {left:.4g}, and not 0"
    try:
        _slope(lambda one, other: masked(one, other, nothing), student, teacher)
    except RuntimeError as error:
        yield f"a batch that is masked as a whole cannot be trained on: backward {_raised(error)}"


def _ends(at: Callable[[Tensor, Tensor, float], Tensor]) -> Iterator[str]:
    """13: a jsd is one function of beta up to its ends, or refuses them."""
    student, teacher = _logits()
    for end, close in ((0.0, 1e-6), (1.0, 1 - 1e-6)):
        near = at(student, teacher, close).item()
        try:
            value = at(student, teacher, end).item()
        except Exception:  # refusing is what the law asks for
            continue
        if not abs(value - near) < 1e-3:
            yield f"a jump at the end: {near:.1e} with beta = {close}, {value:.3g} with {end:g}"
