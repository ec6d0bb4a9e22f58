"""Layers cut to a low rank: made, put into a model, and tried there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limbeck.compress.calls import first_batch
from limbeck.compress.change import CompressError
from limbeck.compress.low_rank.factors import Decomposition, decompose
from limbeck.compress.low_rank.forms import Form, fill, matrix, pair
from limbeck.compress.low_rank.moments import moments
from limbeck.compress.method import Work
from limbeck.evaluate.flops import evaluating


def decompositions(
    model: nn.Module, forms: Mapping[str, Form], work: Work, *, whiten: bool
) -> dict[str, Decomposition]:
    """Find the directions that each layer should keep.

    Args:
        model: Is left as it was.
        forms: The form of each layer, by path.
        work: Gives the samples, and runs the model.
        whiten: Whether the directions are those of the layers' answers, or of their weights.

    Raises:
        CompressError: A layer has weights or answers that are not finite.
    """
    seen = moments(model, forms, work) if whiten else {}
    found = {}
    for path, form in forms.items():
        weight: Tensor = model.get_submodule(path).weight  # type: ignore[assignment]
        try:
            found[path] = decompose(matrix(weight, form), seen.get(path))
        except CompressError as error:
            raise CompressError(f"{path}: {error}") from error
    return found


def cut(layer: nn.Module, form: Form, found: Decomposition, rank: int) -> nn.Sequential:
    """Make the two layers of some rank that answer most like a layer.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> two = cut(layer, "linear", decompose(layer.weight), 2)
        >>> torch.allclose(two(torch.eye(3)), layer(torch.eye(3)), atol=1e-6)
        True
    """
    two = pair(layer, rank, form)
    bias: Tensor | None = None if form == "embedding" else layer.bias  # type: ignore[assignment]
    fill(two, *found.factors(rank), bias, form)
    return two


def swap(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Put modules at their paths, and give those that stood there."""
    before = {path: model.get_submodule(path) for path in modules}
    for path, module in modules.items():
        model.set_submodule(path, module)
    return before


def answers(model: nn.Module, modules: Mapping[str, nn.Module], work: Work) -> Tensor:
    """Give a model's answers to the first batch with other modules at some paths.

    Args:
        model: Is left as it was.
        modules: What to put at which path for that time.
        work: Gives the batch, and runs the model.

    Raises:
        CompressError: The model does not run with them.
    """
    before = swap(model, modules)
    try:
        with evaluating(model), torch.no_grad():
            return work.forward(model, first_batch(work))
    except (AttributeError, TypeError, RuntimeError) as error:
        raise CompressError(
            f"the model does not run with two layers at {', '.join(modules)}: {error}. If its code "
            "reads the weight or the sizes of a layer, skip that layer."
        ) from error
    finally:
        swap(model, before)


def sensitivities(model: nn.Module, cuts: Mapping[str, nn.Module], work: Work) -> dict[str, float]:
    """Measure how far the answers move, in mean squares, when one layer alone is cut.

    Args:
        model: Is left as it was.
        cuts: What takes each layer's place, by path.
        work: Gives the batch, and runs the model.

    Raises:
        CompressError: The model does not run with two layers in the place of one.
    """
    dense = answers(model, {}, work).double()
    return {
        path: float((answers(model, {path: two}, work).double() - dense).square().mean())
        for path, two in cuts.items()
    }
