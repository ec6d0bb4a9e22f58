"""Forms of low-rank factorisation: a layer as a matrix, and its two replacement layers.

A layer with the matrix A, `[m, n]`, becomes a first layer that computes B x and a second one that
computes C (B x), with B `[r, n]` and C `[m, r]`:

| form | layer | matrix | first layer | second layer |
|-|-|-|-|-|
| `linear` | Linear | `[out, in]` | Linear, in to r | Linear, r to out |
| `channel` | Conv1d, Conv2d | `[out, in·kh·kw]` | kh × kw convolution, in to r | 1 × 1, r to out |
| `spatial` | Conv2d | `[out·kw, in·kh]` | kh × 1 convolution, in to r | 1 × kw, r to out |
| `embedding` | Embedding | `[d, entries]` | Embedding, r wide | Linear, r to d |

The second layer has the bias. The first has none, so that padding zeros stay zero after it.

Source: channel: Zhang et al. 2016 (arXiv:1505.06798); spatial: Jaderberg et al. 2014
(arXiv:1405.3866).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.method import CalibrationContext, CompressError
from limbeck.compress.trace import first_batch, sharing
from limbeck.evaluate.flops import evaluating

Form: TypeAlias = Literal["linear", "channel", "spatial", "embedding"]


def matrix(weight: Tensor, form: Form) -> Tensor:
    """Return a layer's weight as the matrix of its form, `[m, n]`.

    Example:
        >>> matrix(torch.zeros(8, 3, 5, 2), "channel").shape
        torch.Size([8, 30])
        >>> matrix(torch.zeros(8, 3, 5, 2), "spatial").shape
        torch.Size([16, 15])
    """
    if form == "embedding":
        return weight.T
    if form == "spatial":
        return weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
    return weight.flatten(1)


def pair(layer: Any, rank: int, form: Form) -> nn.Sequential:
    """Build the two layers that replace a layer, with fresh weights.

    They have the layer's type, device, mode, stride, padding, dilation and `requires_grad`.

    Args:
        layer: A layer that the form fits.
        rank: Number of features between the two layers.
        form: The form of factorisation.

    Example:
        >>> pair(nn.Linear(6, 4), 2, "linear")
        Sequential(
          (0): Linear(in_features=6, out_features=2, bias=False)
          (1): Linear(in_features=2, out_features=4, bias=True)
        )
    """
    made = nn.Sequential(*_LAYERS[form](layer, rank))
    trained = any(parameter.requires_grad for parameter in layer.parameters())
    return made.train(layer.training).requires_grad_(trained)


def fill(
    made: nn.Sequential, first: Tensor, second: Tensor, bias: Tensor | None, form: Form
) -> None:
    """Set the weights of the two layers.

    Args:
        made: The output of `pair`.
        first: The matrix of the first layer, `[r, n]`.
        second: The matrix of the second layer, `[m, r]`.
        bias: The bias of the replaced layer.
        form: The form of factorisation.
    """
    layers: Any = made
    before, after = layers
    if form == "embedding":
        first = first.T
    if form == "spatial":
        outputs, rank, _, width = after.weight.shape
        second = second.view(outputs, width, rank).transpose(1, 2)
    with torch.no_grad():
        before.weight.copy_(first.reshape(before.weight.shape))
        after.weight.copy_(second.reshape(after.weight.shape))
        if bias is not None:
            after.bias.copy_(bias)


def _linear(layer: nn.Linear, rank: int) -> tuple[nn.Module, nn.Module]:
    outputs, inputs = layer.weight.shape
    place = _place(layer.weight)
    second = nn.Linear(rank, outputs, bias=layer.bias is not None, **place)
    return nn.Linear(inputs, rank, bias=False, **place), second


def _channel(layer: nn.Conv1d | nn.Conv2d, rank: int) -> tuple[nn.Module, nn.Module]:
    outputs, inputs = layer.weight.shape[:2]
    kind: Any = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
    place = _place(layer.weight)
    first = kind(
        inputs,
        rank,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        padding_mode=layer.padding_mode,
        bias=False,
        **place,
    )
    return first, kind(rank, outputs, 1, bias=layer.bias is not None, **place)


def _spatial(layer: nn.Conv2d, rank: int) -> tuple[nn.Module, nn.Module]:
    outputs, inputs = layer.weight.shape[:2]
    place = _place(layer.weight)

    def along(axis: int, channels: tuple[int, int], bias: bool) -> nn.Conv2d:
        def here(sizes: tuple[int, ...], elsewhere: int) -> Any:
            return (sizes[0], elsewhere) if axis == 0 else (elsewhere, sizes[1])

        named = isinstance(layer.padding, str)  # "same" and "valid" apply to each axis separately
        return nn.Conv2d(
            *channels,
            here(layer.kernel_size, 1),
            stride=here(layer.stride, 1),
            padding=layer.padding if named else here(layer.padding, 0),  # type: ignore[arg-type]
            dilation=here(layer.dilation, 1),
            padding_mode=layer.padding_mode,
            bias=bias,
            **place,
        )

    return along(0, (inputs, rank), False), along(1, (rank, outputs), layer.bias is not None)


def _embedding(layer: nn.Embedding, rank: int) -> tuple[nn.Module, nn.Module]:
    entries, width = layer.weight.shape
    place = _place(layer.weight)
    first = nn.Embedding(
        entries,
        rank,
        padding_idx=layer.padding_idx,
        scale_grad_by_freq=layer.scale_grad_by_freq,
        sparse=layer.sparse,
        **place,
    )
    return first, nn.Linear(rank, width, bias=False, **place)


def _place(weight: Tensor) -> dict[str, Any]:
    return {"device": weight.device, "dtype": weight.dtype}


_LAYERS: dict[Form, Any] = {
    "linear": _linear,
    "channel": _channel,
    "spatial": _spatial,
    "embedding": _embedding,
}
Convolutions: TypeAlias = Literal["channel", "spatial"]
_READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def factorizable(
    model: nn.Module, layers: Mapping[str, nn.Module], convolutions: Convolutions
) -> tuple[dict[str, Form], dict[str, str]]:
    """Sort layers into those that can be factorised and those that cannot.

    Args:
        model: The whole model, to find weights shared by several layers.
        layers: The candidate layers, by path.
        convolutions: The form for two-dimensional convolutions.

    Returns:
        The form of each layer that can, and the reason for each that cannot, by path.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Conv2d(8, 8, 3, groups=8))
        >>> factorizable(net, dict(net.named_children()), "channel")
        ({'0': 'linear'}, {'1': 'its channels are in groups'})
    """
    shared = sharing(model)
    read = {
        inside
        for path, module in model.named_modules()
        if isinstance(module, _READERS)
        for inside, _ in module.named_modules(prefix=path)
    }
    forms: dict[str, Form] = {}
    left: dict[str, str] = {}
    for path, layer in layers.items():
        form = _form(layer, convolutions)
        reason = _reason(layer, form)
        if path in shared:
            reason = "another module shares its weights"
        if path in read:
            reason = "torch's fused kernels read its weight from outside"
        if path == "":
            reason = "it is the whole model"
        if reason:
            left[path] = reason
        else:
            forms[path] = form
    return forms, left


def _form(layer: nn.Module, convolutions: Convolutions) -> Form:
    if isinstance(layer, nn.Linear):
        return "linear"
    if isinstance(layer, nn.Embedding):
        return "embedding"
    return convolutions if isinstance(layer, nn.Conv2d) else "channel"


def _reason(layer: Any, form: Form) -> str:
    kind = parametrize.type_before_parametrizations(layer)
    if kind not in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding):
        return f"its type {kind.__name__} may compute otherwise"
    if "input_quantizer" in dict(layer.named_children()):
        return "its input is quantised"
    if form == "embedding" and layer.max_norm is not None:
        return "its entries are held to a norm"
    if form in ("channel", "spatial") and layer.groups > 1:
        return "its channels are in groups"
    if form == "spatial" and set(layer.kernel_size) == {1}:
        return "a 1 × 1 kernel has no spatial form"
    return ""


RIDGE = 1e-6
"""Weight of unseen input directions, as a share of the mean of the seen ones."""


@dataclass(frozen=True)
class Moment:
    """Second moments of a layer's inputs or outputs.

    Attributes:
        side: `inputs`: E[x xᵀ], `[n, n]`; `outputs`: E[y yᵀ] with y = A x, `[m, m]`.
        values: The matrix, in float64.
    """

    side: Literal["inputs", "outputs"]
    values: Tensor


@dataclass(frozen=True)
class Decomposition:
    """A matrix and the principal directions of its outputs, in order of importance.

    Attributes:
        matrix: A, `[m, n]`, in float64.
        directions: U, `[m, k]`, orthonormal columns, k = min(m, n).
        energies: The squared singular values, `[k]`, descending: the loss without each direction.
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

    Args:
        matrix: A, `[m, n]`.
        moment: The layer's second moments; None weights all inputs equally.

    Raises:
        CompressError: A value is not finite.

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
    given = matrix.detach().double()
    if not (given.isfinite().all() and (moment is None or moment.values.isfinite().all())):
        raise CompressError("a matrix cannot be factorised: it holds values that are not finite")
    if given.shape[0] <= given.shape[1] or (moment is not None and moment.side == "outputs"):
        energies, directions = _principal(_outputs(given, moment))
    else:
        seen = given if moment is None else given @ _root(given, moment.values)
        energies, found = _principal(seen.T @ seen)
        # The columns of U Σ in descending order; the small ones are orthogonal only after this.
        directions = torch.linalg.qr(seen @ found).Q
    count = min(given.shape)
    energies = energies[:count].clamp(min=0)
    noise = energies[0] * torch.finfo(torch.float64).eps * max(given.shape)
    return Decomposition(given, directions[:, :count], energies.where(energies > noise, 0.0))


def _principal(products: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors in descending order."""
    values, vectors = torch.linalg.eigh(products)
    return values.flip(0), vectors.flip(1)


def _outputs(matrix: Tensor, moment: Moment | None) -> Tensor:
    """Return A C Aᵀ."""
    plain = matrix @ matrix.T
    if moment is None:
        return plain
    seen = moment.values if moment.side == "outputs" else matrix @ moment.values @ matrix.T
    return seen + _ridge(seen.trace(), plain.trace()) * plain


def _root(matrix: Tensor, inputs: Tensor) -> Tensor:
    """Return a root of C, the lower Cholesky factor."""
    seen = (matrix @ inputs * matrix).sum()
    ridge = _ridge(seen, matrix.square().sum())
    root: Tensor = torch.linalg.cholesky(inputs + ridge * torch.eye(len(inputs)).to(inputs))
    return root


def _ridge(seen: Tensor, plain: Tensor) -> float:
    """Return δ; a layer whose inputs were all zero weights all inputs equally."""
    return float(RIDGE * seen / plain) if seen > 0 and plain > 0 else 1.0


ROWS = 1 << 15
"""Number of inputs converted to float64 at a time."""


def moments(
    model: nn.Module, layers: Mapping[str, Form], work: CalibrationContext
) -> dict[str, Moment]:
    """Run the samples through a model, and accumulate the second moments of its layers.

    For a layer with more inputs (weights per patch) than outputs, the outputs are used, which are
    fewer; for a convolution in the spatial form, the patches of the first of the two layers.

    Args:
        model: Not modified.
        layers: The form of each layer, by path. The model must call all of them.
        work: The samples and the forward function.

    Raises:
        InputError: There is no sample.
    """
    first_batch(work)
    sums = {path: _Sum(model.get_submodule(path), form) for path, form in layers.items()}
    handles = [
        model.get_submodule(path).register_forward_hook(found, with_kwargs=True)
        for path, found in sums.items()
    ]
    try:
        with evaluating(model), torch.no_grad():
            for batch in work.batches():
                work.forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {path: found.moment for path, found in sums.items()}


class _Sum:
    """Accumulated second moments of one layer, with the number of rows."""

    def __init__(self, layer: Any, form: Form) -> None:
        outputs, inputs = matrix(layer.weight, form).shape
        wide = outputs > inputs and form != "embedding"
        self._side: Literal["inputs", "outputs"]
        self._side = "inputs" if wide or form == "spatial" else "outputs"
        size = inputs if self._side == "inputs" else outputs
        self._total = torch.zeros(size, size, dtype=torch.float64, device=layer.weight.device)
        self._count = 0
        self._axis = 1 if form in ("channel", "spatial") else -1
        self._patches = _patches(layer, form) if self._side == "inputs" else None
        self._bias = None if form == "embedding" else layer.bias

    @property
    def moment(self) -> Moment:
        return Moment(self._side, self._total / max(1, self._count))

    def __call__(
        self, layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor
    ) -> None:
        if self._patches is not None:
            seen = self._patches((*args, *kwargs.values())[0]).movedim(self._axis, -1)
        else:
            seen = output.movedim(self._axis, -1)
            seen = seen if self._bias is None else seen - self._bias
        for rows in seen.flatten(0, -2).split(ROWS):
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
