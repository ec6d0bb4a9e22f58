"""The tested loss: its call, and its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from limbeck.core.tensors import Features
from limbeck.targets import CategoricalTargets, DenseTargets

Kind: TypeAlias = Literal[
    "divergence", "response", "hard_label", "feature", "relation", "batch", "fused"
]
Reference: TypeAlias = Callable[..., Any]
Draw: TypeAlias = Callable[[torch.Generator, float], tuple[Features, Features]]
ELEMENTS, CLASSES, TEMPERATURE = 6, 5, 2.0
OF_LOGITS = frozenset({"divergence", "response", "hard_label", "batch", "fused"})
SCALAR = frozenset({"relation", "batch"})
_SET_BY_TESTS = {"temperature", "labels", "index", "mask"}


def parts(features: Features) -> tuple[Tensor, ...]:
    """Return the tensors of one layer or of several."""
    return (features,) if isinstance(features, Tensor) else tuple(features)


def like(features: Features, tensors: Sequence[Tensor]) -> Features:
    """Return tensors in the form of `features`: one tensor, or several."""
    return tensors[0] if isinstance(features, Tensor) else tuple(tensors)


def each(change: Callable[[Tensor], Tensor], features: Features) -> Features:
    """Apply a function to one tensor or to each of several."""
    return like(features, [change(tensor) for tensor in parts(features)])


def floating(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function that changes floating-point tensors only, not labels."""
    return lambda tensor: change(tensor) if tensor.is_floating_point() else tensor


@dataclass(frozen=True)
class Inputs:
    """The inputs of a loss.

    Attributes:
        student: The student's tensors: one row per element or sample, of one layer or of several.
        second: The second argument: the teacher's tensors, or labels.
        labels: The labels, for a loss with both teacher and labels.
        targets: The teacher's targets, for a loss that accepts them; dense if not given.
    """

    student: Features
    second: Features
    labels: Tensor | None = None
    targets: CategoricalTargets | None = None

    def rows(self, which: slice | Tensor) -> Inputs:
        """Select some elements, in that order."""
        return Inputs(
            each(lambda tensor: tensor[which], self.student),
            each(lambda tensor: tensor[which], self.second),
            None if self.labels is None else self.labels[which],
            None if self.targets is None else self.targets.take(which),
        )

    def to(self, dtype: torch.dtype) -> Inputs:
        """Convert floating-point tensors to another dtype."""
        return self.map(floating(lambda tensor: tensor.to(dtype)))

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Apply a function to every tensor of both sides."""
        return self.but(student=each(change, self.student), second=each(change, self.second))

    def but(self, **changed: Any) -> Inputs:
        """Return the inputs with some fields replaced."""
        return replace(self, **changed)

    def identical(self) -> Inputs:
        """Return the inputs with the student equal to the teacher."""
        return self.but(student=self.second)

    @property
    def elements(self) -> int:
        """Return the number of elements or samples."""
        return len(parts(self.student)[0])


@dataclass(frozen=True)
class Subject:
    """A tested loss, and its inputs."""

    loss: Callable[..., Tensor]
    kind: Kind
    reference: Reference | None
    seed: int
    draw_pair: Draw | None = None

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Return all parameters of the loss."""
        try:
            return dict(inspect.signature(self.loss).parameters)
        except ValueError:  # some of torch's functions have no signature
            return {}

    @cached_property
    def keywords(self) -> Mapping[str, inspect.Parameter]:
        """Return the parameters besides the compared tensors."""
        return dict(list(self.parameters.items())[3 if self.kind == "fused" else 2 :])

    @cached_property
    def takes_targets(self) -> bool:
        """Return whether the teacher's side is a type of targets, not a tensor."""
        return self.kind == "fused" or [*self.parameters, "", ""][1] == "targets"

    @property
    def unbound(self) -> list[str]:
        """Return the parameters without a value that no test sets."""
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return [
            name
            for name, parameter in self.keywords.items()
            if name not in _SET_BY_TESTS
            and parameter.default is parameter.empty
            and parameter.kind not in variable
        ]

    def has(self, *names: str) -> bool:
        """Return whether the loss has all of these keywords."""
        return all(name in self.keywords for name in names)

    def bound(self, *names: str) -> dict[str, Any]:
        """Return the values bound to these keywords, or their defaults."""
        defaults = {name: self.keywords[name].default for name in names if name in self.keywords}
        empty = inspect.Parameter.empty
        return {name: value for name, value in defaults.items() if value is not empty}

    @property
    def generator(self) -> torch.Generator:
        """Return a generator with the same random numbers for every law."""
        return torch.Generator().manual_seed(self.seed)

    def draw(self, scale: float = 1.0) -> Inputs:
        """Draw the student's and the second argument, in float64."""
        generator = self.generator
        student, second = (self.draw_pair or self._draw_pair)(generator, scale)
        labels = None
        if self.has("labels") and self.kind != "fused":
            first = parts(student)[0]
            classes = first.shape[1] if self.kind in OF_LOGITS else CLASSES
            labels = torch.randint(classes, (len(first),), generator=generator)
        return Inputs(student, second, labels)

    def _draw_pair(self, generator: torch.Generator, scale: float) -> tuple[Tensor, Tensor]:
        shape = (ELEMENTS, CLASSES) if self.kind in OF_LOGITS else (ELEMENTS, 3, 2, 2)
        student, teacher = (
            torch.randn(shape, generator=generator, dtype=torch.float64) * scale for _ in range(2)
        )
        if self.kind == "hard_label":
            return student, torch.randint(CLASSES, (ELEMENTS,), generator=generator)
        return student, teacher

    def settings(self, inputs: Inputs) -> dict[str, Any]:
        """Return the keywords that a test sets; a mask or an index only if required."""
        first, given = parts(inputs.student)[0], dict[str, Any]()
        if "temperature" in self.keywords and _is_real(self.keywords["temperature"].default):
            given["temperature"] = TEMPERATURE
        if inputs.labels is not None:
            given["labels"] = inputs.labels
        if self._needs("index"):
            given["index"] = torch.arange(len(first))
        if self._needs("mask"):
            given["mask"] = torch.ones(len(first), first.shape[-2], dtype=torch.bool)
        return given

    def _needs(self, name: str) -> bool:
        return name in self.keywords and self.keywords[name].default is inspect.Parameter.empty

    def __call__(self, inputs: Inputs, **changed: Any) -> Tensor:
        """Call the loss."""
        if self.kind == "fused":
            return self._by_element(inputs, changed)
        second: Any = inputs.second
        if self.takes_targets:
            second = inputs.targets or DenseTargets(second)
        return self.loss(inputs.student, second, **self.settings(inputs) | changed)

    def _by_element(self, inputs: Inputs, changed: dict[str, Any]) -> Tensor:
        """Call a fused form for each element, with an identity head."""
        values = []
        for index in range(inputs.elements):
            row = inputs.rows(slice(index, index + 1))
            hidden, teacher = parts(row.student)[0], parts(row.second)[0]
            head = torch.eye(hidden.shape[1]).to(hidden)
            targets = row.targets or DenseTargets(teacher)
            values.append(self.loss(hidden, head, targets, **self.settings(row) | changed))
        # An empty batch needs no call, but a graph for the gradient.
        return torch.stack(values) if values else parts(inputs.student)[0].float().sum(1)

    def gradient(self, inputs: Inputs, **changed: Any) -> list[Tensor]:
        """Compute the gradient of the sum over elements, for each of the student's tensors."""
        leaf = each(lambda tensor: tensor.detach().clone().requires_grad_(), inputs.student)
        value = self(inputs.but(student=leaf), **changed).sum()
        return list(torch.autograd.grad(value, parts(leaf)))


def _is_real(value: object) -> bool:
    return value is inspect.Parameter.empty or value is None or isinstance(value, int | float)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value.

    Example:
        >>> import torch
        >>> relative_error(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 4.0]))
        0.25
    """
    if actual.shape != expected.shape:
        return float("inf")
    difference = largest([actual.detach().double() - expected.detach().double()])
    if difference == 0:
        return 0.0
    size = largest([expected.double()])
    return difference / size if size and difference == difference else float("inf")


def unequal(
    actual: Features, expected: Features, message: str, tolerance: float = 1e-9
) -> Iterator[str]:
    """Yield a violation if the largest relative error of paired tensors exceeds the tolerance."""
    pairs = zip(parts(actual), parts(expected), strict=True)
    error = max(relative_error(a, b) for a, b in pairs)
    if not error < tolerance:
        yield f"{message}: off by {error:.1e} of its size"


def largest(tensors: Sequence[Tensor]) -> float:
    """Return the largest absolute value; 0 if there is none."""
    return max((part.detach().abs().max().item() for part in tensors if part.numel()), default=0.0)
