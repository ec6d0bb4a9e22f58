"""Distillation without a training loop: teacher, elements, captured features and connectors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from limbeck import losses
from limbeck.core.modules import evaluating, shared_parameters
from limbeck.errors import InputError, Problem, gathered
from limbeck.objective import Losses, Objective, TrainingSet, methods
from limbeck.objective.objective import IGNORED, LOGITS, ObjectiveLike
from limbeck.taps import Taps
from limbeck.tasks import Batch, Kind, Output, Response, Task
from limbeck.teachers import FrozenTeacher

LABELS, MASK, INPUTS = "labels", "attention_mask", "inputs"
NOT_INPUTS = (LABELS, "index")
DECODER_INPUTS = "decoder_input_ids"


class LogitsTask:
    """The reading of batches and outputs: logits per sample `[n, classes]` or per token.

    The label −100 and, for tokens, padding in `attention_mask` exclude an element. Excluded tokens
    are left out before any loss, so that their logits are never read.

    Args:
        shift: Whether position i predicts token i + 1, as in causal language models.
        decoder: Whether labels are those of a decoder, which has inputs and a length of its own;
            `attention_mask` is then the encoder's, and −100 alone excludes an element.
    """

    kinds: ClassVar[Mapping[str, Kind]] = MappingProxyType({LOGITS: "categorical"})

    def __init__(self, *, shift: bool, decoder: bool = False) -> None:
        self._shift, self._decoder = shift, decoder
        self._accepted: WeakKeyDictionary[nn.Module, frozenset[str] | None] = WeakKeyDictionary()

    def run(self, model: nn.Module, batch: Batch) -> Any:
        """Run a model on the inputs that it accepts, without labels."""
        inputs = {name: one for name, one in batch.items() if name not in NOT_INPUTS}
        if self._decoder and DECODER_INPUTS not in inputs:
            whole: Any = getattr(model, "module", model)  # without the wrapper of several processes
            labels = self._elements(batch)[0]
            inputs[DECODER_INPUTS] = whole.prepare_decoder_input_ids_from_labels(labels)
        first = [inputs.pop(INPUTS)] if INPUTS in inputs else []
        if model not in self._accepted:  # kept, since reading a signature takes 0.1 ms
            self._accepted[model] = _parameters(model)
        accepted = self._accepted[model]
        if accepted is None:
            return model(*first, **inputs)
        named = {name: one for name, one in inputs.items() if name in accepted}
        return model(*(first or ([] if named else inputs.values())), **named)

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run a model on a batch and flatten its logits to elements."""
        return self.response(self.run(model, batch), batch, taps)

    def response(self, returned: object, batch: Batch, taps: Taps | None = None) -> Response:
        """Flatten a model's logits to the elements with weight.

        Raises:
            InputError: The output has no logits, or labels of another shape.
        """
        logits = logits_of(returned)
        labels, kept = self._elements(batch)
        if self._shift:
            logits = logits[:, :-1]
        if logits.shape[:-1] != kept.shape:
            given = "no labels" if labels is None else f"labels {list(kept.shape)}"
            allowed = f"labels {list(logits.shape[:-1])}, one per row of logits"
            raise InputError(Problem("batch.labels", given, allowed))
        if kept.ndim == 1:
            sample_of = torch.arange(len(kept), device=kept.device)
            labels = None if labels is None else labels.clamp_min(0)
        else:
            logits, sample_of = logits[kept], kept.nonzero()[:, 0]
            labels = None if labels is None else labels[kept]
            kept = kept[kept]
        # At least float32, since half precision cannot count the tokens of a step.
        weights = kept.to(torch.promote_types(logits.dtype, torch.float32))
        mask = None if self._decoder else batch.get(MASK)
        return Response(
            {LOGITS: Output(logits, weights=weights, sample_of=sample_of, labels=labels)},
            taps={} if taps is None else taps.take(),
            index=batch.get("index"),
            mask=None if mask is None else mask.bool(),
        )

    def weight(self, batch: Batch) -> Tensor:
        """Count the elements of a batch, before any model has run."""
        return self._elements(batch)[1].sum()

    def loss(self, response: Response) -> dict[str, Tensor]:
        """Compute the cross-entropy with the labels, one value per element.

        Raises:
            InputError: The batch has no labels.
        """
        output = response.primary
        if output.labels is None:
            allowed = "labels, for a loss against the labels"
            fix = "Add labels, or use only terms on the teacher's output."
            raise InputError(Problem("batch.labels", None, allowed, fix))
        return {LOGITS: losses.cross_entropy(cast("Tensor", output.values), output.labels)}

    def _elements(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        """Return the labels, and the mask of elements with weight: `[n]` or `[n, positions]`."""
        labels, mask = batch.get(LABELS), None if self._decoder else batch.get(MASK)
        if labels is None and self._decoder:
            allowed = "labels, which are the decoder's positions"
            raise InputError(Problem("batch.labels", None, allowed))
        if labels is None:
            first = next(one for name, one in batch.items() if name not in NOT_INPUTS)
            kept = first.new_ones(first.shape[: 1 + self._shift], dtype=torch.bool)
        elif labels.is_floating_point():
            given = f"labels of {str(labels.dtype).removeprefix('torch.')}"
            raise InputError(Problem("batch.labels", given, "classes, as whole numbers"))
        else:
            kept = labels != IGNORED
        if mask is not None and mask.shape == kept.shape:
            kept = kept & mask.bool()
            if self._shift:  # nothing is predicted from padding either
                kept[:, 1:] &= mask[:, :-1].bool()
        if not self._shift:
            return labels, kept
        return None if labels is None else labels[:, 1:], kept[:, 1:]


class Step(NamedTuple):
    """The losses of a batch, and the student's output.

    Attributes:
        losses: The losses.
        response: The student's output, flattened to elements.
        returned: The student's output as returned by the model.
    """

    losses: Losses
    response: Response
    returned: Any


class Distillation:
    """An objective over a student and a frozen teacher, for any training loop.

    It is no module, so that no trainer finds the teacher in it; `modules` are those to train
    besides the student.

    Args:
        student: The student, for the paths of its modules.
        teacher: The teacher; None if no term requires one.
        objective: The objective; None for `methods.hinton()`.
        shift: See `LogitsTask`.
        decoder: See `LogitsTask`.
        least: The number of classes that both models must have, if one of them is padded; 0 if they
            must have the same.

    Raises:
        InputError: A path is not a module, a teacher is missing, or the teacher is the student.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        objective: ObjectiveLike | None,
        *,
        shift: bool = False,
        decoder: bool = False,
        least: int = 0,
    ) -> None:
        self.objective = Objective.of(methods.hinton() if objective is None else objective)
        self.objective.check_outputs(LogitsTask.kinds)
        self.task = LogitsTask(shift=shift, decoder=decoder)
        self._least = least
        _check_teacher(student, teacher, needed=self.objective.needs_teacher)
        task, paths = cast("Task", self.task), self.objective.teacher_taps

        def freeze() -> FrozenTeacher | None:
            return None if teacher is None else FrozenTeacher(teacher, task, paths)

        def find() -> None:
            Taps(student, self.objective.student_taps)

        [self.teacher, _] = gathered([freeze, find])
        self.connected = False
        self._pending: Mapping[str, Tensor] = {}

    @property
    def has_features(self) -> bool:
        """Return whether a term compares features, which may need a connector."""
        return bool(self.objective.student_taps or self.objective.teacher_taps)

    @property
    def modules(self) -> nn.ModuleDict:
        """Return the trained modules of the objective."""
        return nn.ModuleDict(self.objective.modules())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of `modules`, now or as soon as they are built."""
        if not self.connected:
            self._pending = state
            return
        try:
            self.modules.load_state_dict(state)
        except RuntimeError as error:
            allowed = "a checkpoint of the same objective"
            raise InputError(Problem("checkpoint", str(error), allowed)) from error

    def connect(self, model: nn.Module, batch: Batch, training_set: TrainingSet | None) -> None:
        """Check the classes of both models, and build connectors from an example batch, once.

        Raises:
            InputError: The classes differ, or features cannot be connected.
        """
        if self.connected:
            return
        # The random state is kept, so that training draws the same with connectors and without.
        with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            with Taps(model, self.objective.student_taps) as taps:
                response = self.task.respond(model, batch, taps)
            answer = None
            if self.objective.needs_teacher and self.teacher is not None:
                answer = self.teacher.answer(batch)
                self.objective.check_classes(response, answer, least=self._least)
            self.objective.connect(response, answer, training_set)
        self.connected = True
        if self._pending:
            self.load_state_dict(self._pending)

    def step(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        progress: float,
        total: Tensor | None = None,
    ) -> Step:
        """Run teacher and student on a batch and compute the losses.

        Args:
            model: The student, as wrapped by the trainer.
            batch: The batch.
            progress: The finished share of the training, in [0, 1].
            total: The number of elements of all micro-batches of the optimiser step; default those
                of this batch.
        """
        answer = None
        if self.objective.needs_teacher and self.teacher is not None:
            answer = self.teacher.answer(batch)
        with Taps(model, self.objective.student_taps) as taps:
            returned = self.task.run(model, batch)
            response = self.task.response(returned, batch, taps)
        measured = model.training and self.objective.balance.measures
        found = self.objective(
            response,
            answer,
            task_loss=self.task.loss,
            progress=progress,
            parameters=[p for p in model.parameters() if p.requires_grad] if measured else (),
            total_weights=None if total is None else {LOGITS: total},
        )
        return Step(found, response, returned)


def logits_of(returned: object) -> Tensor:
    """Return the logits in a model's output.

    Raises:
        InputError: The output is no tensor and has no field `logits`.

    Example:
        >>> logits_of({"loss": torch.zeros(()), "logits": torch.zeros(2, 3)}).shape
        torch.Size([2, 3])
    """
    found = returned
    if not isinstance(returned, Tensor):
        if isinstance(returned, Mapping):
            found = returned.get(LOGITS)
        else:
            found = getattr(returned, LOGITS, None)
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.ndim not in (2, 3):
        given = type(returned).__name__
        if isinstance(found, Tensor):
            given = f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
        allowed = "logits [n, classes] or [n, positions, classes], or an output with such `logits`"
        raise InputError(Problem("model.output", given, allowed))
    return found


def _parameters(model: nn.Module) -> frozenset[str] | None:
    """Return the names of the parameters of a model; None if it accepts any."""
    parameters = inspect.signature(model.forward).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return None
    return frozenset(parameters)


def _check_teacher(student: nn.Module, teacher: object, *, needed: bool) -> None:
    where, allowed = "teacher", "a torch.nn.Module"
    if teacher is None:
        if needed:
            fix = "Give a teacher, or use terms on labels alone."
            raise InputError(Problem(where, None, "a teacher, which a term requires", fix))
        return
    if not isinstance(teacher, nn.Module):
        given, fix = type(teacher).__name__, "Load the model first, as by from_pretrained."
        raise InputError(Problem(where, given, allowed, fix))
    if shared_parameters(teacher, student):
        fix = "Copy it: copy.deepcopy(model)."
        given = "parameters of the student"
        raise InputError(Problem(where, given, "a model of its own", fix))
