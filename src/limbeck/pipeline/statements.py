"""Checks of trained models against the data: classes, normalisation, size, tokenizer, columns.

Statements in a model's files about its training are compared with the data's preparation. Certain
values are filled into the recipe, contradictions are refused, and missing statements are noted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limbeck.errors import Problem, did_you_mean, gathering
from limbeck.models.build import states
from limbeck.models.spec import ModelSpec, Normalization
from limbeck.models.statement import Statement
from limbeck.pipeline.context import normalization_of_data
from limbeck.pipeline.validate import model_located

if TYPE_CHECKING:
    from limbeck.data.load import Data
    from limbeck.data.settings import Section
    from limbeck.data.spec import DataSpec
    from limbeck.pipeline.recipe import Recipe

GENERIC = re.compile(r"(label|class)?[ _-]*\d+", re.IGNORECASE)
# Channel statistics that differ by less are equal up to rounding.
ROUNDED = 5e-3
SHOWN = 12


@dataclass
class ModelChecks:
    """The result of checking models against the data.

    Attributes:
        specs: The teachers, with certain statements of their files filled in.
        problems: The contradictions.
        notes: The values filled in, and the missing statements.
    """

    specs: list[ModelSpec] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def with_statements(recipe: Recipe, data: Data) -> Recipe:
    """Fill the class names and the normalisation stated by the teachers' files into a recipe.

    The recipe is then explicit: every model built from it is fitted to the data equally.
    """
    specs = check_models(recipe, data).specs
    if specs == recipe.teachers:
        return recipe
    return recipe.model_copy(update={"teacher": specs[0] if len(specs) == 1 else specs})


def check_models(recipe: Recipe, data: Data) -> ModelChecks:
    """Check every model with loaded weights against the data."""
    checks = ModelChecks()
    trained = trains_teacher(recipe)
    for where, spec in zip(recipe.teacher_paths, recipe.teachers, strict=True):
        found = _statement(spec, where, checks)
        if found is None:
            checks.specs.append(spec)
        else:
            comparison = _Comparison(where, spec, found, data, recipe.data, trained, checks)
            checks.specs.append(comparison.filled())
    if recipe.student is not None:
        _check_student(recipe.student, data, recipe.data, checks)
    return checks


def trains_teacher(recipe: Recipe) -> bool:
    """Return whether a stage of the recipe trains the teacher."""
    return any(name == "train_teacher" for stage in recipe.stages for name in stage)


def _statement(spec: ModelSpec, where: str, checks: ModelChecks) -> Statement | None:
    if spec.checkpoint or spec.path or spec.arguments.get("pretrained"):  # trained weights
        with gathering(checks.problems), model_located(where):
            return states(spec)
    return None


@dataclass(frozen=True)
class _Comparison:
    """The comparison of one loaded model, with the statements of its files, and the data."""

    where: str
    spec: ModelSpec
    found: Statement
    data: Data
    settings: DataSpec
    trained: bool
    checks: ModelChecks

    def filled(self) -> ModelSpec:
        """Compare everything; return the spec with certain values filled in."""
        content: dict[str, Any] = {"class_names": self.class_names() or self.spec.class_names}
        target = normalization_of_data(self.data.preprocess)
        if target is not None:
            content["normalization"] = self.normalization(target) or self.spec.normalization
        self.inputs()
        return self.spec.model_copy(update=content)

    def note(self, text: str) -> None:
        self.checks.notes.append(f"{self.where}: {text}")

    def refuse(self, where: str, given: object, allowed: str, fix: str = "") -> None:
        self.checks.problems.append(Problem(where, given, allowed, fix.strip()))

    def class_names(self) -> tuple[str, ...] | None:
        """Compare class names; return the model's if its logits must be mapped."""
        names, fresh = self.data.classes, self.spec.loading.head == "fresh"
        own = self.spec.class_names or (None if fresh else self.found.class_names)
        if own is None:
            if names and not self.trained:
                self.note(
                    "no file beside its weights names its classes; they are taken to be in the "
                    f"order of the data: {_list(names)}."
                )
            return None
        order = class_order(own, names)
        if order is None:
            self.unmatched_classes(own)
            return None
        if order == names:
            return None
        left = len(order) - len(names)
        picked = f"; {left} classes that the data lacks are left out" if left else ""
        self.note(
            f"its classes are {_list(order)}; its logits are brought into the order of the data, "
            f"{_list(names)}, by name{picked}."
        )
        return order

    def unmatched_classes(self, own: tuple[str, ...]) -> None:
        """Check class names: refuse those that contradict the data's, note those not comparable."""
        stated, names = self.spec.class_names is not None, self.data.classes
        if not stated and (_generic(own) or _generic(names)):
            if not self.trained:
                self.note(
                    f"its classes ({_list(own)}) cannot be compared with the data's "
                    f"({_list(names)}); they are taken to be in the same order."
                )
        elif self.trained and not stated:
            self.note(f"its files name the classes {_list(own)}; it is trained on {_list(names)}.")
        else:
            missing = [name for name in names if name not in own]
            near = did_you_mean(missing[0], own) if missing else ""
            self.refuse(
                f"{self.where}.class_names",
                f"{_list(own)} ({'the recipe' if stated else self.found.origin})",
                f"the data's classes: {_list(names)}",
                f"Correct data.classes, or state {self.where}.class_names: the data's names in the "
                f"order of the model's logits. {near}",
            )

    def normalization(self, target: Normalization) -> Normalization | None:
        """Compare channel statistics; return the model's if its input must be renormalised."""
        place, found = f"{self.where}.normalization", self.found.normalization
        stated = target if self.spec.normalization == "data" else self.spec.normalization
        own = stated if isinstance(stated, Normalization) else found
        if own is None:
            self.unknown_normalization(target)
            return None
        origin = self.found.origin if found else "the recipe"
        if found and not _close(own, found, ROUNDED):
            fix = f"Remove it, or correct {self.found.origin}."
            self.refuse(place, _text(own), f"{_text(found)}, as {self.found.origin} states", fix)
            return None
        if len(own.mean) != len(target.mean):
            allowed = f"one number for each of the data's {len(target.mean)} channels"
            fix = f"Set data.image.channels: {len(own.mean)}."
            self.refuse(place, f"{_text(own)} ({origin})", allowed, fix)
            return None
        if _close(own, target, 1e-6):
            return None
        self.note(
            f"it was trained with {_text(own)} ({origin}); it renormalises its input, which the "
            f"data gives with {_text(target)}."
        )
        return own

    def unknown_normalization(self, target: Normalization) -> None:
        """Check for unknown pixel normalisation: refuse it, or note it for a model in training."""
        if self.trained or (self.section is not None and self.section.states_normalization):
            self.note(
                "no file beside its weights states how its pixels were normalised; it is given "
                f"the data's {_text(target)}."
            )
            return
        self.refuse(
            f"{self.where}.normalization",
            "nothing, and no file beside the weights states it",
            "the mean and std with which the model was trained, for pixels in [0, 1]",
            f"Add normalization: {{mean: [...], std: [...]}}; or normalization: data, if it was "
            f"trained with what was measured on this data: {_text(target)}.",
        )

    @property
    def section(self) -> Section | None:
        """Return the modality's settings in the recipe, if it gives any."""
        return self.settings.section

    def texts(self, count: int) -> list[str]:
        """Return the first training rows, as texts."""
        train = self.data.train
        return [str(train.raw(row)["text"]) for row in range(min(count, len(train)))]

    def inputs(self) -> None:
        """Compare the preprocessing with what the model's files state."""
        with gathering(self.checks.problems):
            self.data.preprocess.compare(self)


def _check_student(spec: ModelSpec, data: Data, settings: DataSpec, checks: ModelChecks) -> None:
    """Compare the inputs of a student that starts from trained weights; its head is trained."""
    if spec.expect is not None:
        fix = "Remove it: a budget states what the student must reach."
        checks.problems.append(Problem("student.expect", spec.expect.accuracy, "nothing", fix))
    found = _statement(spec, "student", checks)
    if found is None:
        return
    comparison = _Comparison("student", spec, found, data, settings, True, checks)
    comparison.inputs()
    target, own = normalization_of_data(data.preprocess), found.normalization
    if own and target and not spec.normalization and not _close(own, target, ROUNDED):
        comparison.note(
            f"its weights were trained with {_text(own)} ({found.origin}); it is trained further "
            f"with the data's {_text(target)}."
        )


def class_order(own: Sequence[str], data: Sequence[str]) -> tuple[str, ...] | None:
    """Return a model's classes by the data's names, in the order of the model's logits.

    Names match if they are equal up to case, spaces, hyphens and underscores, or if one of a name's
    synonyms (`"tench, Tinca tinca"`) is; each must match exactly one other. Names missing in the
    data stay.

    Returns:
        The names; None if a class of the data has no unique match.

    Example:
        >>> class_order(["Sci/Tech", "World", "not used"], ["world", "sci_tech"])
        ('sci_tech', 'world', 'not used')
        >>> class_order(["good", "bad"], ["positive", "negative"]) is None
        True
    """
    places: dict[str, set[int]] = {}
    for number, name in enumerate(own):
        for key in _keys(name):
            places.setdefault(key, set()).add(number)
    exact = {name: number for number, name in enumerate(own)}
    words: dict[int, str] = {}
    for name in data:
        near = {number for key in _keys(name) for number in places.get(key, ())}
        found = {exact[name]} if name in exact else near
        if len(found) != 1 or found & words.keys():
            return None
        words[found.pop()] = name
    return tuple(words.get(number, name) for number, name in enumerate(own))


def _keys(name: str) -> set[str]:
    parts = [name, *name.split(",")] if "," in name else [name]
    return {re.sub(r"[\s_/-]+", " ", part).strip().casefold() for part in parts}


def _generic(names: Sequence[str]) -> bool:
    return all(GENERIC.fullmatch(name) for name in names)


def _close(one: Normalization, other: Normalization, tolerance: float) -> bool:
    pairs = zip((*one.mean, *one.std), (*other.mean, *other.std), strict=False)
    same_channels = len(one.mean) == len(other.mean)
    return same_channels and all(abs(a - b) <= tolerance for a, b in pairs)


def _text(one: Normalization) -> str:
    mean, std = (", ".join(f"{value:.4g}" for value in part) for part in (one.mean, one.std))
    return f"mean [{mean}], std [{std}]"


def _list(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return "[" + ", ".join(names[:SHOWN]) + more + "]"
