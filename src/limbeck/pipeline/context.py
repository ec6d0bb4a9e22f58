"""Context of a stage: recipe, data, task, folder and progress reporter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from limbeck.compress.method import Change, apply
from limbeck.data.preprocess import Preprocess
from limbeck.export.predictor import Predictions
from limbeck.models.build import build
from limbeck.models.spec import Normalization
from limbeck.pipeline.candidate import Role, State
from limbeck.pipeline.progress import ProgressReporter

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from limbeck.data.load import Data
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.recipe import Recipe
    from limbeck.tasks import Task

T = TypeVar("T")

# Far apart, so that models of different runs, numbers and generations never have the same seed.
_APART, _GENERATION = 1_000_003, 7_000_003


def normalization_of_data(preprocess: Preprocess) -> Normalization | None:
    """Return the channel statistics by which the data is normalised; None if there are none."""
    found = preprocess.statistics
    return None if found is None else Normalization(mean=found.mean, std=found.std)


@dataclass(frozen=True)
class Context:
    """The context of a stage, for one seed.

    Attributes:
        recipe: The whole recipe.
        data: Training, validation and test samples; no stage touches the test samples.
        task: The task of the data.
        seed: The seed of this run.
        folder: The stage's output folder.
        run: The folder of this seed's run, which contains `student/`.
        teacher_cache: The folder of cached teacher outputs, shared between runs.
        key: The hash of all inputs of the stage.
        accelerator: Device and processes.
        progress: The progress reporter.
        resume: Whether to resume from a checkpoint.
        tested: Test predictions of the newest teacher and student, if computed in this process;
            shared by all contexts of a seed.
    """

    recipe: Recipe
    data: Data
    task: Task
    seed: int
    folder: Path
    run: Path
    teacher_cache: Path
    key: str
    accelerator: Accelerator
    progress: ProgressReporter
    resume: bool
    tested: dict[Role, Predictions] = field(default_factory=dict)

    @property
    def main(self) -> bool:
        """Return whether this process writes files."""
        return bool(self.accelerator.is_main_process)

    @property
    def fit(self) -> dict[str, Any]:
        """Return what a model must fit: the classes, and channels, tokens or features."""
        return {
            "classes": len(self.data.outputs),
            "class_names": self.data.classes,
            "normalization": normalization_of_data(self.data.preprocess),
            "element": self.task.element,
            **self.data.preprocess.model_inputs(),
        }

    @property
    def student_spec(self) -> ModelSpec:
        """Return the specification of the student."""
        if self.recipe.student_spec is None:  # ensured by the recipe's own validation
            raise ValueError("a stage that works on a student, without one")
        return self.recipe.student_spec

    @property
    def where(self) -> str:
        """Return the stage's folder relative to the run, for messages."""
        inside = self.folder.is_relative_to(self.run)
        return self.folder.relative_to(self.run).as_posix() if inside else self.folder.name

    def seed_of(self, number: int = 0, *, generation: int = 0) -> int:
        """Return the seed of one of several models; that of the first is the run's."""
        return self.seed + _APART * number + _GENERATION * generation

    def within(self, name: str) -> Context:
        """Return the same context with a subfolder."""
        return replace(self, folder=self.folder / name)

    def build(
        self,
        spec: ModelSpec,
        *,
        seed: int,
        weights: Path | None = None,
        changes: Sequence[Change] = (),
        notes: list[str] | None = None,
    ) -> nn.Module:
        """Build a model for this data, with fresh weights from a seed or with saved weights.

        Args:
            spec: The model's specification in the recipe.
            seed: Seed of fresh weights.
            weights: A file of saved weights.
            changes: Structural changes made before these weights were saved.
            notes: A list to which notes on weights not loaded, or loaded in another precision, are
                appended.
        """
        from accelerate.utils import set_seed

        from limbeck.export.weights import load_weights

        set_seed(seed)
        model = build(spec, **self.fit, notes=notes)
        apply(model, changes)
        if weights is not None:
            load_weights(model, weights)
        return model

    def restore(self, spec: ModelSpec, state: State, *, generation: int = 0) -> nn.Module:
        """Build a model in its saved state, or with fresh weights if there is none."""
        weights = state.weights[0] if state.weights else None
        seed = self.seed_of(generation=generation)
        return self.build(spec, seed=seed, weights=weights, changes=state.changes)

    def on_main_process(self, work: Callable[[], T]) -> T:
        """Run a function in the first process only, and return its result in every process."""
        if self.accelerator.num_processes == 1:
            return work()
        from accelerate.utils import broadcast_object_list

        results = [work() if self.main else None]
        broadcast_object_list(results)
        return cast("T", results[0])
