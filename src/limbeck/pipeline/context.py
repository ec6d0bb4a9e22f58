"""Context of a stage: recipe, data, task, folder and progress reporter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from limbeck.compress.method import Change, apply
from limbeck.data.preprocess import ImagePreprocess, Preprocess
from limbeck.evaluate.chance import chance_test
from limbeck.evaluate.metrics import accuracy
from limbeck.export.compact.onnx import pack
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor, Predictions, TorchPredictor, predict
from limbeck.models.build import build
from limbeck.models.spec import Normalization
from limbeck.pipeline.candidate import Artefact, Role, State
from limbeck.pipeline.parity import PARITY, check_export
from limbeck.pipeline.progress import ProgressReporter
from limbeck.training import ProgressBar

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from limbeck.data.load import Data
    from limbeck.data.split import Split
    from limbeck.evaluate.metrics import Parity
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.recipe import Recipe
    from limbeck.tasks import Batch, Task

T = TypeVar("T")


def normalization_of_data(preprocess: Preprocess) -> Normalization | None:
    """Return the channel statistics of images; None for other data."""
    if not isinstance(preprocess, ImagePreprocess):
        return None
    return Normalization(mean=preprocess.mean, std=preprocess.std)


EVALUATION_BATCH = 256


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
            "classes": len(self.data.classes),
            "class_names": self.data.classes,
            "normalization": normalization_of_data(self.data.preprocess),
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

    def within(self, name: str) -> Context:
        """Return the same context with a subfolder."""
        return replace(self, folder=self.folder / name)

    def ticker(self, what: str) -> ProgressBar:
        """Return a progress bar."""
        return self.progress.ticker(what)

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

    def restore(self, spec: ModelSpec, state: State) -> nn.Module:
        """Build a model in its saved state, or with fresh weights if there is none."""
        weights = state.weights[0] if state.weights else None
        return self.build(spec, seed=self.seed, weights=weights, changes=state.changes)

    def batches(self, split: Split) -> Iterator[Batch]:
        """Iterate over a split once, in order, without augmentation."""
        return split.batches(EVALUATION_BATCH)

    def training_batches(self, samples: int) -> Iterator[Batch]:
        """Iterate over the first training samples, without augmentation."""
        for batch in self.batches(self.data.train):
            yield {name: tensor[:samples] for name, tensor in batch.items()}
            samples -= len(batch["labels"])
            if samples <= 0:
                return

    def validate(self, model: nn.Module, split: Split | None = None) -> dict[str, float]:
        """Compute the task's metrics of a model, in evaluation mode.

        Args:
            model: The model.
            split: The samples; validation by default.
        """
        import torch

        metrics = self.task.metrics().to(self.accelerator.device)
        model.eval()
        with torch.no_grad():
            for batch in self.batches(split or self.data.validation):
                batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
                response = self.task.respond(model, batch)
                # Positions of weight zero, such as padding, are excluded.
                counts = response.weights != 0
                metrics.update(response.outputs["logits"][counts], response.labels[counts])
        return {name: float(value) for name, value in metrics.compute().items()}

    def on_main_process(self, work: Callable[[], T]) -> T:
        """Run a function in the first process only, and return its result in every process."""
        if self.accelerator.num_processes == 1:
            return work()
        from accelerate.utils import broadcast_object_list

        results = [work() if self.main else None]
        broadcast_object_list(results)
        return cast("T", results[0])

    def save(self, model: nn.Module, name: str) -> None:
        """Write a model's weights into this folder, in the first process only."""
        from limbeck.export.weights import save_weights

        if self.main:
            save_weights(model.cpu(), self.folder / name)
        self.accelerator.wait_for_everyone()

    def publish(
        self,
        model: nn.Module,
        *,
        role: Role,
        label: str,
        weights: tuple[str, ...],
        changes: tuple[Change, ...] = (),
    ) -> Artefact:
        """Export a model to `model.onnx` in this folder, and evaluate the file on validation."""
        facts = {"role": role, "label": label, "weights": weights, "changes": changes}
        return self.on_main_process(lambda: self._publish(model, **facts))

    def _publish(self, model: nn.Module, **facts: Any) -> Artefact:
        model = model.cpu().eval()
        path = self.folder / "model.onnx"
        self.export(model, path)
        pack(path)
        exported = self.predict(path)
        rounded = any(change["kind"] == "quantizers" for change in facts["changes"])
        parity = self.check_export(model, path, exported, rounded=rounded)
        return self.artefact(**facts, exported=exported, parity=parity)

    def check_export(
        self,
        model: nn.Module,
        path: Path,
        exported: Predictions,
        *,
        tolerance: float = PARITY,
        rounded: bool = False,
    ) -> Parity:
        """Compare an exported file with its model on validation; raise beyond the tolerance.

        Args:
            model: The exported torch model.
            path: The file.
            exported: The file's predictions for the whole of validation.
            tolerance: The largest relative difference allowed.
            rounded: Whether the model rounds activations.

        Raises:
            InputError: The file differs from the model, or a prediction from file or model depends
                on more than its sample.
        """
        return check_export(
            TorchPredictor(model, self.task),
            OnnxPredictor(path),
            exported,
            split=self.data.validation,
            where=self.where,
            model=model,
            tolerance=tolerance,
            rounded=rounded,
        )

    def export(self, model: nn.Module, path: Path) -> None:
        """Export a model to an ONNX file, with masks and quantisers materialised."""
        to_onnx(model, self.task, self.data.validation.__getitems__([0, 1]), path)

    def predict(self, path: Path) -> Predictions:
        """Predict the validation samples with an exported file."""
        return predict(OnnxPredictor(path), self.batches(self.data.validation))

    def artefact(self, *, exported: Predictions, **fields: Any) -> Artefact:
        """Build the artefact of `model.onnx` in this folder from its validation predictions."""
        return Artefact(
            file="model.onnx",
            validation_accuracy=accuracy(exported).value,
            chance=chance_test(exported),
            **fields,
        )
