"""Settings of a scheme in a recipe, and what they need to build it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from limbeck.models.spec import ModelSpec
from limbeck.objective import Objective, TrainingSet
from limbeck.schemes.scheme import Scheme
from limbeck.tasks import Batch, Task
from limbeck.teachers import Teacher


@dataclass(frozen=True)
class SchemeInputs:
    """The inputs of a scheme beside its student.

    Attributes:
        task: The task.
        objective: A function that builds the objective anew, one per student.
        probe: An example batch.
        teacher: The teacher, if the scheme uses one and a term requires it.
        models: The scheme's further models, with fresh weights.
        training_set: The training set's description, for terms that depend on it.
        bounds: The least and the greatest value of the input per channel, if it is an image.
    """

    task: Task
    objective: Callable[[], Objective]
    probe: Batch
    teacher: Teacher | None = None
    models: Sequence[nn.Module] = ()
    training_set: TrainingSet | None = None
    bounds: tuple[Tensor, Tensor] | None = None


class SchemeSettings(BaseModel):
    """The settings of a scheme: the keys of a `distill` stage beside those of every scheme.

    Attributes:
        uses_data: Whether the scheme reads training samples; otherwise it draws its own batches.
        control_label: The name of the control's student in reports.
        uses_teacher: Whether terms against a teacher compare with the recipe's teacher.
        needs_input_gradients: Whether the teacher's answers need a gradient to its input.
        default_objective: The terms if the recipe has none; None for those of every scheme.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uses_data: ClassVar[bool] = True
    control_label: ClassVar[str] = "label-only student"
    uses_teacher: ClassVar[bool] = True
    needs_input_gradients: ClassVar[bool] = False
    default_objective: ClassVar[Sequence[Mapping[str, Any]] | None] = None

    def further_models(self) -> dict[str, ModelSpec | None]:
        """Return the models beside student and teacher, by path; None is one like the student."""
        return {}

    def shipped(self) -> str | None:
        """Return the name of the student that ships, as `fit` takes it; None is the first."""
        return None

    @abstractmethod
    def build_scheme(self, student: nn.Module, inputs: SchemeInputs) -> Scheme:
        """Build the scheme."""

    @abstractmethod
    def build_control(self, student: nn.Module, inputs: SchemeInputs) -> Scheme:
        """Build the control: what the student is without the scheme, at the same budget."""
