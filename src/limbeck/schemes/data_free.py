"""Data-free distillation: a generator, trained against the student, replaces the training data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.core.modules import evaluating, fixed_statistics
from limbeck.errors import InputError, Problem
from limbeck.objective import Losses, Objective, TermGradient, TermLoss
from limbeck.schemes._generator import Generator, RandomInputs
from limbeck.schemes._regularizer import Regularizer
from limbeck.schemes._settings import SchemeInputs, SchemeSettings
from limbeck.schemes.scheme import Phase
from limbeck.targets import Answer
from limbeck.tasks import Batch, Response, Task, common_classes
from limbeck.teachers import FrozenTeacher

LATENT = "latent"
STUDENT, GENERATOR = "student", "generator"


class GeneratorWeights(NamedTuple):
    r"""The weights of the generator's loss on a batch of generated inputs x.

    $$L_G = -w_a\,\overline{|t(x) - s(x)|} + w_o\,\overline{CE(t, \arg\max t)}
    + w_b \sum_c \bar p_c \log \bar p_c
    + w_n \sum_l \|\mu_l(x) - \mu_l\|_2 + \|\sigma^2_l(x) - \sigma^2_l\|_2$$

    Attributes:
        adversarial: The mean absolute difference of the logits, which the generator maximises and
            the student's objective minimises (DFAD).
        one_hot: The cross-entropy of the teacher with its most probable class (DAFL).
        balance: The negative entropy of the mean of the teacher's probabilities, so that all
            classes are generated (DAFL).
        batch_norm: The distance of the batch statistics at the teacher's batch normalisations
            from the running ones, which are those of its training data (DeepInversion).
    """

    adversarial: float = 1.0
    one_hot: float = 0.0
    balance: float = 0.0
    batch_norm: float = 0.0


class DataFree(nn.Module):
    """Data-free distillation: student and generator are trained in turn, under a frozen teacher.

    The student minimises its objective on generated inputs, the generator maximises the
    disagreement of teacher and student, with penalties that keep its inputs near what the teacher
    was trained on. A step is `student_steps` updates of the student, each on new noise, then one of
    the generator. No training sample is used: the scheme draws its batches by itself.

    In the generator's update the student is in training mode, without an update of its running
    statistics. Statistics of a batch (`balance`, `batch_norm`) are those of a process's
    micro-batch.

    Args:
        student: The student.
        task: The task, with one input of real numbers.
        objective: The student's terms, all against the teacher's outputs.
        generator: The generator, or `RandomInputs`, which has no phase of its own.
        teacher: The teacher; it is frozen.
        weights: The weights of the generator's loss; by default the adversarial term alone.
        student_steps: The student's updates per step.

    Raises:
        InputError: A term uses labels or layers; the task has several inputs; the teacher is an
            ensemble; or it has no batch normalisation and `batch_norm` has a weight.

    Source: Fang et al. 2019 (DFAD, arXiv 1912.11006); Micaelli and Storkey 2019 (ZSKT, arXiv
        1905.09768); Chen et al. 2019 (DAFL, arXiv 1904.01186); Yin et al. 2020 (DeepInversion,
        arXiv 1912.08795).
    """

    student: nn.Module
    generator: nn.Module

    def __init__(
        self,
        student: nn.Module,
        task: Task,
        objective: Objective,
        *,
        generator: Generator | RandomInputs,
        teacher: FrozenTeacher,
        weights: GeneratorWeights | None = None,
        student_steps: int = 5,
    ) -> None:
        super().__init__()
        weights = weights or GeneratorWeights()
        _check(task, objective, teacher, weights)
        self.student, self.generator = student, generator
        self._task, self._objective, self._weights = task, objective, weights
        self._student_steps, self._latent = student_steps, generator.latent
        self._teachers = (FrozenTeacher(teacher.model, task, input_gradients=True),)
        self._norms = [part for part in teacher.model.modules() if isinstance(part, _BatchNorm)]
        self._regularizer = Regularizer(student)
        self._update = 0

    # -- the protocol of a scheme -----------------------------------------------------------------

    @property
    def students(self) -> dict[str, nn.Module]:
        """Return the student."""
        return {STUDENT: self.student}

    @property
    def phases(self) -> dict[str, Phase]:
        """Return the student's updates and the generator's."""
        found = {STUDENT: Phase(_trainable(self.student), steps=self._student_steps)}
        trainable = _trainable(self.generator)
        return found | ({GENERATOR: Phase(trainable)} if trainable else {})

    def modules_to_save(self) -> dict[str, nn.Module]:
        """Return student and generator, and the objective's modules, by name."""
        models = {STUDENT: self.student, GENERATOR: self.generator}
        return models | self._objective.modules()

    def batches(self, *, epoch: int, size: int) -> Iterator[Batch]:
        """Yield the noise of one step after another, for each of its updates, without end."""
        while True:
            yield {LATENT: torch.randn(size, self._student_steps + 1, self._latent)}

    def total_weights(self, batch: Batch) -> dict[str, Tensor]:
        """Count the inputs of a micro-batch."""
        count = torch.tensor(float(len(batch[LATENT])), device=batch[LATENT].device)
        return dict.fromkeys(self._task.kinds, count)

    def begin_epoch(self, epoch: int) -> None:
        """Do nothing: there are no epochs."""

    def begin_update(self, phase: str, number: int) -> None:
        """Choose the noise of an update."""
        self._update = number if phase == STUDENT else self._student_steps

    def after_step(self, step: int) -> None:
        """Do nothing: nothing follows the weights."""

    def step(
        self,
        batch: Batch,
        progress: float,
        total_weights: Mapping[str, Tensor] | None = None,
        phase: str = STUDENT,
    ) -> Losses:
        """Generate inputs, and compute the losses of the student or of the generator."""
        if phase == GENERATOR:
            return self._generator_step(batch, total_weights)
        self._regularizer.advance(progress)
        with torch.no_grad():
            inputs = self._generate(batch)
            answer = self._answer(inputs)
        response = self._task.respond(self.student, inputs)
        losses = self._objective(
            response,
            answer,
            task_loss=self._task.loss,
            progress=progress,
            parameters=_trainable(self.student) if self._objective.balance.measures else (),
            total_weights=total_weights,
        )
        return self._regularizer.add(losses, response, total_weights)

    def check_terms(self, batch: Batch) -> dict[str, TermGradient]:
        """Check on one batch, before training, that every term has a gradient for the student.

        Raises:
            InputError: The problems of all terms, as for `Objective.check`.
        """
        with evaluating(self), torch.random.fork_rng(devices=[]), torch.enable_grad():
            with torch.no_grad():
                inputs = self._generate(batch)
            response, answer = self._task.respond(self.student, inputs), self._answer(inputs)
            self._objective.check_classes(response, answer, least=common_classes(self._task))
            return self._objective.check(
                response,
                answer,
                task_loss=self._task.loss,
                parameters=list(_trainable(self.student)),
            )

    # -- the models -------------------------------------------------------------------------------

    def _generate(self, batch: Batch) -> Batch:
        [name] = self._task.inputs
        inputs: Tensor = self.generator(batch[LATENT][:, self._update])
        return {name: inputs}

    def _answer(self, inputs: Batch) -> Answer:
        return self._teachers[0].answer(inputs)

    def _generator_step(self, batch: Batch, total_weights: Mapping[str, Tensor] | None) -> Losses:
        inputs = self._generate(batch)
        with _captured(self._norms if self._weights.batch_norm else ()) as statistics:
            teacher = self._answer(inputs).logits
        with fixed_statistics(self.student), _frozen(self.student):
            student = _logits(self._task.respond(self.student, inputs))
        log_p = F.log_softmax(teacher, dim=1)
        mean = log_p.exp().mean(0)
        raw = {
            "adversarial": -(teacher - student).abs().mean(),
            "one_hot": -log_p.max(dim=1).values.mean(),
            "balance": (mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum(),
            "batch_norm": torch.stack(statistics).sum() if statistics else teacher.new_zeros(()),
        }
        share = 1.0
        if total_weights is not None:
            [name, *_] = self._task.kinds
            share = float(len(teacher) / total_weights[name])
        parts = {
            name: (share * raw[name], share * weight * raw[name])
            for name, weight in self._weights._asdict().items()
            if weight
        }
        terms = {name: TermLoss(one.detach(), two.detach()) for name, (one, two) in parts.items()}
        return Losses(torch.stack([weighted for _, weighted in parts.values()]).sum(), terms, {})


def _trainable(module: nn.Module) -> tuple[nn.Parameter, ...]:
    return tuple(one for one in module.parameters() if one.requires_grad)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Compute no gradient of the parameters, but that of the inputs."""
    parameters = _trainable(model)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _logits(response: Response) -> Tensor:
    values = response.primary.values
    if values is None:
        raise InputError(Problem("task", "hidden states", "logits, for data-free distillation"))
    return values


def _check(
    task: Task, objective: Objective, teacher: FrozenTeacher, weights: GeneratorWeights
) -> None:
    problems = []
    if len(task.inputs) != 1 or set(task.kinds.values()) != {"categorical"}:
        allowed = "classification with one input of real numbers: images or table rows"
        problems.append(Problem("task", type(task).__name__, allowed))
    taps = [*objective.student_taps, *objective.teacher_taps]
    labelled = [str(one.loss) for one in objective.terms if not Objective([one]).needs_teacher]
    if taps or labelled:
        fix = "Generated inputs have no labels."
        allowed = "terms against the teacher's outputs, such as soft_target_kl"
        problems.append(Problem("terms", taps or labelled, allowed, fix))
    if not isinstance(teacher, FrozenTeacher):
        problems.append(Problem("teacher", type(teacher).__name__, "one frozen model"))
    elif weights.batch_norm and not any(isinstance(m, _BatchNorm) for m in teacher.model.modules()):
        allowed = "0, for a teacher without batch normalisation"
        problems.append(Problem("batch_norm", weights.batch_norm, allowed))
    if not any(weights):
        problems.append(Problem("weights", tuple(weights), "at least one above 0"))
    if problems:
        raise InputError(*problems)


@contextmanager
def _captured(norms: Sequence[_BatchNorm]) -> Iterator[list[Tensor]]:
    """Collect the distances of batch from running statistics, as the layers are called."""
    found: list[Tensor] = []

    def compare(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        [values] = inputs
        running = norm.running_mean, norm.running_var
        if isinstance(running[0], Tensor) and isinstance(running[1], Tensor):
            axes = [axis for axis in range(values.ndim) if axis != 1]
            variance, mean = torch.var_mean(values, axes, correction=0)
            found.append((mean - running[0]).norm() + (variance - running[1]).norm())

    handles = [norm.register_forward_pre_hook(compare) for norm in norms]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


Weight = Annotated[float, Field(ge=0, le=1e6)]


class DataFreeSettings(SchemeSettings):
    """Data-free distillation: a generator, trained against the student, replaces the data.

    The control is the same student on random inputs under the same teacher, for as many updates.

    Source: Fang et al. 2019 (DFAD, arXiv 1912.11006); Chen et al. 2019 (DAFL, arXiv 1904.01186);
        Yin et al. 2020 (DeepInversion, arXiv 1912.08795).
    """

    uses_data: ClassVar[bool] = False
    needs_input_gradients: ClassVar[bool] = True
    control_label: ClassVar[str] = "student on random inputs"
    default_objective: ClassVar[Sequence[Mapping[str, Any]] | None] = [{"logit_mse": {}}]

    student_steps: Annotated[
        int,
        Field(ge=1, le=1000, description="Updates of the student per update of the generator."),
    ] = 5
    latent: Annotated[
        int, Field(ge=1, le=65536, description="Size of the noise that the generator takes.")
    ] = 64
    generator_width: Annotated[
        int, Field(ge=1, le=4096, description="Channels before the generator's output.")
    ] = 32
    adversarial: Annotated[
        Weight,
        Field(description="Weight of the difference of logits that the generator maximises."),
    ] = 1.0
    one_hot: Annotated[
        Weight,
        Field(description="Weight of the teacher's cross-entropy with its own class (DAFL)."),
    ] = 0.0
    balance: Annotated[
        Weight, Field(description="Weight of the entropy over the generated classes (DAFL).")
    ] = 0.0
    batch_norm: Annotated[
        Weight,
        Field(
            description="Weight of the match of the teacher's batch normalisation statistics "
            "(DeepInversion)."
        ),
    ] = 0.0

    def build_scheme(self, student: nn.Module, inputs: SchemeInputs) -> DataFree:
        """Build the scheme, with a generator for inputs of the example's shape."""
        shape, device = _shape(inputs)
        if len(shape) not in (1, 3):
            given = f"inputs with {len(shape)} axes"
            raise InputError(Problem("data", given, "images or table rows"))
        generator = Generator(
            shape, bounds=inputs.bounds, latent=self.latent, width=self.generator_width
        )
        return self._build(student, inputs, generator.to(device))

    def build_control(self, student: nn.Module, inputs: SchemeInputs) -> DataFree:
        """Build the training of the same student on random inputs under the teacher."""
        shape, device = _shape(inputs)
        return self._build(student, inputs, RandomInputs(shape, bounds=inputs.bounds).to(device))

    def _build(
        self, student: nn.Module, inputs: SchemeInputs, generator: Generator | RandomInputs
    ) -> DataFree:
        if not isinstance(inputs.teacher, FrozenTeacher):
            given = type(inputs.teacher).__name__
            raise InputError(Problem("teacher", given, "one model, for data-free distillation"))
        return DataFree(
            student,
            inputs.task,
            inputs.objective(),
            generator=generator,
            teacher=inputs.teacher,
            weights=GeneratorWeights(self.adversarial, self.one_hot, self.balance, self.batch_norm),
            student_steps=self.student_steps,
        )


def _shape(inputs: SchemeInputs) -> tuple[tuple[int, ...], torch.device]:
    example = inputs.probe[next(iter(inputs.task.inputs))]
    if not example.is_floating_point():
        given = f"inputs of {str(example.dtype).removeprefix('torch.')}"
        raise InputError(Problem("data", given, "inputs of real numbers: images or table rows"))
    return tuple(example.shape[1:]), example.device
