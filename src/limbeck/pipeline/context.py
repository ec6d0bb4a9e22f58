"""What a stage works with: recipe, data, task, a folder of its own, somebody who watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from limbeck.compress.change import Change, apply
from limbeck.data.preprocess import ImagePreprocess, Preprocess
from limbeck.evaluate.accuracy import accuracy
from limbeck.evaluate.chance import chance_test
from limbeck.export.compact.files import pack
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import Answers, OnnxPredictor, TorchPredictor, answers
from limbeck.models.build import build
from limbeck.models.spec import Normalization
from limbeck.pipeline.candidate import Artefact, Role, State
from limbeck.pipeline.parity import PARITY, check_export
from limbeck.pipeline.watch import Watch
from limbeck.training import Ticker

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from limbeck.data.load import Data
    from limbeck.data.split import Split
    from limbeck.evaluate.fidelity import Parity
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.recipe import Recipe
    from limbeck.tasks import Batch, Task

T = TypeVar("T")


def normalization_of_data(preprocess: Preprocess) -> Normalization | None:
    """Return the channel statistics of pictures; None if the data is not pictures."""
    if not isinstance(preprocess, ImagePreprocess):
        return None
    return Normalization(mean=preprocess.mean, std=preprocess.std)


EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Context:
    """What a stage works with, on one seed.

    Attributes:
        recipe: The whole recipe.
        data: Training, validation and test samples; no stage touches the test samples.
        task: What a batch means.
        seed: The seed of this run.
        folder: Where the stage writes.
        run: The folder of this seed's run, in which `student/` lies.
        knowledge: Where recorded answers of teachers lie, shared between runs.
        key: The hash of all that the stage starts from.
        accelerator: Device and processes.
        watch: Who hears how far the stage has come.
        resume: Whether to go on from a checkpoint.
        tested: Predictions of the test samples by the newest teacher and student, if the
            examination computed them in this process; it is shared by all contexts of a seed.
    """

    recipe: Recipe
    data: Data
    task: Task
    seed: int
    folder: Path
    run: Path
    knowledge: Path
    key: str
    accelerator: Accelerator
    watch: Watch
    resume: bool
    tested: dict[Role, Answers] = field(default_factory=dict)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files."""
        return bool(self.accelerator.is_main_process)

    @property
    def fit(self) -> dict[str, Any]:
        """What a model has to fit: the classes, and channels, tokens or features."""
        return {
            "classes": len(self.data.classes),
            "class_names": self.data.classes,
            "normalization": normalization_of_data(self.data.preprocess),
            **self.data.preprocess.model_inputs(),
        }

    @property
    def small(self) -> ModelSpec:
        """What the student is built from."""
        if self.recipe.small is None:  # the recipe's own check has seen to it
            raise ValueError("a stage that works on a student, without one")
        return self.recipe.small

    @property
    def where(self) -> str:
        """The stage's folder as messages name it: relative to the run."""
        inside = self.folder.is_relative_to(self.run)
        return self.folder.relative_to(self.run).as_posix() if inside else self.folder.name

    def within(self, name: str) -> Context:
        """Give the same context with a folder inside this one."""
        return replace(self, folder=self.folder / name)

    def ticker(self, what: str) -> Ticker:
        """Give a progress bar for something that takes a while."""
        return self.watch.ticker(what)

    def build(
        self,
        spec: ModelSpec,
        *,
        seed: int,
        weights: Path | None = None,
        changes: Sequence[Change] = (),
        notes: list[str] | None = None,
    ) -> nn.Module:
        """Build a model for this data: from a seed, or with weights that a stage saved.

        Args:
            spec: What the recipe says about the model.
            seed: Decides fresh weights.
            weights: A file to fill it from.
            changes: What compressing did to its structure before these weights were saved.
            notes: A list that what was not loaded, or loaded in another precision, is added to.
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
        """Build a model as a stage saved it, or afresh from the seed if none did."""
        weights = state.weights[0] if state.weights else None
        return self.build(spec, seed=self.seed, weights=weights, changes=state.changes)

    def batches(self, split: Split) -> Iterator[Batch]:
        """Go through a split once, in order, unchanged."""
        return split.batches(EVALUATION_BATCH)

    def training_batches(self, samples: int) -> Iterator[Batch]:
        """Go through the first training samples as they are, without augmentation."""
        for batch in self.batches(self.data.train):
            yield {name: tensor[:samples] for name, tensor in batch.items()}
            samples -= len(batch["label"])
            if samples <= 0:
                return

    def validate(self, model: nn.Module, split: Split | None = None) -> dict[str, float]:
        """Measure a model with the task's metrics, in evaluation mode.

        Args:
            model: The model.
            split: The samples; those of validation if not given.
        """
        import torch

        metrics = self.task.metrics().to(self.accelerator.device)
        model.eval()
        with torch.no_grad():
            for batch in self.batches(split or self.data.validation):
                batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
                response = self.task.respond(model, batch)
                # What weighs nothing, such as padding, is not measured.
                counts = response.weights != 0
                metrics.update(response.outputs["logits"][counts], response.labels[counts])
        return {name: float(value) for name, value in metrics.compute().items()}

    def once(self, work: Callable[[], T]) -> T:
        """Do something in the first process only, and give every process what came of it."""
        if self.accelerator.num_processes == 1:
            return work()
        from accelerate.utils import broadcast_object_list

        results = [work() if self.main else None]
        broadcast_object_list(results)
        return cast("T", results[0])

    def save(self, model: nn.Module, name: str) -> None:
        """Write a model's weights into this folder, once for all processes."""
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
        """Export a model to `model.onnx` in this folder, and measure that file on validation."""
        facts = {"role": role, "label": label, "weights": weights, "changes": changes}
        return self.once(lambda: self._publish(model, **facts))

    def _publish(self, model: nn.Module, **facts: Any) -> Artefact:
        model = model.cpu().eval()
        path = self.folder / "model.onnx"
        self.export(model, path)
        pack(path)
        exported = self.answers(path)
        rounded = any(change["kind"] == "quantizers" for change in facts["changes"])
        parity = self.check_export(model, path, exported, rounded=rounded)
        return self.artefact(**facts, exported=exported, parity=parity)

    def check_export(
        self,
        model: nn.Module,
        path: Path,
        exported: Answers,
        *,
        tolerance: float = PARITY,
        rounded: bool = False,
    ) -> Parity:
        """Compare an exported file with its model on validation, and fail beyond the tolerance.

        Args:
            model: The torch model that the file was written from.
            path: The file.
            exported: What the file answers to the whole of validation.
            tolerance: The largest relative difference allowed.
            rounded: Whether activations are rounded on the way.

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
        """Write a model as an ONNX file, its weights as plain arrays."""
        to_onnx(model, self.task, self.data.validation.__getitems__([0, 1]), path)

    def answers(self, path: Path) -> Answers:
        """Ask an exported file about the validation samples."""
        return answers(OnnxPredictor(path), self.batches(self.data.validation))

    def artefact(self, *, exported: Answers, **fields: Any) -> Artefact:
        """Describe `model.onnx` in this folder, given what it answers on validation."""
        return Artefact(
            file="model.onnx",
            validation_accuracy=accuracy(exported).value,
            chance=chance_test(exported),
            **fields,
        )
