"""A Trainer of transformers that distils: `DistillationTrainer`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.core.files import replacing
from limbeck.core.imports import require
from limbeck.errors import InputError, Problem
from limbeck.integrations._core import Distillation, logits_of
from limbeck.objective import Losses, TrainingSet
from limbeck.objective.objective import ObjectiveLike

if TYPE_CHECKING:
    from torch.optim import Optimizer

require("transformers", extra="text")
from accelerate.utils import DistributedType  # noqa: E402
from transformers import Trainer, TrainerCallback  # noqa: E402
from transformers.models.auto.modeling_auto import (  # noqa: E402
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

FILE = "objective.safetensors"
"""The file in a trainer's checkpoint with the connectors and other state of the objective."""


class DistillationTrainer(Trainer):
    """A `transformers.Trainer` whose loss is an `Objective` over a student and a frozen teacher.

    The batch's `labels` (−100 excludes an element) and `attention_mask` decide which elements
    count; causal language models are shifted once. An encoder-decoder model gets its decoder
    inputs from the labels, by its own start token, where the batch has none. The mean is over all
    elements of an optimiser step, so that gradient accumulation changes no gradient. The teacher is
    in evaluation mode, without gradient, and neither trained nor saved. Each term is logged as
    `NAME/raw` and `NAME/weighted`.

    For terms over features, connectors are built from the first training batch. Their parameters
    are in the optimiser, and their state is in the trainer's checkpoints, not in the saved model.
    `max_grad_norm` limits the norm over the student and the connectors together; with FSDP,
    DeepSpeed, and versions of transformers without `Trainer._clip_grad_norm`, of the student alone.

    Args:
        model: The student; as all arguments that are not listed here, of `transformers.Trainer`.
        teacher_model: The teacher; None if no term requires one.
        args: The training arguments.
        data_collator: The collator.
        train_dataset: The training set.
        eval_dataset: The evaluation set.
        processing_class: The tokenizer or processor. With a tokenizer, the vocabularies of teacher
            and student may be padded differently if every loss compares the common classes, as
            `divergence` does.
        objective: An `Objective`, the name of a method, a list of `Term`s, or a recipe's entries;
            default `hinton`.
        **kwargs: Further arguments of `transformers.Trainer`.

    Raises:
        InputError: An argument does not fit, or teacher and student do not fit each other.

    Source: Hinton, Vinyals and Dean 2015.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        teacher_model: nn.Module | None = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        objective: ObjectiveLike | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        vocabulary = len(processing_class) if hasattr(processing_class, "__len__") else 0
        decoder = _has_decoder(self.model)
        shift = not decoder and _shifts(self.model)
        self.distillation = Distillation(
            self.model,
            teacher_model,
            objective,
            shift=shift,
            decoder=decoder,
            least=vocabulary if shift or decoder else 0,
        )
        self._averaged = False
        self._check_settings()
        if self.distillation.teacher is not None:
            self._place(self.distillation.teacher.model)
        # The Trainer must not divide a mean over the whole step by the number of micro-batches.
        self.model_accepts_loss_kwargs = True
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self.add_callback(_ConnectorGradients(self))

    def _check_settings(self) -> None:
        """Check the settings of the Trainer that contradict an objective."""
        problems = []
        teacher = self.distillation.teacher
        if teacher is not None and _has_decoder(teacher.model) != _has_decoder(self.model):
            allowed = "two encoder-decoder models, or none"
            problems.append(Problem("teacher_model", type(teacher.model).__name__, allowed))
        if self.distillation.has_features and _has_decoder(self.model):
            # The mask of a batch is the encoder's: decoder features would count padding.
            allowed = "terms over logits, for an encoder-decoder model"
            problems.append(Problem("objective", "terms over features", allowed))
        if self.args.label_smoothing_factor or self.compute_loss_func is not None:
            where = "compute_loss_func" if self.compute_loss_func else "args.label_smoothing_factor"
            given = self.compute_loss_func or self.args.label_smoothing_factor
            fix = "Add a term to the objective."
            problems.append(Problem(where, given, "no loss besides the objective", fix))
        if self.distillation.has_features:
            if self.args.n_gpu > 1:
                fix = "Start with torchrun, or set CUDA_VISIBLE_DEVICES."
                allowed = "one GPU per process, for terms over features"
                problems.append(Problem("args", f"{self.args.n_gpu} GPUs", allowed, fix))
            if self.lr_scheduler is not None:
                fix = "Set lr_scheduler_type, or give the optimizer without a scheduler."
                allowed = "no scheduler for terms over features, whose connectors are added later"
                problems.append(Problem("optimizers", "a scheduler", allowed, fix))
        if problems:
            raise InputError(*problems)

    def _place(self, teacher: nn.Module) -> None:
        """Prepare the teacher for mixed precision, on this process's device."""
        self.accelerator.prepare_model(teacher, evaluation_mode=True)
        if not hasattr(teacher, "hf_device_map"):  # else the library that loaded it placed it
            teacher.to(self.args.device)
        config: Any = getattr(teacher, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False  # as the Trainer does for the student

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the objective, averaged over the elements of the optimiser step."""
        training = model.training
        self._connect(model, inputs)
        total = num_items_in_batch if training else None
        step = self.distillation.step(
            model,
            inputs,
            progress=min(1.0, self.state.global_step / max(1, self.state.max_steps)),
            total=None if total is None else torch.as_tensor(total, device=self.args.device),
        )
        # The gradients of processes are averaged, but the total is already over all of them.
        across = total is not None and self.args.average_tokens_across_devices
        scale = self.accelerator.num_processes if across else 1
        if training:
            self._record(step.losses, scale)
        loss = step.losses.total * scale
        if not return_outputs:
            return loss
        returned = step.returned
        return loss, returned if isinstance(returned, Mapping) else {"logits": logits_of(returned)}

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Tensor | None]:
        """Return the micro-batches of an optimiser step, and the number of their elements."""
        batches, _ = super().get_batch_samples(*args, **kwargs)
        self._steps += 1
        if not batches:
            return batches, None
        counts = [self.distillation.task.weight(batch).to(self.args.device) for batch in batches]
        total = torch.stack(counts).sum()
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.reduce(total, "sum")
        return batches, total

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Optimizer:
        """Build the optimiser, with the parameters of connectors."""
        if self.distillation.has_features and not self.distillation.connected:
            with torch.random.fork_rng(devices=[]):
                loader = self.get_train_dataloader()
                # Without accelerate's wrapper, whose state an unfinished iteration would change.
                batch = next(iter(getattr(loader, "base_dataloader", loader)))
            self._connect((args or (self.model,))[0], self._prepare_inputs(batch))
        optimizer: Optimizer = super().create_optimizer(*args, **kwargs)
        present = {id(one) for group in optimizer.param_groups for one in group["params"]}
        added = [one for one in self.distillation.modules.parameters() if id(one) not in present]
        if added:
            optimizer.add_param_group({"params": added, "weight_decay": self.args.weight_decay})
        return optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip the gradient of the student and the connectors; return the norm before."""
        connectors = list(self.distillation.modules.parameters())
        kind = self.accelerator.distributed_type
        if not connectors or kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            return super()._clip_grad_norm(model)
        self._average_connectors()
        parameters = [*model.parameters(), *connectors]
        return self.accelerator.clip_grad_norm_(parameters, self.args.max_grad_norm)

    def _average_connectors(self) -> None:
        """Average the gradients of connectors over processes, once per optimiser step."""
        if self.args.world_size == 1 or self._averaged:
            return
        for parameter in self.distillation.modules.parameters():
            # A process whose batch has no element with weight has no gradient.
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.accelerator.reduce(gradient, "mean")
        self._averaged = True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log values; those of training with the mean of each term, raw and weighted."""
        if "loss" in logs and self._sums:
            means = torch.stack(list(self._sums.values())) / max(1, self._steps)
            means = self.accelerator.reduce(means, "mean")
            logs |= dict(zip(self._sums, means.tolist(), strict=True))
            self._sums, self._steps = {}, 0
        super().log(logs, start_time)

    def _connect(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        if self.distillation.connected:
            return
        sized = hasattr(self.train_dataset, "__len__")
        training_set = TrainingSet(len(self.train_dataset)) if sized else None
        self.distillation.connect(model, batch, training_set)
        if self.args.world_size > 1:
            for tensor in self.distillation.objective.connectors.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)

    def _record(self, losses: Losses, scale: float) -> None:
        for name, term in losses.terms.items():
            for kind, value in term._asdict().items():
                key = f"{name}/{kind}"
                self._sums[key] = self._sums.get(key, 0.0) + value * scale

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = self.distillation.modules.state_dict()
        if state and self.args.should_save:
            with replacing(Path(output_dir) / FILE) as temporary:
                save_file({key: one.clone().contiguous() for key, one in state.items()}, temporary)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (Path(checkpoint) / FILE).is_file():
            self.distillation.load_state_dict(load_file(Path(checkpoint) / FILE))


class _ConnectorGradients(TrainerCallback):
    """The gradients of connectors, which are outside the model that the Trainer handles."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Average the gradients over processes."""
        self._trainer._average_connectors()

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Reset the gradients, as the Trainer does for the model."""
        self._trainer.distillation.objective.connectors.zero_grad()
        self._trainer._averaged = False


def _shifts(model: nn.Module) -> bool:
    """Return whether a model is a causal language model, whose labels are shifted by its loss."""
    unwrap = getattr(model, "get_base_model", None)  # of PEFT
    base = model if unwrap is None else unwrap()
    named = type(base).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return named or getattr(base, "loss_type", None) in ("ForCausalLM", "ForConditionalGeneration")


def _has_decoder(model: nn.Module) -> bool:
    """Return whether a model is an encoder-decoder model, whose labels are its decoder's."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
