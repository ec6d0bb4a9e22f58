"""Construction and trial of low-rank layers in a model."""

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
    """Compute the principal directions of each layer.

    Args:
        model: Not modified.
        forms: The form of each layer, by path.
        work: The samples and the forward function.
        whiten: Whether the directions are those of the layer outputs, or of the weights.

    Raises:
        CompressError: A layer's weights or outputs are not finite.
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
    """Build the two layers of a given rank that best approximate a layer.

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
    """Replace the modules at given paths, and return the previous ones."""
    before = {path: model.get_submodule(path) for path in modules}
    for path, module in modules.items():
        model.set_submodule(path, module)
    return before


def answers(model: nn.Module, modules: Mapping[str, nn.Module], work: Work) -> Tensor:
    """Return a model's outputs for the first batch with replaced modules.

    Args:
        model: Not modified.
        modules: The replacements by path, for this call only.
        work: The batch and the forward function.

    Raises:
        CompressError: The model does not run with the replacements.
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
    """Measure the mean squared change of the outputs when one layer alone is cut.

    Args:
        model: Not modified.
        cuts: The replacement of each layer, by path.
        work: The batch and the forward function.

    Raises:
        CompressError: The model does not run with two layers instead of one.
    """
    dense = answers(model, {}, work).double()
    return {
        path: float((answers(model, {path: two}, work).double() - dense).square().mean())
        for path, two in cuts.items()
    }
