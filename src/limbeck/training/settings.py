"""Training settings: plain data, the same for every scheme."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from limbeck.errors import Problem, RefusedError

Share = Annotated[float, Field(ge=0, le=1)]


class Training(BaseModel):
    """The settings of the training loop: `epochs` or `steps`, and what has a default.

    Attributes:
        needs_length: Whether `epochs` or `steps` is required in every recipe.

    Example:
        >>> Training(epochs=5).batch_size
        64
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    needs_length: ClassVar[bool] = True

    epochs: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="Number of passes over the training samples; required without `steps`.",
        ),
    ] = None
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**12,
            description="In place of `epochs`: number of optimiser steps, for data of any length.",
        ),
    ] = None
    validate_every: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**12,
            description="Interval of validations in optimiser steps; by default an epoch, or a "
            "tenth of `steps` if the data has no length.",
        ),
    ] = None
    batch_size: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Samples per micro-batch, over all processes; a last batch of one sample "
            "is merged with the one before it, since it has no batch statistics.",
        ),
    ] = 64
    gradient_accumulation_steps: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Micro-batches per optimiser step; gradients are summed exactly.",
        ),
    ] = 1
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = 3e-3
    learning_rates: Annotated[
        dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0, le=1000)]],
        Field(
            max_length=100,
            description="Learning rates of parts of the model, by path or pattern, such as "
            "`{head: 0.01}`; the schedule is the same, and of several matches the last counts.",
        ),
    ] = {}
    layer_decay: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            description="Layer-wise learning-rate decay: each layer has this factor of the rate of "
            "the next one, in the order of definition; the head has the full rate.",
        ),
    ] = None
    freeze: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(
            max_length=1000,
            description="Paths or patterns of modules and parameters that are not trained; a batch "
            "normalisation inside of a frozen module is in evaluation mode.",
        ),
    ] = ()
    momentum: Annotated[float, Field(ge=0, lt=1, description="For sgd; Nesterov momentum.")] = 0.9
    weight_decay: Annotated[
        float,
        Field(
            ge=0,
            le=1000,
            description="For matrices and kernels, not for biases and norms.",
        ),
    ] = 0.0
    warmup_ratio: Annotated[
        Share, Field(description="Share of the steps with linear warm-up from 0.")
    ] = 0.1
    lr_schedule: Annotated[
        Literal["cosine", "linear", "constant", "step"],
        Field(
            description="The learning rate after warm-up: cosine or linear decay to 0, constant, "
            "or divided by 10 at each of `milestones`."
        ),
    ] = "cosine"
    milestones: Annotated[
        tuple[Share, ...],
        Field(
            max_length=100,
            description="With `step`: shares of the training, by default epochs 150, 180 and 210 "
            "of 240 (Tian et al. 2020).",
        ),
    ] = (0.625, 0.75, 0.875)
    max_grad_norm: Annotated[
        float | None,
        Field(
            gt=0, le=1e12, description="Gradient clipping: the largest norm of the whole gradient."
        ),
    ] = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: Annotated[bool, Field(description="Compile the student with torch.compile.")] = False
    ema_decay: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="Decay of the exponential moving average (EMA) whose weights are kept.",
        ),
    ] = None
    patience: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="Early stopping: the number of validations without a better score.",
        ),
    ] = None
    keep: Annotated[
        Literal["best", "last"],
        Field(description="Keep the weights of the best validation, or of the last step."),
    ] = "best"
    num_workers: Annotated[
        int | None,
        Field(
            ge=0,
            le=256,
            description="Data loader processes; 0 loads in the training loop. By default 0; for "
            "images that are decoded on demand, one per processor but one, at most 8.",
        ),
    ] = None
    log_every: Annotated[
        int | None,
        Field(
            ge=1,
            le=10**9,
            description="Interval of log rows in optimiser steps, in addition to validations.",
        ),
    ] = None
    checkpoint_every: Annotated[
        float,
        Field(
            ge=0,
            le=10**9,
            description="Seconds between checkpoints; 0 saves after every optimiser step.",
        ),
    ] = 10.0

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.needs_length and self.epochs is None and self.steps is None:
            fix = "Or `steps`, the number of optimiser steps."
            raise RefusedError(Problem.missing("epochs", fix))
        if self.epochs is not None and self.steps is not None:
            allowed = f"`epochs` or `steps`, not both (`epochs` is {self.epochs})"
            raise RefusedError(Problem("steps", self.steps, allowed))
        return self
