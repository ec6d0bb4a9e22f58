"""Laws 0 to 8: properties of every loss, depending on its kind.

A law is a generator of violations; it holds if it yields none.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.testing.subject import (
    OF_LOGITS,
    SCALAR,
    Features,
    Inputs,
    Subject,
    apart,
    each,
    farthest,
    largest,
    parts,
)

_EXACT, _NUMERIC = 1e-9, 1e-6  # of one computation in two orders; of a value by finite differences
_ROUNDED = 2e-2  # the tolerance of a gradient that is converted to bfloat16
_FLAT = 4.0  # the largest allowed ratio of gradients at temperatures of 1 to 16


def contract(subject: Subject) -> Iterator[str]:
    """Test law 0: output shape, dtypes, precision, and unchanged inputs."""
    inputs = subject.draw()
    before = [tensor.clone() for tensor in parts(inputs.student) + parts(inputs.second)]
    value, again = subject(inputs), subject(inputs)
    expected = () if subject.kind in SCALAR else (inputs.units,)
    if value.shape != expected:
        wanted = "one scalar is ()" if subject.kind in SCALAR else f"one value a unit is {expected}"
        yield f"{wanted}, not {tuple(value.shape)}"
    if value.dtype != torch.float64:
        yield f"float64 is to be computed in float64, not in {value.dtype}"
    after = parts(inputs.student) + parts(inputs.second)
    if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        yield "the inputs were changed in place"
    if not torch.equal(value, again):
        yield f"a second call with the same inputs is off by {apart(again, value):.1e} of the value"
    yield from _precision(subject, inputs)


def _precision(subject: Subject, inputs: Inputs) -> Iterator[str]:
    for half in (torch.bfloat16, torch.float16):
        rounded = inputs.to(half)
        value, exact = subject(rounded), subject(rounded.to(torch.float32))
        if value.dtype != torch.float32:
            yield f"half precision is to be computed in float32, not in {value.dtype}"
        if not (off := apart(value, exact)) < 1e-4:
            yield f"{half} is to be computed in float32: off by {off:.1e} of the value"
    rounded = inputs.to(torch.bfloat16)
    exact_slopes = subject.gradient(rounded.to(torch.float32))
    if not (off := farthest(subject.gradient(rounded), exact_slopes)) < _ROUNDED:
        yield f"the gradient in bfloat16 is off by {off:.1e} of its size"
    single = inputs.to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = subject(single)
    if value.dtype != torch.float32:
        yield f"under autocast, float32 is to be computed in float32, not in {value.dtype}"
    # A fused form's first product is the model's own, which autocast should lower.
    allowed = 2e-2 if subject.kind == "fused" else 1e-4
    if not (off := apart(value, subject(single))) < allowed:
        yield f"under autocast the value is off by {off:.1e}"


def minimum(subject: Subject) -> Iterator[str]:
    """Test law 1: the minimum is at student = teacher."""
    inputs = subject.draw()
    same = inputs.agreed()

    near = inputs.but(student=each(_mixed, inputs.second))
    best = subject(same)
    for where, other in (("elsewhere", subject(inputs)), ("close by", subject(near))):
        if not (best <= other + _EXACT * other.abs()).all():
            at = (best - other).argmax()
            yield (
                f"the minimum is at student = teacher, where it is {best.flatten()[at]:.3g}; "
                f"{where} it is {other.flatten()[at]:.3g}"
            )
    slopes = subject.gradient(same)
    slope, usual = largest(slopes), largest(subject.gradient(inputs))
    if not (slope <= 1e-5 * usual or _is_kink(subject, same, slopes)):
        yield f"the gradient at student = teacher is {slope:.1e}, elsewhere {usual:.1e}"
    if subject.kind in ("divergence", "fused"):
        if not best.abs().max() < 1e-12:
            yield f"a divergence is zero at student = teacher, not {best.abs().max():.3g}"
        if not (subject(inputs) > 0).all():
            yield f"a divergence is zero only at student = teacher, not {subject(inputs).min():.3g}"


def _mixed(teacher: Tensor) -> Tensor:
    """Mix each sample with a little of another: close by, and distributions stay distributions."""
    return 0.99 * teacher + 0.01 * teacher.roll(1, dims=0)


def _is_kink(subject: Subject, at: Inputs, slopes: list[Tensor]) -> bool:
    """Return whether a minimum is a kink, as of |x|, where rounding determines gradients.

    A gradient step then increases the value, in proportion to its length.
    """
    step = 1e-4 / largest(slopes)
    moved = [part - step * slope for part, slope in zip(parts(at.student), slopes, strict=True)]
    below = at.but(student=moved[0] if isinstance(at.student, Tensor) else tuple(moved))
    rise = (subject(below) - subject(at)).sum().item()
    return rise > 0.05 * step * sum(slope.square().sum().item() for slope in slopes)


def non_negative(subject: Subject) -> Iterator[str]:
    """Test law 2: a divergence is never negative."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for scale in (1e-3, 1.0, 30.0):
            far = subject.draw(scale)
            close = 1e-4 * parts(far.student)[0]
            if subject.kind != "hard_label":
                close = close + parts(far.second)[0]
            for inputs in (far, far.but(student=close)):
                lowest = subject(inputs.to(dtype)).min()
                if not lowest >= 0:
                    yield f"{lowest:.1e} is negative, in {dtype} at logits of about {scale}"


def no_gradient_to_teacher(subject: Subject) -> Iterator[str]:
    """Test law 3: the student has a gradient, the teacher none."""
    inputs = subject.draw()
    leaves = parts(inputs.student) + parts(inputs.second)
    for leaf in leaves:
        leaf.requires_grad_()
    subject(inputs).sum().backward()
    if any(student.grad is None for student in parts(inputs.student)):
        yield "the student gets no gradient"
    reached = [teacher.grad for teacher in parts(inputs.second) if teacher.grad is not None]
    if reached:
        yield f"a gradient of up to {largest(reached):.1e} reaches the teacher; detach it"


def definition(subject: Subject) -> Iterator[str]:
    """Test law 4: value and gradient equal those of the definition."""
    inputs = subject.draw()
    if subject.reference is not None:
        expected = torch.as_tensor(_by_reference(subject, inputs), dtype=torch.float64)
        value = subject(inputs)
        if not (off := apart(value, expected)) < 1e-7:
            yield (
                f"the value is not that of the definition: off by {off:.1e} of its size, "
                f"{_shown(value)} for {_shown(expected)}"
            )
    numeric = _differences(subject, inputs)
    if not (off := farthest(subject.gradient(inputs), numeric)) < _NUMERIC:
        owner = "value's" if subject.reference is None else "definition's"
        yield f"the gradient is not the {owner}: off by {off:.1e} of its size"


def _shown(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values.detach().flatten()[:3].tolist()) + "]"


def _by_reference(subject: Subject, inputs: Inputs) -> Any:
    assert subject.reference is not None
    settings = {
        name: value.numpy() if isinstance(value, Tensor) else value
        for name, value in subject.settings(inputs).items()
    }
    return subject.reference(_arrays(inputs.student), _arrays(inputs.second), **settings)


def _arrays(features: Features) -> Any:
    arrays = tuple(tensor.detach().numpy() for tensor in parts(features))
    return arrays[0] if isinstance(features, Tensor) else arrays


def _differences(subject: Subject, inputs: Inputs, step: float = 1e-5) -> list[Tensor]:
    """Compute central differences of the definition, or of the loss itself without one."""
    moved = inputs.but(student=each(torch.clone, inputs.student))

    def total() -> float:
        if subject.reference is None:
            return subject(moved).sum().item()
        return float(np.sum(_by_reference(subject, moved)))

    result = []
    for part in parts(moved.student):
        slopes, flat = torch.zeros_like(part), part.view(-1)
        for place in range(part.numel()):
            here = flat[place].item()
            flat[place] = here + step
            up = total()
            flat[place] = here - step
            slopes.view(-1)[place] = (up - total()) / (2 * step)
            flat[place] = here
        result.append(slopes)
    return result


def temperature(subject: Subject) -> Iterator[str]:
    """Test law 5: the gradient has a similar norm at every temperature."""
    inputs = subject.draw()
    degrees = (1.0, 2.0, 4.0, 8.0, 16.0)
    sizes = [
        torch.cat([part.flatten() for part in subject.gradient(inputs, temperature=t)]).norm()
        for t in degrees
    ]
    spread = (max(sizes) / min(sizes)).item()
    if not spread < _FLAT:
        yield f"gradients at T = 1 to 16 lie a factor of {spread:.1f} apart"
    if subject.kind in ("divergence", "fused") and not subject.has("labels"):
        difference = parts(inputs.student)[0] - parts(inputs.second)[0]
        squares = (difference - difference.mean(1, keepdim=True)).square().mean(1)
        value = subject(inputs, temperature=1e3)
        ratio = value / (squares if value.ndim else squares.mean())
        if not (off := apart(ratio, ratio.mean().expand_as(ratio))) < 1e-2:
            yield f"the limit at large T is logit MSE; at T = 1000 it is off by {off:.1e}"


def split(subject: Subject) -> Iterator[str]:
    """Test law 6: any partition into micro-batches has the same values and gradients."""
    inputs = subject.draw()
    ends = (0, 1, inputs.units // 2, inputs.units)
    pieces = [inputs.rows(slice(a, b)) for a, b in pairwise(ends) if a < b]
    joined = [torch.cat(slopes) for slopes in zip(*map(subject.gradient, pieces), strict=True)]
    if not (off := farthest(joined, subject.gradient(inputs))) < _EXACT:
        yield (
            "micro-batches give another gradient than the whole: "
            f"it is off by {off:.1e} of its size"
        )
    values = torch.cat([subject(piece).reshape(-1) for piece in pieces])
    if not (off := apart(values, subject(inputs))) < _EXACT:
        yield f"micro-batches give other values than the whole: off by {off:.1e} of the size"


def symmetry(subject: Subject) -> Iterator[str]:
    """Test law 8: invariance to the order of classes and elements, and to logit offsets."""
    inputs = subject.draw()
    value = subject(inputs)
    if subject.kind in SCALAR:
        order = torch.randperm(inputs.units, generator=subject.generator)
        if not (off := apart(subject(inputs.rows(order)), value)) < _EXACT:
            yield f"the order of samples matters: the value is off by {off:.1e} of its size"
    if subject.kind not in OF_LOGITS:
        return
    if not (off := apart(subject(_reordered(subject, inputs)), value)) < _EXACT:
        yield f"the order of classes matters: the value is off by {off:.1e} of its size"
    offset = torch.linspace(-5, 5, inputs.units, dtype=torch.float64).unsqueeze(1)
    # A response loss may depend on the teacher's offset, too: the same constant on both sides.
    theirs = offset if subject.kind in ("response", "batch") else -2 * offset
    shifted = inputs.but(student=each(lambda logits: logits + offset, inputs.student))
    if subject.kind != "hard_label":
        shifted = shifted.but(second=each(lambda logits: logits + theirs, inputs.second))
    if not (off := apart(subject(shifted), value)) < _EXACT:
        yield f"a constant on logits matters: the value is off by {off:.1e} of its size"


def _reordered(subject: Subject, inputs: Inputs) -> Inputs:
    """Permute the classes, in labels too."""
    classes = parts(inputs.student)[0].shape[1]
    order = torch.randperm(classes, generator=subject.generator)
    renamed = order.argsort()

    def change(tensor: Tensor) -> Tensor:
        return tensor[:, order] if tensor.is_floating_point() else renamed[tensor]

    labels = None if inputs.labels is None else renamed[inputs.labels]
    return Inputs(each(change, inputs.student), each(change, inputs.second), labels)


_FAR = 1e4


def finite(subject: Subject) -> Iterator[str]:
    """Test law 9: finite at ±1e4, with -inf logits, without variance, for one element and none."""
    inputs = subject.draw().to(torch.float32)
    clamped = _clamped(subject.draw(_FAR).to(torch.float32))
    cases = {"numbers of 1e4": clamped, "numbers of 1e4 in bfloat16": clamped.to(torch.bfloat16)}
    if subject.kind in OF_LOGITS:
        cases |= _ruled_out(subject, clamped)
    if subject.kind != "hard_label":
        cases["student = teacher"] = inputs.agreed()
        cases["student = teacher, at 1e4"] = clamped.agreed()
    cases |= _without_spread(subject, inputs)
    cases["one unit"] = inputs.rows(slice(0, 1))
    if subject.kind != "hard_label":
        cases["one unit, student = teacher"] = inputs.agreed().rows(slice(0, 1))
    for case, tried in cases.items():
        value = subject(tried)
        if not value.isfinite().all():
            yield f"the value is not finite: {case}: {value.flatten()[:6].tolist()}"
        if not all(slope.isfinite().all() for slope in subject.gradient(tried)):
            yield f"the gradient is not finite: {case}"
    yield from _empty(subject, inputs.rows(slice(0, 0)))


def _clamped(inputs: Inputs) -> Inputs:
    def clamp(tensor: Tensor) -> Tensor:
        return tensor.clamp(-_FAR, _FAR) if tensor.is_floating_point() else tensor

    return inputs.but(student=each(clamp, inputs.student), second=each(clamp, inputs.second))


def _ruled_out(subject: Subject, inputs: Inputs) -> dict[str, Inputs]:
    """Set logits to -inf, for either side and for both; never all of an element."""
    student, second = parts(inputs.student)[0], parts(inputs.second)[0]
    out = torch.rand(student.shape, generator=subject.generator) < 0.4
    out[0], out[:, 0] = True, False
    ours = inputs.but(student=student.masked_fill(out, -torch.inf))
    if subject.kind == "hard_label":
        return {"-inf on the student's side": ours}
    theirs = second.masked_fill(out.roll(1, dims=1), -torch.inf)
    cases = {"-inf on the teacher's side": inputs.but(second=theirs)}
    if subject.kind == "fused":  # its logits are a product, in which -inf becomes NaN
        return cases
    both = second.masked_fill(out, -torch.inf)
    return cases | {
        "-inf on the student's side": ours,
        "-inf on both sides": ours.but(second=both),
        "-inf on other classes of either side": ours.but(second=theirs),
    }


def _without_spread(subject: Subject, inputs: Inputs) -> dict[str, Inputs]:
    """Return inputs of zeros, and inputs with equal samples."""

    def first(tensor: Tensor) -> Tensor:
        return tensor[:1].expand_as(tensor).clone()

    zero = each(torch.zeros_like, inputs.student)
    cases = {"zeros on the student's side": inputs.but(student=zero)}
    if subject.kind == "hard_label":
        return cases
    nothing = each(torch.zeros_like, inputs.second)
    alike = inputs.but(student=each(first, inputs.student), second=each(first, inputs.second))
    return cases | {
        "zeros on the teacher's side": inputs.but(second=nothing),
        "zeros on both sides": inputs.but(student=zero, second=nothing),
        "samples that are all alike": alike,
    }


def _empty(subject: Subject, inputs: Inputs) -> Iterator[str]:
    value = subject(inputs)
    if subject.kind in SCALAR:
        if value.shape != () or value != 0:
            yield f"an empty batch gives 0, not {value}"
    elif value.shape != (0,):
        yield f"an empty batch gives no values, shape (0,), not {tuple(value.shape)}"
    subject.gradient(inputs)  # raises if there is no gradient
