"""ONNX export: a self-contained file that needs neither limbeck nor torch."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.files import replacing, write_bytes
from limbeck.core.samples import BATCH
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.export import quantized, recurrent, slim
from limbeck.export.decoder import GeneratesTokens, as_language_model, check_cache
from limbeck.export.predictor import HasOperators, OnnxPredictor, Runnable, Translations
from limbeck.export.quiet import quiet
from limbeck.export.reading import LARGEST, read_model

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram


Axes: TypeAlias = tuple[str | None, ...]
Inputs: TypeAlias = Mapping[str, Axes]
_SYMBOL = re.compile(r"[A-Za-z_]\w*")
# Suffixes that torch adds to the names of parametrized weights.
_PARAMETRIZED = re.compile(r"\.parametrizations\.(\w+)\.(?:original|0)")


class ExportError(LimbeckError):
    """A model cannot be exported to ONNX, or the file's outputs differ from the model's."""


class _Wrapped(nn.Module):
    """A model and its task as a function of tensors, as ONNX export requires."""

    def __init__(self, model: nn.Module, task: Runnable) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._task.outputs(self.model, self.named(tensors)).values())

    @property
    def inputs(self) -> Inputs:
        return self._task.inputs

    @property
    def decoded(self) -> tuple[str, ...]:
        return self._task.decoded if isinstance(self._task, HasOperators) else ()

    def named(self, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return dict(zip(self.inputs, tensors, strict=True))


def to_onnx(model: nn.Module, task: Runnable, example: Mapping[str, Tensor], path: Path) -> None:
    """Export a model to one ONNX file with dynamic batch and other axes.

    Inputs and outputs have the task's names, and their varying axes those of the task's inputs,
    such as `batch` and `tokens`. Batch normalisation is folded into preceding
    convolutions; masks are applied to the weights; quantised weights are written as integers, and
    their layers round their inputs as in training. A copy on the CPU in eval mode is exported: the
    model itself is not modified. A causal language model has its key-value cache as further inputs
    and outputs, and logits `[batch, tokens, vocabulary]`. The file is checked, and must reproduce
    the model's outputs on the example, before it replaces an existing one at `path`.

    Args:
        model: A module that the task can run.
        task: Defines the inputs and runs the model.
        example: A batch of at least one sample; labels and other entries are ignored.
        path: Path of the file, written atomically.

    Raises:
        ExportError: An operator has no ONNX form, the forward pass branches on values, the batch
            axis is fixed by the model's code, the file would exceed 2 GB, or its outputs differ
            from the model's.
        InputError: The example lacks an input of the task.
        WriteError: The target cannot be written.
    """
    missing = [name for name in task.inputs if name not in example]
    if missing:
        raise InputError(Problem("example", sorted(example), f"a batch with {', '.join(missing)}"))
    tensors = tuple(
        _two_samples(example[name].detach().cpu(), axes) for name, axes in task.inputs.items()
    )
    wrapped = _Wrapped(copy.deepcopy(model).cpu(), task).eval()
    with torch.no_grad():
        names = list(task.outputs(wrapped.model, wrapped.named(tensors)))
    decoder = None
    if isinstance(task, GeneratesTokens) and task.generates:
        decoder = as_language_model(wrapped.model, wrapped.named(tensors)).eval()
        cached = decoder.example(wrapped.named(tensors))
    quantized.deploy(wrapped.model)
    recurrent.deploy(wrapped.model)
    own = task.translations() if isinstance(task, HasOperators) else {}
    inputs: Inputs
    if decoder is None:
        inputs, program = task.inputs, _capture(wrapped, tensors, task.inputs)
    else:
        inputs, names = decoder.inputs, list(decoder.outputs)
        program = _capture(decoder, cached, inputs)
    graph = _convert(program, names, inputs, own)
    _tidy(graph, inputs)
    if graph.ByteSize() > LARGEST:
        raise ExportError(
            f"the model takes {graph.ByteSize() / 2**30:.1f} GiB as ONNX; one file holds at most "
            "2 GiB. Make it smaller first, or export safetensors instead."
        )
    with replacing(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        _check(temporary, wrapped, tensors, inputs)
        if decoder is not None and decoder.shapes:
            wrong = check_cache(OnnxPredictor(temporary, threads=1).run, cached, decoder)
            if wrong:
                raise ExportError(f"{wrong}: the model's forward pass ignores its cache.")


def embed_classes(path: Path, classes: Sequence[str]) -> None:
    """Write the class names, in the order of the outputs, as a JSON list into a file's metadata.

    The graph stays the same, byte for byte. ONNX Runtime returns the names as
    `session.get_modelmeta().custom_metadata_map["classes"]`.

    Raises:
        InputError: The file is not ONNX.
        WriteError: The file cannot be written to.
    """
    import onnx

    model = read_model(path)
    kept = [entry for entry in model.metadata_props if entry.key != "classes"]
    names = onnx.StringStringEntryProto(key="classes", value=json.dumps(list(classes)))
    del model.metadata_props[:]
    model.metadata_props.extend([*kept, names])
    write_bytes(path, model.SerializeToString())


def _two_samples(tensor: Tensor, axes: Axes) -> Tensor:
    # torch.export specialises sizes of one, so that every varying axis has at least two.
    for place, axis in enumerate(axes):
        if axis == BATCH:
            tensor = torch.cat([tensor, tensor], place).narrow(place, 0, 2)
        elif axis is not None and tensor.shape[place] == 1:
            tensor = torch.cat([tensor, tensor], place)
        elif axis is not None and tensor.shape[place] == 0:  # such as a node without edges
            tensor = tensor.new_zeros((*tensor.shape[:place], 2, *tensor.shape[place + 1 :]))
    return tensor


def _capture(wrapped: nn.Module, tensors: tuple[Tensor, ...], inputs: Inputs) -> ExportedProgram:
    dynamic = torch.export.Dim.DYNAMIC
    each = [
        {place: dynamic for place, axis in enumerate(axes) if axis is not None}
        for axes in inputs.values()
    ]
    # Named parameters have their own entries, and those of `*args` one together.
    named = len(inspect.signature(wrapped.forward).parameters) - 1
    shapes = (*each[:named], *([tuple(each[named:])] if each[named:] else []))
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(wrapped, tensors, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export raises exceptions of every type
        raise ExportError(_capture_advice(error, inputs)) from error


def _capture_advice(error: Exception, inputs: Inputs) -> str:
    text, kind = re.sub(r"\x1b\[\d+m", "", str(error)), type(error).__name__
    place = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)
    where = f" ({place[-1][0]}:{place[-1][1]}, in {place[-1][2]})" if place else ""
    if "data-dependent" in text:
        return (
            f"the model cannot be exported: its forward pass branches on a tensor's values{where}. "
            "Replace the Python branch by torch.where or torch.cond, or move it out of the model."
        )
    if "specialized" in text or "ConstraintViolation" in kind:
        others = dict.fromkeys(axis for axes in inputs.values() for axis in axes if axis)
        sizes = " or ".join(f"the {axis}" for axis in others)
        return (
            f"the model cannot be exported: its code fixes the size of {sizes} of "
            f"{', '.join(inputs)}{where}. Take sizes from the input (x.shape[0]), not constants."
        )
    reason = next((line.strip() for line in text.splitlines() if line.strip()), kind)
    return (
        f"the model cannot be exported{where}: {kind}: {reason}. "
        "The forward pass has to work under torch.export.export."
    )


def _convert(
    program: ExportedProgram, outputs: list[str], inputs: Inputs, own: Translations
) -> ModelProto:
    try:
        with quiet(), listed_once():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(inputs),
                output_names=outputs,
                verbose=False,
                custom_translation_table={
                    **quantized.translations(),
                    **recurrent.translations(),
                    **own,
                },
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(_convert_advice(error, program)) from error
    if exported is None:
        raise ExportError("the model cannot be exported: the exporter returned nothing.")
    return exported.model_proto


def _convert_advice(error: BaseException, program: ExportedProgram) -> str:
    text, cause = str(error), error.__cause__
    while cause is not None:
        text, cause = f"{text}\n{cause}", cause.__cause__ or cause.__context__
    patterns = (r"OpOverload\(op='([\w.]+)'", r"torch\.ops\.([\w.]+)")
    found = next(filter(None, (re.search(pattern, text) for pattern in patterns)), None)
    operator, module = found.group(1) if found else "unknown", ""
    for node in program.graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if stack and operator.split(".")[-1].lstrip("_") in str(node.target):
            path, kind = stack[-1]
            path = str(path).removeprefix("model").removeprefix(".") or "the model itself"
            name = kind.rsplit(".", 1)[-1] if isinstance(kind, str) else kind.__name__
            module = f", called in {path} ({name}),"
            break
    return (
        f'the operator "{operator}"{module} has no ONNX form. '
        "Replace it in the model by operators that ONNX has (https://onnx.ai/onnx/operators)."
    )


def _tidy(model: ModelProto, inputs: Inputs) -> None:
    """Shrink the graph, and give weights and axes the names of the model and the task."""
    slim.strip(model)
    slim.localize(model.graph)
    graphs = list(slim.graphs(model))
    weights = {weight.name for graph in graphs for weight in graph.initializer}
    nodes = [node for graph in graphs for node in graph.node]
    taken = weights | {name for node in nodes for name in (*node.input, *node.output)}
    bare = {name: _PARAMETRIZED.sub(r".\1", name.removeprefix("model.")) for name in weights}
    # An input that no node reads has a name too.
    slim.rename(model, lambda old: old if bare.get(old, old) in taken else bare.get(old, old))
    axes: dict[str, str] = {}
    for value in model.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        for dimension, axis in zip(dimensions, inputs[value.name], strict=False):
            if axis is not None and dimension.dim_param:
                axes[dimension.dim_param] = axis
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                # Of a computed size, such as that of a strided sequence, each symbol is renamed.
                dimension.dim_param = _SYMBOL.sub(
                    lambda found: axes.get(found.group(), found.group()), dimension.dim_param
                )


def _first(tensor: Tensor, axes: Axes) -> Tensor:
    return tensor.narrow(axes.index(BATCH), 0, 1) if BATCH in axes else tensor


def _check(path: Path, wrapped: _Wrapped, tensors: tuple[Tensor, ...], inputs: Inputs) -> None:
    import onnx

    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    for value in graph.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        for dimension, axis in zip(dimensions, inputs[value.name], strict=False):
            if axis is not None and not dimension.dim_param:
                raise ExportError(
                    f'the exported file has a fixed {axis} size in its input "{value.name}".'
                )
    one = tuple(
        _first(tensor, axes) for tensor, axes in zip(tensors, wrapped.inputs.values(), strict=True)
    )
    try:
        with torch.no_grad():
            expected = wrapped(*one)
    except Exception as error:  # the model's own code may raise anything
        reason = (str(error).strip().splitlines() or [""])[0]
        given = f"{type(error).__name__}: {reason}"
        raise ExportError(f"the model fails on a single sample: {given}") from error
    outputs = OnnxPredictor(path, threads=1).predict(wrapped.named(one))
    for reference, (name, found) in zip(map(Tensor.numpy, expected), outputs.items(), strict=True):
        if reference.shape != found.shape:
            raise ExportError(
                f'the output "{name}" has the shape {found.shape} in the exported file and '
                f"{reference.shape} in the model: the model's code depends on the batch size."
            )
        if name in wrapped.decoded:  # a near tie may be decided otherwise
            continue
        scale = max(1.0, float(np.abs(reference).max(initial=0.0)))
        if not np.allclose(reference, found, rtol=0.0, atol=1e-2 * scale, equal_nan=True):
            raise ExportError(
                f'the output "{name}" of the exported file differs from that of the model by up to '
                f"{np.abs(reference - found).max():.3g}. Does the forward pass draw random numbers?"
            )


_registries: dict[object, Any] = {}
_lock = RLock()


@contextmanager
def listed_once() -> Iterator[None]:
    """Share the operator registry between exports; do nothing if torch has it elsewhere."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # private API: other versions of torch may have it elsewhere
        yield
        return

    def from_torchlib(*opset: Any, **options: Any) -> Any:
        key = (*opset, *sorted(options.items()))
        if key not in _registries:
            _registries[key] = build(*opset, **options)
        registry = copy.copy(_registries[key])
        # An export adds its own operators; the next may have others.
        registry.functions = {name: list(found) for name, found in registry.functions.items()}
        return registry

    with _lock:
        original = vars(ONNXRegistry).get("from_torchlib")
        if not isinstance(original, classmethod):
            yield
            return
        build = ONNXRegistry.from_torchlib
        ONNXRegistry.from_torchlib = staticmethod(from_torchlib)  # type: ignore[method-assign]
        try:
            yield
        finally:
            ONNXRegistry.from_torchlib = original  # type: ignore[method-assign,assignment]
