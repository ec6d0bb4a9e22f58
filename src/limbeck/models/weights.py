"""Loading of checkpoint weights into a module, with messages on mismatches."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor, nn

from limbeck.core.modules import TakesSizes
from limbeck.errors import InputError, Problem
from limbeck.models.checkpoint import Checkpoint, find, read_checkpoint
from limbeck.models.spec import Loading

Tensors = dict[str, Tensor]
Convert = Callable[[nn.Module, Tensors], Tensors]

# The maximum number of tensors listed in a message before "and more".
SHOWN = 8
# The maximum number of missing names to compare with all others: the comparison is quadratic.
COMPARED = 60
COUNTER = "num_batches_tracked"
PARTIAL = "To load what fits, and list the rest: `loading: {partial: true}`."


@dataclass
class _Match:
    """The tensors of a checkpoint under one prefix, compared with those of the model."""

    prefix: str
    model_tensors: Tensors
    classes: int
    given: Tensors
    outside: list[str]
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    partial: bool = False

    @property
    def fits(self) -> bool:
        return not (self.missing or self.extra or self.shapes)

    def is_head(self, name: str) -> bool:
        """Return whether the file's and the model's tensor differ only in the number of classes."""
        given, own = self.given[name], self.model_tensors[name]
        same = given.ndim == own.ndim > 0 and given.shape[1:] == own.shape[1:]
        return same and own.shape[0] == self.classes


def load_weights(
    model: nn.Module,
    path: str,
    classes: int,
    loading: Loading | None = None,
    convert: Convert = lambda _model, tensors: tensors,
) -> list[str]:
    """Copy a checkpoint's weights into a model.

    Names are matched after any prefix in the file (`state_dict.`, `model.`, `module.`). Every
    tensor must match in name and shape; only the counters of batch normalisation, which no
    computation uses, and the second name of a shared tensor may be missing. With
    `loading.partial`, those that match are loaded; the model's other parameters are then named in
    its attribute `fresh_parameters`.

    Args:
        model: The module, in float32.
        path: A checkpoint, see `limbeck.models.checkpoint.find`.
        classes: The number of classes of the data, for messages on a mismatch.
        loading: The recipe's settings for names and skipped tensors.
        convert: Renames an older checkpoint's tensors as the model's own library does.

    Returns:
        Notes on tensors not loaded, and on the precision of the file.

    Raises:
        InputError: The file is missing or cannot be read, tensors are missing, unexpected or of
            another shape or dtype, or several sets of weights fit: the message lists all.
    """
    file = find(path)
    where = f"model.checkpoint ({file})"
    checkpoint = read_checkpoint(file)
    if isinstance(model, TakesSizes):
        model.take_sizes(checkpoint.tensors)
    match = _best_match(model, checkpoint, loading or Loading(), classes, where, convert)
    problems = [*_differences(match, where), *_dtype_problems(match, where)]
    if problems:
        raise InputError(*problems)
    model.load_state_dict(match.given, strict=False)
    if match.partial and (fresh := (*match.missing, *match.shapes)):
        model.fresh_parameters = fresh  # type: ignore[assignment]
    _check_values(model, match, where)
    return _notes(match)


def _best_match(
    model: nn.Module,
    checkpoint: Checkpoint,
    loading: Loading,
    classes: int,
    where: str,
    convert: Convert,
) -> _Match:
    """Return the set of weights in the file that matches the model best."""
    own = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    tensors = {loading.renamed(name): one for name, one in checkpoint.tensors.items()}
    aliases = {loading.renamed(k): loading.renamed(v) for k, v in checkpoint.aliases.items()}
    for name, stored in aliases.items():
        if stored in tensors:
            tensors.setdefault(name, tensors[stored])
    matches = []
    for prefix in _prefixes(tensors, own, loading):
        inside = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
        outside = [name for name in tensors if not name.startswith(prefix)]
        match = _Match(prefix, own, classes, inside, outside)
        _compare(match, loading, {n[len(prefix) :] for n in aliases if n.startswith(prefix)})
        if not match.fits:
            converted = _Match(prefix, own, classes, dict(convert(model, match.given)), outside)
            _compare(converted, loading, set(aliases))
            match = converted if converted.fits else match
        matches.append(match)
    fitting = [match for match in matches if match.fits]
    if loading.partial:
        most = max(len(match.given) for match in matches)
        fitting = [match for match in matches if len(match.given) == most]
        if not most:
            allowed = "at least one tensor of the model, by name and shape"
            fix = f"In the file: {_some(list(tensors))}. In the model: {_some(list(own))}."
            raise InputError(Problem(where, f"nothing for {type(model).__name__}", allowed, fix))
    different = [one for one in fitting[1:] if not _equal(one.given, fitting[0].given)]
    if different:
        names = [repr(one.prefix) for one in (fitting[0], *different)]
        fix = f"Choose one beside the model's name: `loading: {{prefix: {names[0]}}}`."
        given = f"{len(names)} sets of weights, under {', '.join(names)}"
        raise InputError(Problem(where, given, "one set of weights that fits", fix))
    return fitting[0] if fitting else matches[0]


def _prefixes(tensors: Iterable[str], own: Tensors, loading: Loading) -> list[str]:
    """Return the prefixes of the model's names, the most frequent one first."""
    if loading.prefix is not None:
        dotted = loading.prefix.rstrip(".")
        return [f"{dotted}." if dotted else ""]
    hits: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for cut in range(min(len(parts), 12)):
            if ".".join(parts[cut:]) in own:
                hits["".join(f"{part}." for part in parts[:cut])] += 1
    if not hits:
        columns = zip(*(name.split(".")[:-1] for name in tensors), strict=False)
        shared = takewhile(lambda column: len(set(column)) == 1, columns)
        return ["".join(f"{column[0]}." for column in shared)]
    most = max(hits.values())
    likely = [prefix for prefix, count in hits.items() if 2 * count >= most]
    return sorted(likely, key=lambda prefix: (-hits[prefix], len(prefix), prefix))[:16]


def _compare(match: _Match, loading: Loading, aliases: set[str]) -> None:
    """Fill in a match's lists, and remove from its tensors those that are not loaded."""
    given, own = match.given, match.model_tensors
    for name, partners in _shared(own).items():
        present = [one for one in partners if one in given]
        if name not in given and present:
            given[name] = given[present[0]]
    skipped = {name for name in {*given, *own} if loading.skips(name)}
    match.skipped = sorted(skipped & given.keys())
    match.fresh = sorted(skipped & own.keys())
    for name in match.skipped:
        del given[name]
    for name in given.keys() - own.keys():
        if name.endswith(COUNTER) or name in aliases:
            del given[name]
    match.extra = [name for name in given if name not in own]
    for name, tensor in own.items():
        if name in match.fresh:
            continue
        if name not in given:
            if not name.endswith(COUNTER):
                match.missing.append(name)
        elif given[name].shape != tensor.shape:
            if given[name].numel() == tensor.numel() == 1:
                given[name] = given[name].reshape(tensor.shape)
            else:
                match.shapes.append(name)
    if loading.head == "fresh":
        _keep_head(match)
    if loading.partial:
        match.partial = True
        for name in (*match.extra, *match.shapes):
            del given[name]


def _keep_head(match: _Match) -> None:
    """Keep the head's initialisation: tensors that differ in the classes, or the last layer."""
    own = match.model_tensors
    head = [name for name in match.shapes if match.is_head(name)]
    head += [name for name in match.missing if own[name].shape[:1] == (match.classes,)]
    if not head:
        last = [n for n, one in own.items() if one.ndim > 1 and len(one) == match.classes][-1:]
        head = [n for n in own for m in last if n.rpartition(".")[0] == m.rpartition(".")[0]]
    match.fresh = sorted({*match.fresh, *head})
    match.missing = [name for name in match.missing if name not in head]
    match.shapes = [name for name in match.shapes if name not in head]
    for name in head:
        match.given.pop(name, None)


def _shared(tensors: Tensors) -> dict[str, list[str]]:
    """Return the other names of each shared tensor of the model."""
    places: dict[tuple[object, ...], list[str]] = {}
    for name, one in tensors.items():
        if one.numel() and one.device.type != "meta":
            key = (one.data_ptr(), one.dtype, tuple(one.shape), one.stride())
            places.setdefault(key, []).append(name)
    shared = [names for names in places.values() if len(names) > 1]
    return {name: [other for other in names if other != name] for names in shared for name in names}


def _equal(left: Tensors, right: Tensors) -> bool:
    same = left.keys() == right.keys()
    return same and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def _differences(match: _Match, where: str) -> list[Problem]:
    problems = []
    own, given = match.model_tensors, match.given
    nearest = "" if match.partial else _suggested_renames(match)
    if match.missing and not match.partial:
        text = f"nothing for {_some(match.missing)}"
        headless = not match.extra and all(
            len(own[name]) == match.classes for name in match.missing if own[name].ndim
        )
        fix = "To train a new head: `loading: {head: fresh}`." if headless else nearest or PARTIAL
        problems.append(Problem(where, text, "every tensor of the model", fix))
    if match.extra and not match.partial:
        fix = "" if nearest and match.missing else "Leave some out by `loading: {skip: [...]}`."
        text = f"also {_some(match.extra)}"
        problems.append(Problem(where, text, "the tensors of the model only", fix))
    shapes = [] if match.partial else match.shapes
    heads = [name for name in shapes if match.is_head(name)]
    if heads:
        text = f"weights for {given[heads[0]].shape[0]} classes ({_some(heads)})"
        allowed = f"weights for the {match.classes} classes of the data"
        fix = "To train a new head on the other weights: `loading: {head: fresh}`."
        problems.append(Problem(where, text, allowed, fix))
    for name in [name for name in shapes if name not in heads][:SHOWN]:
        text = f"{name} of shape {tuple(given[name].shape)}"
        problems.append(Problem(where, text, f"shape {tuple(own[name].shape)}"))
    for name, partners in _shared(own).items():
        for other in partners:
            if name < other and name in given and other in given:
                one, two = given[name], given[other]
                if one.shape == two.shape and not torch.equal(one, two):
                    text = f"two values for {name} and {other}, which are one tensor in the model"
                    problems.append(Problem(where, text, "the same value under both names"))
    return problems


def _dtype_problems(match: _Match, where: str) -> list[Problem]:
    """Return problems for dtypes that a cast would change: quantised and 8-bit weights."""
    wrong = []
    for name, one in match.given.items():
        if name not in match.model_tensors or name.endswith(COUNTER):
            continue
        own, dtype = match.model_tensors[name], str(one.dtype).removeprefix("torch.")
        if one.is_meta:
            dtype += " on the meta device, without values"
        if (
            one.is_meta
            or one.is_floating_point() != own.is_floating_point()
            or one.is_complex() != own.is_complex()
            or (one.is_sparse or one.is_quantized or one.layout != own.layout)
            or (one.element_size() == 1 and one.is_floating_point())
        ):
            wrong.append(f"{name} ({dtype})")
    if not wrong:
        return []
    allowed = "dense tensors of the model's kind: float16, bfloat16, float32 or float64 weights"
    fix = "If the checkpoint is quantised, load the original weights instead."
    return [Problem(where, _some(wrong), allowed, fix)]


def _check_values(model: nn.Module, match: _Match, where: str) -> None:
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
    variances = [name for name in loaded if name in statistics and name.endswith("running_var")]
    negative = [name for name in variances if bool((loaded[name] < 0).any())]
    problems = []
    if wrong:
        fix = "Load the checkpoint of an earlier epoch: its training diverged."
        problems.append(Problem(where, f"NaN or infinity in {_some(wrong)}", "finite weights", fix))
    if negative:
        fix = "The file is damaged, or its tensors have wrong names: load the original file."
        text = f"negative variances in {_some(negative)}"
        problems.append(Problem(where, text, "variances of at least 0", fix))
    if problems:
        raise InputError(*problems)


def _notes(match: _Match) -> list[str]:
    notes = []
    stored = {one.dtype for one in match.given.values() if one.is_floating_point()}
    others = sorted(str(dtype).removeprefix("torch.") for dtype in stored - {torch.float32})
    if others:
        notes.append(f"weights stored in {', '.join(others)} are loaded as float32")
    if match.prefix:
        notes.append(f"weights taken from under {match.prefix!r}")
    if match.outside:
        groups = Counter(name.split(".")[0] for name in match.outside)
        listed = ", ".join(f"{name} ({count} tensors)" for name, count in sorted(groups.items()))
        notes.append(f"not loaded: {listed}")
    if match.skipped:
        notes.append(f"skipped in the file: {_some(match.skipped)}")
    if match.partial:
        groups = Counter(name.rpartition(".")[0] or name for name in match.given)
        parts = [f"{name} ({count})" for name, count in sorted(groups.items())]
        total = len(match.model_tensors)
        notes.append(f"loaded {len(match.given)} of {total} tensors: {_some(parts)}")
        for names, what in (
            (match.missing, "missing in the file, freshly initialised"),
            (match.shapes, "of another shape in the file, freshly initialised"),
            (match.extra, "unexpected in the file, not loaded"),
        ):
            if names:
                notes.append(f"{what}: {_some(names)}")
    if match.fresh:
        notes.append(f"not loaded, freshly initialised: {_some(match.fresh)}")
    return notes


def _suggested_renames(match: _Match) -> str:
    """Suggest renames: for missing names the most similar unexpected ones of equal shape."""
    renames: Counter[tuple[str, str]] = Counter()
    nearest = []
    for name in match.missing[:COMPARED]:
        shape = match.model_tensors[name].shape
        same = [one for one in match.extra if match.given[one].shape == shape]
        close = difflib.get_close_matches(name, same[:2000], n=1, cutoff=0.3)
        if close:
            renames[_differing_parts(close[0], name)] += 1
            nearest.append(f"{name} <- {close[0]}")
    if not nearest:
        return ""
    pairs = ", ".join(f"{old}: {new}" for (old, new), _ in renames.most_common(4))
    shown = "; ".join(nearest[:4])
    return f"Nearest of the same shape: {shown}. Try `loading: {{rename: {{{pairs}}}}}`."


def _differing_parts(old: str, new: str) -> tuple[str, str]:
    """Return the dotted parts in which two names differ.

    Example:
        >>> _differing_parts("layer1.fc.weight", "layer1.linear.weight")
        ('fc', 'linear')
    """
    olds, news = old.split("."), new.split(".")
    while len(olds) > 1 and len(news) > 1 and olds[0] == news[0]:
        olds, news = olds[1:], news[1:]
    while len(olds) > 1 and len(news) > 1 and olds[-1] == news[-1]:
        olds, news = olds[:-1], news[:-1]
    return ".".join(olds), ".".join(news)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
