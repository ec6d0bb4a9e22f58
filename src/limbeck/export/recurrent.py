"""ONNX export of recurrent layers: one operator per layer, for sequences of any length.

`torch.export` unrolls an LSTM, which fixes the number of steps. The exported copy uses
`limbeck::lstm` and `limbeck::gru` instead: two custom operators that are kept, and that become
ONNX's LSTM and GRU, for which ONNX Runtime has kernels.

ONNX has another gate order: i, o, f, c for an LSTM (torch: i, f, c, o), and z, r, h for a GRU
(torch: r, z, h). The copy's weights are stored in ONNX's order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError

# ONNX's gate order, as indices of torch's gates.
ONNX_ORDER: dict[type[nn.Module], tuple[int, ...]] = {nn.LSTM: (0, 3, 1, 2), nn.GRU: (1, 0, 2)}


class SequenceError(LimbeckError):
    """A recurrent layer's input has no form in ONNX."""


def _ordered(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """Reorder the gates, which divide the first axis."""
    gates = tensor.chunk(len(order))
    return torch.cat([gates[gate] for gate in order])


def _flat(kind: type[nn.Module], weights: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """Convert a layer's weights from ONNX's format to torch's."""
    onnx_order = ONNX_ORDER[kind]
    order = tuple(onnx_order.index(gate) for gate in range(len(onnx_order)))
    found = []
    for w, r, b in zip(*weights, strict=True):
        parts = (w, r, *b.chunk(2))
        found += [_ordered(part, order).contiguous() for part in parts]
    return found


@torch.library.custom_op("limbeck::lstm", mutates_args=())
def lstm(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one LSTM layer in one or both directions, with weights in ONNX's order.

    Args:
        x: `[steps, n, inputs]`.
        w: Input weights, `[directions, 4 units, inputs]`.
        r: Recurrent weights, `[directions, 4 units, units]`.
        b: Both biases, `[directions, 8 units]`.
        hidden: The initial hidden state, `[directions, n, units]`.
        cell: The initial cell state, in the same shape.

    Returns:
        The outputs `[steps, n, directions units]`, and the last hidden and cell state.

    Example:
        >>> x, state = torch.zeros(5, 2, 3), torch.zeros(1, 2, 4)
        >>> weights = torch.ones(1, 16, 3), torch.ones(1, 16, 4), torch.zeros(1, 32)
        >>> [tuple(part.shape) for part in lstm(x, *weights, state, state)]
        [(5, 2, 4), (1, 2, 4), (1, 2, 4)]
    """
    flat = _flat(nn.LSTM, (w, r, b))
    return torch.lstm(x, (hidden, cell), flat, True, 1, 0.0, False, len(w) == 2, False)


@lstm.register_fake
def _(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_outputs(x, r), torch.empty_like(hidden), torch.empty_like(cell)


@torch.library.custom_op("limbeck::gru", mutates_args=())
def gru(x: Tensor, w: Tensor, r: Tensor, b: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Run one GRU layer, as `lstm` does, with three gates and no cell state.

    Example:
        >>> x, state = torch.zeros(5, 2, 3), torch.zeros(1, 2, 4)
        >>> weights = torch.ones(1, 12, 3), torch.ones(1, 12, 4), torch.zeros(1, 24)
        >>> [tuple(part.shape) for part in gru(x, *weights, state)]
        [(5, 2, 4), (1, 2, 4)]
    """
    return torch.gru(x, hidden, _flat(nn.GRU, (w, r, b)), True, 1, 0.0, False, len(w) == 2, False)


@gru.register_fake
def _(x: Tensor, w: Tensor, r: Tensor, b: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    return _fake_outputs(x, r), torch.empty_like(hidden)


def _fake_outputs(x: Tensor, r: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], r.shape[0] * r.shape[2])


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ONNX translations of the two operators, for `torch.onnx.export`."""
    import numpy as np
    from onnx import numpy_helper
    from onnxscript import opset18 as op

    def settings(r: Any) -> dict[str, Any]:
        direction = "bidirectional" if r.shape[0] == 2 else "forward"
        return {"hidden_size": int(r.shape[2]), "direction": direction}

    def joined(outputs: Any) -> Any:
        """Concatenate the directions of `[steps, directions, n, units]`."""
        shape = op.Constant(value=numpy_helper.from_array(np.array([0, 0, -1])))
        return op.Reshape(op.Transpose(outputs, perm=[0, 2, 1, 3]), shape)

    def lstm_written(x: Any, w: Any, r: Any, b: Any, hidden: Any, cell: Any) -> Any:
        outputs, *last = op.LSTM(x, w, r, b, None, hidden, cell, **settings(r))
        return joined(outputs), *last

    def gru_written(x: Any, w: Any, r: Any, b: Any, hidden: Any) -> Any:
        # torch applies the reset gate to the hidden state's product.
        options = {**settings(r), "linear_before_reset": 1}
        outputs, last = op.GRU(x, w, r, b, None, hidden, **options)
        return joined(outputs), last

    operators = torch.ops.limbeck
    return {operators.lstm.default: lstm_written, operators.gru.default: gru_written}


class _OnnxRecurrent(nn.RNNBase):
    """A recurrent layer whose every layer is one operator; all other attributes stay.

    A model's own code may read `hidden_size`, or check whether this is an LSTM.
    """

    run: ClassVar[Callable[..., tuple[Tensor, ...]]]

    def forward(
        self, input: Tensor, hx: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Any]:
        """Compute the outputs of `nn.LSTM` or `nn.GRU`."""
        if not isinstance(input, Tensor) or input.ndim != 3:
            raise SequenceError(
                "a recurrent layer has another input than [n, steps, inputs], such as a packed "
                "sequence, for which ONNX has no form. Use padded batches, and mask its outputs."
            )
        x = input.transpose(0, 1) if self.batch_first else input
        directions, last = 2 if self.bidirectional else 1, []
        if hx is None:
            zeros = x.new_zeros(self.num_layers * directions, x.shape[1], self.hidden_size)
            hx = (zeros, zeros) if isinstance(self, nn.LSTM) else zeros
        initial = (hx,) if isinstance(hx, Tensor) else hx
        for layer in range(self.num_layers):
            weights = (self.get_buffer(f"{name}_l{layer}") for name in NAMES)
            rows = slice(layer * directions, (layer + 1) * directions)
            x, *states = type(self).run(x, *weights, *(state[rows] for state in initial))
            last.append(states)
        final = tuple(torch.cat(states) for states in zip(*last, strict=True))
        outputs = x.transpose(0, 1) if self.batch_first else x
        return outputs, final if isinstance(self, nn.LSTM) else final[0]


class _LSTM(_OnnxRecurrent, nn.LSTM):  # type: ignore[misc]  # torch overloads forward
    run = lstm


class _GRU(_OnnxRecurrent, nn.GRU):  # type: ignore[misc]
    run = gru


WHOLE: dict[type[nn.Module], type[_OnnxRecurrent]] = {nn.LSTM: _LSTM, nn.GRU: _GRU}
NAMES = ("w", "r", "b")


def deploy(model: nn.Module) -> nn.Module:
    """Replace LSTMs and GRUs by the operators, in place; the model's outputs stay the same.

    The model is in evaluation mode, without parametrizations. Plain RNNs and LSTMs with projections
    are not supported and stay unchanged.
    """
    for module in list(model.modules()):
        kind = WHOLE.get(type(module))
        if kind is not None and isinstance(module, nn.RNNBase) and not module.proj_size:
            _store(module, kind)
    return model


def _store(module: nn.RNNBase, kind: type[_OnnxRecurrent]) -> None:
    """Set a recurrent layer's weights in ONNX's order, and its class."""
    order = ONNX_ORDER[type(module)]

    def ordered(name: str) -> Tensor:
        return _ordered(getattr(module, name).detach(), order)

    for layer in range(module.num_layers):
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for suffix in (f"l{layer}", f"l{layer}_reverse")[: 1 + module.bidirectional]:
            w, r = ordered(f"weight_ih_{suffix}"), ordered(f"weight_hh_{suffix}")
            b = w.new_zeros(2 * len(w))
            if module.bias:
                b = torch.cat([ordered(f"bias_ih_{suffix}"), ordered(f"bias_hh_{suffix}")])
            parts.append((w, r, b))
        for name, tensors in zip(NAMES, zip(*parts, strict=True), strict=True):
            module.register_buffer(f"{name}_l{layer}", torch.stack(tensors))
    for name in list(module._parameters):
        delattr(module, name)
    module._flat_weights = []
    module.__class__ = kind
