"""Parameter groups: frozen layers, learning rates by pattern, and layer-wise decay."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.taps.paths import WRAPPERS, named, select
from limbeck.training.settings import Training


def parameters_by_path(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return a model's parameters by path, without the names of wrappers, as of `torch.compile`.

    A shared parameter has the first of its paths.
    """
    return {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): parameter
        for name, parameter in model.named_parameters()
    }


def matching(model: nn.Module, pattern: str, *, where: str) -> list[str]:
    """Return the paths of the parameters that a pattern names, alone or by a module above them.

    Args:
        model: The model.
        pattern: The path of a module or a parameter, or a pattern as of `limbeck.taps`: `layer*`
            for any name at that place, `**.bias` for any place.
        where: The key in the recipe, for messages.

    Raises:
        InputError: Nothing matches; the message lists the nearest paths.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> matching(model, "0", where="freeze"), matching(model, "**.bias", where="freeze")
        (['0.weight', '0.bias'], ['0.bias', '1.bias'])
    """
    parameters = list(parameters_by_path(model))
    modules = [path for path, _ in named(model) if path]
    chosen = set(select(pattern, dict.fromkeys([*modules, *parameters])))
    found = [name for name in parameters if _parent_in(name, chosen)]
    if not found:
        given = f"{pattern}, a module without parameters" if chosen else pattern
        fix = did_you_mean(pattern, [*modules, *parameters])
        allowed = "the path of a module or parameter of the model, or a pattern of them"
        raise InputError(Problem(where, given, allowed, fix))
    return found


def freeze(
    model: nn.Module, patterns: Iterable[str], *, where: str = "freeze"
) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """Disable the training of parameters that patterns name: they are frozen, without gradient.

    The statistics of a batch normalisation inside of a frozen module are frozen as well, in
    evaluation mode; `keep_frozen` restores that mode after `train()`.

    Args:
        model: The model, changed in place.
        patterns: Paths or patterns of modules and parameters.
        where: The key in the recipe, for messages.

    Returns:
        The parameters that were trainable, and the frozen batch normalisations.

    Raises:
        InputError: Patterns match nothing; the message lists all, with the nearest paths.
    """
    frozen: list[nn.Parameter] = []
    problems: list[Problem] = []
    parameters = parameters_by_path(model)
    chosen: set[str] = set()
    for number, pattern in enumerate(patterns):
        try:
            names = matching(model, pattern, where=f"{where}.{number}")
        except InputError as error:
            problems += error.problems
            continue
        chosen |= set(select(pattern, [path for path, _ in named(model) if path]))
        frozen += [parameters[name] for name in names if parameters[name].requires_grad]
    if problems:
        raise InputError(*problems)
    for parameter in frozen:
        parameter.requires_grad_(False)
    norms: list[nn.Module] = [
        module
        for path, module in named(model)
        if isinstance(module, _BatchNorm) and path and _parent_in(path, chosen)
    ]
    return frozen, norms


def keep_frozen(norms: Iterable[nn.Module]) -> None:
    """Set frozen batch normalisations to evaluation mode."""
    for norm in norms:
        norm.training = False


@contextmanager
def frozen(model: nn.Module, patterns: Iterable[str], *, where: str = "freeze") -> Iterator[None]:
    """Disable the training of parameters within the block, as `freeze`; restore it afterwards.

    A scheme is built inside of the block, so that its terms and optimisers leave them out.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> with frozen(model, ["0"]):
        ...     [name for name, one in model.named_parameters() if one.requires_grad]
        ['1.weight', '1.bias']
        >>> all(one.requires_grad for one in model.parameters())
        True
    """
    parameters, _ = freeze(model, patterns, where=where)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def learning_rates(
    model: nn.Module, settings: Training, *, where: str = "learning_rates"
) -> dict[nn.Parameter, float]:
    r"""Return the peak learning rate of each parameter of a model.

    Layer $l$ of $0, \dots, L$ has the rate $\eta\, d^{L - l}$ with `layer_decay` $d$; see
    `layers_of`. A rate of `learning_rates` is not decayed; of several patterns, the last one
    that matches a parameter counts.

    Raises:
        InputError: Patterns match nothing; the message lists all, with the nearest paths.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
        >>> given = Training(epochs=1, learning_rate=0.8, layer_decay=0.5, learning_rates={"1": 9})
        >>> list(learning_rates(model, given).values())[::2]
        [0.2, 9.0, 0.8]

    Source: Clark et al. 2020 (ELECTRA); Bao et al. 2022 (BEiT).
    """
    parameters = parameters_by_path(model)
    rates = dict.fromkeys(parameters, settings.learning_rate)
    if settings.layer_decay is not None:
        layers = layers_of(model)
        last = max(layers.values(), default=0)
        for name, layer in layers.items():
            rates[name] *= settings.layer_decay ** (last - layer)
    problems: list[Problem] = []
    for pattern, rate in settings.learning_rates.items():
        try:
            rates.update(dict.fromkeys(matching(model, pattern, where=where), float(rate)))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)
    return {parameters[name]: rate for name, rate in rates.items()}


def layers_of(model: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter, counted from 0 in the order of definition.

    A layer is a block of a stack: of a container with numbered children of one class, such as
    `blocks.0`, `blocks.1`; a stack inside of a block is a part of it. What is defined before the
    first stack is layer 0 (embeddings, stem), and all after the last one is the last layer (final
    normalisation, head), as in BEiT. A module between two stacks is a layer. In a model without
    stacks, each child of the model is a layer.

    Example:
        >>> blocks = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(2)])
        >>> parts = {"embed": nn.Embedding(2, 1), "blocks": blocks, "head": nn.Linear(1, 1)}
        >>> layers_of(nn.ModuleDict(parts))
        {'embed.weight': 0, 'blocks.0.weight': 1, 'blocks.1.weight': 2, 'head.weight': 3,
        'head.bias': 3}
    """
    names = list(parameters_by_path(model))
    blocks = _blocks(dict(named(model)))
    of_block = [_parent_in(name, blocks) for name in names]
    numbers = [number for number, block in enumerate(of_block) if block]
    layers: dict[tuple[str, str], int] = {}
    found = {}
    for number, (name, block) in enumerate(zip(names, of_block, strict=True)):
        if block:
            key = ("block", block)
        elif not numbers:
            key = ("child", name.partition(".")[0])
        elif number < numbers[0]:
            key = ("before", "")
        elif number > numbers[-1]:
            key = ("after", "")
        else:
            key = ("between", name.rpartition(".")[0])
        found[name] = layers.setdefault(key, len(layers))
    return found


def _blocks(modules: Mapping[str, nn.Module]) -> set[str]:
    """Return the paths of the blocks of all outermost stacks.

    One block alone is a stack if its class is that of other blocks.
    """
    found: set[str] = set()
    single: dict[str, type[nn.Module]] = {}
    for path, module in modules.items():
        if _parent_in(path, found):
            continue
        children = {
            f"{path}.{name}" if path else name: type(child)
            for name, child in module._modules.items()
            if child is not None and any(True for _ in child.parameters())
        }
        if len({*children.values()}) == 1 and all(
            name.rpartition(".")[2].isdigit() for name in children
        ):
            if len(children) == 1:
                single |= children
            else:
                found |= children.keys()
    kinds = {type(modules[path]) for path in found}
    alone = {path for path, kind in single.items() if kind in kinds}
    return found | {path for path in alone if not _parent_in(path, found)}


def _parent_in(path: str, chosen: Collection[str]) -> str:
    """Return the path, or its parent, that is in a collection; empty if there is none."""
    parts = path.split(".")
    ends = (".".join(parts[: end + 1]) for end in range(len(parts)))
    return next((one for one in ends if one in chosen), "")
