"""Distillation of a plain module in one call, by the parts of a recipe's stage."""

from __future__ import annotations

import copy
import inspect
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from limbeck.core import fingerprint
from limbeck.core.files import read_json, write_json
from limbeck.core.modules import evaluating, shared_parameters
from limbeck.errors import InputError, Problem
from limbeck.export.predictor import TorchPredictor
from limbeck.models.outputs import check_output_type
from limbeck.objective import Objective, Term, TrainingSet, methods
from limbeck.objective.objective import ObjectiveLike
from limbeck.pipeline.artefacts import EVALUATION_BATCH, Scored
from limbeck.pipeline.validate import of_validation
from limbeck.schemes import Offline
from limbeck.tasks import SAMPLE, TASKS, Task, primary_output
from limbeck.teachers import FrozenTeacher
from limbeck.training import Training, fit
from limbeck.training import frozen as frozen_layers

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.tasks import Batch
    from limbeck.training import History
    from limbeck.training.loop import ProgressBar

PROBE, IDENTITY = 8, "distillation.json"
OWN = ("index", "view")  # fields of a batch that the data set adds
LABELLED, UNLABELLED = "labelled", -100
"""The field of which samples have a label; the label of one without, torch's `ignore_index`."""

PAIRS = "pairs (input, label), or mappings with labels"


class Distilled(NamedTuple):
    """The result of a distillation.

    Attributes:
        student: The trained student, in evaluation mode, with the weights of its best validation.
        scores: Its scores on the validation samples, by name, the primary one first.
        teacher_scores: The teacher's.
        history: The training's rows, one per validation.
    """

    student: nn.Module
    scores: Mapping[str, float]
    teacher_scores: Mapping[str, float]
    history: History


def distill(
    teacher: nn.Module,
    student: nn.Module,
    data: Any,
    *,
    validation: Any = 0.1,
    task: str | Task | None = None,
    classes: Sequence[str] | None = None,
    objective: ObjectiveLike | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    accelerator: Accelerator | None = None,
    progress_bar: ProgressBar | None = None,
    **training: Any,
) -> Distilled:
    """Train a student to distil a teacher on a data set, and validate both.

    Args:
        teacher: The trained teacher; its weights are not modified.
        student: The student, trained in place.
        data: The training samples: a map-style data set of pairs `(input, label)` or of mappings
            with `labels`, a `DataLoader` of one, or a pair of tensors. A sample whose class is
            -100 has no label: it is trained on under the teacher alone.
        validation: The same of validation samples, or the share of `data` that is kept for it.
        task: A task by name or as object; default by the axes of an input: images `[c, h, w]` or
            table rows `[features]`.
        classes: The names of the classes; default those of the data set or the numbers.
        objective: A method by name, a list of `Term`s, terms as in a recipe, or an objective; see
            `limbeck list methods`. Default: the task's loss and, by the kind of its output,
            `soft_target_kl` at temperature 4 (Hinton's method), `binary_kl` or `logit_mse`.
        seed: The seed of the sample order and of the validation split.
        folder: The folder of the log and the checkpoints, from which an interrupted call resumes if
            it is made again with the same arguments; default a temporary one.
        accelerator: The device and the processes.
        progress_bar: A progress reporter.
        training: Settings of `limbeck.Training`: `epochs=5` or `steps=1000` (one is required),
            `batch_size=64`, `learning_rate=0.003` and so on.

    Raises:
        InputError: A setting or the data is invalid; or the classes of teacher and student differ.

    Example:
        >>> from torch import nn
        >>> x, y = torch.randn(64, 4), torch.randint(2, (64,))
        >>> done = distill(nn.Linear(4, 2), nn.Linear(4, 2), (x, y), epochs=1)
        >>> list(done.scores)
        ['accuracy']

    Source: Hinton, Vinyals and Dean 2015 (the default objective, with temperature 4).
    """
    from accelerate import Accelerator as Default

    _check_models(teacher, student)
    if isinstance(data, DataLoader):
        training = {"batch_size": data.batch_size or 1, **training}
    settings = _settings(training)
    samples = _samples(data)
    chosen = (
        _task(task, samples, teacher, classes) if task is None or isinstance(task, str) else task
    )
    if isinstance(validation, int | float):
        train, held_out = _divided(samples, float(validation), seed)
    else:
        train, held_out = samples, _samples(validation)
    name = next(iter(chosen.inputs))
    dtype = next((one.dtype for one in student.parameters()), torch.float32)
    examples, validated = (_Examples(one, name, dtype) for one in (train, held_out))
    machine = accelerator or Default()
    # A copy, since the teacher's own modules may be trained elsewhere.
    frozen = FrozenTeacher(copy.deepcopy(teacher).to(machine.device), chosen)
    student.to(machine.device)
    probe = examples.__getitems__(list(range(min(PROBE, len(examples)))))
    aim = _objective(objective, chosen)
    _check_outputs({"teacher": teacher, "student": student}, chosen, probe)

    def validate(model: nn.Module) -> dict[str, float]:
        scored = Scored(TorchPredictor(model, chosen), chosen)
        for start in range(0, len(validated), EVALUATION_BATCH):
            rows = range(start, min(start + EVALUATION_BATCH, len(validated)))
            batch = validated.__getitems__(list(rows))
            if LABELLED in batch:  # a sample without a label has no score
                kept = batch.pop(LABELLED)
                batch = {name: one[kept] for name, one in batch.items()}
            if len(batch["index"]):
                scored.predict(batch)
        return scored.table.values()

    if folder is not None:
        terms = [repr(term) for term in aim.terms]
        parts = [frozen.fingerprint, fingerprint.of_module(student), terms, settings.model_dump()]
        seen = {key: tensor.tolist() for key, tensor in probe.items()}
        _check_folder(Path(folder), fingerprint.of_json([*parts, seed, len(examples), seen]))
    with frozen_layers(student, settings.freeze, where="distill.freeze"):
        scheme = Offline(
            student,
            chosen,
            aim,
            teacher=frozen,
            probe={key: tensor.to(machine.device) for key, tensor in probe.items()},
            training_set=TrainingSet(samples=len(examples)),
        )
        with tempfile.TemporaryDirectory() as temporary:
            history = fit(
                scheme,
                train=examples,
                validate=validate,
                settings=settings,
                folder=Path(temporary if folder is None else folder),
                seed=seed,
                accelerator=machine,
                progress_bar=progress_bar,
                greater_is_better=chosen.scores[0].metric.higher_is_better,
            )
    return Distilled(student, validate(student), validate(frozen.model), history)


def _check_folder(folder: Path, identity: str) -> None:
    """Check that a folder is new, or of the same training; write what it is of.

    Raises:
        InputError: The folder holds another training.
    """
    path, own = folder / IDENTITY, {"distillation": identity}
    if path.is_file() and read_json(path) != own:
        given = f"{folder}: of another teacher, initial student, objective, data or settings"
        fix = "Choose another folder, or remove this one."
        raise InputError(Problem("folder", given, "a new one, or that of the same call", fix))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, own)


def _settings(training: Mapping[str, Any]) -> Training:
    try:
        return Training.model_validate(dict(training))
    except ValidationError as error:
        raise InputError(*of_validation(error, Training, "distill")) from error


def _check_models(teacher: nn.Module, student: nn.Module) -> None:
    for name, model in (("teacher", teacher), ("student", student)):
        if not isinstance(model, nn.Module):
            raise InputError(Problem(name, type(model).__name__, "a torch module"))
    if shared := shared_parameters(student, teacher):
        fix = "Copy them: copy.deepcopy(teacher)."
        given = f"parameters that are the teacher's: {', '.join(shared[:5])}"
        raise InputError(Problem("student", given, "parameters of its own", fix))


def _check_outputs(models: Mapping[str, nn.Module], task: Task, probe: Batch) -> None:
    """Check on an example batch that models return logits, one per class, label or target."""
    [kind, *_] = task.kinds.values()
    width = len(task.classes or getattr(task, "targets", ()) or getattr(task, "labels", ()))
    for where, model in models.items():
        device = next(model.parameters(), torch.empty(0)).device
        batch = {name: tensor.to(device) for name, tensor in probe.items()}

        def run(model: nn.Module = model, batch: Batch = batch) -> Tensor:
            return primary_output(task, model, batch)

        with evaluating(model), torch.no_grad(), _takes(where, batch, task.inputs):
            shape = list(run().shape)
        with evaluating(model), torch.no_grad():
            if width and task.element == SAMPLE and shape[1:] != [width]:
                allowed = f"[n, {width}], one per class, label or target"
                raise InputError(Problem(where, f"outputs {shape}", allowed))
            if kind == "categorical":
                check_output_type(model, run, output_type="logits", where=where)


@contextmanager
def _takes(where: str, batch: Batch, inputs: Iterable[str]) -> Iterator[None]:
    """Raise an `InputError` in place of a model's own errors on an example batch."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, LookupError, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        fields = {name: list(one.shape) for name, one in batch.items()}
        shapes = ", ".join(f"{name} {shape}" for name, shape in fields.items() if name not in OWN)
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        given = f"fails on a batch of the data ({shapes}): {reason}"
        allowed = f"a module that takes {', '.join(inputs)} as the data have them"
        raise InputError(Problem(where, given, allowed)) from error


DEFAULTS: Mapping[str, Sequence[Term]] = {
    "categorical": methods.hinton(),
    "binary": [Term("task", weight=0.5), Term("binary_kl", temperature=2.0)],
    "value": [Term("task", weight=0.5), Term("logit_mse")],
    "quantiles": [Term("task", weight=0.5), Term("logit_mse")],
}


def _objective(given: ObjectiveLike | None, task: Task) -> Objective:
    [kind, *_] = task.kinds.values()
    if given is None and kind not in DEFAULTS:
        allowed = f"terms for an output of kind {kind}"
        raise InputError(Problem("objective", None, allowed))
    return Objective.of(DEFAULTS[kind] if given is None else given)


def _samples(data: Any) -> Dataset[Any]:
    """Return a map-style data set of what the user gave."""
    if isinstance(data, DataLoader):
        if not isinstance(data.sampler, SequentialSampler | RandomSampler):
            given, fix = type(data.sampler).__name__, "Weights of samples are those of the task."
            raise InputError(Problem("data.sampler", given, "none: distill orders samples", fix))
        if data.collate_fn is not default_collate:
            fix = "Give a data set whose samples torch's default collate function can stack."
            raise InputError(Problem("data.collate_fn", "one of its own", "the default", fix))
        data = data.dataset
    if isinstance(data, tuple) and len(data) == 2:
        inputs, labels = (torch.as_tensor(part) for part in data)
        if len(inputs) != len(labels):
            given = f"{len(inputs)} inputs and {len(labels)} labels"
            raise InputError(Problem("data", given, "as many labels as inputs"))
        data = TensorDataset(inputs, labels)
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")) or isinstance(data, Mapping):
        allowed = (
            "a data set with __getitem__ and __len__, a DataLoader of one, or (inputs, labels)"
        )
        raise InputError(Problem("data", type(data).__name__, allowed))
    if len(data) < 2:
        raise InputError(Problem("data", f"{len(data)} samples", "at least 2"))
    return cast("Dataset[Any]", data)


def _divided(samples: Dataset[Any], share: float, seed: int) -> tuple[Dataset[Any], Dataset[Any]]:
    count = len(cast("Any", samples))
    kept = round(share * count)
    if not 0 < share < 1 or not 0 < kept < count:
        allowed = "samples, or a share between 0 and 1 that leaves some on both sides"
        raise InputError(Problem("validation", share, allowed))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return Subset(samples, order[kept:]), Subset(samples, order[:kept])


class _Examples:
    """The samples of a data set as batches of named tensors."""

    def __init__(
        self, samples: Dataset[Any], name: str, dtype: torch.dtype = torch.float32
    ) -> None:
        self._samples, self._name, self._dtype = samples, name, dtype

    def __len__(self) -> int:
        return len(cast("Any", self._samples))

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        found = default_collate([self._samples[index] for index in indices])
        if not isinstance(found, Mapping):
            if not isinstance(found, list | tuple) or len(found) != 2:
                raise InputError(Problem("data", type(found).__name__, PAIRS))
            found = {self._name: found[0], "labels": found[1]}
        batch = dict(found)
        if "label" in batch:
            batch["labels"] = batch.pop("label")
        for name, one in batch.items():
            if not isinstance(one, Tensor):
                given = f"{type(one[0] if one else one).__name__} in the field {name}"
                raise InputError(Problem("data", given, "numbers: tensors, or numbers of Python"))
        # numpy's arrays are float64, models are not.
        batch = {
            name: one.to(self._dtype) if one.dtype == torch.float64 else one
            for name, one in batch.items()
        }
        labels = batch.get("labels")
        if labels is not None and labels.ndim == 1 and not labels.is_floating_point():
            known = labels != UNLABELLED
            batch |= {} if bool(known.all()) else {LABELLED: known}
        index = torch.tensor(indices)
        return {**batch, "index": index, "view": torch.zeros_like(index)}


def _task(
    name: str | None, samples: Dataset[Any], teacher: nn.Module, classes: Sequence[str] | None
) -> Task:
    first = samples[0]
    inputs = first[0] if isinstance(first, list | tuple) else first
    if name is None:
        axes = inputs.ndim if isinstance(inputs, Tensor) else None
        names = {3: "image_classification", 1: "tabular_classification"}
        if axes is None and not isinstance(first, Mapping):
            raise InputError(Problem("data", type(first).__name__, PAIRS))
        if axes not in names:
            given = "a mapping" if axes is None else f"inputs with {axes} axes"
            allowed = f"one of {', '.join(TASKS.names())}, since inputs of this form may be any"
            raise InputError(Problem("task", given, allowed))
        name = names[axes]
    kind = TASKS.load(name, where="task")
    first_argument, *others = inspect.signature(kind).parameters.values()
    needed = [one.name for one in others if one.default is one.empty]
    if needed:
        stated = ", ".join([first_argument.name, *(f"{one}=..." for one in needed)])
        allowed = (
            f"the task as an object, {kind.__name__}({stated}), since the data do not state it"
        )
        raise InputError(Problem("task", name, allowed))
    named = classes or getattr(samples, "classes", None) or _numbered(samples, teacher, kind)
    built: Task = kind(tuple(map(str, named)))
    return built


def _numbered(samples: Dataset[Any], teacher: nn.Module, kind: Any) -> Sequence[str]:
    """Return a number per output of the teacher."""
    batch: Batch = _Examples(samples, next(iter(kind.inputs))).__getitems__([0, 1])
    device = next(teacher.parameters(), torch.empty(0)).device
    inputs = {name: batch[name].to(device) for name in kind.inputs if name in batch}
    with evaluating(teacher), torch.no_grad(), _takes("teacher", batch, kind.inputs):
        found = teacher(*inputs.values()) if len(inputs) == 1 else teacher(**inputs)
    logits = getattr(found, "logits", found)
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        raise InputError(Problem("classes", None, "the names of the classes"))
    # The classes of several elements per sample are the second axis, as in torch.
    sizes = logits.shape[1:] if kind.element == SAMPLE else logits.shape[1:2]
    return [str(number) for number in range(math.prod(sizes))]
