"""Recipe schema, as typed models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from limbeck.data.spec import DataSpec
from limbeck.errors import Problem, RefusedError
from limbeck.models.spec import ModelSpec
from limbeck.pipeline.provenance import Provenance
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.stages import STAGES

Positive = Annotated[float, Field(gt=0, le=1e18)]
Finite = Annotated[float, Field(ge=-1e18, le=1e18)]
NotNegative = Annotated[float, Field(ge=0, le=1e18)]
Tracker = Literal["tensorboard", "wandb", "mlflow", "comet_ml", "aim"]


FORMER_KEYS = {"accuracy": "score", "accuracy_drop": "drop"}
"""Keys of a budget before scores of any task, and what replaced them."""


class Budget(BaseModel):
    """Cost limits of the student; each given limit is checked against the measured value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_former_keys(cls, content: object) -> object:
        former = [key for key in FORMER_KEYS if isinstance(content, Mapping) and key in content]
        if former and isinstance(content, Mapping):
            raise RefusedError(
                *(
                    Problem(key, content[key], f"{FORMER_KEYS[key]}: {{accuracy: {content[key]}}}")
                    for key in former
                )
            )
        return content

    size_kb: Annotated[
        Positive | None, Field(description="Size of the shipped file in units of 1000 bytes.")
    ] = None
    latency_ms: Annotated[
        Positive | None, Field(description="Median time of one prediction: batch 1, one thread.")
    ] = None
    score: Annotated[
        dict[str, Finite],
        Field(description="The worst allowed value of each of the task's scores on the test set."),
    ] = {}
    drop: Annotated[
        dict[str, NotNegative],
        Field(description="By how much each score may be worse than the teacher's."),
    ] = {}
    parameters: Annotated[int | None, Field(gt=0, le=10**18)] = None
    flops: Annotated[
        Positive | None, Field(description="For one sample; a multiply-add counts as two.")
    ] = None
    memory_mb: Annotated[
        Positive | None, Field(description="Peak memory of the runtime, in 10^6 bytes.")
    ] = None


def _how_many(teacher: object) -> str:
    return "several" if isinstance(teacher, list) else "one"


Teacher = Annotated[
    Annotated[ModelSpec, Tag("one")]
    | Annotated[list[ModelSpec], Field(min_length=1, max_length=100), Tag("several")],
    Discriminator(_how_many),
]


class Recipe(BaseModel):
    """A resolved recipe: the contents of `recipe.yaml` in a run folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
            description="Letters, digits and ._- only; the default name of the run folder.",
        ),
    ]
    description: str = ""
    task: Annotated[str, Field(description="The task, such as image_classification.")]
    data: DataSpec
    teacher: Annotated[
        Teacher | None, Field(description="The large model; several make an ensemble.")
    ] = None
    student: ModelSpec | None = None
    budget: Budget = Budget()
    provenance: Annotated[
        Provenance,
        Field(description="Owners and terms of the models and the data, and the policy to meet."),
    ] = Provenance()
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=100)
    ] = [0]
    threads: Annotated[
        int | None,
        Field(ge=1, le=256, description="Threads torch may use; tiny nets are fastest with 1."),
    ] = None
    device: Literal["auto", "cpu"] = "auto"
    trackers: Annotated[list[Tracker], Field(max_length=10)] = []
    stages: Annotated[
        list[dict[str, Any]],
        Field(min_length=1, max_length=50, description="The stages, executed in order."),
    ]
    profile: Annotated[str, Field(description="The applied profile.")] = "default"
    profiles: Annotated[
        dict[str, dict[str, Any]],
        Field(description="Named sets of overrides: dotted path to value."),
    ] = {}

    @property
    def teachers(self) -> list[ModelSpec]:
        """Return the teachers as a list: none, one, or the members of an ensemble."""
        if self.teacher is None:
            return []
        return list(self.teacher) if isinstance(self.teacher, list) else [self.teacher]

    @property
    def teacher_paths(self) -> list[str]:
        """Return the path of each teacher in the recipe: `teacher`, or `teacher.0` and further."""
        several = range(len(self.teachers))
        return ["teacher"] if len(several) == 1 else [f"teacher.{number}" for number in several]

    @property
    def student_spec(self) -> ModelSpec | None:
        """Return the specification of the student: its own, or the teacher's if none is given."""
        if self.student is not None or len(self.teachers) != 1:
            return self.student
        return self.teachers[0].model_copy(update={"checkpoint": None})

    def parsed_stages(self) -> list[tuple[str, Stage]]:
        """Return the stages by name, with typed settings."""
        return [
            (name, STAGES.load(name).variant(settings)(**(settings or {})))
            for stage in self.stages
            for name, settings in stage.items()
        ]
