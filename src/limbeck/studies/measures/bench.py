"""What the measures share: small data sets, models, trainings, teachers that are trained once."""

from __future__ import annotations

import importlib
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from sklearn import datasets as sklearn_datasets
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from limbeck.core.modules import evaluating
from limbeck.data.files import resolve
from limbeck.errors import check_choice
from limbeck.evaluate import metrics
from limbeck.evaluate.calibration.metrics import equal_mass, expected_calibration_error, top
from limbeck.models.sources.limbeck import file_of_net
from limbeck.objective import Objective, TrainingSet
from limbeck.objective.objective import ObjectiveLike
from limbeck.schemes import Offline
from limbeck.targets import DenseTargets
from limbeck.tasks import TASKS, Task
from limbeck.teachers import CachedTeacher, FrozenTeacher
from limbeck.training import Training, fit

Spec = Mapping[str, Any]
"""A model as in a recipe: `{name: digits_cnn, width: 8}`."""

LABELLED = "labelled"
SPLIT_SEED = 0  # one split for all seeds, so that these differ by training alone


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs `[n, ...]` and labels `[n]` of samples."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor | Sequence[int]) -> Split:
        """Return the samples of some rows."""
        index = torch.as_tensor(rows)
        return Split(self.inputs[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Data:
    """A data set: training and test samples, the number of classes, and the task."""

    train: Split
    test: Split
    task: Task

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return len(self.task.classes)

    def with_rows(self, rows: int | None, *, seed: int = 0) -> Data:
        """Return the data with some training samples, stratified by class; all if None."""
        if rows is None or rows >= len(self.train):
            return self
        return replace(self, train=self.train.take(chosen_rows(self.train.labels, rows, seed)))


def chosen_rows(labels: Tensor, count: int, seed: int) -> Tensor:
    """Return `count` rows, stratified by label, in order."""
    rows = np.arange(len(labels))
    kept, _ = train_test_split(rows, train_size=count, stratify=labels, random_state=seed)
    return torch.from_numpy(np.sort(kept))


@cache
def data(name: str) -> Data:
    """Load a data set: `digits`, `breast_cancer`, `wine`, `fashion_mnist`, `cifar10`, `cifar100`.

    The first three come with scikit-learn; a third of their rows are test samples, stratified.
    The others are read from the folder `LIMBECK_DATA`, the training rows in a fixed random order.
    Pixels are in (0, 1); columns of tables have mean 0 and variance 1 over the training rows.

    Raises:
        InputError: There is no such data set, or its files are missing.
    """
    check_choice(name, list(_LOADERS), where="data")
    return _LOADERS[name]()


def _of_sklearn(name: str) -> Data:
    inputs, labels = getattr(sklearn_datasets, f"load_{name}")(return_X_y=True)
    rows = np.arange(len(labels))
    kept, held_out = train_test_split(
        rows, test_size=1 / 3, stratify=labels, random_state=SPLIT_SEED
    )
    x, y = torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)
    if name == "digits":
        x = x.div(16).reshape(-1, 1, 8, 8)
    else:
        x = (x - x[kept].mean(0)) / x[kept].std(0)
    task = "image_classification" if name == "digits" else "tabular_classification"
    everything = Split(x, y)
    return _data(everything.take(kept), everything.take(held_out), int(y.max()) + 1, task)


def _of_images(train: str, label: str, classes: int) -> Data:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]
    from PIL import Image

    folder = train.partition("/")[0]
    files = resolve({"train": train, "test": f"{folder}/test.parquet"})

    def split(paths: Sequence[Path]) -> Split:
        tables = [pq.read_table(path, columns=["image", label]) for path in paths]
        raw = [one for table in tables for one in table["image"].to_pylist()]
        pixels = [
            np.array(Image.open(io.BytesIO(one["bytes"] if isinstance(one, dict) else one)))
            for one in raw
        ]
        x = torch.from_numpy(np.stack(pixels)).float().div(255)
        x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
        labels = [one for table in tables for one in table[label].to_pylist()]
        return Split(x, torch.tensor(labels))

    first, second = split(files["train"]), split(files["test"])
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return _data(first.take(order), second, classes, "image_classification")


def _data(train: Split, test: Split, classes: int, task: str) -> Data:
    names = tuple(map(str, range(classes)))
    return Data(train, test, TASKS.load(task)(names))


_LOADERS: dict[str, Callable[[], Data]] = {
    "digits": lambda: _of_sklearn("digits"),
    "breast_cancer": lambda: _of_sklearn("breast_cancer"),
    "wine": lambda: _of_sklearn("wine"),
    "fashion_mnist": lambda: _of_images("fashion_mnist/train.parquet", "label", 10),
    "cifar10": lambda: _of_images("cifar10/train_*.parquet", "label", 10),
    "cifar100": lambda: _of_images("cifar100/train*.parquet", "fine_label", 100),
}


def build(spec: Spec, like: Data, *, seed: int) -> nn.Module:
    """Build a reference net for a data set, with weights drawn by the seed.

    A multilayer perceptron of images has the layer `0`, which flattens them, and the net as `1`.
    """
    arguments = dict(spec)
    name = str(arguments.pop("name"))
    module = importlib.import_module(f"limbeck.models.nets.{file_of_net(name).stem}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = like.train.inputs.shape[1:]
        flat = name == "tabular_mlp" and len(shape) > 1
        features = shape.numel() if flat else shape[0]
        net: nn.Module = getattr(module, name)(like.classes, features, **arguments)
    return nn.Sequential(nn.Flatten(), net) if flat else net


class _Recorded:
    """The logits of a teacher on the training samples, by sample."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits
        self.packed = False

    def lookup(self, index: Tensor, view: Tensor) -> dict[str, DenseTargets]:
        return {"logits": DenseTargets(self._logits[index])}


class _Samples:
    """Training samples as batches of named tensors, augmented by a function of batch and seed."""

    def __init__(
        self,
        split: Split,
        name: str,
        labelled: Tensor | None,
        augment: Callable[..., Tensor] | None,
    ) -> None:
        self._split, self._name, self._labelled, self._augment = split, name, labelled, augment

    def __len__(self) -> int:
        return len(self._split)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        index = torch.tensor(indices)
        found = self._split.take(index)
        inputs = found.inputs if self._augment is None else self._augment(found.inputs)
        batch = {self._name: inputs, "labels": found.labels}
        if self._labelled is not None:
            batch[LABELLED] = self._labelled[index]
        return {**batch, "index": index, "view": torch.zeros_like(index)}


def train(
    net: nn.Module,
    on: Data,
    objective: ObjectiveLike = "label_only",
    *,
    seed: int,
    teacher: nn.Module | Tensor | None = None,
    labelled: Tensor | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    after_step: Callable[[nn.Module, int], None] | None = None,
    **settings: Any,
) -> nn.Module:
    """Train a model in place by limbeck's loop, without selection by validation; return it.

    Args:
        net: The model.
        on: The data.
        objective: Terms, a method or an objective, as for `limbeck.distill`.
        seed: The seed of the sample order.
        teacher: A model, or its recorded logits `[training samples, classes]`.
        labelled: Which training samples have a label, `[n]` boolean; all if None. Terms on labels
            alone are then trained on these, for as many steps.
        augment: A function of a batch of inputs.
        after_step: Called with the model and the step after every optimiser step.
        settings: Settings of `limbeck.Training`, `epochs` or `steps` among them.
    """
    aim = Objective.of(objective)
    chosen = Training(**settings)
    split = on.train
    steps = chosen.steps or (chosen.epochs and chosen.epochs * -(-len(split) // chosen.batch_size))
    if labelled is not None and aim.needs_labels_only:
        split, labelled = split.take(labelled.nonzero().flatten()), None
    samples = _Samples(split, next(iter(on.task.inputs)), labelled, augment)
    probe = samples.__getitems__(list(range(min(8, len(samples)))))
    scheme = Offline(
        net,
        on.task,
        aim,
        teacher=_teacher(teacher, on.task),
        probe=probe,
        training_set=TrainingSet(samples=len(samples)),
    )
    if after_step is not None:
        hook = after_step
        scheme.after_step = lambda step: hook(net, step)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fit(
            scheme,
            train=samples,
            validate=lambda model: {"step": 0.0},
            settings=chosen.model_copy(
                update={"epochs": None, "steps": steps, "validate_every": steps}
            ),
            folder=Path(folder),
            seed=seed,
            accelerator=Accelerator(cpu=True),
        )
    return net.eval()


def _teacher(given: nn.Module | Tensor | None, task: Task) -> Any:
    if isinstance(given, Tensor):
        return CachedTeacher(_Recorded(given), fingerprint="study", task=task)
    return None if given is None else FrozenTeacher(given, task)


def logits(model: nn.Module, inputs: Tensor, *, batch: int = 512) -> Tensor:
    """Return a model's outputs `[n, classes]` in evaluation mode, without gradient."""
    with evaluating(model), torch.no_grad():
        return torch.cat([model(part) for part in inputs.split(batch)])


def ensemble(members: Sequence[Tensor]) -> Tensor:
    """Return the log of the mean probabilities of several models' logits."""
    return torch.stack([one.log_softmax(-1) for one in members]).logsumexp(0) - np.log(len(members))


_TEACHERS: dict[str, list[nn.Module]] = {}


def teachers(spec: Spec, on: Data, *, seed: int, key: str) -> list[nn.Module]:
    """Train the members of a teacher, or return those trained before in this process.

    Args:
        spec: A model, with `members` (1), `labelled` (rows with a label), `objective` and settings
            of the training beside its own arguments.
        on: The data.
        seed: The seed of the first member; the others have the next ones.
        key: The name of the data, which distinguishes teachers of equal settings.
    """
    place = f"{key} {seed} {sorted(spec.items(), key=str)}"
    if place not in _TEACHERS:
        arguments = dict(spec)
        members = int(arguments.pop("members", 1))
        count = arguments.pop("labelled", None)
        objective = arguments.pop("objective", "label_only")
        training = {k: arguments.pop(k) for k in list(arguments) if k in Training.model_fields}
        rows = None if count is None else mask(on, int(count), seed=seed)
        _TEACHERS[place] = [
            train(
                build(arguments, on, seed=1000 + 100 * seed + number),
                on,
                objective,
                seed=1000 + 100 * seed + number,
                labelled=rows,
                **{"epochs": 15, "learning_rate": 0.005, **training},
            )
            for number in range(members)
        ]
    return _TEACHERS[place]


def mask(on: Data, count: int, *, seed: int) -> Tensor:
    """Return which training samples keep their label: `count` of them, stratified."""
    found = torch.zeros(len(on.train), dtype=torch.bool)
    found[chosen_rows(on.train.labels, count, seed)] = True
    return found


def describe(found: Tensor, split: Split, teacher: Tensor | None = None) -> dict[str, float]:
    """Compute accuracy, loss, calibration, entropy, and the fidelity to a teacher's logits.

    Args:
        found: Logits `[n, classes]`.
        split: The samples.
        teacher: The teacher's logits on the same samples.

    Returns:
        `accuracy`, `loss` and `entropy` in nats, `ece` over 15 bins of equal mass, `confidence`;
        with a teacher `agreement` and `kl`, KL(teacher || student) in nats.
    """
    log_p = metrics.log_probabilities(found.double().numpy())
    labels = split.labels.numpy()
    confidence, right = top(log_p, labels)
    values = {
        "accuracy": float(right.mean()),
        "loss": float(metrics.losses(log_p, labels).mean()),
        "ece": float(expected_calibration_error(confidence, right, equal_mass(confidence))),
        "entropy": float(metrics.entropies(log_p).mean()),
        "confidence": float(confidence.mean()),
    }
    if teacher is not None:
        log_t = metrics.log_probabilities(teacher.double().numpy())
        values["agreement"] = float((log_p.argmax(1) == log_t.argmax(1)).mean())
        values["kl"] = float(metrics.divergences(log_t, log_p).mean())
    return values


def parameters(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(one.numel() for one in model.parameters())
