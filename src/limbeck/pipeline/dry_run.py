"""Dry run: checks that models fit the data, each other and the export, before training."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.data.spec import NOT_INPUTS
from limbeck.errors import InputError, LimbeckError, Problem, gathered
from limbeck.models.normal_form import check_copies
from limbeck.models.outputs import check_output_type
from limbeck.pipeline.artefacts import export
from limbeck.pipeline.machine import threads
from limbeck.pipeline.parity import COMPANY
from limbeck.pipeline.stage_order import loads_teacher, stage_paths
from limbeck.pipeline.statements import check_models, trains_teacher
from limbeck.pipeline.validate import of_model
from limbeck.tasks import SAMPLE, primary_output
from limbeck.tasks.checks import check_modes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.context import Context
    from limbeck.pipeline.stage import Stage
    from limbeck.tasks import Batch


EXPORTED = 20_000_000
"""Parameters of the largest library model whose export is tried beforehand."""


class DryRun:
    """The models of a recipe, built and run once, shared by the dry run of every stage.

    Args:
        context: The context of the first seed's stages.
        threads: The number of torch threads once a model is large; None keeps it.
    """

    def __init__(self, context: Context, *, threads: int | None = None) -> None:
        self.context = context
        self._threads = threads
        self.parameters: dict[str, int] = {}
        self._to_export: list[tuple[str, str, nn.Module]] = []  # type of model, place, model
        self._exported: set[str] = set()

    @cached_property
    def batch(self) -> Batch:
        """Return two training samples, on the device of the run."""
        return example_batch(self.context)

    @cached_property
    def student(self) -> nn.Module:
        """Return the student.

        Raises:
            InputError: The student cannot be built, does not fit the data, or cannot be exported.
        """
        if self.context.recipe.student is None:  # it starts from the teacher
            # A teacher that was connected before is frozen.
            return copy.deepcopy(self.teachers[0]).requires_grad_(True)
        return self._model(self.context.recipe.student, "student")

    @cached_property
    def teachers(self) -> list[nn.Module]:
        """Return the teachers, with the weights of the recipe.

        Raises:
            InputError: A teacher cannot be built, does not fit the data, or cannot be exported.
        """
        specs = self.context.recipe.teachers
        places = ["teacher"] if len(specs) == 1 else [f"teacher.{n}" for n in range(len(specs))]
        pairs = zip(specs, places, strict=True)
        return gathered([partial(self._model, spec, place) for spec, place in pairs])

    def replace(self, role: str, model: nn.Module) -> None:
        """Replace a model by one that a stage changed, for later stages."""
        if role == "student":
            self.student = model
        else:
            self.teachers[0] = model

    def _model(self, spec: ModelSpec, where: str) -> nn.Module:
        import torch

        context = self.context
        try:
            notes: list[str] = []
            model = context.build(spec, seed=context.seed, notes=notes).eval()
            check_copies(model)
        except InputError as error:
            raise InputError(*(of_model(problem, where) for problem in error.problems)) from error
        _has_a_head(context, spec, model, where)
        self.parameters[where] = sum(one.numel() for one in model.parameters())
        if self._threads is not None and self.parameters[where] >= EXPORTED:
            torch.set_num_threads(self._threads)
        for note in notes:
            context.progress.log(f"{where}: {note}")
        _answers(context, model, where)
        _invariant(context, model, where)
        _returns_what_it_states(context, spec, model, where)
        # limbeck's own models export; each of the user's models is tried, and of a library's one
        # of each type, where that takes seconds.
        if spec.source == "python":
            self._to_export.append((where, where, model))
        elif spec.source != "limbeck" and self.parameters[where] < EXPORTED:
            self._to_export.append((_type_of(spec), where, model))
        return model.to(context.accelerator.device)

    def export_student(self, path: Path) -> None:
        """Export the student, changed or not, to an ONNX file; its type is not tried again.

        Raises:
            InputError: The student cannot be exported.
        """
        _export(self.context, self.student, path, "student")
        spec = self.context.recipe.student or self.context.recipe.teachers[0]
        self._exported.add(_type_of(spec))
        self._exported |= {kind for kind, _, model in self._to_export if model is self.student}

    def try_exports(self) -> None:
        """Export the smallest model of each type that no stage has exported.

        Raises:
            InputError: Models cannot be exported; all of them at once.
        """
        smallest: dict[str, tuple[str, nn.Module]] = {}
        for kind, where, model in sorted(
            self._to_export, key=lambda entry: self.parameters[entry[1]]
        ):
            if kind not in self._exported:
                smallest.setdefault(kind, (where, model))

        def try_export(where: str, model: nn.Module) -> None:
            self.context.progress.log(f"{where}: trying the export")
            with tempfile.TemporaryDirectory() as folder:
                _export(self.context, model, Path(folder) / "model.onnx", where)

        gathered([partial(try_export, where, model) for where, model in smallest.values()])


def dry_run(context: Context) -> DryRun:
    """Dry-run every stage of a recipe, without training.

    Small models run on one thread: threads that wait for each other take longer than the work.

    Returns:
        The built models.

    Raises:
        InputError: A stage would fail; the problems of all stages at once.
    """
    import torch

    problems = [*_batch_fits(context), *_budget_fits(context)]
    fits = not problems
    if fits:
        problems += check_models(context.recipe, context.data).problems
    trial = DryRun(context, threads=torch.get_num_threads())
    with threads(1):
        for where, stage in _stages(context) if fits else ():
            try:
                stage.dry_run(trial, where=where)
            except InputError as error:
                problems += [problem for problem in error.problems if problem not in problems]
        try:
            trial.try_exports()
        except InputError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise InputError(*problems)
    return trial


def _stages(context: Context) -> Iterator[tuple[str, Stage]]:
    from limbeck.pipeline.stages.load import Load

    stages = context.recipe.parsed_stages()
    if loads_teacher(context.recipe, stages):
        yield "teacher", Load()
    paths = stage_paths([name for name, _ in stages])
    yield from zip(paths, (stage for _, stage in stages), strict=True)


def example_batch(context: Context, *, of_validation: bool = False) -> Batch:
    """Return two training samples, or validation samples, on the device of the run."""
    split = context.data.validation if of_validation else context.data.train
    batch: Batch = split.__getitems__([0, len(split) - 1] if of_validation else [0, 1])
    return {name: tensor.to(context.accelerator.device) for name, tensor in batch.items()}


def _batch_fits(context: Context) -> list[Problem]:
    """Check that the data fits the task, such as images for an image task."""
    given = sorted(context.data.train.__getitems__([0]).keys() - NOT_INPUTS)
    wanted = context.task.inputs
    if all(name in given for name in wanted):
        return []
    allowed = f"a task for data that gives {', '.join(given)}"
    fix = f"The task takes {', '.join(wanted)}: choose another, or other `data`."
    return [Problem("task", context.recipe.task, allowed, fix)]


def _budget_fits(context: Context) -> list[Problem]:
    """Check that the task has the budget's scores for these data, such as entities for an F1."""
    names, budget = [one.metric.name for one in context.task.scores], context.recipe.budget
    return [
        Problem(f"budget.{key}", name, f"scores of these data: {', '.join(names)}")
        for key, limits in (("score", budget.score), ("drop", budget.drop))
        for name in limits
        if name not in names
    ]


def _answers(context: Context, model: nn.Module, where: str) -> None:
    import torch

    batch = {name: tensor.cpu() for name, tensor in example_batch(context).items()}
    try:
        with torch.no_grad():
            logits = primary_output(context.task, model.cpu(), batch)
            shape = tuple(logits.shape)
        if logits.dtype in (torch.float16, torch.bfloat16):
            fix = "Remove the cast of the model's forward pass: `precision` sets one for training."
            given = f"logits of {str(logits.dtype).removeprefix('torch.')}"
            raise InputError(Problem(where, given, "logits of float32", fix))
        check_modes(model, context.task, batch)
    except InputError as error:
        raise InputError(*(of_model(problem, where) for problem in error.problems)) from error
    # The model is third-party code, and raises errors of many types.
    except Exception as error:
        first = str(error).strip().splitlines()[:1] or [""]
        shapes = {name: tuple(batch[name].shape) for name in context.task.inputs}
        fix = f"It raised {type(error).__name__}: {first[0]}"
        raise InputError(
            Problem(where, shapes, "a batch that the model can answer", fix)
        ) from error
    expected = (2, len(context.data.outputs))
    # Other tasks check the shape of what they flatten themselves.
    if context.task.element == SAMPLE and shape != expected:
        given = f"answers of shape {shape} to two samples"
        kind = "classes" if context.data.classes else "targets"
        allowed = f"{expected}: the data has {expected[1]} {kind}"
        raise InputError(Problem(where, given, allowed, f"Change the model, or `data.{kind}`."))


def _has_a_head(context: Context, spec: ModelSpec, model: nn.Module, where: str) -> None:
    """Raise if a teacher has freshly initialised parameters and is not trained in the recipe."""
    fresh = getattr(model, "fresh_parameters", ()) or spec.loading.skip
    if spec.loading.head == "fresh":
        fresh = (*fresh, "the head (loading.head: fresh)")
    if not fresh or where == "student" or trains_teacher(context.recipe):
        return
    shown = ", ".join(fresh[:8]) + (", ..." if len(fresh) > 8 else "")
    given = f"a model without a trained head: its weights have nothing for {shown}"
    fix = "Train it by a `train_teacher` stage, or give weights of a model that classifies."
    raise InputError(Problem(where, given, "a teacher with all of its weights", fix))


def _returns_what_it_states(
    context: Context, spec: ModelSpec, model: nn.Module, where: str
) -> None:
    """Raise if a model returns probabilities instead of the stated logits, or the reverse."""
    rows = context.data.validation
    batch = rows.__getitems__(rows.spread(COMPANY))
    inputs = {name: batch[name] for name in context.task.inputs}

    def run() -> Tensor:
        return primary_output(context.task, model, inputs)

    check_output_type(model, run, output_type=spec.output_type, where=where)


def _invariant(context: Context, model: nn.Module, where: str) -> None:
    """Raise if a model's prediction for a row depends on other rows, calls or random numbers."""
    from limbeck.export.invariance import check_invariance
    from limbeck.export.predictor import TorchPredictor

    rows = context.data.validation
    batch = rows.__getitems__(rows.spread(COMPANY))
    inputs = {name: batch[name] for name in context.task.inputs}
    task = context.task
    predictor = TorchPredictor(model, task)
    check_invariance(
        predictor, inputs, where=where, model=model, kinds=task.kinds, axes=task.inputs
    )


def _type_of(spec: ModelSpec) -> str:
    return f"{spec.source} {spec.name or spec.path}"


def _export(context: Context, model: nn.Module, path: Path, where: str) -> None:
    try:
        export(context, model, path)
    except LimbeckError as error:
        given, allowed = type(model).__name__, "a model that ONNX and ONNX Runtime can run"
        # The file is temporary, and was written under another name.
        reason = re.sub(rf"{re.escape(str(path.parent))}/\S+: ", "", str(error))
        raise InputError(Problem(where, given, allowed, reason)) from error
