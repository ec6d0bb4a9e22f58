"""Teachers of a recipe, as a `Teacher` for training and as an exported file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from limbeck.core import fingerprint
from limbeck.pipeline.artefacts import EVALUATION_BATCH, publish
from limbeck.pipeline.candidate import Artefact, State
from limbeck.pipeline.context import Context
from limbeck.pipeline.results import versions
from limbeck.targets import Layout, PackedLayout, Targets
from limbeck.tasks import SAMPLE
from limbeck.teachers import CachedTeacher, EnsembleTeacher, FrozenTeacher, TargetForm, Teacher

if TYPE_CHECKING:
    from limbeck.models.spec import ModelSpec
    from limbeck.tasks import Batch, Kind, Task

FILE = "model.safetensors"
BATCH_TOKENS = 4096
"""The most tokens of a batch of sequences whose answers are recorded."""


class EnsembleModule(nn.Module):
    """An ensemble as one module, for export and measurement.

    Args:
        members: The models, all over the same classes.
        task: The task, which runs them.
    """

    def __init__(self, members: Iterable[nn.Module], task: Task) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._task = task

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor | dict[str, Tensor]:
        """Compute the members' mean of every output: a tensor, or several by name."""
        batch: Batch = dict(zip(self._task.inputs, inputs, strict=False)) | named
        members = [self._task.raw_outputs(member, batch) for member in self.members]
        means = {
            name: _mean([one[name] for one in members], kind)
            for name, kind in self._task.kinds.items()
        }
        return means if len(means) > 1 else next(iter(means.values()))


def _mean(outputs: Sequence[Tensor], kind: Kind) -> Tensor:
    """Compute the logarithm or the logit of the mean probability, or the mean value."""
    if kind == "binary":
        return torch.logit(torch.stack([one.sigmoid() for one in outputs]).mean(0), eps=1e-7)
    if kind != "categorical":
        return torch.stack(list(outputs)).mean(0)
    mean = torch.stack([one.softmax(1) for one in outputs]).mean(0)
    # Far below float32's resolution of a probability, far above where its logarithm overflows.
    return mean.clamp(min=1e-30).log()


def member_files(count: int) -> tuple[str, ...]:
    """Return the weight files of a number of teachers within a stage's folder.

    Example:
        >>> member_files(2)
        ('member-0/model.safetensors', 'member-1/model.safetensors')
    """
    return (FILE,) if count == 1 else tuple(f"member-{number}/{FILE}" for number in range(count))


def publish_teacher(context: Context, state: State) -> Artefact:
    """Export the teachers as an ensemble, and evaluate it on validation."""
    models = teacher_models(context, state, context.recipe.teachers)
    model = models[0] if len(models) == 1 else EnsembleModule(models, context.task)
    label = "teacher" if len(models) == 1 else f"ensemble of {len(models)}"
    return publish(context, model, role="teacher", label=label, weights=(), changes=state.changes)


def teacher_of(
    context: Context,
    state: State,
    specs: Sequence[ModelSpec],
    *,
    taps: Sequence[str],
    targets: TargetForm | None = None,
) -> Teacher:
    """Build the teacher for a distillation."""
    models = [
        model.to(context.accelerator.device) for model in teacher_models(context, state, specs)
    ]
    return members_as_one(context, models, taps=taps, targets=targets)


def members_as_one(
    context: Context,
    models: Sequence[nn.Module],
    *,
    taps: Sequence[str],
    targets: TargetForm | None = None,
) -> Teacher:
    """Build one teacher from one or several models; an ensemble has no features to tap."""
    if len(models) == 1:
        return FrozenTeacher(models[0], context.task, taps, targets=targets or "dense")
    return EnsembleTeacher([FrozenTeacher(model, context.task) for model in models])


def teacher_models(context: Context, state: State, specs: Sequence[ModelSpec]) -> list[nn.Module]:
    """Build the teachers in their saved state, whatever they started from."""
    return [
        context.build(
            spec.model_copy(update={"checkpoint": None}),
            seed=0,
            weights=path,
            changes=state.changes,
        )
        for spec, path in zip(specs, state.weights, strict=True)
    ]


def check_recordable(context: Context) -> None:
    """Raise if outputs would be cached for images with new augmentation in every epoch.

    Raises:
        InputError: Augmentation has no stated number of views.
    """
    from limbeck.data.cache import key_of

    key_of(context.data, teacher="")


def cached_teacher(context: Context, teacher: Teacher, specs: Sequence[ModelSpec]) -> CachedTeacher:
    """Open the cache of this teacher's outputs, and fill it if needed."""
    from limbeck.data.cache import TeacherCache, key_of

    train = context.data.train
    train.set_seed(context.seed)
    key = key_of(context.data, teacher=_fingerprint(teacher, specs))
    batch = train.__getitems__(train.spread(2))  # with the longest sequence
    found, batch_size = _targets(context, teacher, batch), EVALUATION_BATCH
    layout: Layout | PackedLayout = Layout.of(found, samples=len(batch["index"]))
    if context.task.element != SAMPLE and train.lengths is not None:
        layout = PackedLayout.of(found)
        batch_size = max(1, min(batch_size, BATCH_TOKENS // int(train.lengths.max())))
    store = TeacherCache(
        context.teacher_cache / fingerprint.of_json([key, layout.plain()])[:16],
        key=key,
        rows=len(train),
        views=train.views or 1,
        layout=layout,
        kept=lambda batch: {name: one > 0 for name, one in context.task.weights(batch).items()},
    )
    if context.main and not store.complete:
        context.progress.log(f"caching the teacher's predictions in {store.folder}")
        progress_bar = context.progress.progress_bar("caching the teacher")
        store.record(
            lambda batch: _targets(context, teacher, batch),
            train,
            batch_size=batch_size,
            progress=lambda done, total: progress_bar.update(done, total, "samples"),
        )
    context.accelerator.wait_for_everyone()
    if not store.complete:  # filled by another process
        return cached_teacher(context, teacher, specs)
    return CachedTeacher(store, fingerprint=teacher.fingerprint, task=context.task)


def _fingerprint(teacher: Teacher, specs: Sequence[ModelSpec]) -> str:
    """Hash what the cached outputs depend on: the models, their code, and their fit to the data."""
    settings = {"source", "name", "class_names", "normalization", "output_type", "output"}
    members = [spec.model_dump(mode="json", include=settings) for spec in specs]
    return fingerprint.of_json([teacher.fingerprint, members, fingerprint.of_code(), versions()])


def _targets(context: Context, teacher: Teacher, batch: Batch) -> Mapping[str, Targets]:
    device = context.accelerator.device
    return teacher.answer({name: tensor.to(device) for name, tensor in batch.items()}).targets
