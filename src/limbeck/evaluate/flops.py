"""Parameter and FLOP counts of one prediction."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import mul
from typing import TYPE_CHECKING

from limbeck.core.exits import HasExits
from limbeck.core.modules import evaluating
from limbeck.export.predictor import take_samples

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.export.predictor import Runnable


def parameters(model: nn.Module) -> int:
    """Count a model's parameters; a shared weight counts once.

    Example:
        >>> from torch import nn
        >>> parameters(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, task: Runnable, example: Mapping[str, Tensor]) -> int:
    """Count the FLOPs of one sample's forward pass, a multiply-add as two.

    Convolutions, matrix products, attention and recurrent layers are counted; elementwise work,
    pooling and normalisation are not, as is the convention. torch's fused kernels hide their
    products from the counter, so the sample is run through the plain ones.

    Of a model whose samples leave at early exits, it is the expected number: that of the path to
    each exit, weighted by the measured share of samples that leave there.

    Args:
        model: Any module that the task can run.
        task: Names the inputs and runs the model.
        example: A batch; its first sample is used, so for texts the count is for that sample's
            length. Inputs without an axis `batch`, as those of a graph, are used as a whole.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from limbeck.tasks.image_classification import ImageClassification
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
        >>> task = ImageClassification(classes=("a",) * 10)
        >>> flops(model, task, {"image": torch.zeros(5, 1, 4, 4)})
        320
    """
    import torch

    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    taken = take_samples({name: example[name].cpu() for name in task.inputs}, task.inputs, [0])
    sample = {name: torch.as_tensor(value).to(device) for name, value in taken.items()}
    if isinstance(model, HasExits) and model.exit_rates:
        costs = flops_of_exits(model, task, sample)
        return round(sum(map(mul, model.exit_rates, costs)))
    return _count(model, task, sample)


def flops_of_exits(model: nn.Module, task: Runnable, sample: Mapping[str, Tensor]) -> list[int]:
    """Count the FLOPs of the path to each exit of a model with early exits.

    Args:
        model: A model with early exits.
        task: Names the inputs and runs the model.
        sample: One sample, on the model's device.

    Raises:
        TypeError: The model has no early exits.
    """
    import torch

    if not isinstance(model, HasExits):
        raise TypeError(f"{type(model).__name__} has no early exits")
    with evaluating(model), torch.no_grad():
        exits = len(model.exit_logits(*(sample[name] for name in task.inputs)))
    kept, found = model.exit_thresholds, []
    try:
        for place in range(exits):
            # No probability reaches 2, and each one reaches 0.
            thresholds = [2.0] * (exits - 1)
            thresholds[place:] = [0.0] * (exits - 1 - place)
            model.exit_thresholds = tuple(thresholds)
            found.append(_count(model, task, sample))
    finally:
        model.exit_thresholds = kept
    return found


def _count(model: nn.Module, task: Runnable, sample: Mapping[str, Tensor]) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with evaluating(model), _plain_kernels(), torch.no_grad(), counter:
        task.outputs(model, sample)
    return int(counter.get_total_flops())


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Run attention, transformer and recurrent layers as plain matrix products."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the switch below warns about Intel GPUs
            # oneDNN runs a whole LSTM as one operator, which the counter does not support.
            with torch.backends.mkldnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
