"""What a stage works with: recipe, data, task, a folder of its own, somebody who watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from limbeck.evaluate.accuracy import accuracy
from limbeck.evaluate.fidelity import parity
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import Answers, OnnxPredictor, TorchPredictor, answers
from limbeck.models.build import build
from limbeck.pipeline.candidate import Artefact, Role
from limbeck.pipeline.watch import Watch
from limbeck.training import Ticker

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from limbeck.data.load import Data
    from limbeck.data.split import Split
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.recipe import Recipe
    from limbeck.tasks import Batch, Task

T = TypeVar("T")

EVALUATION_BATCH = 256
PARITY_TOLERANCE = 1e-3


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

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files."""
        return bool(self.accelerator.is_main_process)

    @property
    def fit(self) -> dict[str, int]:
        """What a model has to fit: how many classes, and channels or tokens."""
        return {"classes": len(self.data.classes), **self.data.preprocess.model_inputs()}

    def within(self, name: str) -> Context:
        """Give the same context with a folder inside this one."""
        return replace(self, folder=self.folder / name)

    def ticker(self, what: str) -> Ticker:
        """Give a progress bar for something that takes a while."""
        return self.watch.ticker(what)

    def build(self, spec: ModelSpec, *, seed: int, weights: Path | None = None) -> nn.Module:
        """Build a model for this data: from a seed, or with weights that a stage saved."""
        from accelerate.utils import set_seed

        from limbeck.export.weights import load_weights

        set_seed(seed)
        model = build(spec, **self.fit)
        if weights is not None:
            load_weights(model, weights)
        return model

    def batches(self, split: Split) -> Iterator[Batch]:
        """Go through a split once, in order, unchanged."""
        return split.batches(EVALUATION_BATCH)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Measure a model on the validation samples with the task's metrics, in evaluation mode."""
        import torch

        metrics = self.task.metrics().to(self.accelerator.device)
        model.eval()
        with torch.no_grad():
            for batch in self.batches(self.data.validation):
                batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
                response = self.task.respond(model, batch)
                metrics.update(response.outputs["logits"], response.labels)
        return {name: float(value) for name, value in metrics.compute().items()}

    def once(self, work: Callable[[], T]) -> T:
        """Do something in the first process only, and give every process what came of it."""
        if self.accelerator.num_processes == 1:
            return work()
        from accelerate.utils import broadcast_object_list

        results = [work() if self.main else None]
        broadcast_object_list(results)
        return cast("T", results[0])

    def publish(
        self, model: nn.Module, *, role: Role, label: str, weights: tuple[str, ...]
    ) -> Artefact:
        """Export a model to `model.onnx` in this folder, and measure that file on validation."""
        return self.once(lambda: self._publish(model, role=role, label=label, weights=weights))

    def _publish(
        self, model: nn.Module, *, role: Role, label: str, weights: tuple[str, ...]
    ) -> Artefact:
        model = model.cpu().eval()
        example = self.data.validation.__getitems__([0, 1])
        to_onnx(model, self.task, example, self.folder / "model.onnx")
        exported = self.answers(self.folder / "model.onnx")
        reference = answers(TorchPredictor(model, self.task), self.batches(self.data.validation))
        return self.artefact(
            role=role,
            label=label,
            weights=weights,
            exported=exported,
            parity=parity(reference, exported, tolerance=PARITY_TOLERANCE),
        )

    def answers(self, path: Path) -> Answers:
        """Ask an exported file about the validation samples."""
        return answers(OnnxPredictor(path), self.batches(self.data.validation))

    def artefact(self, *, exported: Answers, **fields: Any) -> Artefact:
        """Describe `model.onnx` in this folder, given what it answers on validation."""
        return Artefact(file="model.onnx", validation_accuracy=accuracy(exported).value, **fields)
