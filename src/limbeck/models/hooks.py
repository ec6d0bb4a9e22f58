"""Forward hooks that fit a trained model to data that is prepared otherwise than its own.

They leave the module's names, parameters and buffers as they are. The file stands on its own, since
it is written into the architecture.py of a student that needs it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Renormalize:
    """A forward pre-hook that changes each channel of the pictures to `scale * x + shift`."""

    def __init__(self, scale: list[float], shift: list[float]) -> None:
        self.scale, self.shift = list(scale), list(shift)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Renormalise the first input of four axes, `[n, channels, height, width]`."""
        for number, value in enumerate(args):
            if self._is_image(value):
                return (*args[:number], self._applied(value), *args[number + 1 :]), kwargs
        for name, value in kwargs.items():
            if self._is_image(value):
                return args, {**kwargs, name: self._applied(value)}
        raise ValueError(f"no input of shape [n, {len(self.scale)}, height, width]")

    def _is_image(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == len(self.scale)

    def _applied(self, image: Tensor) -> Tensor:
        scale, shift = (image.new_tensor(part)[:, None, None] for part in (self.scale, self.shift))
        return image * scale + shift


class ToLogits:
    """A forward hook that turns probabilities into logits, and selects and orders the classes."""

    def __init__(self, output_type: str, classes: list[int] | None) -> None:
        self.output_type, self.classes = output_type, classes

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Change the logits within whatever the model returns: a tensor, or a structure of them."""
        if isinstance(output, Tensor):
            return self._applied(output)
        if hasattr(output, "logits"):
            output.logits = self._applied(output.logits)
            return output
        if isinstance(output, dict) and "logits" in output:
            return {**output, "logits": self._applied(output["logits"])}
        if isinstance(output, tuple | list):
            parts = [self._applied(part) if _is_rows(part) else part for part in output]
            return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
        raise TypeError(f"no logits in an output of type {type(output).__name__}")

    def _applied(self, values: Tensor) -> Tensor:
        # Above the smallest normal number of float32, whose logarithm is finite in every runtime.
        if self.output_type == "probabilities":
            values = values.float().clamp(min=1e-30).log()
        elif self.output_type == "sigmoid":
            values = torch.logit(values.float(), eps=1e-7)
        if self.classes is None:
            return values
        return values.index_select(1, torch.tensor(self.classes, device=values.device))


def _is_rows(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 2 and value.is_floating_point()


def add_hooks(
    model: nn.Module,
    *,
    scale: list[float] | None,
    shift: list[float] | None,
    output_type: str,
    classes: list[int] | None,
) -> nn.Module:
    """Register the hooks that are needed, and return the model."""
    if scale is not None and shift is not None:
        model.register_forward_pre_hook(Renormalize(scale, shift), with_kwargs=True)
    if output_type != "logits" or classes is not None:
        model.register_forward_hook(ToLogits(output_type, classes))
    return model
