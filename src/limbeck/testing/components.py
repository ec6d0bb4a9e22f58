"""Laws of tasks and schemes, on a model and a batch of the user."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from limbeck.core.samples import sample_axis, select_samples
from limbeck.errors import InputError, Problem
from limbeck.tasks import Batch, Task, element_rows, labels_of, total_weights

if TYPE_CHECKING:
    from limbeck.schemes import Scheme, SchemeInputs, SchemeSettings

Violation: TypeAlias = tuple[int, str]
Gradients: TypeAlias = dict[str, Tensor]
TOLERANCE = 1e-4


def task_violations(task: Task, model: nn.Module, batch: Batch) -> Iterator[Violation]:
    """Yield the violations of a task's laws; see `limbeck.testing.check_task`."""
    samples = _samples(task, batch, "check_task")
    model = copy.deepcopy(model).eval()  # without batch statistics and dropout
    with torch.no_grad():
        response, weights = task.respond(model, batch), task.weights(batch)
        outputs, exported = task.raw_outputs(model, batch), task.outputs(model, batch)
    if not list(task.kinds) == list(response.outputs) == list(weights):
        found = f"{list(task.kinds)}, {list(response.outputs)} and {list(weights)}"
        yield 1, f"kinds, respond and weights name the outputs {found}: they must agree"
        return
    for name, output in response.outputs.items():
        if not torch.equal(output.weights, weights[name].to(output.weights)):
            yield 1, f"{name}: weights(batch) are not the weights of the response"
        elements = len(output.weights)
        if output.values is not None and len(output.values) != elements:
            yield 1, f"{name}: {len(output.values)} values for {elements} weights"
        place = output.sample_of
        if len(place) != elements or bool(((place < 0) | (place >= samples)).any()):
            yield 1, f"{name}: sample_of does not name a sample of the batch for every element"
    losses = task.loss(response)
    for name, loss in losses.items():
        if name not in response.outputs:
            yield 1, f"the loss is of {name}, which is no output of the response"
            return
        if loss.shape != response.outputs[name].weights.shape:
            yield 1, f"{name}: the loss has the shape {list(loss.shape)}, not one value per element"
            return
    whole = _task_gradients(task, model, [batch])
    parts = _cut(task, batch, samples)
    for name, gradients in _task_gradients(task, model, parts).items():
        if difference := _largest_difference(gradients, whole[name]):
            yield 2, f"{name}: two micro-batches change the gradient: {difference}"
    for given, change in ((0.0, "differ from"), (1.0, "equal")):
        weighted, kept = _weighted(task, batch, samples, given)
        expected = _task_gradients(task, model, [kept])
        for name, gradients in _task_gradients(task, model, [weighted]).items():
            if difference := _largest_difference(gradients, expected[name]):
                what = "left out" if given == 0 else "without weights"
                yield 3, f"{name}: samples of weight {given:g} {change} those {what}: {difference}"
    for name, output in response.outputs.items():
        if name in outputs and output.values is not None:
            rows = element_rows(outputs[name].numpy(), task.kinds[name])
            yield from _same_values(name, torch.from_numpy(rows), output.values)
    for name, kind in task.kinds.items():
        # Real values are scaled to their units.
        if kind in ("categorical", "binary") and name in exported:
            yield from _same_values(name, exported[name], outputs[name])


def _same_values(name: str, exported: Tensor, values: Tensor) -> Iterator[Violation]:
    """Compare an output's rows with a response's values, which may be some of its elements."""
    if exported.shape == values.shape:
        same = torch.allclose(exported, values, rtol=TOLERANCE, atol=TOLERANCE)
    else:
        distances = torch.cdist(values.flatten(1).double(), exported.double())
        same = bool((distances.min(1).values <= TOLERANCE * (1 + exported.abs().max())).all())
    if not same:
        yield 4, f"{name}: outputs or raw_outputs differ from the values of respond"


def _task_gradients(task: Task, model: nn.Module, batches: Sequence[Batch]) -> dict[str, Gradients]:
    """Compute the gradient of each output's mean loss over the batches, by parameter."""
    sums = [total_weights(task, batch) for batch in batches]
    found: dict[str, Gradients] = {}
    for name in task.kinds:
        model.zero_grad()
        for batch in batches:
            response = task.respond(model, batch)
            losses = task.loss(response)
            if name in losses:
                output = response.outputs[name]
                weights = output.weights
                if output.labelled is not None:
                    weights = weights * output.labelled
                key = name if output.labelled is None else labels_of(name)
                total = sum(float(one[key]) for one in sums)
                ((losses[name] * weights).sum() / max(total, 1e-12)).backward()
        found[name] = _gradients({"model": model})
    model.zero_grad()
    return found


def scheme_violations(
    settings: SchemeSettings, student: nn.Module, inputs: SchemeInputs
) -> Iterator[Violation]:
    """Yield the violations of a scheme's laws; see `limbeck.testing.check_scheme`."""
    batch = inputs.probe
    samples = _samples(inputs.task, batch, "check_scheme")
    scheme = settings.build_scheme(copy.deepcopy(student), inputs)
    saved = scheme.modules_to_save()
    parameters = {p for module in saved.values() for p in module.parameters()}
    for name, module in scheme.students.items():
        if getattr(scheme, name, None) is not module:
            yield 1, f"the student {name} is not the scheme's attribute of that name"
    for name, phase in scheme.phases.items():
        if not set(phase.parameters) <= parameters:
            yield 1, f"{name}: its parameters are in no module of modules_to_save()"
    before = {name: copy.deepcopy(module.state_dict()) for name, module in saved.items()}
    scheme.check_terms(batch)
    for name, module in saved.items():
        changed = [
            key
            for key, one in module.state_dict().items()
            if isinstance(one, Tensor) and not torch.equal(one, before[name][key])
        ]
        if changed or any(p.grad is not None for p in module.parameters()):
            yield 2, f"check_terms changes {name}: {', '.join(changed[:3]) or 'its gradients'}"
    for module in saved.values():
        module.eval()  # without batch statistics and dropout
    scheme.begin_epoch(0)
    parts = _cut(inputs.task, batch, samples)
    for name, phase in scheme.phases.items():
        whole = _scheme_gradients(scheme, [batch], name)
        missing = [p for p in phase.parameters if p.requires_grad and p.grad is None]
        if len(missing) == len(phase.parameters):
            yield 1, f"{name}: no parameter of the phase has a gradient"
        if difference := _largest_difference(_scheme_gradients(scheme, parts, name), whole):
            yield 3, f"{name}: two micro-batches change the gradient: {difference}"
        weighted, kept = _weighted(inputs.task, batch, samples, 0.0)
        found = _scheme_gradients(scheme, [weighted], name)
        if difference := _largest_difference(found, _scheme_gradients(scheme, [kept], name)):
            yield 4, f"{name}: samples of weight 0 differ from those left out: {difference}"
    own = copy.deepcopy(student)
    # As a `distill` stage builds it. A scheme may raise any exception.
    try:
        control = settings.build_control(own, replace(inputs, teacher=None))
        control.step(batch, 0.5)
    except Exception as error:
        yield 5, f"the control cannot do without the teacher: {type(error).__name__}: {error}"
        return
    if next(iter(control.students.values())) is not own:
        yield 5, "the control does not train the student"


def _scheme_gradients(scheme: Scheme, batches: Sequence[Batch], phase: str) -> Gradients:
    """Accumulate the gradients of a phase over micro-batches, by parameter."""
    modules = scheme.modules_to_save()
    for module in modules.values():
        module.zero_grad()
    sums = [scheme.total_weights(batch) for batch in batches]
    totals = {name: torch.stack([one[name].double() for one in sums]).sum(0) for name in sums[0]}
    for batch in batches:
        scheme.step(batch, 0.5, totals, phase).total.backward()
    return _gradients(modules)


def _gradients(modules: Mapping[str, nn.Module]) -> Gradients:
    return {
        f"{role}.{name}": parameter.grad.clone()
        for role, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def _largest_difference(found: Gradients, expected: Gradients) -> str:
    """Describe the largest difference above the tolerance; empty if there is none."""
    size = max((float(one.abs().max()) for one in expected.values() if one.numel()), default=0.0)
    worst, at = 0.0, ""
    for name in {*found, *expected}:
        one, other = found.get(name), expected.get(name)
        difference = (
            (one if other is None else other) if one is None or other is None else one - other
        )
        if difference is not None and difference.numel():
            largest = float(difference.abs().max())
            if not largest <= worst:  # a NaN is a difference as well
                worst, at = largest, name
    if worst <= TOLERANCE * max(size, TOLERANCE):
        return ""
    return f"{at} is off by {worst:.2g}, where the largest gradient is {size:.2g}"


def _samples(task: Task, batch: Batch, where: str) -> int:
    places = {name: sample_axis(name, task.inputs) for name in batch}
    sizes = {
        batch[name].shape[place]
        for name, place in places.items()
        if place is not None and isinstance(batch[name], Tensor) and batch[name].ndim
    }
    if len(sizes) != 1 or min(sizes) < 4:
        given = f"samples: {', '.join(map(str, sorted(sizes)))}"
        allowed = "tensors of the same number of samples, at least 4"
        raise InputError(Problem(f"{where}.batch", given, allowed))
    return sizes.pop()


def _cut(task: Task, batch: Batch, samples: int) -> list[Batch]:
    """Cut a batch into two micro-batches of unequal size."""
    at = samples // 3 or 1
    rows = (slice(at), slice(at, samples))
    return [select_samples(batch, task.inputs, one) for one in rows]


def _weighted(task: Task, batch: Batch, samples: int, weight: float) -> tuple[Batch, Batch]:
    """Give every second sample a weight; return the batch, and what it must be equal to."""
    weights = torch.ones(samples)
    weights[1::2] = weight
    others = {name: tensor for name, tensor in batch.items() if name != "weight"}
    kept = select_samples(others, task.inputs, weights.nonzero().squeeze(1).numpy())
    return {**batch, "weight": weights}, kept
