"""Safetensors file of a model's weights: no pickle, no executable content."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from limbeck.core.files import replacing
from limbeck.core.modules import TakesSizes
from limbeck.errors import LimbeckError, did_you_mean


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the parameters and buffers of a model on any device, atomically.

    A tensor shared by several names (tied embeddings) is written once, under the first name; the
    header lists the other names.

    Raises:
        WriteError: The target cannot be written.
    """
    from safetensors.torch import save_file

    state = model.state_dict()
    first: dict[tuple[object, ...], str] = {}
    tied: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layout = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        memory = (tensor.device, *layout)
        empty = tensor.numel() == 0 or tensor.device.type == "meta"
        if not empty and first.setdefault(memory, name) != name:
            tied[name] = first[memory]
        else:
            # A view would save the whole larger tensor, so every tensor is copied.
            tensors[name] = tensor.detach().cpu().contiguous().clone()
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", **tied})


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file written by `save_weights` into a model, in place; names and shapes must match.

    Raises:
        LimbeckError: The file is missing or damaged, or contains weights of another architecture.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise LimbeckError(f"{path}: there is no such file of weights.")
    try:
        with safe_open(path, framework="pt") as file:
            tied = {name: of for name, of in (file.metadata() or {}).items() if name != "format"}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise LimbeckError(f"{path}: damaged or no safetensors file ({error}).") from error
    tensors |= {name: tensors[of] for name, of in tied.items() if of in tensors}
    if isinstance(model, TakesSizes):
        model.take_sizes(tensors)
    expected = model.state_dict()
    wrong = [f"{name} is missing" for name in expected if name not in tensors]
    wrong += [
        f"{name} is not in the model {did_you_mean(name, expected)}".rstrip()
        for name in tensors
        if name not in expected
    ]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)}, the model has {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        problems = f"{'; '.join(wrong[:5])}{more}"
        raise LimbeckError(f"{path}: the weights do not fit the model: {problems}.")
    model.load_state_dict(tensors)
