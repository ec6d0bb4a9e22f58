"""Shared base of quantisation methods: layer selection, inputs, and the first and last layer."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from limbeck.compress.method import CalibrationContext, CompressError, Method, TransformResult

if TYPE_CHECKING:
    from torch import nn

    from limbeck.compress.fake_quant import Seen


Settings = dict[str, Any]


class FakeQuantization(Method):
    """Fake quantisation of a model, calibrated on training samples.

    Without training this is post-training quantisation; with training afterwards, the quantisers
    round in each forward pass (quantisation-aware training; under a teacher, distillation). Batch
    norms are folded into the preceding layers. Layers stay in float, and are listed, if their type
    is not supported or their weight is shared or read from outside. Inputs stay in float for layers
    that are never called as modules and for those whose bias exceeds the int32 range.
    """

    activation_bits: Annotated[
        Annotated[int, Field(ge=4, le=8)] | None,
        Field(description="Bits of what comes into layers; null leaves that in float."),
    ] = 8
    symmetric_activations: Annotated[
        bool, Field(description="Zero in the middle of inputs' grids instead of a zero point.")
    ] = False
    step: Annotated[
        Literal["minmax", "learned"],
        Field(description="Steps from the range that is seen, or learned (LSQ, LSQ+)."),
    ] = "minmax"
    per_channel: Annotated[
        bool, Field(description="One step for each output channel of a weight, or one for all.")
    ] = True
    power_of_two: Annotated[bool, Field(description="Steps are powers of two.")] = False
    reduce_range: Annotated[
        bool,
        Field(description="Keep weights of 8 bits to 7: exact on processors without VNNI."),
    ] = True
    first_last_bits: Annotated[
        Annotated[int, Field(ge=4, le=8)] | None,
        Field(description="Bits of the first and the last layer; null treats them as the others."),
    ] = 8
    fold_batch_norm: Annotated[
        bool, Field(description="Fold batch norms into the layers before them, where that can be.")
    ] = True
    embeddings: Annotated[bool, Field(description="Quantise the tables of embeddings too.")] = False
    layers: Annotated[
        list[str] | None, Field(description="Paths or patterns; all layers that fit by default.")
    ] = None
    skip: Annotated[
        list[str],
        Field(default_factory=list, description="Paths or patterns of layers to leave in float."),
    ]

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
        """Check the layers, and that there is a sample.

        Raises:
            InputError: A path or pattern matches no layer, or there is no sample.
            CompressError: No layer can be quantised.
        """
        from limbeck.compress.fake_quant_install import quantizable
        from limbeck.compress.trace import first_batch

        first_batch(work)
        quantizable(model, self.layers, self.skip, embeddings=self.embeddings)

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Fold batch norms, observe activations, and install quantisers, in place.

        Raises:
            InputError: As from `check`, or activations are not finite.
            CompressError: No layer can be quantised.
        """
        from limbeck.compress import fake_quant, fake_quant_install

        taken = fake_quant_install.quantizable(
            model, self.layers, self.skip, embeddings=self.embeddings
        )
        for path in taken:
            fake_quant_install.remove(model.get_submodule(path))
        pairs = fake_quant_install.fold(model, taken, work) if self.fold_batch_norm else []
        seen = fake_quant.observe(
            model, fake_quant_install.fitting(model, embeddings=self.embeddings), work
        )
        if not seen:
            raise CompressError("no layer is called by itself: there is nothing to quantise.")
        ends = {next(iter(seen)), next(reversed(seen))}
        layers: Settings = {}
        for path in taken:
            layer = model.get_submodule(path)
            rounds = path in seen and not fake_quant_install.is_table(layer)
            layers[path] = _quantize(layer, self._layer(path in ends, rounds), seen.get(path))
        change = {"kind": "quantizers", "fold": [list(pair) for pair in pairs], "layers": layers}
        notes = [
            *fake_quant_install.left(model, taken),
            *_float_inputs(model, layers, self.activation_bits),
        ]
        return TransformResult(change, self._what(layers, len(pairs)), tuple(notes))

    def _layer(self, end: bool, rounds: bool) -> Settings:
        bits = self.first_last_bits if end else None
        weight = self.weight() if bits is None else self.uniform(bits)
        if self.activation_bits is None or not rounds:
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

    def _what(self, layers: Settings, folded: int) -> str:
        weight = self.weight()
        values = f"{weight['bits']} bits" if "bits" in weight else str(weight["grid"])
        inputs = "float" if self.activation_bits is None else f"{self.activation_bits} bits"
        folds = f", {folded} batch norms folded" if folded else ""
        ends = f", first and last {self.first_last_bits} bits" if self.first_last_bits else ""
        return f"{len(layers)} layers quantised, weights {values}, inputs {inputs}{ends}{folds}"


def _quantize(layer: nn.Module, settings: Settings, seen: Seen | None) -> Settings:
    """Install quantisers in a layer; its input stays float if the bias exceeds the int32 range."""
    from limbeck.compress.fake_quant_install import bias_fits, fit, install

    install(layer, **settings)
    fit(layer, None if settings["input"] is None else seen)
    if bias_fits(layer):
        return settings
    return _quantize(layer, {**settings, "input": None}, None)


def _float_inputs(model: nn.Module, layers: Settings, inputs: int | None) -> list[str]:
    from limbeck.compress.fake_quant_install import is_table

    kept = [
        path
        for path, given in layers.items()
        if given["input"] is None and not is_table(model.get_submodule(path))
    ]
    if inputs is None or not kept:
        return []
    return [f"inputs left in float: {', '.join(kept)}"]
