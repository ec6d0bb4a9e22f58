"""A model as one ONNX file that runs without limbeck and without torch."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.atomic import replacing, write_bytes
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.export import quantized, recurrent, slim
from limbeck.export.operators import listed_once
from limbeck.export.quiet import quiet
from limbeck.export.reading import LARGEST, read_model
from limbeck.export.runnable import Runnable

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

_PUT_OVER = re.compile(r"\.parametrizations\.(\w+)\.(?:original|0)")
"""What torch puts into the names of weights that something is put over."""


class ExportError(LimbeckError):
    """A model cannot be written as ONNX, or the file does not answer as the model does."""


class _Wrapped(nn.Module):
    """A model and its task as a function of tensors, which is all that an ONNX graph knows."""

    def __init__(self, model: nn.Module, task: Runnable) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._task.outputs(self.model, self.named(tensors)).values())

    def named(self, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return dict(zip(self._task.inputs, tensors, strict=True))


def to_onnx(model: nn.Module, task: Runnable, example: Mapping[str, Tensor], path: Path) -> None:
    """Write a model as one ONNX file, with any number of samples (and tokens) in a batch.

    Inputs and outputs are named as the task names them; their first axis is `batch`, the second
    axis of token inputs (whole numbers, two axes) is `tokens`. Batch normalisation is folded into
    the convolutions before it; masks are worked into the weights; quantised weights are written as
    whole numbers, and their layers round their inputs as they do in training. What is exported is
    a copy on the CPU in eval mode: the model itself is not touched. The file is checked, and has to
    answer the example as the model does, before it takes the place of what stood at `path`.

    Args:
        model: Any module that the task can run.
        task: Names the inputs and runs the model.
        example: A batch of at least one sample; labels and other entries are ignored.
        path: Where to write, whole or not at all.

    Raises:
        ExportError: An operator has no ONNX form, the forward pass branches on values, the batch
            axis is fixed by the model's code, the file would pass 2 GB, or it answers otherwise
            than the model.
        InputError: The example lacks an input of the task.
        WriteError: The target cannot be written to.
    """
    tensors = _example_tensors(task, example)
    wrapped = _Wrapped(copy.deepcopy(model).cpu(), task).eval()
    with torch.no_grad():
        names = list(task.outputs(wrapped.model, wrapped.named(tensors)))
    quantized.deploy(wrapped.model)
    recurrent.deploy(wrapped.model)
    graph = _convert(_capture(wrapped, tensors, task.inputs), names, task.inputs)
    _tidy(graph)
    if graph.ByteSize() > LARGEST:
        raise ExportError(
            f"the model takes {graph.ByteSize() / 2**30:.1f} GiB as ONNX; one file holds at most "
            "2 GiB. Make it smaller first, or export safetensors instead."
        )
    with replacing(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        _check(temporary, wrapped, tensors)


def embed_classes(path: Path, classes: Sequence[str]) -> None:
    """Write the names of the classes into the metadata of an ONNX file, as a JSON list.

    ONNX Runtime returns them as `session.get_modelmeta().custom_metadata_map["classes"]`.

    Args:
        path: The file; every byte of its graph stays as it is.
        classes: The names, in the order of the outputs.

    Raises:
        InputError: It is no ONNX file.
        WriteError: The file cannot be written to.
    """
    import onnx

    model = read_model(path)
    kept = [entry for entry in model.metadata_props if entry.key != "classes"]
    names = onnx.StringStringEntryProto(key="classes", value=json.dumps(list(classes)))
    del model.metadata_props[:]
    model.metadata_props.extend([*kept, names])
    write_bytes(path, model.SerializeToString())


def _example_tensors(task: Runnable, example: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    missing = [name for name in task.inputs if name not in example]
    if missing:
        raise InputError(Problem("example", sorted(example), f"a batch with {', '.join(missing)}"))
    return tuple(_doubled(example[name].detach().cpu()) for name in task.inputs)


def _doubled(tensor: Tensor) -> Tensor:
    """Take two samples (and two tokens), since torch.export takes a size of one for a constant."""
    two = torch.cat([tensor, tensor])[:2]
    return torch.cat([two, two], dim=1) if _is_tokens(two) and two.shape[1] == 1 else two


def _is_tokens(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and not tensor.is_floating_point()


def _capture(
    wrapped: _Wrapped, tensors: tuple[Tensor, ...], inputs: tuple[str, ...]
) -> ExportedProgram:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple(
        {0: dynamic, 1: dynamic} if _is_tokens(tensor) else {0: dynamic} for tensor in tensors
    )
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(wrapped, tensors, dynamic_shapes=(shapes,), strict=False)
    except Exception as error:  # torch.export lets every kind of exception through
        raise ExportError(_capture_advice(error, inputs)) from error


def _capture_advice(error: Exception, inputs: tuple[str, ...]) -> str:
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    place = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)
    where = f" ({place[-1][0]}:{place[-1][1]}, in {place[-1][2]})" if place else ""
    if "data-dependent" in text:
        return (
            f"the model cannot be exported: its forward pass branches on a tensor's values{where}. "
            "Replace the Python branch by torch.where, or move it out of the model."
        )
    if "specialized" in text or "ConstraintViolation" in type(error).__name__:
        return (
            "the model cannot be exported: its code fixes the size of the batch (or the tokens) of "
            f"{', '.join(inputs)}{where}. Take sizes from the input (x.shape[0]), not constants."
        )
    reason = next(
        (line.strip() for line in text.splitlines() if line.strip()), type(error).__name__
    )
    return (
        f"the model cannot be exported{where}: {type(error).__name__}: {reason}. "
        "The forward pass has to work under torch.export.export."
    )


def _convert(program: ExportedProgram, outputs: list[str], inputs: tuple[str, ...]) -> ModelProto:
    try:
        with quiet(), listed_once():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(inputs),
                output_names=outputs,
                verbose=False,
                custom_translation_table=quantized.translations() | recurrent.translations(),
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
    found = re.search(r"OpOverload\(op='([\w.]+)'", text) or re.search(
        r"torch\.ops\.([\w.]+)", text
    )
    operator = found.group(1) if found else "unknown"
    return (
        f'the operator "{operator}"{_module_of(operator, program)} has no ONNX form. '
        "Replace it in the model by operators that ONNX has (https://onnx.ai/onnx/operators)."
    )


def _module_of(operator: str, program: ExportedProgram) -> str:
    """Say which submodule calls an operator, if it stands in the captured graph under that name."""
    base = operator.split(".")[-1].lstrip("_")
    for node in program.graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if stack and base in str(node.target):
            path, kind = stack[-1]
            path = str(path).removeprefix("model").removeprefix(".") or "the model itself"
            name = kind.rsplit(".", 1)[-1] if isinstance(kind, str) else kind.__name__
            return f", called in {path} ({name}),"
    return ""


def _tidy(model: ModelProto) -> None:
    """Make the graph small and its names those of the model's own state_dict."""
    slim.strip(model)
    weights = {weight.name for weight in model.graph.initializer}
    taken = weights | {name for node in model.graph.node for name in (*node.input, *node.output)}
    bare = {name: _PUT_OVER.sub(r".\1", name.removeprefix("model.")) for name in weights}
    # An input that no node takes has a name too.
    slim.rename(model, lambda old: old if bare.get(old, old) in taken else bare.get(old, old))
    for value in (*model.graph.input, *model.graph.output):
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.dim_param:
                dimension.dim_param = "batch" if axis == 0 else "tokens"


def _check(path: Path, wrapped: _Wrapped, tensors: tuple[Tensor, ...]) -> None:
    import onnx

    from limbeck.export.predictor import OnnxPredictor

    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    for value in graph.graph.input:
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(f'the exported input "{value.name}" has a fixed batch size.')
    one = tuple(tensor[:1] for tensor in tensors)
    try:
        with torch.no_grad():
            expected = wrapped(*one)
    except Exception as error:  # the model's own code may raise anything
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(
            f"the model fails on a single sample: {type(error).__name__}: {reason}"
        ) from error
    answered = OnnxPredictor(path, threads=1).predict(wrapped.named(one))
    for reference, (name, value) in zip(expected, answered.items(), strict=True):
        _compare(name, reference.numpy(), value)


def _compare(name: str, reference: NDArray[Any], value: NDArray[Any]) -> None:
    if reference.shape != value.shape:
        raise ExportError(
            f'the exported file answers "{name}" in shape {value.shape}, the model in '
            f"{reference.shape}: the model's code depends on the size of the batch."
        )
    scale = max(1.0, float(np.abs(reference).max(initial=0.0)))
    if not np.allclose(reference, value, rtol=0.0, atol=1e-2 * scale, equal_nan=True):
        raise ExportError(
            f'the exported file answers "{name}" otherwise than the model: the largest difference '
            f"is {np.abs(reference - value).max():.3g}. Does the forward pass draw random numbers?"
        )
