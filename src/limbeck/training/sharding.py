"""Students that are sharded over several processes by FSDP2, as Accelerate prepares them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from limbeck.core.parametrized import Penalizing, Progressive
from limbeck.errors import InputError, Problem
from limbeck.training.settings import Training

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.schemes.scheme import Scheme


def check_strategy(accelerator: Accelerator, settings: Training, scheme: Scheme) -> None:
    """Check that the training is right under the accelerator's distribution.

    Raises:
        InputError: It is neither data parallel nor FSDP2; or a setting is not supported by FSDP2.
    """
    from accelerate.utils import DistributedType

    kind = accelerator.distributed_type
    others = {DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA}
    sharded = is_sharded(accelerator)
    if kind in others or (kind == DistributedType.FSDP and not sharded):
        given = "FSDP version 1" if kind == DistributedType.FSDP else kind.value
        fix = "Set fsdp_version: 2, or start with torchrun or accelerate launch --multi_gpu."
        allowed = "one process, data parallelism, or FSDP2"
        raise InputError(Problem("accelerator", given, allowed, fix))
    if not sharded:
        return
    wanted = {"ema_decay": None, "compile": False}
    problems = [
        Problem(name, getattr(settings, name), f"{value}, with FSDP2")
        for name, value in wanted.items()
        if getattr(settings, name) != value
    ]
    if settings.precision == "float16":
        problems.append(Problem("precision", "float16", "float32 or bfloat16, with FSDP2"))
    for name, student in scheme.students.items():
        parts = {type(one).__name__ for one in student.modules() if _follows(one)}
        if parts:
            given = f"{name} with {', '.join(sorted(parts))}"
            problems.append(Problem("student", given, "no masked or quantised parts, with FSDP2"))
    if problems:
        raise InputError(*problems)


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether the accelerator shards models by FSDP2."""
    return bool(getattr(accelerator, "is_fsdp2", False))


def _follows(module: nn.Module) -> bool:
    """Return whether a scheme keeps the module, and would miss it in a copy of the student."""
    return isinstance(module, Progressive | Penalizing)


@contextmanager
def sharded(
    scheme: Scheme, copies: Mapping[str, nn.Module], accelerator: Accelerator
) -> Iterator[None]:
    """Divide copies of the students over the processes, and train these in their place.

    At the end the students get the weights, gathered from all processes.

    Args:
        scheme: The scheme; its attributes of the students' names are replaced.
        copies: A copy of each student, by name.
        accelerator: An accelerator with an FSDP2 plugin, whose policies decide what is sharded.
    """
    from accelerate.utils import fsdp2_prepare_model
    from torch.distributed.fsdp import FSDPModule

    students = dict(scheme.students)
    for name, one in copies.items():
        with _whole_weights(accelerator.state.fsdp_plugin):
            model = fsdp2_prepare_model(accelerator, one)
        for part in model.modules():
            if isinstance(part, FSDPModule):
                # A process's loss is its part of the mean over all: gradients are summed.
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)
        setattr(scheme, name, model)
    try:
        yield
    except BaseException:  # gathering would wait for a process that has ended
        for name, student in students.items():
            setattr(scheme, name, student)
        raise
    for name, student in students.items():
        trained = scheme.students[name]
        student.load_state_dict(whole(trained.state_dict()))
        student.train(trained.training)
        setattr(scheme, name, student)


@contextmanager
def _whole_weights(plugin: Any) -> Iterator[None]:
    """Leave out the loading of one process's weights, which all processes already have.

    Accelerate's is the default, and fails on a model with buffers, as of batch normalisation.
    """
    kept, plugin.cpu_ram_efficient_loading = plugin.cpu_ram_efficient_loading, False
    try:
        yield
    finally:
        plugin.cpu_ram_efficient_loading = kept


def is_shard(tensor: object) -> bool:
    """Return whether a tensor is distributed over processes."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Collect distributed tensors from all processes, which must all call this."""
    from torch.distributed.tensor import DTensor

    return {
        name: one.full_tensor() if isinstance(one, DTensor) else one
        for name, one in tensors.items()
    }


def like(tensor: Tensor, reference: object) -> Tensor:
    """Divide a whole tensor over the processes as a reference of the same shape is, if that is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(reference, DTensor) or reference.shape != tensor.shape:
        return tensor
    device = reference.device
    placed: Tensor = distribute_tensor(
        tensor.to(device), reference.device_mesh, reference.placements
    )
    return placed


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scale the gradients to a norm over all of them, sharded and whole, of at most `largest`."""
    several = list(parameters)
    sides = [[one for one in several if is_shard(one) is side] for side in (False, True)]
    if not sides[1]:
        clip_grad_norm_(several, largest)
        return
    gradients = [[one.grad for one in side if one.grad is not None] for side in sides]
    norms = whole({str(n): get_total_norm(side) for n, side in enumerate(gradients) if side})
    total = torch.stack(list(norms.values())).norm()
    scale = min(1.0, largest / (total.item() + 1e-6))  # torch's constant
    for side in gradients:
        for gradient in side:
            gradient.mul_(scale)
