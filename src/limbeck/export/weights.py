"""Safetensors file of a model's weights: no pickle, no executable content."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from limbeck.core.files import replacing
from limbeck.errors import LimbeckError, did_you_mean


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's parameters and buffers, atomically.

    A tensor shared by several names (tied embeddings) is written once, under the first name; the
    header lists the other names.

    Args:
        model: The module, on any device.
        path: Path of the file.

    Raises:
        WriteError: The target cannot be written.
    """
    from safetensors.torch import save_file

    state = model.state_dict()
    tied = _tied(state)
    tensors = {
        # A view would save the whole larger tensor, so every tensor is copied.
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in state.items()
        if name not in tied
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", **tied})


def _tied(state: dict[str, Tensor]) -> dict[str, str]:
    """Map each name whose tensor was already seen to that tensor's first name."""
    first: dict[tuple[object, ...], str] = {}
    tied: dict[str, str] = {}
    for name, tensor in state.items():
        if tensor.numel() == 0 or tensor.device.type == "meta":
            continue
        memory = (
            tensor.device,
            tensor.data_ptr(),
            tensor.dtype,
            tuple(tensor.shape),
            tensor.stride(),
        )
        if memory in first:
            tied[name] = first[memory]
        else:
            first[memory] = name
    return tied


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the weights of a file into a model, in place; names and shapes must match.

    Args:
        model: A module of the architecture that was saved.
        path: A file written by `save_weights`.

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
    _check(model.state_dict(), tensors, path)
    model.load_state_dict(tensors)


def _check(expected: dict[str, Tensor], given: dict[str, Tensor], path: Path) -> None:
    wrong = [f"{name} is missing" for name in expected if name not in given]
    wrong += [
        f"{name} is not in the model {did_you_mean(name, expected)}".rstrip()
        for name in given
        if name not in expected
    ]
    wrong += [
        f"{name} is {tuple(given[name].shape)}, the model has {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise LimbeckError(
            f"{path}: the weights do not fit the model: {'; '.join(wrong[:5])}{more}."
        )
