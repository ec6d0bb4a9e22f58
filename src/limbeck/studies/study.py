"""The specification of a study: a claim, the arms that are compared, and the rule that decides."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from limbeck.core import imports
from limbeck.core.registry import PYTHON, is_own
from limbeck.errors import InputError, Problem, check_choice
from limbeck.pipeline.load_recipe import put_all, read
from limbeck.pipeline.validate import of_validation

CATALOGUE = Path(__file__).parent / "catalogue"
MEASURES = "limbeck.studies.measures"

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Bound = Annotated[float, Field(allow_inf_nan=False)]
Settings: TypeAlias = dict[str, Any]
Measure: TypeAlias = Callable[..., Mapping[str, float]]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Expectation(_Frozen):
    """A prediction of the claim: a bound on a measured value, or on a difference or ratio of arms.

    Example:
        >>> Expectation(value="accuracy", of="annealed", minus="fixed", above=0).text
        'accuracy of annealed − fixed: above 0'
    """

    value: Annotated[Text, Field(description="The name of a measured value.")]
    of: Annotated[Text, Field(description="The arm.")]
    minus: Annotated[
        Text | None, Field(description="The arm whose value is subtracted, seed by seed.")
    ] = None
    over: Annotated[
        Text | None, Field(description="The arm whose value divides, seed by seed.")
    ] = None
    above: Bound | None = None
    below: Bound | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> Expectation:
        if self.above is None and self.below is None:
            raise ValueError("`above` or `below` is required")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"`above` must be less than `below`, got {self.above}, {self.below}")
        if self.minus is not None and self.over is not None:
            raise ValueError("`minus` and `over` are exclusive")
        return self

    @property
    def what(self) -> str:
        """Return the compared quantity in words."""
        if self.minus is not None:
            return f"{self.value} of {self.of} \N{MINUS SIGN} {self.minus}"
        return f"{self.value} of {self.of}{'' if self.over is None else f' / {self.over}'}"

    @property
    def bound(self) -> str:
        """Return the predicted bound in words."""
        bounds = [("above", self.above), ("below", self.below)]
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)

    @property
    def text(self) -> str:
        """Return the expectation as one line."""
        return f"{self.what}: {self.bound}"


class Study(_Frozen):
    """A claim, how it is measured, and the rule of its verdict.

    An arm's settings are those of the study with the arm's own, by dotted path, set over them. The
    measure is called once per arm and seed, as `measure(seed=..., **settings)`, and returns named
    numbers. All arms have the same seeds, so that differences are paired.
    """

    name: Text
    title: Text
    claim: Annotated[Text, Field(description="The claim, as one sentence.")]
    source: Annotated[Text, Field(description="The paper that makes or tests the claim.")]
    claimed: Annotated[Text | None, Field(description="The claimed figure, if there is one.")] = (
        None
    )
    method: Annotated[Text, Field(description="How it is measured here.")]
    measure: Annotated[
        Text,
        Field(
            description="The function that measures an arm: `module.function` of "
            "`limbeck.studies.measures`, or `python:file.py:function`."
        ),
    ]
    settings: Settings = {}
    arms: Annotated[dict[Text, Settings | None], Field(min_length=1, max_length=50)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100)] = (0, 1, 2, 3, 4)
    expect: Annotated[
        tuple[Expectation, ...],
        Field(min_length=1, max_length=20, description="The claim is supported if all hold."),
    ]
    show: Annotated[
        tuple[Text, ...], Field(max_length=20, description="Further values for the table.")
    ] = ()
    deterministic: Annotated[
        bool, Field(description="The measure does not depend on the seed: one value decides.")
    ] = False
    data: Annotated[
        tuple[Text, ...], Field(max_length=10, description="Folders of `LIMBECK_DATA` it reads.")
    ] = ()
    note: Annotated[Text | None, Field(description="What limits the conclusion.")] = None
    smoke: Annotated[
        Settings,
        Field(description="Settings of the smoke form, by dotted path, with at most one seed."),
    ] = {}

    @model_validator(mode="after")
    def _arms_exist(self) -> Study:
        for one in self.expect:
            for arm in filter(None, (one.of, one.minus, one.over)):
                if arm not in self.arms:
                    raise ValueError(f"expect: no arm {arm!r}; there are {', '.join(self.arms)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each only once")
        return self

    def settings_of(self, arm: str, *, smoke: bool = False) -> Settings:
        """Return the settings with which an arm is measured.

        Raises:
            InputError: A dotted path does not exist.
        """
        found = copy.deepcopy(self.settings)
        put_all(found, self.arms[arm] or {}, where=f"{self.name}.arms.{arm}")
        if smoke:
            put_all(found, self.smoke, where=f"{self.name}.smoke")
        return found

    def function(self) -> Measure:
        """Import the function that measures an arm.

        Raises:
            InputError: There is none of this name.
        """
        where = f"{self.name}.measure"
        if is_own(self.measure):
            return imports.find(self.measure.removeprefix(PYTHON), where=where)
        module, _, function = self.measure.rpartition(".")
        try:
            found = getattr(importlib.import_module(f"{MEASURES}.{module}"), function, None)
        except ModuleNotFoundError:
            found = None
        if found is None or function.startswith("_"):
            allowed = f"module.function of {MEASURES}, or python:file.py:function"
            raise InputError(Problem(where, self.measure, allowed))
        measure: Measure = found
        return measure


def shipped() -> dict[str, Path]:
    """Return the files of the shipped studies by name, sorted.

    Example:
        >>> "worked_soft_targets" in shipped()
        True
    """
    return {path.stem: path for path in sorted(CATALOGUE.rglob("*.yaml"), key=lambda p: p.stem)}


def names() -> Iterator[str]:
    """Yield the names of the shipped studies."""
    yield from shipped()


def load(name: str) -> Study:
    """Load a shipped study by name, or the user's own by its path.

    Raises:
        InputError: There is none of this name, or the file is not a valid study.
    """
    files = shipped()
    if name not in files and not name.endswith((".yaml", ".yml")):
        check_choice(name, list(files), where="study")
    path = files.get(name, Path(name))
    content = {"name": path.stem, **read(path)}
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise InputError(*of_validation(error, Study, path.stem)) from error
