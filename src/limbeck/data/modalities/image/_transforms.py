"""Transforms of torchvision by name, each sample with its own random numbers.

Names and arguments are those of `torchvision.transforms.v2`, in snake case or as the class.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.core.imports import require
from limbeck.core.random import random_bits
from limbeck.data.label import UNLABELLED
from limbeck.errors import InputError, Problem, did_you_mean, key_problems

if TYPE_CHECKING:
    from limbeck.data.label import Spatial
    from limbeck.data.rows import Batch

WHERE = "data.augment.transforms"
DRAW = 4
"""The index of the draw, beside those of `_augment`."""
OF_BATCHES = {"CutMix", "MixUp"}
EXCLUDED = {
    *("ClampBoundingBoxes", "ClampKeyPoints", "Compose", "ConvertBoundingBoxFormat"),
    *("ConvertImageDtype", "FiveCrop", "JPEG", "Lambda", "LinearTransformation", "Normalize"),
    *("PILToTensor", "SanitizeBoundingBoxes", "SanitizeKeyPoints", "SetClampingMode", "TenCrop"),
    *("ToDtype", "ToImage", "ToPILImage", "ToPureTensor", "ToTensor", "Transform"),
    "UniformTemporalSubsample",
}
"""Conversions of type and scale, which the preprocessing does, and transforms of other data."""
NESTED = "transforms"
"""The argument of `RandomApply`, `RandomChoice` and `RandomOrder` that names further transforms."""
LARGEST = 10_000
"""A larger number is a slip that would exhaust the memory."""

Named = str | Mapping[str, Mapping[str, Any] | None]
"""A transform: its name, or its name with arguments."""


class Transforms:
    """A list of torchvision's transforms for images in [0, 1], their masks and boxes.

    Args:
        given: The names, with arguments.
        size: The height and width of the model's input, which is the default of an argument `size`.

    Raises:
        InputError: A name or an argument is unknown, or a value is refused; or torchvision is not
            installed. The message lists every problem.
    """

    def __init__(self, given: Sequence[Named], size: tuple[int, int]) -> None:
        require("torchvision", extra="vision")
        problems: list[Problem] = []
        self._size = size
        self._steps = _built(given, WHERE, size, problems)
        if problems:
            raise InputError(*problems)

    def __call__(
        self, batch: Batch, index: Tensor, *, seed: int, view: int, spatial: Sequence[Spatial]
    ) -> Batch:
        """Transform `image`, float32 `[n, c, h, w]` in [0, 1], and what moves with it.

        The random numbers of a sample depend on seed, index and view only; the global state of
        torch is unchanged.

        Raises:
            InputError: A transform fails, or an image has another size than the model's input.
        """
        names = ["image", *(name for one in spatial for name in (one.name, one.classes) if name)]
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        seeds = random_bits(seed, view, DRAW, index=index.numpy())
        with torch.random.fork_rng(devices=[]):
            for number, bits in enumerate(seeds.tolist()):
                # torch.manual_seed would also seed the accelerator.
                torch.default_generator.manual_seed(bits)
                sample = {name: batch[name][number] for name in names}
                for name, value in self._sample(sample, spatial).items():
                    rows[name].append(value)
        return {name: torch.stack(values) for name, values in rows.items()}

    def _sample(self, sample: Batch, spatial: Sequence[Spatial]) -> Batch:
        from torchvision import tv_tensors

        parts: dict[str, Tensor] = {"image": tv_tensors.Image(sample["image"])}
        for one in spatial:
            value = sample[one.name]
            if one.form == "mask":
                # 0 is a pixel without a class, with which transforms fill what they add.
                parts[one.name] = tv_tensors.Mask((value + 1).clamp(min=0))
            else:
                box: Any = tv_tensors.BoundingBoxes
                known = value[sample[one.classes] != UNLABELLED]
                parts[one.name] = box(known, format="XYXY", canvas_size=self._size)
        try:
            for step in self._steps:
                parts = step(parts)
        # The library raises errors of many types, for instance for masks in RandAugment.
        except Exception as error:
            given = f"{type(error).__name__}: {error}"
            raise InputError(Problem(WHERE, given, "transforms that fit images and labels")) from (
                error
            )
        found = tuple(parts["image"].shape[-2:])
        if found != self._size:
            allowed = "{}x{}, the size of the model's input".format(*self._size)
            fix = "End with resize, random_resized_crop or random_crop, which have that size."
            raise InputError(Problem(WHERE, "images of {}x{}".format(*found), allowed, fix))
        moved: Batch = {"image": parts["image"].as_subclass(Tensor)}
        for one in spatial:
            value = parts[one.name].as_subclass(Tensor)
            if one.form == "mask":
                moved[one.name] = torch.where(value > 0, value - 1, UNLABELLED)
            else:
                pair = _padded(value, sample[one.name], sample[one.classes], self._size)
                moved[one.name], moved[one.classes] = pair
        return moved


def _padded(
    moved: Tensor, boxes: Tensor, classes: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Put moved boxes back into their places; those without area have class -100."""
    places = (classes != UNLABELLED).nonzero()[:, 0]
    height, width = size
    clipped = moved.to(boxes.dtype).clamp(min=0)
    clipped = torch.minimum(clipped, clipped.new_tensor([width, height, width, height]))
    inside = (clipped[:, 2:] > clipped[:, :2]).all(dim=1)
    new, kept = torch.zeros_like(boxes), torch.full_like(classes, UNLABELLED)
    new[places[inside]] = clipped[inside]
    kept[places[inside]] = classes[places[inside]]
    return new, kept


def _known() -> dict[str, Any]:
    """Return the transforms of torchvision by their names in lower case without underscores."""
    from torchvision.transforms import v2

    kinds = {name: kind for name, kind in vars(v2).items() if isinstance(kind, type)}
    return {
        _plain(name): kind
        for name, kind in kinds.items()
        if issubclass(kind, v2.Transform) and name not in EXCLUDED
    }


def _plain(name: str) -> str:
    return name.replace("_", "").casefold()


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).casefold()


def _built(
    given: Sequence[Named], where: str, size: tuple[int, int], problems: list[Problem]
) -> list[Callable[..., Any]]:
    known, steps = _known(), []
    for number, one in enumerate(given):
        place = f"{where}.{number}"
        settings = {one: None} if isinstance(one, str) else one
        if not isinstance(settings, Mapping) or len(settings) != 1:
            allowed = "one transform with its arguments, such as {random_erasing: {p: 0.2}}"
            problems.append(Problem(place, one, allowed))
            continue
        [(name, arguments)] = settings.items()
        kind = known.get(_plain(str(name)))
        if kind is None or kind.__name__ in OF_BATCHES:
            names = sorted(_snake(one.__name__) for one in known.values())
            fix = did_you_mean(name, names)
            if kind is not None:
                fix = f"It mixes samples: use data.augment.{kind.__name__.lower()} in its place."
            problems.append(Problem(place, name, "a transform of torchvision.transforms.v2", fix))
            continue
        found = len(problems)
        values = dict(_arguments(kind, arguments or {}, f"{place}.{name}", size, problems))
        if len(problems) > found:
            continue
        try:
            steps.append(kind(**values))
        # Each class checks its arguments by itself.
        except Exception as error:
            allowed = f"arguments of {kind.__name__}"
            problems.append(Problem(f"{place}.{name}", arguments, allowed, str(error)))
    return steps


def _arguments(
    kind: Any,
    given: Mapping[str, Any],
    where: str,
    size: tuple[int, int],
    problems: list[Problem],
) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a transform as torchvision takes them."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    parameters = inspect.signature(kind).parameters
    required = [name for name, one in parameters.items() if one.default is one.empty]
    known = {"size": list(size)} if "size" in required else {}
    given = {**known, **given}
    problems += key_problems(given, list(parameters), required, where=where)
    for name, value in given.items():
        if _is_absurd(value):
            allowed = f"numbers of at most {LARGEST:,} in size"
            problems.append(Problem(f"{where}.{name}", value, allowed))
        elif name == NESTED and isinstance(value, list | tuple):
            yield name, _built(value, f"{where}.{name}", size, problems)
        elif name == "interpolation" and isinstance(value, str):
            yield from _member(v2.InterpolationMode, name, value, where, problems)
        elif name == "policy" and isinstance(value, str):
            yield from _member(v2.AutoAugmentPolicy, name, value, where, problems)
        elif name != "fill":
            yield name, value
    if "fill" in parameters:
        default = parameters["fill"].default
        others = given.get("fill", None if default is inspect.Parameter.empty else default)
        yield "fill", {tv_tensors.Mask: 0, "others": others}


def _member(
    kind: Any, name: str, value: str, where: str, problems: list[Problem]
) -> Iterator[tuple[str, Any]]:
    try:
        yield name, kind(value)
    except ValueError:
        allowed = [one.value for one in kind]
        fix = did_you_mean(value, allowed)
        problems.append(Problem(f"{where}.{name}", value, ", ".join(allowed), fix))


def _is_absurd(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_absurd, value))
    if isinstance(value, int | float):
        return not abs(value) <= LARGEST
    return False
