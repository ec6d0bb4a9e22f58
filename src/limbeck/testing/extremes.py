"""Law 9: finite value and gradient for extreme inputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from limbeck.testing.subject import OF_LOGITS, SCALAR, Inputs, Subject, each, parts

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
