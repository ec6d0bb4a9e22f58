"""Train with both trainers in one or two processes, and write the parameters to a folder."""

import os
import sys
from pathlib import Path

import lightning
import test_lightning
import test_transformers
import torch
import transformers
from torch.utils.data import DataLoader, TensorDataset

from limbeck.integrations.lightning import DistillationModule
from limbeck.integrations.transformers import DistillationTrainer
from limbeck.objective import Objective

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
FOLDER = Path(sys.argv[1])


def with_transformers(student, teacher, rows, objective):
    args = transformers.TrainingArguments(
        output_dir=str(FOLDER / "out"),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        optim="adamw_torch",
        per_device_train_batch_size=4 // WORLD,
        max_steps=3,
        save_strategy="no",
        train_sampling_strategy="sequential",
    )
    DistillationTrainer(student, teacher, args, train_dataset=rows, objective=objective).train()


def with_lightning(student, teacher, rows, objective):
    module = DistillationModule(student, teacher, objective, optimizer=test_lightning.SGD)
    lightning.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp",
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
    ).fit(module, DataLoader(rows, batch_size=12 // WORLD))  # one step, in any order of rows


images = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
labelled = TensorDataset(images, torch.arange(12) % 3)
runs = {
    "language": (
        with_transformers,
        test_transformers.language_model,
        test_transformers.texts,
        None,
    ),
    "features": (with_transformers, test_transformers.classifier, test_transformers.classified, 0),
    "lightning": (with_lightning, test_lightning.net, lambda _: labelled, 1),
}
features = (test_transformers.FEATURES, test_lightning.FEATURES)
for name, (train, build, rows_of, terms) in runs.items():
    student, teacher = build(0), build(1, width=32)
    objective = Objective(features[terms]) if terms is not None else None
    torch.manual_seed(RANK)  # connectors must not depend on it
    train(student, teacher, rows_of(12), objective)
    trained = [student, *([] if objective is None else [objective.connectors])]
    if RANK == 0:
        torch.save(test_lightning.parameters(*trained), FOLDER / name)
