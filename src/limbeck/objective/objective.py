"""The objective: weighted loss terms, averaged over elements in one place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from limbeck import connectors, losses
from limbeck.connectors import ConnectorOutput
from limbeck.core.tensors import Features
from limbeck.errors import InputError, Problem, gathering
from limbeck.objective import methods
from limbeck.objective.balance import Balance, gradient_norms
from limbeck.objective.checks import (
    TermGradient,
    check_gradient,
    check_not_a_mean,
    check_tensor,
    unchanged,
)
from limbeck.objective.inputs import (
    Compared,
    TermInputs,
    nothing,
    rows,
    student_of,
    teacher_of,
    tempered,
)
from limbeck.objective.resolve import ResolvedTerm, check_outputs, resolve
from limbeck.objective.result import Losses, TermLoss, TrainingSet
from limbeck.objective.terms import Loss, Term, read
from limbeck.targets import Answer, DenseTargets
from limbeck.tasks import Kind, Output, Response

TaskLoss: TypeAlias = Callable[[Response], Mapping[str, Tensor]]
LOGITS = "logits"
ObjectiveLike: TypeAlias = (
    "Objective | str | Sequence[Term | str | Mapping[str, Any]] | Mapping[str, Any]"
)
"""An objective, a method's name, a list of terms, or a recipe's entries."""

IGNORED = -100
"""The label of elements without a label in torch and transformers."""

_NO_NORMS: Mapping[str, Tensor] = MappingProxyType({})


class Objective:
    """A sum of weighted terms, each a weighted mean over elements.

    A term with one value per element is averaged as sum(weight · value) / sum(weight) with the
    response's weights. A term over features has one value per sample, weighted by the sum of the
    weights of the sample's elements. A scalar is used as it is, computed over the samples of
    non-zero weight, with equal weights. Elements of weight 0 are excluded, and a batch without
    weight returns 0 with a gradient of 0.

    Args:
        terms: The terms, at least one.
        measure_every: The interval in optimiser steps of gradient norm measurements; 0 for none,
            unless a term's weight is `"auto"`.

    Attributes:
        connectors: The trained modules besides the student, by term name: connectors between
            features of different shapes, and the modules of losses.
        balance: The gradient balancing of terms with `"auto"`.

    Raises:
        InputError: The message lists every problem of every term.

    Example:
        >>> objective = Objective(
        ...     [Term("cross_entropy"), Term("soft_target_kl", temperature=4.0, weight=0.9)]
        ... )
        >>> losses = objective.compute(torch.zeros(2, 2), torch.eye(2), labels=torch.arange(2))
        >>> {name: round(term.raw.item(), 4) for name, term in losses.terms.items()}
        {'cross_entropy': 0.6931, 'soft_target_kl': 0.124}
    """

    def __init__(
        self,
        terms: Iterable[Term],
        *,
        measure_every: int = 0,
    ) -> None:
        self.terms = tuple(terms)
        self.connectors = nn.ModuleDict()
        self._class_counts: tuple[int, ...] | None = None
        if not self.terms:
            raise InputError(Problem("objective", "no terms", "at least one term"))
        placed = [(f"objective.{place}", term) for place, term in enumerate(self.terms)]
        self._ready = resolve(placed)
        for ready, term in zip(self._ready, self.terms, strict=True):
            if isinstance(term.connector, nn.Module):
                self.connectors[ready.name] = connectors.as_pair_connector(term.connector)
        self._scalars = {
            ready.name for ready in self._ready if ready.builtin in losses.BATCH_LOSSES
        }
        self._settings = {
            ready.name: term.connector if isinstance(term.connector, Mapping) else {}
            for ready, term in zip(self._ready, self.terms, strict=True)
        }
        self.balance = Balance([r.name for r in self._ready if r.auto], every=measure_every)

    @classmethod
    def of(cls, given: ObjectiveLike) -> Objective:
        """Build an objective from any form that a call accepts; return an objective unchanged.

        Raises:
            InputError: As for the class, or for `from_recipe`.

        Example:
            >>> [str(term.loss) for term in Objective.of("hinton").terms]
            ['task', 'soft_target_kl']
        """
        if isinstance(given, Objective):
            return given
        if isinstance(given, str):
            return cls.from_recipe({given: {}})
        terms = (
            [] if isinstance(given, Mapping) else [one for one in given if isinstance(one, Term)]
        )
        return cls(terms) if terms and len(terms) == len(given) else cls.from_recipe(given)

    @classmethod
    def from_recipe(
        cls,
        entries: object,
        *,
        where: str = "objective",
        measure_every: int = 0,
    ) -> Objective:
        """Build an objective from a recipe's entries.

        Args:
            entries: A list of `{loss name: {settings}}`, or a method, `{name: {settings}}`.
            where: The key in the recipe, for messages.
            measure_every: See the class.

        Raises:
            InputError: The message lists every problem of every entry.

        Example:
            >>> Objective.from_recipe([{"task": {}}, {"soft_target_kl": {"temprature": 4.0}}])
            Traceback (most recent call last):
            ...
            limbeck.errors.InputError: objective.1.soft_target_kl.temprature: got 4.0; ... did
            you mean "temperature"?
        """
        if isinstance(entries, Mapping) and entries:
            terms = methods.read(entries, where=where)
            resolve([(where, term) for term in terms])
            return cls(terms, measure_every=measure_every)
        if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
            allowed = "a list of {loss: {setting: value}}, or {method: {setting: value}}"
            raise InputError(Problem(where, entries, allowed))
        problems: list[Problem] = []
        terms = []
        for position, entry in enumerate(entries):
            place = f"{where}.{position}"
            with gathering(problems):
                terms.append(read(entry, where=place))
                resolve([(place, terms[-1])])
        if problems:
            raise InputError(*problems)
        return cls(terms, measure_every=measure_every)

    @functools.cached_property
    def student_taps(self) -> list[str]:
        """Return the paths of the student's modules that terms use."""
        paths = [path for t in self._ready for path in t.student]
        return list(dict.fromkeys(paths))

    @functools.cached_property
    def teacher_taps(self) -> list[str]:
        """Return the paths of the teacher's modules that terms use."""
        tapped = [t for t in self._ready if t.loss and t.source == "tap"]
        return list(dict.fromkeys(path for t in tapped for path in t.teacher))

    @functools.cached_property
    def needs_teacher(self) -> bool:
        """Return whether any term uses a teacher."""
        return any(term.needs_teacher for term in self._ready)

    @functools.cached_property
    def needs_labels_only(self) -> bool:
        """Return whether every term is against labels, so that rows without one add nothing."""
        return all(term.of_labels for term in self._ready)

    @functools.cached_property
    def compares_common_classes(self) -> bool:
        """Return whether every loss over the teacher's logits compares only the common classes."""
        compared = [term for term in self._ready if term.needs_teacher and term.source != "tap"]
        per_element = any(term.element_weight or term.element_temperature for term in compared)
        return all(term.source in ("targets", "head") for term in compared) and not per_element

    def check_outputs(self, kinds: Mapping[str, Kind]) -> None:
        """Check that a task has the outputs of the terms, and that the losses fit their kinds.

        Args:
            kinds: The task's `kinds`.

        Raises:
            InputError: The message lists every problem.
        """
        check_outputs(self._ready, kinds)

    def check_classes(self, response: Response, answer: Answer, *, least: int) -> None:
        """Check that both sides have the same classes, or that losses compare the common ones.

        Args:
            response: The student's response to any batch.
            answer: The teacher's output for the same batch.
            least: The number of classes that both sides must have, if one of them is padded; 0 if
                the number is unknown, so that both sides must be equal.

        Raises:
            InputError: The classes differ.
        """
        padded = self.compares_common_classes and least > 0
        for name in {*response.outputs} & {*answer.targets}:
            student, teacher = response.outputs[name].classes, answer.targets[name].classes
            if student is None or teacher is None or student == teacher:
                continue
            if padded and min(student, teacher) >= least:
                continue
            raise InputError(
                Problem(
                    "teacher",
                    given=f"{teacher} classes",
                    allowed=f"{student} classes, as the student has",
                    fix="Teach or load a teacher for the same classes.",
                )
            )

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules of the objective, by name; none of them is in the student's file."""
        kept: dict[str, nn.Module] = {"connectors": self.connectors}
        return {**kept, "balance": self.balance} if self.balance.names else kept

    def connect(
        self,
        response: Response,
        answer: Answer | None,
        training_set: TrainingSet | None = None,
    ) -> None:
        """Build the missing connectors from an example batch.

        Args:
            response: The student's response to any batch.
            answer: The teacher's output for the same batch; None if no term requires one.
            training_set: The training set, for terms that depend on it.

        Raises:
            InputError: Features cannot be connected; the message lists all such terms.
        """
        self._class_counts = (training_set.class_counts or None) if training_set else None
        samples = training_set.samples if training_set else None
        problems: list[Problem] = []
        for ready in self._ready:
            if not ready.joined or ready.name in self.connectors:
                continue
            student, teacher = student_of(ready, response), teacher_of(ready, response, answer)
            try:
                self.connectors[ready.name] = connectors.build_connector(
                    ready.builtin,
                    student,
                    cast("Features", teacher),
                    samples=samples,
                    **self._settings[ready.name],
                )
            except InputError as error:
                problems += [replace(p, where=f"{ready.name}.{p.where}") for p in error.problems]
        if problems:
            raise InputError(*problems)

    def __call__(
        self,
        response: Response,
        answer: Answer | None,
        *,
        task_loss: TaskLoss | None = None,
        progress: float = 0.0,
        parameters: Sequence[nn.Parameter] = (),
        total_weights: Mapping[str, Tensor] | None = None,
    ) -> Losses:
        """Compute the losses of a student's output against a teacher's.

        Args:
            response: The student's output.
            answer: The teacher's output; None if no term requires a teacher.
            task_loss: The task's own loss of a response, one value per element of each output, for
                the term `task`.
            progress: The finished share of the training, in [0, 1].
            parameters: The parameters for gradient norms, if measured.
            total_weights: The divisors of the means, by output: the sums of the element weights of
                all micro-batches of a step. The losses are then this batch's part of the step's
                means, to be summed over its micro-batches. Default: this batch's own sums.

        Raises:
            InputError: An input of a term is missing, or a loss returns a wrong shape.
        """
        # First, since it activates the weights computed from the last step's gradients.
        measured = bool(parameters) and self.balance.is_due(progress)
        batch = TermInputs(response, answer, self._class_counts, total_weights)
        of_response = None if task_loss is None else functools.partial(task_loss, response)
        terms: dict[str, TermLoss] = {}
        raws: dict[str, Tensor] = {}
        total: Tensor | None = None
        for ready in self._ready:
            raw, own = self._raw(ready, batch, of_response, progress)
            weight = self.balance.weight(ready.name) if ready.auto else ready.weight(progress)
            value = raw.detach()
            # One operation per term: in a small student's step every one counts.
            total = raw * weight if total is None else torch.add(total, raw, alpha=weight)
            terms[ready.name], raws[ready.name] = TermLoss(value, value * weight), raw
            if own is not None:
                own = own if total_weights is None else own * batch.part(ready.output)
                total = total + own
                terms[f"{ready.name}_own"] = TermLoss(own.detach(), own.detach())
        norms = self._measured(raws, progress, parameters) if measured else _NO_NORMS
        return Losses(cast("Tensor", total), terms, norms)  # at least one term exists

    def compute(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None = None,
        labels: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        progress: float = 0.0,
        parameters: Sequence[nn.Parameter] = (),
        total_weight: Tensor | float | None = None,
    ) -> Losses:
        """Compute the losses of logits, for training loops that have tensors only.

        Args:
            student_logits: `[elements, classes]`, or `[samples, positions, classes]`.
            teacher_logits: The same shape; None if no term requires a teacher.
            labels: `[elements]`, or `[samples, positions]`. The label −100 excludes an element, as
                in `torch.nn.functional.cross_entropy`.
            weights: The weight per element, shaped as the labels, at least 0; default 1. If all
                are 0, so are the losses.
            progress: The finished share of the training, in [0, 1].
            parameters: The parameters for gradient norms, if measured.
            total_weight: The divisor of the means, such as the `num_items_in_batch` of transformers
                for the micro-batches of a step; default the sum of the weights.

        Raises:
            InputError: An input of a term is missing, shapes differ, or a weight is negative, NaN
                or infinite.

        Example:
            >>> objective = Objective([Term("soft_target_kl", temperature=2.0)])
            >>> objective.compute(torch.zeros(3, 2), torch.zeros(3, 2)).total.item()
            0.0
        """
        samples, classes = student_logits.shape[0], student_logits.shape[-1]
        rows = student_logits.reshape(-1, classes)
        sample_of = torch.arange(samples, device=rows.device)
        if weights is not None:
            _check_weights(weights)
        per_element = rows.new_ones(len(rows)) if weights is None else weights.reshape(-1)
        if labels is not None:
            labels = labels.reshape(-1)
            per_element = per_element * (labels != IGNORED)
            labels = labels.masked_fill(labels == IGNORED, 0)
        output = Output(
            rows,
            weights=per_element,
            sample_of=sample_of.repeat_interleave(max(1, len(rows) // max(1, samples))),
            labels=labels,
        )
        answer = None
        if teacher_logits is not None:
            kept = teacher_logits.detach().reshape(-1, teacher_logits.shape[-1])
            answer = Answer({LOGITS: DenseTargets(kept)})
        total_weights = None
        if total_weight is not None:
            total_weights = {LOGITS: torch.as_tensor(total_weight, device=rows.device)}

        def cross_entropy(response: Response) -> Mapping[str, Tensor]:
            if labels is None:
                raise InputError(Problem("labels", None, "labels, which the term task requires"))
            return {LOGITS: losses.cross_entropy(rows, labels)}

        return self(
            Response({LOGITS: output}),
            answer,
            task_loss=cross_entropy,
            progress=progress,
            parameters=parameters,
            total_weights=total_weights,
        )

    def check(
        self,
        response: Response,
        answer: Answer | None,
        *,
        task_loss: TaskLoss | None = None,
        parameters: Sequence[nn.Parameter],
    ) -> dict[str, TermGradient]:
        """Check on one batch that every term meets its contract and has a gradient.

        Args:
            response: The student's response, with its graph.
            answer: The teacher's output for the same batch; None if no term requires one.
            task_loss: See `__call__`.
            parameters: The student's trainable parameters.

        Returns:
            Each term's gradient, by name.

        Raises:
            InputError: The problems of all terms: a term raises an exception, changes its inputs,
                returns a wrong shape or dtype or the batch's mean, is not finite, or has no
                gradient for any parameter.
        """
        batch = TermInputs(response, answer, self._class_counts)
        of_response = None if task_loss is None else functools.partial(task_loss, response)
        found: dict[str, TermGradient] = {}
        problems: list[Problem] = []
        for ready in self._ready:
            with gathering(problems):
                found[ready.name] = self._check_term(ready, batch, of_response, parameters)
        if problems:
            raise InputError(*problems)
        return found

    def _check_term(
        self,
        ready: ResolvedTerm,
        batch: TermInputs,
        task_loss: Callable[[], Mapping[str, Tensor]] | None,
        parameters: Sequence[nn.Parameter],
    ) -> TermGradient:
        with unchanged(ready.name, batch.tensors()):
            raw, _ = self._raw(ready, batch, task_loss, 0.0)
            over_batch = ready.name in self._scalars
            loss = ready.loss
            if over_batch and loss is not None and not ready.builtin:

                def part(kept: Tensor) -> Tensor:
                    return self._value(ready, loss, batch, 0.0, kept)[0]

                check_not_a_mean(ready.name, raw, part, batch.count(ready))
        return check_gradient(
            ready.name,
            raw,
            parameters,
            weight=1.0 if ready.auto else ready.weight(0.0),
            samples=batch.count(ready),
            over_batch=over_batch,
        )

    def _measured(
        self,
        raws: Mapping[str, Tensor],
        progress: float,
        parameters: Sequence[nn.Parameter],
    ) -> Mapping[str, Tensor]:
        """Measure each term's gradient norm, and update the automatic weights."""
        norms = gradient_norms(raws, parameters)
        weights = {ready.name: ready.weight(progress) for ready in self._ready if not ready.auto}
        self.balance.update(norms, weights)
        return norms

    def _raw(
        self,
        ready: ResolvedTerm,
        batch: TermInputs,
        task_loss: Callable[[], Mapping[str, Tensor]] | None,
        progress: float,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute a term's mean, and the own loss of its connector."""
        if ready.loss is None:
            if task_loss is None:
                raise InputError(
                    Problem("task_loss", None, "the task's loss, which a term requires")
                )
            return batch.task_mean(task_loss(), ready), None
        if ready.source == "head":
            return batch.fused(ready, ready.loss, ready.arguments(progress)), None
        kept = batch.kept(ready) if ready.name in self._scalars else None
        value, own = self._value(ready, ready.loss, batch, progress, kept)
        if value.ndim == 0 and ready.name not in self._scalars:
            # Only the returned scalar shows that a loss is over the whole batch: rows without
            # weight must then be excluded from its input.
            self._scalars.add(ready.name)
            kept = batch.kept(ready)
            if kept is not None:
                value, own = self._value(ready, ready.loss, batch, progress, kept)
        return batch.mean(value, ready), own

    def _value(
        self,
        ready: ResolvedTerm,
        loss: Loss,
        batch: TermInputs,
        progress: float,
        kept: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        student = student_of(ready, batch.response)
        teacher = teacher_of(ready, batch.response, batch.answer)
        inputs = batch.inputs(ready)
        if kept is not None:
            if not bool(kept.any()):
                return nothing(student), None
            student, teacher = cast("Features", rows(student, kept)), rows(teacher, kept)
            inputs = {name: tensor[kept] for name, tensor in inputs.items()}
        joined = self._joined(ready, student, teacher, inputs)
        arguments = {**ready.arguments(progress), **joined.arguments}
        arguments.update((name, inputs[name]) for name in ready.inputs if name in inputs)
        if ready.element_temperature is None:
            value = loss(joined.student, joined.teacher, **arguments)
        else:
            value = tempered(
                loss,
                ready,
                joined,
                batch.per_element(ready.element_temperature, ready.output),
                arguments,
            )
        if not ready.builtin:
            check_tensor(value, where=ready.name)
        return value, joined.aux_loss

    def _joined(
        self,
        ready: ResolvedTerm,
        student: Features,
        teacher: Compared,
        inputs: Mapping[str, Tensor],
    ) -> ConnectorOutput:
        if not ready.joined:
            return ConnectorOutput(student, teacher)
        if ready.name not in self.connectors:
            raise InputError(
                Problem(ready.name, "no connector", "one", "Call objective.connect once first.")
            )
        return cast("ConnectorOutput", self.connectors[ready.name](student, teacher, inputs))


def _check_weights(weights: Tensor) -> None:
    """Raise on weights on the CPU that are negative, NaN or infinite; transforms have no values."""
    if weights.device.type != "cpu" or torch.compiler.is_compiling():
        return  # on a GPU, a check would wait for it
    if torch._C._functorch.is_functorch_wrapped_tensor(weights):
        return
    wrong = ~(torch.isfinite(weights) & (weights >= 0))
    if bool(wrong.any()):
        number = float(weights[wrong].flatten()[0])
        raise InputError(Problem("weights", number, "finite weights of at least 0"))
