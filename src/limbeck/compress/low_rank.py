"""Low-rank factorisation of layers: matrices, their decompositions, and second moments of data.

`limbeck.compress.changes.factors` defines the forms in which a layer is a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.changes.factors import Form, pair
from limbeck.compress.method import CalibrationContext, CompressError
from limbeck.compress.trace import first_batch, first_input, predict, shared_layers


def matrix(weight: Tensor, form: Form) -> Tensor:
    """Return a layer's weight as the matrix of its form, `[m, n]`."""
    if form == "embedding":
        return weight.T
    if form == "spatial":
        return weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
    return weight.flatten(1)


Convolutions: TypeAlias = Literal["channel", "spatial"]
_READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def factorizable(
    model: nn.Module, layers: Mapping[str, nn.Module], convolutions: Convolutions
) -> tuple[dict[str, Form], dict[str, str]]:
    """Return the form of each layer that can be factorised, and the reason for each that cannot."""
    shared = shared_layers(model)
    fused = {
        inside
        for path, module in model.named_modules()
        if isinstance(module, _READERS)
        for inside, _ in module.named_modules(prefix=path)
    }
    forms: dict[str, Form] = {}
    skipped: dict[str, str] = {}
    for path, layer in layers.items():
        form: Form = convolutions if isinstance(layer, nn.Conv2d) else "channel"
        if isinstance(layer, nn.Linear | nn.Embedding):
            form = "linear" if isinstance(layer, nn.Linear) else "embedding"
        reason = _skip_reason(layer, form)
        if path in shared:
            reason = "another module shares its weights"
        if path in fused:
            reason = "torch's fused kernels read its weight directly"
        if path == "":
            reason = "it is the whole model"
        if reason:
            skipped[path] = reason
        else:
            forms[path] = form
    return forms, skipped


def _skip_reason(layer: Any, form: Form) -> str:
    kind = parametrize.type_before_parametrizations(layer)
    if kind not in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding):
        return f"its type {kind.__name__} may override the computation"
    if "input_quantizer" in dict(layer.named_children()):
        return "its input is quantised"
    if form == "embedding" and layer.max_norm is not None:
        return "its max_norm changes the entries"
    if form in ("channel", "spatial") and layer.groups > 1:
        return "its channels are in groups"
    if form == "spatial" and set(layer.kernel_size) == {1}:
        return "a 1 × 1 kernel has no spatial form"
    return ""


RIDGE = 1e-6
"""Weight of input directions without samples, as a share of the mean of the others."""


@dataclass(frozen=True)
class Moment:
    """Second moments of a layer's inputs, E[x xᵀ], or of its outputs y = A x, E[y yᵀ]; float64."""

    side: Literal["inputs", "outputs"]
    values: Tensor


@dataclass(frozen=True)
class Decomposition:
    """A matrix A, `[m, n]` in float64, and the principal directions of its outputs.

    The directions U, `[m, k]` with k = min(m, n), are orthonormal columns; the energies, `[k]`, are
    the squared singular values, descending: the loss without each direction.
    """

    matrix: Tensor
    directions: Tensor
    energies: Tensor

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return B `[r, n]` and C `[m, r]`, whose product C B is the best matrix of that rank.

        The best matrix is the projection of A on the first directions, U_r U_rᵀ A. The norms are
        balanced: row i of B is as long as column i of C, so that both train and round alike.
        """
        kept = self.directions[:, :rank]
        first = kept.T @ self.matrix
        size = torch.linalg.vector_norm(first, dim=1).sqrt()
        return first / size.where(size > 0, 1.0)[:, None], kept * size


def decompose(matrix: Tensor, moment: Moment | None = None) -> Decomposition:
    r"""Compute the directions to keep in a low-rank approximation of a matrix.

    Without a moment this is the singular value decomposition A = U Σ Vᵀ: the product of the factors
    of rank r has the error $\|A - A_r\|_F^2 = \sum_{i>r} \sigma_i^2$, the minimum over all matrices
    of that rank. With one, the minimised error is that of the outputs,

    $$
    \|(A - A_r)\, C^{1/2}\|_F^2 = \mathbb{E}\, \|A x - A_r x\|^2 = \sum_{i>r} \sigma_i^2,
    \qquad C = \mathbb{E}[x x^\top] + \delta I
    $$

    with σ the singular values of A C^{1/2}. No root of C is inverted: the best matrix is A
    projected on its outputs' principal directions. The small ridge δ (`RIDGE`) includes directions
    that no input had; for every δ the output error is at most that of the plain SVD.

    The directions are eigenvectors of A C Aᵀ, or of the smaller product on the other side, in
    float64. Squaring halves the digits: singular values are exact to about 1e-8 of the largest, and
    smaller ones count as zero.

    Example:
        >>> found = decompose(torch.diag(torch.tensor([1.0, 3.0, 2.0])))
        >>> found.energies
        tensor([9., 4., 1.], dtype=torch.float64)
        >>> first, second = found.factors(2)
        >>> (second @ first).diagonal()
        tensor([0., 3., 2.], dtype=torch.float64)

    Source: Eckart and Young 1936; with a moment Chen et al. 2021 (DRONE), Wang et al. 2024
    (SVD-LLM, arXiv:2403.07378).
    """
    exact = matrix.detach().double()
    if not (exact.isfinite().all() and (moment is None or moment.values.isfinite().all())):
        raise CompressError("a matrix with values that are not finite cannot be factorised")
    if exact.shape[0] <= exact.shape[1] or (moment is not None and moment.side == "outputs"):
        products = exact @ exact.T  # A C Aᵀ
        if moment is not None:
            inputs = moment.side == "inputs"
            outputs = exact @ moment.values @ exact.T if inputs else moment.values
            products = outputs + _ridge(outputs.trace(), products.trace()) * products
        energies, directions = _principal(products)
    else:
        weighted = exact
        if moment is not None:
            ridge = _ridge((exact @ moment.values * exact).sum(), exact.square().sum())
            identity = torch.eye(len(moment.values)).to(moment.values)
            weighted = exact @ torch.linalg.cholesky(moment.values + ridge * identity)
        energies, vectors = _principal(weighted.T @ weighted)
        # The columns of U Σ in descending order; the small ones are orthogonal only after this.
        directions = torch.linalg.qr(weighted @ vectors).Q
    count = min(exact.shape)
    energies = energies[:count].clamp(min=0)
    noise = energies[0] * torch.finfo(torch.float64).eps * max(exact.shape)
    return Decomposition(exact, directions[:, :count], energies.where(energies > noise, 0.0))


def _principal(products: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors in descending order."""
    values, vectors = torch.linalg.eigh(products)
    return values.flip(0), vectors.flip(1)


def _ridge(weighted: Tensor, plain: Tensor) -> float:
    """Return δ; a layer whose inputs were all zero weights all inputs equally."""
    return float(RIDGE * weighted / plain) if weighted > 0 and plain > 0 else 1.0


ROWS = 1 << 15
"""Number of inputs converted to float64 at a time."""


def moments(
    model: nn.Module, layers: Mapping[str, Form], work: CalibrationContext
) -> dict[str, Moment]:
    """Run the samples through a model, and accumulate the second moments of its layers.

    For a layer with more inputs (weights per patch) than outputs, the outputs are used, which are
    fewer; for a convolution in the spatial form, the patches of the first of the two layers.
    """
    first_batch(work)
    sums = {path: _MomentSum(model.get_submodule(path), form) for path, form in layers.items()}
    with ExitStack() as hooks:
        for path, moment in sums.items():
            layer = model.get_submodule(path)
            hooks.enter_context(layer.register_forward_hook(moment.add, with_kwargs=True))
        for batch in work.batches():
            predict(model, batch, work)
    return {path: moment.mean() for path, moment in sums.items()}


class _MomentSum:
    """Accumulated second moments of one layer, with the number of rows."""

    def __init__(self, layer: Any, form: Form) -> None:
        outputs, inputs = matrix(layer.weight, form).shape
        of_inputs = form == "spatial" or (outputs > inputs and form != "embedding")
        self._side: Literal["inputs", "outputs"] = "inputs" if of_inputs else "outputs"
        size = inputs if of_inputs else outputs
        self._total = torch.zeros(size, size, dtype=torch.float64, device=layer.weight.device)
        self._count = 0
        self._axis = 1 if form in ("channel", "spatial") else -1
        self._patches = _patches(layer, form) if of_inputs else None
        self._bias = None if form == "embedding" else layer.bias

    def mean(self) -> Moment:
        return Moment(self._side, self._total / max(1, self._count))

    def add(
        self, layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor
    ) -> None:
        if self._patches is not None:
            vectors = self._patches(first_input(args, kwargs)).movedim(self._axis, -1)
        else:
            vectors = output.movedim(self._axis, -1)
            vectors = vectors if self._bias is None else vectors - self._bias
        for rows in vectors.flatten(0, -2).split(ROWS):
            exact = rows.double()
            self._total += exact.T @ exact
            self._count += len(exact)


def _patches(layer: nn.Module, form: Form) -> Callable[[Tensor], Tensor]:
    """Return a function from a layer's input to the columns that its matrix multiplies.

    A convolution with the identity as its weight copies each patch into its channels, with the
    layer's padding, stride and dilation.
    """
    if form == "linear":
        return nn.Identity()
    weight: Any = layer.weight
    first: Any = pair(layer, matrix(weight, form).shape[1], form)[0]
    with torch.no_grad():
        first.weight.copy_(torch.eye(first.out_channels).view_as(first.weight))
    return first.eval()
