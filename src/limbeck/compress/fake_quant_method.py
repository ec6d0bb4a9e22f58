"""Shared base of quantisation methods: layer selection, inputs, and the first and last layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from limbeck.compress.fake_quant import InputStatistics
from limbeck.compress.fake_quant_install import (
    bias_fits,
    fit,
    float_layers,
    fold,
    install,
    layer_types,
    quantizable,
    remove,
)
from limbeck.compress.method import CalibrationContext, CompressError, Method, TransformResult
from limbeck.compress.trace import first_batch, first_input, predict
from limbeck.errors import InputError, Problem

Settings = dict[str, Any]


class FakeQuantization(Method):
    """Fake quantisation of a model, calibrated on training samples.

    Without training this is post-training quantisation; with training afterwards, the quantisers
    round in each forward pass (quantisation-aware training; under a teacher, distillation). Batch
    norms are folded into the preceding layers. Layers stay in float, and are listed, if their type
    is not supported or their weight is shared or read by other code. Inputs stay in float for
    layers that are never called as modules and for those whose bias exceeds the int32 range.
    """

    activation_bits: Annotated[int, Field(ge=4, le=8)] | None = Field(
        8, description="Bits of the inputs of layers; null keeps them in float."
    )
    symmetric_activations: bool = Field(
        False, description="Centre the grids of inputs on zero, without a zero point."
    )
    step: Literal["minmax", "learned"] = Field(
        "minmax", description="Scales from the observed range, or learned (LSQ, LSQ+)."
    )
    per_channel: bool = Field(
        True, description="One scale per output channel of a weight, or one for all."
    )
    power_of_two: bool = Field(False, description="Round scales up to powers of two.")
    reduce_range: bool = Field(
        True, description="Limit 8-bit weights to 7 bits: exact on processors without VNNI."
    )
    first_last_bits: Annotated[int, Field(ge=4, le=8)] | None = Field(
        8, description="Bits of the first and the last layer; null uses those of the other layers."
    )
    fold_batch_norm: bool = Field(
        True, description="Fold batch norms into the preceding layers, where possible."
    )
    embeddings: bool = Field(False, description="Quantise embeddings too.")
    layers: list[str] | None = Field(
        None, description="Paths or patterns; all supported layers by default."
    )
    skip: list[str] = Field(
        default_factory=list, description="Paths or patterns of layers to keep in float."
    )

    @abstractmethod
    def weight(self) -> Settings:
        """Return the settings of the weight quantiser, including its `grid`."""

    def uniform(self, bits: int, **settings: bool) -> Settings:
        """Return the settings of a uniform weight quantiser."""
        return {
            "grid": "uniform",
            "bits": bits,
            "per_channel": self.per_channel,
            "learned": self.step == "learned",
            "powers_of_two": self.power_of_two,
            "reduce_range": self.reduce_range,
            **settings,
        }

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check the layers, and that there is a sample."""
        first_batch(work)
        quantizable(model, self.layers, self.skip, embeddings=self.embeddings)

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Fold batch norms, observe activations, and install quantisers, in place."""
        selected = quantizable(model, self.layers, self.skip, embeddings=self.embeddings)
        for path in selected:
            remove(model.get_submodule(path))
        pairs = fold(model, selected, work) if self.fold_batch_norm else []
        kinds = layer_types(self.embeddings)
        every = [path for path, module in model.named_modules() if isinstance(module, kinds)]
        statistics = observe(model, every, work)
        if not statistics:
            raise CompressError("no layer is called as a module: there is nothing to quantise.")
        ends = {next(iter(statistics)), next(reversed(statistics))}
        layers: Settings = {}
        float_inputs = []
        for path in selected:
            layer = model.get_submodule(path)
            is_embedding = isinstance(layer, nn.Embedding)
            settings = self._layer(path in ends, path in statistics and not is_embedding)
            layers[path] = _quantize(layer, settings, statistics.get(path))
            if layers[path]["input"] is None and not is_embedding:
                float_inputs.append(path)
        notes = float_layers(model, selected)
        if self.activation_bits is not None and float_inputs:
            notes.append(f"inputs kept in float: {', '.join(float_inputs)}")
        change = {"kind": "quantizers", "fold": [list(pair) for pair in pairs], "layers": layers}
        return TransformResult(change, self._what(len(layers), len(pairs)), tuple(notes))

    def _layer(self, is_end: bool, round_input: bool) -> Settings:
        bits = self.first_last_bits if is_end else None
        weight = self.weight() if bits is None else self.uniform(bits)
        if self.activation_bits is None or not round_input:
            return {"weight": weight, "input": None}
        return {
            "weight": weight,
            "input": {
                "bits": bits or self.activation_bits,
                "symmetric": self.symmetric_activations,
                "learned": self.step == "learned",
                "powers_of_two": self.power_of_two,
            },
        }

    def _what(self, layers: int, folded: int) -> str:
        weight = self.weight()
        values = f"{weight['bits']} bits" if "bits" in weight else str(weight["grid"])
        inputs = "float" if self.activation_bits is None else f"{self.activation_bits} bits"
        folds = f", {folded} batch norms folded" if folded else ""
        ends = f", first and last {self.first_last_bits} bits" if self.first_last_bits else ""
        return f"{layers} layers quantised, weights {values}, inputs {inputs}{ends}{folds}"


def _quantize(layer: nn.Module, settings: Settings, statistics: InputStatistics | None) -> Settings:
    """Install quantisers in a layer; its input stays float if the bias exceeds the int32 range."""
    install(layer, **settings)
    fit(layer, None if settings["input"] is None else statistics)
    if bias_fits(layer):
        return settings
    return _quantize(layer, {**settings, "input": None}, None)


def observe(
    model: nn.Module, paths: Iterable[str], work: CalibrationContext
) -> dict[str, InputStatistics]:
    """Return statistics of layer inputs over all calibration samples, by path.

    The order is that of the first calls; layers that are never called are missing.

    Raises:
        InputError: There are no samples, or a layer's input is not finite.
    """
    records: dict[str, list[tuple[Tensor, Tensor, Tensor, int]]] = {}

    def hook_of(path: str) -> Any:
        def record(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            x = first_input(args, kwargs).detach().float()
            records.setdefault(path, []).append((*x.aminmax(), x.abs().sum(), x.numel()))

        return record

    samples = 0
    with ExitStack() as hooks:
        for path in paths:
            layer = model.get_submodule(path)
            hooks.enter_context(layer.register_forward_pre_hook(hook_of(path), with_kwargs=True))
        for batch in work.batches():
            samples += len(next(iter(batch.values())))
            predict(model, batch, work)
    if samples == 0:
        raise InputError(Problem("calibration", "no sample", "at least one training sample"))
    statistics = {}
    for path, calls in records.items():
        least, most, sums, counts = zip(*calls, strict=True)
        mean = float(torch.stack(sums).double().sum()) / sum(counts)
        low, high = float(torch.stack(least).min()), float(torch.stack(most).max())
        statistics[path] = InputStatistics(low, high, mean)
    wrong = [path for path, one in statistics.items() if not -1e30 < one.least <= one.most < 1e30]
    if wrong:
        given = f"values that are not finite, into {', '.join(wrong)}"
        raise InputError(Problem("calibration", given, "samples with finite activations"))
    return statistics
