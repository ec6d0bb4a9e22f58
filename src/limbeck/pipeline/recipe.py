"""What a recipe says: its schema, and every problem in one that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limbeck.data.spec import DataSpec
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.models.spec import ModelSpec
from limbeck.pipeline.chain import check_chain
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.stages import STAGES
from limbeck.tasks import TASKS

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Budget(BaseModel):
    """What the student may cost; every line that is given is checked against the measured figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_kb: Annotated[Positive | None, Field(description="Size of the shipped file in units of 1000 bytes.")] = None
    latency_ms: Annotated[
        Positive | None, Field(description="Median time of one answer: batch 1, one thread.")
    ] = None
    accuracy_drop: Annotated[
        float | None, Field(ge=0, le=1, description="Teacher's accuracy less the student's, as a share of 1.")
    ] = None
    accuracy: Annotated[float | None, Field(ge=0, le=1)] = None
    parameters: Annotated[int | None, Field(gt=0)] = None
    flops: Annotated[Positive | None, Field(description="For one sample; a multiply-add counts as two.")] = None
    memory_mb: Annotated[Positive | None, Field(description="Peak memory of the runtime, in 10^6 bytes.")] = None


class Recipe(BaseModel):
    """A recipe, resolved: what `recipe.yaml` in a run folder holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    description: str = ""
    task: str
    data: DataSpec
    teacher: Annotated[
        ModelSpec | Annotated[list[ModelSpec], Field(min_length=1)] | None,
        Field(description="The model that is too big; several make an ensemble."),
    ] = None
    student: ModelSpec | None = None
    budget: Budget = Budget()
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=100)] = [0]
    threads: Annotated[
        int | None, Field(ge=1, le=1024, description="Threads torch may use; tiny nets are fastest with 1.")
    ] = None
    device: Literal["auto", "cpu"] = "auto"
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "comet_ml", "aim"]] = []
    stages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=50)]
    profile: Annotated[str, Field(description="Which of the profiles was applied.")] = "default"
    profiles: Annotated[
        dict[str, dict[str, Any]], Field(description="Named sets of overrides: dotted path to value.")
    ] = {}

    @property
    def teachers(self) -> list[ModelSpec]:
        """The teachers as a list: none, one, or the members of an ensemble."""
        if self.teacher is None:
            return []
        return list(self.teacher) if isinstance(self.teacher, list) else [self.teacher]

    def parsed_stages(self) -> list[tuple[str, Stage]]:
        """Give the stages by name, with their settings typed."""
        return [(name, STAGES.load(name)(**(settings or {}))) for stage in self.stages for name, settings in stage.items()]


def validate(content: object) -> Recipe:
    """Turn plain data into a recipe.

    Raises:
        InputError: Every problem of the recipe at once: where, what was given, what is allowed, and the fix.
    """
    if not isinstance(content, Mapping):
        raise InputError(Problem("recipe", content, "a mapping, such as `name: digits`"))
    problems: list[Problem] = []
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        problems += _problems(error, Recipe)
    stages = content.get("stages")
    parsed = _check_stages(stages, problems) if isinstance(stages, list) else []
    _check_task(content.get("task"), problems)
    if recipe is not None:
        problems += _check_whole(recipe)
        if parsed is not None:
            problems += check_chain(recipe, parsed)
    if problems or recipe is None:
        raise InputError(*problems)
    return recipe


def _check_task(task: object, problems: list[Problem]) -> None:
    if isinstance(task, str) and task not in TASKS.names():
        allowed = TASKS.names()
        problems.append(Problem("task", task, ", ".join(allowed), did_you_mean(task, allowed)))


def _check_whole(recipe: Recipe) -> list[Problem]:
    problems = []
    if len(set(recipe.seeds)) < len(recipe.seeds):
        problems.append(Problem("seeds", recipe.seeds, "seeds that differ from one another"))
    if recipe.profile not in {"default", *recipe.profiles}:
        allowed = ["default", *recipe.profiles]
        problems.append(Problem("profile", recipe.profile, ", ".join(allowed), did_you_mean(recipe.profile, allowed)))
    return problems


def _check_stages(stages: list[object], problems: list[Problem]) -> list[tuple[str, Stage]] | None:
    """Type every stage's settings; None when some do not fit."""
    parsed: list[tuple[str, Stage]] = []
    before = len(problems)
    for number, stage in enumerate(stages):
        where = f"stages.{number}"
        if not isinstance(stage, Mapping) or len(stage) != 1:
            problems.append(Problem(where, stage, "one stage with its settings, such as `- teach: {epochs: 20}`"))
            continue
        name, settings = next(iter(stage.items()))
        try:
            kind = STAGES.load(str(name), where=where)
            parsed.append((str(name), kind.model_validate({} if settings is None else settings)))
        except ValidationError as error:
            problems += _problems(error, kind, f"{where}.{name}")
        except InputError as error:
            problems += error.problems
    return parsed if len(problems) == before else None


def _problems(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[Problem]:
    """Say what pydantic found in limbeck's own form, with the nearest key for an unknown one."""
    problems = []
    for found in error.errors():
        cause = found.get("ctx", {}).get("error")
        if isinstance(cause, InputError):  # raised by a validator of ours, which said it all
            problems += [
                Problem(".".join(filter(None, [prefix, one.where])), one.given, one.allowed, one.fix)
                for one in cause.problems
            ]
            continue
        where = ".".join(filter(None, [prefix, *_readable(found["loc"])]))
        if found["type"] == "extra_forbidden":
            allowed = _fields(model, found["loc"][:-1])
            key = str(found["loc"][-1])
            problems.append(Problem(where, key, "one of " + ", ".join(allowed), did_you_mean(key, allowed)))
        elif found["type"] == "missing":
            problems.append(Problem(where, "nothing", "this key has to be given"))
        else:
            problems.append(Problem(where, found["input"], found["msg"]))
    return problems


def _readable(location: tuple[int | str, ...]) -> list[str]:
    """Leave out the names that pydantic gives to the branches of a union."""
    return [str(part) for part in location if not (isinstance(part, str) and ("[" in part or part == "ModelSpec"))]


def _fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """List the keys allowed at a place inside a model."""
    current: type[BaseModel] = model
    for part in location:
        field = current.model_fields.get(str(part))
        kinds = [] if field is None else _models(field.annotation)
        if kinds:
            current = kinds[0]
    return list(current.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]
