"""From the recipe's teachers to a `Teacher` that answers, and to a file that can be measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from limbeck import fingerprint
from limbeck.errors import InputError, Problem
from limbeck.pipeline.candidate import Artefact
from limbeck.pipeline.context import EVALUATION_BATCH, Context
from limbeck.teachers import EnsembleTeacher, FrozenTeacher, RecordedTeacher, Teacher

if TYPE_CHECKING:
    from limbeck.tasks import Batch, Task


class Committee(nn.Module):
    """Several models as one: the mean of their probabilities, so that an ensemble can be exported and measured."""

    def __init__(self, members: Iterable[nn.Module], task: Task) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._task = task

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Answer with the logarithm of the members' mean probability."""
        batch: Batch = dict(zip(self._task.inputs, inputs, strict=False)) | named
        logits = [self._task.outputs(member, batch)["logits"] for member in self.members]
        probabilities = sum(one.softmax(-1) for one in logits) / len(logits)
        # Far below float32's resolution of a probability, far above where its logarithm overflows.
        return probabilities.clamp(min=1e-30).log()


def publish_teacher(context: Context, weights: list[Path]) -> Artefact:
    """Export what the teachers say together, and measure it on validation."""
    models = _models(context, weights)
    model = models[0] if len(models) == 1 else Committee(models, context.task)
    label = "teacher" if len(models) == 1 else f"ensemble of {len(models)}"
    return context.publish(model, role="teacher", label=label, weights=())


def teacher_of(
    context: Context, weights: list[Path], *, taps: list[str], recorded: bool
) -> Teacher:
    """Make the teacher that answers during a distillation.

    Raises:
        InputError: Answers are to be recorded, but they would differ each epoch, or features are asked for.
    """
    models = [model.to(context.accelerator.device) for model in _models(context, weights)]
    members = [
        FrozenTeacher(model, context.task, taps if len(models) == 1 else ()) for model in models
    ]
    if taps and len(models) > 1:
        raise InputError(
            Problem(
                "objective",
                taps,
                "terms on answers only, with several teachers",
                "An ensemble has no one feature map.",
            )
        )
    teacher: Teacher = members[0] if len(members) == 1 else EnsembleTeacher(members)
    return _recorded(context, teacher, taps) if recorded else teacher


def _models(context: Context, weights: list[Path]) -> list[nn.Module]:
    specs = context.recipe.teachers
    return [
        context.build(spec.model_copy(update={"weights": None}), seed=0, weights=path)
        for spec, path in zip(specs, weights, strict=True)
    ]


def _recorded(context: Context, teacher: Teacher, taps: list[str]) -> RecordedTeacher:
    """Open the record of this teacher's answers, and fill it if nobody has yet."""
    from limbeck.data.knowledge import KnowledgeStore

    if taps:
        raise InputError(
            Problem(
                "recorded",
                taps,
                "terms on answers only",
                "Features are not recorded; set `recorded: false`.",
            )
        )
    train = context.data.train
    train.set_seed(context.seed)
    if train.views is None:
        raise InputError(
            Problem(
                "recorded",
                "augmentation that never repeats",
                "a stated number of views, since an answer belongs to one picture as it was augmented",
                "Give `data.augment.views: 4`, or set `recorded: false`.",
            )
        )
    key = {
        "teacher": teacher.fingerprint,
        "data": context.data.facts.fingerprint,
        "augment": None if train.augment is None else train.augment.model_dump(mode="json"),
        # What a view looks like depends on the seed; without augmentation there is but one, whatever the seed.
        "seed": None if train.augment is None else context.seed,
    }
    store = KnowledgeStore(
        context.knowledge / fingerprint.of_json(key)[:16],
        key=key,
        rows=len(train),
        views=train.views,
        classes=len(context.task.classes),
    )
    if context.main and not store.complete:
        device = context.accelerator.device

        def ask(batch: Batch) -> Tensor:
            on_device = {name: tensor.to(device) for name, tensor in batch.items()}
            logits: Tensor = teacher.answer(on_device).targets.logits
            return logits.float().cpu()

        ticker = context.ticker("recording the teacher")
        store.record(
            ask,
            train,
            batch_size=EVALUATION_BATCH,
            progress=lambda done, total: ticker.tick(done, total, "samples"),
        )
    context.accelerator.wait_for_everyone()
    return RecordedTeacher(store, fingerprint=teacher.fingerprint)
