"""Provenance of teachers and data in a recipe, and checks against a licence policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from limbeck.passport import (
    PASSPORT,
    DatasetFacts,
    ModelFacts,
    PassportFacts,
    Policy,
    as_teacher,
    enforce,
    read_policy,
)

if TYPE_CHECKING:
    from limbeck.data.load import Facts as OfData
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.recipe import Recipe
    from limbeck.report.result import DataFacts


Facts = TypeVar("Facts", ModelFacts, PassportFacts)


class Origin(BaseModel):
    """Stated facts of a model: owner, licence terms and obligations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: str = ""
    licence: Annotated[str, Field(description="An SPDX id if there is one.")] = ""
    terms: Annotated[
        tuple[str, ...],
        Field(description="What its terms forbid or require, such as no-distillation."),
    ] = ()
    flags: Annotated[
        tuple[str, ...], Field(description="Restrictions of its export, such as dual-use.")
    ] = ()
    risk: Annotated[
        str, Field(description="Its class under the EU AI Act, such as minimal or high.")
    ] = ""
    risk_justification: Annotated[
        str, Field(description="Why that is lower than an ancestor's class.")
    ] = ""


class Provenance(BaseModel):
    """The `provenance` part of a recipe; the passport lists what it leaves unstated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Annotated[
        str | None, Field(description="A YAML file of what is allowed and forbidden.")
    ] = None
    student: Origin = Origin()
    teachers: Annotated[
        list[Origin],
        Field(description="One for each teacher, in order; a passport beside its weights wins."),
    ] = []
    data_terms: Annotated[
        list[str], Field(description="What the data's terms require, such as non-commercial.")
    ] = []


def stop_if_forbidden(recipe: Recipe, data: OfData) -> None:
    """Check a recipe's lineage against its policy, before training.

    Terms that forbid distillation are refused even without a policy.

    Raises:
        InputError: Something is forbidden, or a term is unknown; all problems at once.
    """
    path = recipe.provenance.policy
    policy = Policy() if path is None else read_policy(Path(path))
    enforce(policy, known_teachers(recipe), [dataset_facts(recipe, data)])


def known_teachers(recipe: Recipe) -> list[ModelFacts]:
    """Return the facts of the teachers that are known before a run."""
    return [
        load_passport(spec) or add_origin(ModelFacts(name=name_of(spec)), origin(recipe, place))
        for place, spec in enumerate(recipe.teachers)
    ]


def name_of(spec: ModelSpec) -> str:
    """Return a model's name, or else its path."""
    return spec.name or Path(spec.path or spec.source).name


def load_passport(spec: ModelSpec) -> ModelFacts | None:
    """Load the passport beside a teacher's weights, if it was once a student.

    Raises:
        InputError: Not a passport, or it was edited.
    """
    if spec.checkpoint is None:
        return None
    place = Path(spec.checkpoint)
    path = (place if place.is_dir() else place.parent) / PASSPORT
    return as_teacher(path) if path.is_file() else None


def origin(recipe: Recipe, place: int) -> Origin:
    """Return the recipe's statements on a teacher."""
    given = recipe.provenance.teachers
    return given[place] if place < len(given) else Origin()


def add_origin(facts: Facts, of: Origin) -> Facts:
    """Add stated facts of a model to the known ones."""
    return replace(facts, **of.model_dump())


def dataset_facts(recipe: Recipe, facts: DataFacts | OfData) -> DatasetFacts:
    """Build the dataset facts of a passport."""
    return DatasetFacts(
        name=facts.name or facts.source,
        source=facts.source,
        fingerprint=facts.fingerprint,
        licence=facts.licence,
        classes=facts.classes,
        counts={"train": facts.train, "validation": facts.validation, "test": facts.test},
        terms=tuple(recipe.provenance.data_terms),
    )
