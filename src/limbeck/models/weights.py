"""Loading of checkpoint weights into a module, with messages on mismatches."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limbeck.errors import InputError, Problem
from limbeck.models.checkpoint import Checkpoint, find, read_checkpoint
from limbeck.models.spec import Loading

if TYPE_CHECKING:
    from torch import Tensor, nn

    Convert = Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]

__all__ = ["find", "load_weights"]
# The maximum number of tensors listed in a message before "and more".
SHOWN = 8
# The maximum number of missing names to compare with all others: the comparison is quadratic.
COMPARED = 60
COUNTER = "num_batches_tracked"


@dataclass
class _Match:
    """The matched and unmatched tensors of a checkpoint."""

    prefix: str
    given: dict[str, Tensor]
    outside: list[str]
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return not (self.missing or self.extra or self.shapes)


def load_weights(
    model: nn.Module,
    path: str,
    *,
    classes: int,
    loading: Loading | None = None,
    convert: Convert | None = None,
) -> list[str]:
    """Copy a checkpoint's weights into a model.

    Names are matched after any prefix in the file (`state_dict.`, `model.`, `module.`). Every
    tensor must match in name and shape; only the counters of batch normalisation, which no
    computation uses, and the second name of a shared tensor may be missing.

    Args:
        model: The module, in float32.
        path: A checkpoint, see `limbeck.models.checkpoint.find`.
        classes: The number of classes of the data, for messages on a mismatch.
        loading: The recipe's settings for names and skipped tensors.
        convert: A function that renames an older checkpoint's tensors as the model's own library
            does.

    Returns:
        Notes on tensors not loaded, and on the precision of the file.

    Raises:
        InputError: The file is missing or cannot be read, tensors are missing, unexpected or of
            another shape or dtype, or several sets of weights fit: the message lists all.
    """
    import torch

    file = find(path)
    loading = loading or Loading()
    checkpoint = read_checkpoint(file)
    where = f"model.checkpoint ({file})"
    wanted = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    match = _best(checkpoint, wanted, loading, classes, where, _converter(convert, model))
    problems = [*_differences(match, wanted, where, classes), *_kinds(match, wanted, where)]
    if problems:
        raise InputError(*problems)
    model.load_state_dict(match.given, strict=False)
    _check_finite(model, match, where)
    return _notes(match, checkpoint)


def _converter(
    convert: Convert | None, model: nn.Module
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return (lambda given: given) if convert is None else lambda given: convert(model, given)


def _best(
    checkpoint: Checkpoint,
    wanted: dict[str, Tensor],
    loading: Loading,
    classes: int,
    where: str,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> _Match:
    """Return the set of weights in the file that matches the model best."""
    tensors = {loading.renamed(name): one for name, one in checkpoint.tensors.items()}
    aliases = {loading.renamed(k): loading.renamed(v) for k, v in checkpoint.aliases.items()}
    for name, of in aliases.items():
        if of in tensors:
            tensors.setdefault(name, tensors[of])
    matches = []
    for prefix in _prefixes(tensors, wanted, loading):
        match = _match(tensors, wanted, prefix, loading, classes, aliases)
        if not match.fits:
            converted = _match(
                convert(match.given), wanted, "", loading, classes, aliases, match.outside
            )
            converted.prefix = prefix
            match = converted if converted.fits else match
        matches.append(match)
    fitting = [match for match in matches if match.fits]
    different = [one for one in fitting[1:] if not _same(one, fitting[0])]
    if different:
        names = [repr(one.prefix) for one in (fitting[0], *different)]
        fix = f"Choose one beside the model's name: `loading: {{prefix: {names[0]}}}`."
        given = f"{len(names)} sets of weights, under {', '.join(names)}"
        raise InputError(Problem(where, given, "one set of weights that fits", fix))
    return fitting[0] if fitting else matches[0]


def _prefixes(tensors: Iterable[str], wanted: dict[str, Tensor], loading: Loading) -> list[str]:
    """Return the prefixes of the model's names, the most frequent one first."""
    if loading.prefix is not None:
        dotted = loading.prefix.rstrip(".")
        return [f"{dotted}." if dotted else ""]
    hits: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for cut in range(min(len(parts), 12)):
            if ".".join(parts[cut:]) in wanted:
                hits["".join(f"{part}." for part in parts[:cut])] += 1
    if not hits:
        return [_common(list(tensors))]
    most = max(hits.values())
    likely = [prefix for prefix, count in hits.items() if 2 * count >= most]
    return sorted(likely, key=lambda prefix: (-hits[prefix], len(prefix), prefix))[:16]


def _common(names: list[str]) -> str:
    """Return the dotted prefix that all names share."""
    parts = [name.split(".")[:-1] for name in (min(names), max(names))]
    shared = []
    for one, other in zip(*parts, strict=False):
        if one != other:
            break
        shared.append(f"{one}.")
    return "".join(shared)


def _match(
    tensors: dict[str, Tensor],
    wanted: dict[str, Tensor],
    prefix: str,
    loading: Loading,
    classes: int,
    aliases: dict[str, str],
    outside: list[str] | None = None,
) -> _Match:
    inside = {name[len(prefix) :]: one for name, one in tensors.items() if name.startswith(prefix)}
    others = [name for name in tensors if not name.startswith(prefix)]
    match = _Match(prefix, inside, others if outside is None else outside)
    for name, partners in _shared(wanted).items():
        present = [one for one in partners if one in inside]
        if name not in inside and present:
            inside[name] = inside[present[0]]
    skipped = [name for name in {*inside, *wanted} if loading.skips(name)]
    match.left = sorted(name for name in skipped if name in inside)
    match.fresh = sorted(name for name in skipped if name in wanted)
    for name in match.left:
        del inside[name]
    expected = {name: one for name, one in wanted.items() if name not in match.fresh}
    match.missing = [n for n in expected if n not in inside and not n.endswith(COUNTER)]
    surplus = [name for name in inside if name not in wanted]
    match.extra = [n for n in surplus if not n.endswith(COUNTER) and f"{prefix}{n}" not in aliases]
    for name in surplus:
        if name not in match.extra:
            del inside[name]
    for name, one in expected.items():
        given = inside.get(name)
        if given is None or given.shape == one.shape:
            continue
        if given.numel() == one.numel() == 1:
            inside[name] = given.reshape(one.shape)
        else:
            match.shapes.append(name)
    if loading.head == "fresh":
        _leave_head(match, wanted, classes)
    return match


def _leave_head(match: _Match, wanted: dict[str, Tensor], classes: int) -> None:
    """Keep the head's initialisation: tensors that differ in the classes, or the last layer."""
    head = [n for n in match.shapes if _is_head(match.given[n], wanted[n], classes)]
    head += [name for name in match.missing if wanted[name].shape[:1] == (classes,)]
    if not head:
        last = [name for name, one in wanted.items() if one.ndim > 1 and len(one) == classes][-1:]
        head = [n for n in wanted for m in last if n.rpartition(".")[0] == m.rpartition(".")[0]]
    match.fresh = sorted({*match.fresh, *head})
    match.missing = [name for name in match.missing if name not in head]
    match.shapes = [name for name in match.shapes if name not in head]
    for name in head:
        match.given.pop(name, None)


def _shared(wanted: dict[str, Tensor]) -> dict[str, list[str]]:
    """Return the other names of each shared tensor of the model."""
    places: dict[tuple[object, ...], list[str]] = {}
    for name, one in wanted.items():
        if one.numel() and one.device.type != "meta":
            key = (one.data_ptr(), one.dtype, tuple(one.shape), one.stride())
            places.setdefault(key, []).append(name)
    return {
        name: [other for other in names if other != name]
        for names in places.values()
        if len(names) > 1
        for name in names
    }


def _same(one: _Match, other: _Match) -> bool:
    import torch

    return one.given.keys() == other.given.keys() and all(
        torch.equal(tensor, other.given[name]) for name, tensor in one.given.items()
    )


def _differences(
    match: _Match, wanted: dict[str, Tensor], where: str, classes: int
) -> list[Problem]:
    problems = []
    nearest = _renames(match, wanted)
    if match.missing:
        text = f"nothing for {_some(match.missing)}"
        headless = not match.extra and all(
            len(wanted[n]) == classes for n in match.missing if wanted[n].ndim
        )
        fix = "To train a new head: `loading: {head: fresh}`." if headless else nearest
        problems.append(Problem(where, text, "every tensor of the model", fix))
    if match.extra:
        fix = "" if nearest and match.missing else "Leave some out by `loading: {skip: [...]}`."
        text = f"also {_some(match.extra)}"
        problems.append(Problem(where, text, "the tensors of the model only", fix))
    heads = [n for n in match.shapes if _is_head(match.given[n], wanted[n], classes)]
    if heads:
        found = match.given[heads[0]].shape[0]
        text = f"weights for {found} classes ({_some(heads)})"
        fix = "To train a new head on the other weights: `loading: {head: fresh}`."
        problems.append(Problem(where, text, f"weights for the {classes} classes of the data", fix))
    for name in [name for name in match.shapes if name not in heads][:SHOWN]:
        text = f"{name} of shape {tuple(match.given[name].shape)}"
        problems.append(Problem(where, text, f"shape {tuple(wanted[name].shape)}"))
    for name, partners in _shared(wanted).items():
        for other in partners:
            if name < other and _differ(match.given, name, other):
                text = f"two values for {name} and {other}, which are one tensor in the model"
                problems.append(Problem(where, text, "the same value under both names"))
    return problems


def _differ(given: dict[str, Tensor], one: str, other: str) -> bool:
    import torch

    present = one in given and other in given and given[one].shape == given[other].shape
    return present and not torch.equal(given[one], given[other])


def _kinds(match: _Match, wanted: dict[str, Tensor], where: str) -> list[Problem]:
    """Return problems for dtypes that a cast would change: quantised and 8-bit weights."""
    wrong = []
    for name, one in match.given.items():
        if name not in wanted or name.endswith(COUNTER):
            continue
        kind, small = str(one.dtype).removeprefix("torch."), one.element_size() == 1
        cast = one.is_floating_point() != wanted[name].is_floating_point()
        complex_ = one.is_complex() != wanted[name].is_complex()
        stored = one.is_sparse or one.is_quantized or one.layout != wanted[name].layout
        if one.is_meta:
            kind, stored = f"{kind} on the meta device, without values", True
        if cast or complex_ or stored or (small and one.is_floating_point()):
            wrong.append(f"{name} ({kind})")
    if not wrong:
        return []
    allowed = "dense tensors of the model's kind: float16, bfloat16, float32 or float64 weights"
    fix = "Is the checkpoint quantised? Load the original weights instead."
    return [Problem(where, _some(wrong), allowed, fix)]


def _check_finite(model: nn.Module, match: _Match, where: str) -> None:
    import torch
    from torch import nn

    statistics = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name in ("running_mean", "running_var")
    }
    # Other buffers may hold infinity on purpose, such as masks.
    loaded = {
        name: tensor
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if name in match.given and (name in statistics or isinstance(tensor, nn.Parameter))
    }
    wrong = [name for name, tensor in loaded.items() if not bool(torch.isfinite(tensor).all())]
    negative = [
        name
        for name, tensor in loaded.items()
        if name in statistics and name.endswith("running_var") and bool((tensor < 0).any())
    ]
    problems = []
    if wrong:
        fix = "Load the checkpoint of an earlier epoch: its training diverged."
        problems.append(Problem(where, f"NaN or infinity in {_some(wrong)}", "finite weights", fix))
    if negative:
        fix = "The file is damaged, or its tensors stand under wrong names: load the original file."
        text = f"negative variances in {_some(negative)}"
        problems.append(Problem(where, text, "variances of at least 0", fix))
    if problems:
        raise InputError(*problems)


def _notes(match: _Match, checkpoint: Checkpoint) -> list[str]:
    import torch

    notes = []
    stored = Counter(one.dtype for one in match.given.values() if one.is_floating_point())
    others = sorted(str(kind).removeprefix("torch.") for kind in stored if kind != torch.float32)
    if others:
        notes.append(f"weights stored in {', '.join(others)} are loaded as float32")
    if match.prefix:
        notes.append(f"weights taken from under {match.prefix!r}")
    if match.outside:
        groups = Counter(name.split(".")[0] for name in match.outside)
        listed = ", ".join(f"{name} ({count} tensors)" for name, count in sorted(groups.items()))
        notes.append(f"not loaded: {listed}")
    if match.left:
        notes.append(f"skipped in the file: {_some(match.left)}")
    if match.fresh:
        notes.append(f"not loaded, freshly initialised: {_some(match.fresh)}")
    return notes


def _renames(match: _Match, wanted: dict[str, Tensor]) -> str:
    """Suggest renames: for missing names the most similar unexpected ones of equal shape."""
    found: Counter[tuple[str, str]] = Counter()
    nearest = []
    for name in match.missing[:COMPARED]:
        same = [one for one in match.extra if match.given[one].shape == wanted[name].shape]
        close = difflib.get_close_matches(name, same[:2000], n=1, cutoff=0.3)
        if close:
            found[_parting(close[0], name)] += 1
            nearest.append(f"{name} <- {close[0]}")
    if not nearest:
        return ""
    pairs = ", ".join(f"{old}: {new}" for (old, new), _ in found.most_common(4))
    shown = "; ".join(nearest[:4])
    return f"Nearest of the same shape: {shown}. Try `loading: {{rename: {{{pairs}}}}}`."


def _parting(old: str, new: str) -> tuple[str, str]:
    """Return the dotted parts in which two names differ.

    Example:
        >>> _parting("layer1.fc.weight", "layer1.linear.weight")
        ('fc', 'linear')
    """
    ones, others = old.split("."), new.split(".")
    while len(ones) > 1 and len(others) > 1 and ones[0] == others[0]:
        ones, others = ones[1:], others[1:]
    while len(ones) > 1 and len(others) > 1 and ones[-1] == others[-1]:
        ones, others = ones[:-1], others[:-1]
    return ".".join(ones), ".".join(others)


def _is_head(given: Tensor, wanted: Tensor, classes: int) -> bool:
    """Return whether two tensors differ only in the number of classes."""
    return (
        given.ndim == wanted.ndim > 0
        and wanted.shape[0] == classes
        and given.shape[1:] == wanted.shape[1:]
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
