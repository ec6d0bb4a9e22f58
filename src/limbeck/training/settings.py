"""Training settings: plain data, the same for every scheme."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Training(BaseModel):
    """The settings of the training loop.

    Example:
        >>> Training(epochs=5).batch_size
        64
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Annotated[
        int, Field(ge=1, le=1_000_000, description="How often every training sample is seen.")
    ]
    batch_size: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Samples a micro-batch, over all processes together; a last batch of one "
            "sample joins the one before it, since it has no batch statistics.",
        ),
    ] = 64
    gradient_accumulation_steps: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Micro-batches an optimiser step; gradients add up exactly.",
        ),
    ] = 1
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = 3e-3
    momentum: Annotated[float, Field(ge=0, lt=1, description="For sgd; Nesterov's form.")] = 0.9
    weight_decay: Annotated[
        float,
        Field(ge=0, le=1000, description="On matrices and kernels; never on biases or norms."),
    ] = 0.0
    warmup_ratio: Annotated[
        Share, Field(description="Share of the steps over which the rate rises from 0.")
    ] = 0.1
    lr_schedule: Annotated[
        Literal["cosine", "linear", "constant"],
        Field(description="How the rate falls to 0 after warm-up."),
    ] = "cosine"
    max_grad_norm: Annotated[
        float | None, Field(gt=0, le=1e12, description="Largest norm of the whole gradient.")
    ] = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: Annotated[bool, Field(description="Compile the student with torch.compile.")] = False
    ema_decay: Annotated[
        float | None,
        Field(gt=0, lt=1, description="Keep a moving average of the weights; it is what is kept."),
    ] = None
    patience: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="Stop after so many epochs without a better validation.",
        ),
    ] = None
    keep: Annotated[
        Literal["best", "last"],
        Field(description="Whose weights are kept: the best epoch's on validation, or the last's."),
    ] = "best"
    num_workers: Annotated[
        int, Field(ge=0, le=256, description="Processes that load data; 0 loads in the loop.")
    ] = 0
    log_every: Annotated[
        int | None,
        Field(
            ge=1, le=10**9, description="Log every so many optimiser steps, besides every epoch."
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
