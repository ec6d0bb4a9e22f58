"""Forward hooks that adapt a trained model to other input normalisation and class order.

They do not change the module's names, parameters and buffers. The file is self-contained, since it
is copied into the architecture.py of a student that needs it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Renormalize:
    """A forward pre-hook that maps each image channel to `scale * x + shift`."""

    def __init__(self, scale: list[float], shift: list[float]) -> None:
        self.scale, self.shift = list(scale), list(shift)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Renormalise the first four-dimensional input, `[n, channels, height, width]`."""
        for number, value in enumerate(args):
            if self._is_image(value):
                return (*args[:number], self._rescale(value), *args[number + 1 :]), kwargs
        for name, value in kwargs.items():
            if self._is_image(value):
                return args, {**kwargs, name: self._rescale(value)}
        raise ValueError(f"no input of shape [n, {len(self.scale)}, height, width]")

    def _is_image(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == len(self.scale)

    def _rescale(self, image: Tensor) -> Tensor:
        scale, shift = (image.new_tensor(part)[:, None, None] for part in (self.scale, self.shift))
        return image * scale + shift


class ToLogits:
    """A forward hook that converts probabilities to logits, and selects and orders the classes.

    In a structure of tensors, those of shape `[n, count, ...]` are changed: logits and auxiliary
    logits.
    """

    def __init__(self, output_type: str, classes: list[int] | None, count: int) -> None:
        self.output_type, self.classes, self.count = output_type, classes, count

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Convert the logits in the model's output: a tensor, or a structure of tensors."""
        if isinstance(output, Tensor):
            return self._convert(output)
        if isinstance(output, tuple | list):
            parts = [self._convert(part) for part in output]
            return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
        if isinstance(output, dict):
            for name in list(output):
                output[name] = self._convert(output[name])
        else:
            for name, value in list(vars(output).items()):
                setattr(output, name, self._convert(value))
        return output

    def _convert(self, values: Any) -> Any:
        if not isinstance(values, Tensor) or values.shape[1:2] != (self.count,):
            return values
        # The smallest normal number of float32: its logarithm is finite in every runtime.
        if self.output_type == "probabilities":
            values = values.float().clamp(min=1e-30).log()
        elif self.output_type == "sigmoid":
            values = torch.logit(values.float(), eps=1e-7)
        if self.classes is None:
            return values
        return values.index_select(1, torch.tensor(self.classes, device=values.device))


class SelectOutput:
    """A forward hook that returns one of a model's outputs, or the mean of its heads.

    A bare tensor, which many models return in evaluation mode only, is returned unchanged.
    """

    def __init__(self, key: str | int) -> None:
        self.key = key

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Return the output at a field or position, or the mean of all outputs like the first."""
        if isinstance(output, Tensor):
            return output
        parts = output_parts(output)
        if self.key == "mean":
            first = next(part for part in parts if isinstance(part[1], Tensor))[1]
            heads = [part for _, part in parts if getattr(part, "shape", None) == first.shape]
            return torch.stack(heads).mean(0)
        named = dict(parts)
        if self.key in named:
            return named[self.key]
        if isinstance(self.key, int) and self.key < len(parts):
            return parts[self.key][1]
        names = ", ".join(str(name) for name, _ in parts)
        raise KeyError(f"output {self.key!r}: the model returns {names}")


def output_parts(output: Any) -> list[tuple[Any, Any]]:
    """Return the items of a model's output structure, with their fields or positions."""
    if hasattr(output, "keys"):
        return [(name, output[name]) for name in output.keys()]  # noqa: SIM118
    if isinstance(output, tuple | list):
        return list(zip(getattr(output, "_fields", range(len(output))), output, strict=True))
    return list(getattr(output, "__dict__", {}).items())


def add_hooks(
    model: nn.Module,
    *,
    scale: list[float] | None,
    shift: list[float] | None,
    output_type: str,
    classes: list[int] | None,
    output: str | int | None,
    count: int,
) -> nn.Module:
    """Register the hooks of an `Adaptation`, and return the model."""
    if scale is not None and shift is not None:
        model.register_forward_pre_hook(Renormalize(scale, shift), with_kwargs=True)
    if output is not None:
        model.register_forward_hook(SelectOutput(output))
    if output_type != "logits" or classes is not None:
        model.register_forward_hook(ToLogits(output_type, classes, count))
    return model
