"""Compression of a plain module with an example batch, by the methods of a recipe's stages."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from limbeck import losses
from limbeck.compress.factorizers import FACTORIZERS
from limbeck.compress.method import CalibrationContext, FileMethod, TransformResult
from limbeck.compress.pruners import PRUNERS
from limbeck.compress.quantizers import QUANTIZERS
from limbeck.core.files import replacing
from limbeck.core.modules import evaluating
from limbeck.errors import InputError, Problem
from limbeck.export.compact.onnx import pack
from limbeck.export.module import LABELS, LOGITS, Example, PlainModule, read_example
from limbeck.export.predictor import OnnxPredictor
from limbeck.pipeline.compression import make_method
from limbeck.pipeline.parity import check_compressed
from limbeck.tasks import element_rows

if TYPE_CHECKING:
    import os

    from limbeck.compress.onnx_weights import QuantizeRecord
    from limbeck.core.registry import Registry


class Compressed(NamedTuple):
    """A compressed copy of a module.

    Attributes:
        model: The copy.
        result: What was done, with figures, the structural change, and what was left out.
    """

    model: nn.Module
    result: TransformResult


def prune(
    model: nn.Module, example: Example, *, method: str = "channels", seed: int = 0, **settings: Any
) -> Compressed:
    """Prune a copy of a module: `channels`, `heads`, `layers`, or single weights (`magnitude`).

    Args:
        model: Any module whose output is its logits; it is not modified.
        example: A batch: a tensor, several by position, or a mapping of names to tensors. With
            `labels`, methods that score by a loss or by accuracy can be used.
        method: A method of the stage `prune` of a recipe.
        seed: The seed of random draws.
        settings: The method's settings, as in a recipe: `ratio=0.5`.

    Raises:
        InputError: The example or a setting is invalid, or the method needs a training.
        CompressError: Nothing would change.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> small, done = prune(net, torch.rand(2, 4), method="magnitude", sparsity=0.5)
        >>> done.what
        '24 of 48 weights in 2 layers masked (50.00%) by magnitude'
    """
    return _compress(model, example, PRUNERS, method, seed, settings)


def factorize(
    model: nn.Module, example: Example, *, method: str = "svd", seed: int = 0, **settings: Any
) -> Compressed:
    """Factorise the layers of a copy of a module into two of low rank, where that is smaller.

    Arguments and errors are those of `prune`, with the methods of the stage `factorize`.

    Example:
        >>> net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        >>> factorize(net, torch.rand(2, 32), energy=0.6).model[0]
        Sequential(...)
    """
    return _compress(model, example, FACTORIZERS, method, seed, settings)


def quantize(
    model: nn.Module, example: Example, *, method: str = "uniform", seed: int = 0, **settings: Any
) -> Compressed:
    """Quantise a copy of a module, calibrated on the example (PTQ): weights and activations.

    The copy computes with fake quantisation, can be trained further (QAT), and `limbeck.export`
    writes its weights as integers. Arguments and errors are those of `prune`, with the methods of
    the stage `quantize` that change a model. `quantize_onnx` has those that change a file.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> quantize(net, torch.rand(2, 4), bits=4).result.what
        '2 layers quantised, weights 4 bits, inputs 8 bits, first and last 8 bits'
    """
    return _compress(model, example, QUANTIZERS, method, seed, settings)


def quantize_onnx(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    example: Example,
    *,
    method: str = "int8_static",
    **settings: Any,
) -> QuantizeRecord:
    """Quantise an exported file, and compare it with the float file on the example.

    Args:
        source: An ONNX file written by `limbeck.export`.
        target: The path of the quantised file, written atomically.
        example: Samples for calibration and comparison, a few hundred: a tensor, several in the
            order of the file's inputs, or a mapping of names to tensors.
        method: `int8_static`, `int8_dynamic`, `float16`, `bfloat16` or `int4_weights`.
        settings: The method's settings, as in a recipe: `tolerance=0.1`.

    Raises:
        InputError: The example or a setting is invalid, or the file differs by more than the
            tolerance.
        QuantizeError: There is nothing to quantise.
    """
    chosen = make_method(QUANTIZERS, method, settings, where="quantize_onnx")
    if not isinstance(chosen, FileMethod):
        fix = f'Use limbeck.quantize(model, example, method="{method}").'
        raise InputError(Problem("method", method, "a method that changes a file", fix))
    predictor = OnnxPredictor(Path(source))
    tensors = [example] if isinstance(example, Tensor) else example
    if not isinstance(tensors, Mapping):
        tensors = dict(zip(predictor.inputs, tensors, strict=False))
    batch = predictor.feeds({name: np.asarray(one.cpu()) for name, one in tensors.items()})
    with replacing(Path(target)) as temporary:
        record = chosen.write(Path(source), temporary, calibration=[batch])
        size = pack(temporary).bytes_after
        both = (predictor, OnnxPredictor(temporary))
        before, after = (element_rows(one.predict(batch)[LOGITS], "categorical") for one in both)
        check_compressed(
            before, after, where=str(target), method=method, tolerance=chosen.tolerance
        )
    return record.model_copy(update={"bytes_after": size})


def _compress(
    model: nn.Module,
    example: Example,
    registry: Registry,
    name: str,
    seed: int,
    settings: Mapping[str, Any],
) -> Compressed:
    where = registry.kind.partition(".")[0]
    chosen = make_method(registry, name, settings, where=where)
    if isinstance(chosen, FileMethod):
        fix = f'Use limbeck.export, then limbeck.quantize_onnx(..., method="{name}").'
        raise InputError(Problem("method", name, "a method that changes a model", fix))
    if chosen.needs_training:
        fix = "Use it in a recipe, with `finetune`."
        raise InputError(Problem("method", name, "a method without training", fix))
    plain, batch = read_example(model, example)
    changed = copy.deepcopy(model)
    work = calibration_of(plain, batch, seed=seed)
    return Compressed(changed, chosen.transform(changed, work))


def calibration_of(
    plain: PlainModule, batch: Mapping[str, Tensor], *, seed: int
) -> CalibrationContext:
    """Build the inputs of a compression method from one batch."""

    def batches() -> Iterator[Mapping[str, Tensor]]:
        yield batch

    def forward(model: nn.Module, one: Mapping[str, Tensor]) -> Tensor:
        return plain.outputs(model, one)[LOGITS]

    def labels_of(one: Mapping[str, Tensor]) -> Tensor:
        if LABELS not in one:
            allowed = f"a batch with {LABELS}, which the method's score needs"
            raise InputError(Problem("example", sorted(one), allowed))
        return one[LABELS]

    def loss(model: nn.Module, one: Mapping[str, Tensor]) -> Tensor:
        labels = labels_of(one)
        return losses.cross_entropy(forward(model, one), labels).mean()

    def validate(model: nn.Module) -> float:
        labels = labels_of(batch)
        with evaluating(model), torch.no_grad():
            return float((forward(model, batch).argmax(-1) == labels).float().mean())

    return CalibrationContext(batches, forward, loss, validate, seed)
