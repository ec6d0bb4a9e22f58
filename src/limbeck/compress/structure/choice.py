"""Selection of the channels to prune, with the reason for each skipped layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from limbeck.compress.change import CompressError
from limbeck.compress.layers import chosen
from limbeck.compress.structure.channels import LAYERS, WHOLE, Channels, Tied


@dataclass(frozen=True)
class Choice:
    """The channels that may be pruned.

    Attributes:
        channels: All channels of the model.
        taken: The groups that may be pruned, by the path of a layer whose outputs they are.
        wanted: The paths of layers whose outputs were selected.
        left: Why a layer's outputs are skipped, by its path.
    """

    channels: Channels
    taken: Mapping[str, Tied]
    wanted: tuple[str, ...]
    left: Mapping[str, str]

    def count(self, gone: Mapping[str, list[int]]) -> str:
        """Return the number of removed channels, as text."""
        cut = sum(len(parts) * self.taken[path].blocks for path, parts in gone.items())
        total = sum(tied.channels for tied in self.taken.values())
        return f"{cut:,} of {total:,} channels cut from {len(gone)} of {len(self.taken)} places"

    def notes(self, gone: Mapping[str, list[int]], *, named: bool) -> tuple[str, ...]:
        """Return notes on the skipped layers with reasons, and on unnamed pruned layers."""
        left = dict(self.left)
        for path, tied in self.taken.items():
            if path not in gone:
                few = f"the share of {tied.channels} channels is none"
                left |= dict.fromkeys(self._of(tied), few)
        along = [
            layer for path in gone for layer in self.taken[path].layers if layer not in self.wanted
        ]
        cut_along = [f"cut along, being tied to what was named: {', '.join(along)}"]
        return (*by_reason(left), *(cut_along if named and along else ()))

    def _of(self, tied: Tied) -> list[str]:
        return [layer for layer in tied.layers if layer in self.wanted]


def choose(
    model: nn.Module,
    channels: Channels,
    layers: Iterable[str] | None,
    skip: Iterable[str],
    broken: Mapping[str, str],
) -> Choice:
    """Select the channels of the given layers, or of all, that can be pruned.

    Args:
        model: The model to prune.
        channels: Its channels.
        layers: Paths or patterns; None selects all.
        skip: Paths or patterns of layers whose outputs stay.
        broken: Why channels cannot be pruned, by the path of a layer whose outputs they are.

    Raises:
        InputError: A path or pattern matches no layer.
        CompressError: Nothing can be pruned.
    """
    wanted = tuple(chosen(model, LAYERS, layers, skip))
    skipped = set(chosen(model, LAYERS)) - set(chosen(model, LAYERS, None, skip))
    taken, left = {}, dict.fromkeys(wanted, "not called on the way to the answer")
    for path, tied in channels.tied.items():
        named = [layer for layer in tied.layers if layer in wanted]
        fixed = [layer for layer in tied.layers if layer in skipped]
        why_not = tied.why_not or broken.get(path, "")
        if fixed and not why_not:
            why_not = f"tied to {', '.join(fixed)}, which is skipped"
        if named and not why_not:
            taken[path] = tied
        for layer in named:
            left[layer] = why_not
    left = {layer: reason for layer, reason in left.items() if reason}
    whole = {
        path: f"left whole: {word}"
        for path, module in model.named_modules()
        for kind, word in WHOLE.items()
        if isinstance(module, kind)
    }
    if not taken:
        raise CompressError(f"no channel can be cut. {'; '.join(by_reason({**left, **whole}))}")
    return Choice(channels, taken, wanted, {**left, **whole})


def by_reason(left: Mapping[str, str]) -> tuple[str, ...]:
    """Format the skipped layers, one line per reason.

    Example:
        >>> by_reason({"a": "small", "b": "odd", "c": "small"})
        ('left: a, c (small)', 'left: b (odd)')
    """
    reasons: dict[str, list[str]] = {}
    for path, reason in left.items():
        reasons.setdefault(reason, []).append(path)
    return tuple(f"left: {', '.join(paths)} ({reason})" for reason, paths in reasons.items())
