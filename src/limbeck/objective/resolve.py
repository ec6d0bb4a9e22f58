"""Resolved terms: every name looked up and every setting checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from limbeck import losses
from limbeck.connectors import LOSSES_WITHOUT_CONNECTOR
from limbeck.core.registry import OWN, is_own
from limbeck.errors import InputError, Problem, did_you_mean, gathering
from limbeck.objective.element_weights import ClassBalanced, PerElement
from limbeck.objective.schedules import Schedule
from limbeck.objective.terms import (
    FUSED,
    LABELS,
    TASK,
    Loss,
    Paths,
    Signature,
    Term,
    Weight,
    check_settings,
    read_arguments,
    signature_of,
    weight_of,
)
from limbeck.taps import is_pattern
from limbeck.tasks import Kind

Source: TypeAlias = Literal["labels", "targets", "logits", "tap", "head"]


@dataclass(frozen=True)
class ResolvedTerm:
    """A resolved term, with only arithmetic left for a training step.

    Attributes:
        name: The term's name in logs, unique in its objective.
        loss: The loss function; None is the task's own loss.
        builtin: The loss's name in `limbeck.losses`; empty for a user's own.
        source: The second argument of the loss; `head`: its arguments are the student's hidden
            states and head, and the teacher's targets.
        output: The task's output whose values, targets and weights the term uses; None for the
            primary one.
        student: The paths of the student's modules; empty for the output itself.
        teacher: The paths of the teacher's modules; empty for the targets or labels.
        multi_layer: Whether the loss gets a tuple on both sides: of several paths, or a pattern.
        joined: Whether a connector is allowed.
        weight: The weight by progress.
        element_weight: A factor per element.
        auto: Whether the weight is computed from gradients.
        constant: The constant arguments of the loss.
        scheduled: The scheduled arguments of the loss.
        element_temperature: The temperature, if it is set per element.
        inputs: The loss's parameters filled from the batch.
        needed: The required ones of `inputs`.
    """

    name: str
    loss: Loss | None
    builtin: str
    source: Source
    output: str | None
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    multi_layer: bool
    joined: bool
    weight: Schedule
    element_weight: PerElement | None
    auto: bool
    constant: Mapping[str, Any]
    scheduled: Mapping[str, Schedule]
    element_temperature: PerElement | None
    inputs: tuple[str, ...]
    needed: tuple[str, ...]

    @property
    def needs_teacher(self) -> bool:
        """Return whether the term needs a teacher."""
        per_element = (self.element_weight, self.element_temperature)
        needed = any(one is not None and not isinstance(one, ClassBalanced) for one in per_element)
        return needed or (self.loss is not None and self.source != "labels")

    @property
    def of_labels(self) -> bool:
        """Return whether the term needs labels, so that its mean is over elements with one."""
        return self.loss is None or self.source == "labels" or "labels" in self.needed

    def arguments(self, progress: float) -> Mapping[str, Any]:
        """Return the loss's arguments at this progress."""
        if not self.scheduled:
            return self.constant
        return {**self.constant, **{key: float(of(progress)) for key, of in self.scheduled.items()}}


def resolve(terms: Iterable[tuple[str, Term]]) -> list[ResolvedTerm]:
    """Resolve the names of terms, and check their settings.

    Args:
        terms: Terms with their keys in the recipe, for messages.

    Raises:
        InputError: The message lists every problem of every term.

    Example:
        >>> term = Term("soft_target_kl", temperature=4)
        >>> [ready] = resolve([("objective.0", term)])
        >>> ready.name, ready.source, ready.weight, dict(ready.constant)
        ('soft_target_kl', 'logits', Constant(value=1.0), {'temperature': 4.0})
    """
    ready: list[ResolvedTerm] = []
    problems: list[Problem] = []
    for where, term in terms:
        with gathering(problems):
            name = _unique(_base_name(term.loss), [other.name for other in ready])
            ready.append(_prepare(term, name, f"{where}.{_base_name(term.loss)}"))
    if problems:
        raise InputError(*problems)
    return ready


def check_outputs(terms: Iterable[ResolvedTerm], kinds: Mapping[str, Kind]) -> None:
    """Check that the outputs of terms exist, and that their losses fit the outputs' kinds.

    Args:
        terms: The terms.
        kinds: The kind of each of the task's outputs, the primary one first.

    Raises:
        InputError: The message lists every problem.
    """
    problems = []
    for term in terms:
        output = next(iter(kinds)) if term.output is None else term.output
        if output not in kinds:
            fix = did_you_mean(output, kinds)
            problems.append(Problem(f"{term.name}.output", output, ", ".join(kinds), fix))
        elif not term.student and kinds[output] != losses.OUTPUT_KINDS.get(
            term.builtin, kinds[output]
        ):
            fix = "Use binary_kl on independent labels, logit_mse on values, or your own loss."
            allowed = f"an output of kind {losses.OUTPUT_KINDS[term.builtin]}"
            given = f"the output {output}, of kind {kinds[output]}"
            problems.append(Problem(term.name, given, allowed, fix))
        elif isinstance(term.element_weight, ClassBalanced) and kinds[output] != "categorical":
            fix = "Give each class a constant weight by a loss of your own, or leave it out."
            allowed = "with an output of exclusive classes, whose samples have one label each"
            given = f"class_balanced, on the output {output}, of kind {kinds[output]}"
            problems.append(Problem(f"{term.name}.weight", given, allowed, fix))
    if problems:
        raise InputError(*problems)


def _prepare(term: Term, name: str, where: str) -> ResolvedTerm:
    loss = _find(term.loss, where)
    signature = signature_of(loss)
    arguments = read_arguments(term, signature, where)
    problems = list(arguments.problems)
    weight = Weight()
    with gathering(problems):
        check_settings(term, where)
    with gathering(problems):
        weight = weight_of(term, f"{where}.weight")
    if problems:
        raise InputError(*problems)
    of_catalogue = str(term.loss) if term.loss in losses.__all__ else ""
    source = _source(term, signature)
    of_layers = loss is not None and source != "head"
    student = _paths(term.student) if of_layers else ()
    joined = _is_joined(term, of_catalogue) and source not in ("labels", "head")
    sides = (term.student, term.teacher)
    return ResolvedTerm(
        name=name,
        loss=loss,
        builtin=of_catalogue,
        source=source,
        output=term.output,
        student=student,
        teacher=_paths(term.teacher) if source == "tap" else (),
        multi_layer=any(
            one is not None and (not isinstance(one, str) or is_pattern(one)) for one in sides
        ),
        joined=joined and bool(student or source == "tap"),
        weight=weight.by_progress,
        element_weight=weight.per_element,
        auto=weight.auto,
        constant=arguments.constant,
        scheduled=arguments.scheduled,
        element_temperature=arguments.element_temperature,
        inputs=signature.inputs,
        needed=signature.needed,
    )


def _is_joined(term: Term, of_catalogue: str) -> bool:
    if term.connector == "auto":
        # Several layers of such a loss are not features yet: queries and keys, for example.
        several = term.student is not None and not isinstance(term.student, str)
        return of_catalogue not in LOSSES_WITHOUT_CONNECTOR or several
    return term.connector != "none"


def _paths(given: Paths | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())


def _base_name(loss: str | Loss) -> str:
    if isinstance(loss, str):
        name = loss.rpartition(":")[2] if is_own(loss) else loss
    else:
        name = getattr(loss, "__name__", type(loss).__name__)
    return name.replace(".", "_")  # module names must not have dots


def _unique(base: str, taken: Sequence[str]) -> str:
    numbered = (f"{base}_{number}" for number in range(2, len(taken) + 2))
    return next(name for name in (base, *numbered) if name not in taken)


def _find(loss: str | Loss, where: str) -> Loss | None:
    if not isinstance(loss, str):
        if not callable(loss):
            raise InputError(Problem(where, loss, "the name of a loss, or a function"))
        return loss
    if loss == TASK:
        return None
    known = losses.LOSSES.names()
    if not is_own(loss) and loss not in known:
        allowed = [TASK, *known]
        others = f"{', '.join(allowed)}, or {OWN}"
        raise InputError(Problem(where, loss, others, did_you_mean(loss, allowed)))
    return losses.find(loss, where=where)


def _source(term: Term, signature: Signature) -> Source:
    if term.loss == FUSED:
        return "head"
    if signature.second == "labels" or term.teacher == LABELS:
        return "labels"
    if term.teacher is not None:
        return "tap"
    return "targets" if signature.second == "targets" else "logits"
