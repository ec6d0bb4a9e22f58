"""Laws 0 to 8: properties of every loss, depending on its kind.

A law is a generator of violations; it holds if it yields none.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from limbeck.core.tensors import Features
from limbeck.testing.subject import (
    OF_LOGITS,
    SCALAR,
    Inputs,
    Subject,
    each,
    floating,
    largest,
    like,
    parts,
    relative_error,
    unequal,
)

_NUMERIC = 1e-6  # tolerance of finite differences
_ROUNDED = 2e-2  # tolerance of a gradient that is converted to bfloat16
_GRADIENT_RATIO = 4.0  # the largest allowed ratio of gradients at temperatures of 1 to 16


def contract(subject: Subject) -> Iterator[str]:
    """Test law 0: output shape, dtypes, precision, and unchanged inputs."""
    inputs = subject.draw()
    before = [tensor.clone() for tensor in parts(inputs.student) + parts(inputs.second)]
    value, again = subject(inputs), subject(inputs)
    if subject.kind in SCALAR and value.shape != ():
        yield f"the shape is {tuple(value.shape)}, not (), a scalar"
    if subject.kind not in SCALAR and value.shape != (inputs.elements,):
        expected = (inputs.elements,)
        yield f"the shape is {tuple(value.shape)}, not {expected}, one value per element"
    if value.dtype != torch.float64:
        yield f"float64 is to be computed in float64, not in {value.dtype}"
    after = parts(inputs.student) + parts(inputs.second)
    if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        yield "the inputs were changed in place"
    if not torch.equal(value, again):
        error = relative_error(again, value)
        yield f"a second call with the same inputs differs: off by {error:.1e} of its size"
    yield from _precision(subject, inputs)


def _precision(subject: Subject, inputs: Inputs) -> Iterator[str]:
    for half in (torch.bfloat16, torch.float16):
        rounded = inputs.to(half)
        value, exact = subject(rounded), subject(rounded.to(torch.float32))
        if value.dtype != torch.float32:
            yield f"half precision is to be computed in float32, not in {value.dtype}"
        yield from unequal(value, exact, f"{half} is to be computed in float32", 1e-4)
    rounded = inputs.to(torch.bfloat16)
    exact_gradient = subject.gradient(rounded.to(torch.float32))
    message = "the gradient in bfloat16 is inaccurate"
    yield from unequal(subject.gradient(rounded), exact_gradient, message, _ROUNDED)
    single = inputs.to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = subject(single)
    if value.dtype != torch.float32:
        yield f"under autocast, float32 is to be computed in float32, not in {value.dtype}"
    # A fused form's first product is the model's own, which autocast should lower.
    allowed = 2e-2 if subject.kind == "fused" else 1e-4
    yield from unequal(value, subject(single), "autocast changes the value", allowed)


def minimum(subject: Subject) -> Iterator[str]:
    """Test law 1: the minimum is at student = teacher."""
    inputs = subject.draw()
    same = inputs.identical()
    near = inputs.but(student=each(_mixed, inputs.second))
    best = subject(same)
    for where, other in (("elsewhere", subject(inputs)), ("close by", subject(near))):
        if not (best <= other + 1e-9 * other.abs()).all():
            at = (best - other).argmax()
            yield (
                f"the minimum is at student = teacher, where it is {best.flatten()[at]:.3g}; "
                f"{where} it is {other.flatten()[at]:.3g}"
            )
    gradient = subject.gradient(same)
    size, usual = largest(gradient), largest(subject.gradient(inputs))
    if not (size <= 1e-5 * usual or _is_kink(subject, same, gradient)):
        yield f"the gradient at student = teacher is {size:.1e}, elsewhere {usual:.1e}"
    if subject.kind in ("divergence", "fused"):
        if not best.abs().max() < 1e-12:
            yield f"a divergence is zero at student = teacher, not {best.abs().max():.3g}"
        if not (subject(inputs) > 0).all():
            yield f"a divergence is zero only at student = teacher, not {subject(inputs).min():.3g}"


def _mixed(teacher: Tensor) -> Tensor:
    """Mix each sample with a little of another: close by, and distributions stay distributions."""
    return 0.99 * teacher + 0.01 * teacher.roll(1, dims=0)


def _is_kink(subject: Subject, at: Inputs, gradient: list[Tensor]) -> bool:
    """Return whether a minimum is a kink, as of |x|, where rounding determines gradients.

    A gradient step then increases the value, in proportion to its length.
    """
    step = 1e-4 / largest(gradient)
    pairs = zip(parts(at.student), gradient, strict=True)
    moved = at.but(student=like(at.student, [part - step * slope for part, slope in pairs]))
    rise = (subject(moved) - subject(at)).sum().item()
    return rise > 0.05 * step * sum(slope.square().sum().item() for slope in gradient)


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
        yield "the student has no gradient"
    reached = [teacher.grad for teacher in parts(inputs.second) if teacher.grad is not None]
    if reached:
        yield f"a gradient of up to {largest(reached):.1e} reaches the teacher; detach it"


def definition(subject: Subject) -> Iterator[str]:
    """Test law 4: value and gradient equal those of the definition."""
    inputs = subject.draw()
    if subject.reference is not None:
        expected = torch.as_tensor(_by_reference(subject, inputs), dtype=torch.float64)
        value = subject(inputs)
        for violation in unequal(value, expected, "the value is not that of the definition", 1e-7):
            yield f"{violation}, {_shown(value)} for {_shown(expected)}"
    owner = "value's" if subject.reference is None else "definition's"
    message = f"the gradient is not the {owner}"
    numeric = _finite_differences(subject, inputs)
    yield from unequal(subject.gradient(inputs), numeric, message, _NUMERIC)


def _shown(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values.detach().flatten()[:3].tolist()) + "]"


def _by_reference(subject: Subject, inputs: Inputs) -> ArrayLike:
    assert subject.reference is not None
    settings = {
        name: value.numpy() if isinstance(value, Tensor) else value
        for name, value in subject.settings(inputs).items()
    }
    return subject.reference(_arrays(inputs.student), _arrays(inputs.second), **settings)


def _arrays(features: Features) -> np.ndarray | tuple[np.ndarray, ...]:
    arrays = tuple(tensor.detach().numpy() for tensor in parts(features))
    return arrays[0] if isinstance(features, Tensor) else arrays


def _finite_differences(subject: Subject, inputs: Inputs, step: float = 1e-5) -> list[Tensor]:
    """Compute central differences of the definition, or of the loss itself without one."""
    moved = inputs.but(student=each(torch.clone, inputs.student))

    def total() -> float:
        if subject.reference is None:
            return subject(moved).sum().item()
        return float(np.sum(_by_reference(subject, moved)))

    result = []
    for part in parts(moved.student):
        derivative, flat = torch.zeros_like(part), part.view(-1)
        for index, value in enumerate(flat.tolist()):
            flat[index] = value + step
            up = total()
            flat[index] = value - step
            derivative.view(-1)[index] = (up - total()) / (2 * step)
            flat[index] = value
        result.append(derivative)
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
    if not spread < _GRADIENT_RATIO:
        yield f"gradients at T = 1 to 16 lie a factor of {spread:.1f} apart"
    if subject.kind in ("divergence", "fused") and not subject.has("labels"):
        difference = parts(inputs.student)[0] - parts(inputs.second)[0]
        squares = (difference - difference.mean(1, keepdim=True)).square().mean(1)
        value = subject(inputs, temperature=1e3)
        ratio = value / (squares if value.ndim else squares.mean())
        message = "the limit at large T is logit MSE; at T = 1000 the ratio to it varies"
        yield from unequal(ratio, ratio.mean().expand_as(ratio), message, 1e-2)


def split(subject: Subject) -> Iterator[str]:
    """Test law 6: any partition into micro-batches has the same values and gradients."""
    inputs = subject.draw()
    ends = (0, 1, inputs.elements // 2, inputs.elements)
    pieces = [inputs.rows(slice(a, b)) for a, b in pairwise(ends) if a < b]
    gradient = [torch.cat(rows) for rows in zip(*map(subject.gradient, pieces), strict=True)]
    yield from unequal(gradient, subject.gradient(inputs), "micro-batches change the gradient")
    values = torch.cat([subject(piece).reshape(-1) for piece in pieces])
    yield from unequal(values, subject(inputs), "micro-batches change the values")


def symmetry(subject: Subject) -> Iterator[str]:
    """Test law 8: invariance to the order of classes and elements, and to logit offsets."""
    inputs = subject.draw()
    value = subject(inputs)
    if subject.kind in SCALAR:
        order = torch.randperm(inputs.elements, generator=subject.generator)
        yield from unequal(subject(inputs.rows(order)), value, "the order of samples matters")
    if subject.kind not in OF_LOGITS:
        return
    reordered = subject(_reordered(subject, inputs))
    yield from unequal(reordered, value, "the order of classes matters")
    offset = torch.linspace(-5, 5, inputs.elements, dtype=torch.float64).unsqueeze(1)
    # A response loss may depend on the teacher's offset, too: the same constant on both sides.
    teacher_offset = offset if subject.kind in ("response", "batch") else -2 * offset
    shifted = inputs.but(student=each(lambda logits: logits + offset, inputs.student))
    if subject.kind != "hard_label":
        shifted = shifted.but(second=each(lambda logits: logits + teacher_offset, inputs.second))
    yield from unequal(subject(shifted), value, "a constant on logits matters")


def _reordered(subject: Subject, inputs: Inputs) -> Inputs:
    """Permute the classes, in labels too."""
    classes = parts(inputs.student)[0].shape[1]
    order = torch.randperm(classes, generator=subject.generator)
    renamed = order.argsort()

    def reorder(tensor: Tensor) -> Tensor:
        return tensor[:, order] if tensor.is_floating_point() else renamed[tensor]

    labels = None if inputs.labels is None else renamed[inputs.labels]
    return inputs.map(reorder).but(labels=labels)


_FAR = 1e4


def finite(subject: Subject) -> Iterator[str]:
    """Test law 9: finite at ±1e4, with -inf logits, without variance, for one element and none."""
    inputs = subject.draw().to(torch.float32)
    far = subject.draw(_FAR).to(torch.float32)
    clamped = far.map(floating(lambda tensor: tensor.clamp(-_FAR, _FAR)))
    cases = {"numbers of 1e4": clamped, "numbers of 1e4 in bfloat16": clamped.to(torch.bfloat16)}
    if subject.kind in OF_LOGITS:
        cases |= _excluded_classes(subject, clamped)
    if subject.kind != "hard_label":
        cases["student = teacher"] = inputs.identical()
        cases["student = teacher, at 1e4"] = clamped.identical()
    cases |= _without_variance(subject, inputs)
    cases["one element"] = inputs.rows(slice(0, 1))
    if subject.kind != "hard_label":
        cases["one element, student = teacher"] = inputs.identical().rows(slice(0, 1))
    for case, given in cases.items():
        value = subject(given)
        if not value.isfinite().all():
            yield f"the value is not finite: {case}: {value.flatten()[:6].tolist()}"
        if not all(part.isfinite().all() for part in subject.gradient(given)):
            yield f"the gradient is not finite: {case}"
    yield from _empty(subject, inputs.rows(slice(0, 0)))


def _excluded_classes(subject: Subject, inputs: Inputs) -> dict[str, Inputs]:
    """Set logits to -inf, for either side and for both; never all of an element."""
    student, second = parts(inputs.student)[0], parts(inputs.second)[0]
    out = torch.rand(student.shape, generator=subject.generator) < 0.4
    out[0], out[:, 0] = True, False
    in_student = inputs.but(student=student.masked_fill(out, -torch.inf))
    if subject.kind == "hard_label":
        return {"-inf on the student's side": in_student}
    teacher = second.masked_fill(out.roll(1, dims=1), -torch.inf)
    cases = {"-inf on the teacher's side": inputs.but(second=teacher)}
    if subject.kind == "fused":  # its logits are a product, in which -inf becomes NaN
        return cases
    same = second.masked_fill(out, -torch.inf)
    return cases | {
        "-inf on the student's side": in_student,
        "-inf on both sides": in_student.but(second=same),
        "-inf on other classes of either side": in_student.but(second=teacher),
    }


def _without_variance(subject: Subject, inputs: Inputs) -> dict[str, Inputs]:
    zero = inputs.map(torch.zeros_like)
    cases = {"zeros on the student's side": inputs.but(student=zero.student)}
    if subject.kind == "hard_label":
        return cases
    return cases | {
        "zeros on the teacher's side": inputs.but(second=zero.second),
        "zeros on both sides": zero,
        "equal samples": inputs.map(lambda tensor: tensor[:1].expand_as(tensor).clone()),
    }


def _empty(subject: Subject, inputs: Inputs) -> Iterator[str]:
    value = subject(inputs)
    if subject.kind in SCALAR:
        if value.shape != () or value != 0:
            yield f"the loss of an empty batch is {value}, not 0"
    elif value.shape != (0,):
        yield f"the loss of an empty batch has the shape {tuple(value.shape)}, not (0,)"
    subject.gradient(inputs)  # raises if there is no gradient
