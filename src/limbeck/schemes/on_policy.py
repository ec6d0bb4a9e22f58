"""On-policy distillation of language models: the student learns on sequences that it samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from limbeck.core.random import keyed_uniform
from limbeck.errors import InputError, Problem, RefusedError
from limbeck.objective import Losses, TermLoss
from limbeck.schemes._estimators import (
    Pair,
    Samples,
    minillm,
    policy_gradient,
    repetition,
    token_figures,
)
from limbeck.schemes._sampling import Continuation, Sampler, Sampling
from limbeck.schemes._settings import SchemeInputs, SchemeSettings
from limbeck.schemes.offline import Offline, on_labels
from limbeck.tasks import IGNORED, Batch, Response, labels_of
from limbeck.tasks.causal_lm import prompt_lengths
from limbeck.teachers import CachedTeacher

Estimator: TypeAlias = Literal["full", "minillm", "policy_gradient"]
Mixing: TypeAlias = Literal["per_step", "per_sample"]
LOGITS = "logits"
TOKENS, ROLLOUTS = "rollout_tokens", "rollouts"
"""The keys of the summed weights of a step's sampled tokens, and of the number of its rollouts."""
DATA, STUDENT, TEACHER = 0, 1, 2


@dataclass(frozen=True)
class Mixture:
    """Settings of the text that the student is trained on.

    Attributes:
        lmbda: The probability of text of the student in place of the data.
        teacher_share: The probability of text of the teacher.
        mixing: Whether one draw is for a whole step, or each row has its own.
        prompt_length: The tokens of a document that are its prompt.
        teacher_mix: The share of the teacher in each token's distribution while the student
            writes.
        sampling: The settings of sampling.
    """

    sampling: Sampling
    lmbda: float = 1.0
    teacher_share: float = 0.0
    mixing: Mixing = "per_step"
    prompt_length: int = 32
    teacher_mix: float = 0.0

    @property
    def uses_teacher_text(self) -> bool:
        """Return whether the teacher samples tokens."""
        return self.teacher_share > 0 or self.teacher_mix > 0

    def problems(self) -> list[Problem]:
        """Return the shares out of range."""
        found = [
            Problem(name, value, "a number from 0 to 1")
            for name in ("lmbda", "teacher_share", "teacher_mix")
            if not 0 <= (value := getattr(self, name)) <= 1
        ]
        if not found and self.lmbda + self.teacher_share > 1:
            allowed = f"at most {1 - self.lmbda:g}, with lmbda {self.lmbda:g}"
            found.append(Problem("teacher_share", self.teacher_share, allowed))
        return found


@dataclass(frozen=True)
class Rollouts:
    """A batch in which sampled continuations replace the text of some rows.

    Attributes:
        batch: The batch, padded on the right.
        sampled: Whether a row is the student's text, `[n]`.
        log_probs: The log-probability with which the token of a position was sampled, 0 elsewhere,
            `[n, positions]`.
        figures: The sums over the student's rollouts of their length, of those without an end,
            and of their shares of repeated 4-grams.
    """

    batch: Batch
    sampled: Tensor
    log_probs: Tensor
    figures: Mapping[str, float]


class OnPolicy(Offline):
    r"""On-policy distillation: rows of the data are replaced by what the student writes.

    With probability λ (`lmbda`) the student continues the prompt of a row, and teacher and student
    are compared on its text: no gradient goes through the sampling. The estimators:

    | `estimator` | the loss of the student's text |
    |-|-|
    | `full` | the objective, over the whole vocabulary (GKD) |
    | `policy_gradient` | `policy_gradient`, from the sampled tokens alone |
    | `minillm` | `minillm_single` and `minillm_long`, for the reverse KL of whole sequences |

    The objective is the loss of all other rows, and its terms against labels never use the
    student's text. All are means over the predicted tokens of the whole step, sampled or not.

    The prompt of a row is what precedes its first predicted token, and of documents the first
    `prompt_length` tokens. Sampling is in evaluation mode, keyed by seed, row and step: a resumed
    training is bit-identical, and a row's draws do not depend on the number of processes. If the
    longest prompt of a micro-batch and `max_new_tokens` exceed the models' positions, its
    continuations are shorter.

    Args:
        student: The model to train.
        inputs: The task, the objective, the live teacher and an example batch.
        mixture: The settings of the text.
        estimator: The loss of the student's text.
        length_normalization: Whether `minillm` averages the rewards of later tokens.

    Raises:
        InputError: The task is not `causal_lm`, a model has no head, the teacher is cached or
            missing, or a share is out of range.

    Source: Agarwal et al. 2024 (GKD, arXiv 2306.13649); Gu et al. 2024 (MiniLLM, arXiv
    2306.08543).
    """

    def __init__(
        self,
        student: nn.Module,
        inputs: SchemeInputs,
        mixture: Mixture,
        *,
        estimator: Estimator = "full",
        length_normalization: bool = True,
    ) -> None:
        _check(student, inputs, mixture)
        super().__init__(
            student,
            inputs.task,
            inputs.objective(),
            teacher=inputs.teacher,
            probe=inputs.probe,
            training_set=inputs.training_set,
        )
        if self.teacher is None:
            given = [str(term.loss) for term in self._objective.terms]
            allowed = "a term against the teacher, such as divergence"
            raise InputError(Problem("objective", given, allowed))
        self._mixture, self._estimator = mixture, estimator
        self._normalized = length_normalization
        self._sampler = Sampler(inputs.task, mixture.sampling)
        self.clock = _Clock()
        self._seed = 0
        # The rollouts of micro-batches whose weights were summed, until each one's step.
        self._pending: list[tuple[Batch, Rollouts]] = []

    # -- the protocol of a scheme -----------------------------------------------------------------

    def modules_to_save(self) -> Mapping[str, nn.Module]:
        """Return the student, the modules of the objective, and the number of the step."""
        return {**super().modules_to_save(), "clock": self.clock}

    def begin_epoch(self, epoch: int) -> None:
        """Store the seed of the epoch, which is equal in every process."""
        self._seed = torch.initial_seed() % 2**62

    def after_step(self, step: int) -> None:
        """Count the steps, which draws depend on."""
        self.clock.step.fill_(step)
        self._pending.clear()

    def total_weights(self, batch: Batch) -> dict[str, Tensor]:
        """Sample the rollouts of a micro-batch, and sum the weights of its elements."""
        rollouts = self._rollouts(batch)
        if rollouts is None:
            return super().total_weights(batch)
        self._pending.append((batch, rollouts))
        return self._totals(rollouts)

    def step(
        self,
        batch: Batch,
        progress: float,
        total_weights: Mapping[str, Tensor] | None = None,
        phase: str = "student",
    ) -> Losses:
        """Sample rollouts, run teacher and student on them, and compute the losses."""
        rollouts = self._taken(batch)
        if rollouts is None:
            return super().step(batch, progress, total_weights, phase)
        self._regularizer.advance(progress)
        totals = self._totals(rollouts) if total_weights is None else total_weights
        answer, response = self._answer(rollouts.batch), self._respond(rollouts.batch)
        assert answer is not None
        pair = Pair.of(response.primary, answer.primary)
        of_student = rollouts.sampled[response.primary.sample_of]
        losses = self._objective(
            self._of_objective(response, of_student),
            answer,
            task_loss=self._task.loss,
            progress=progress,
            parameters=self._of_student if self._objective.balance.measures else (),
            total_weights=totals,
        )
        samples = _samples(rollouts, response, of_student, totals[LOGITS])
        if self._estimator == "policy_gradient":
            losses = _with(losses, policy_gradient(pair, samples))
        elif self._estimator == "minillm":
            found = minillm(pair, samples, length_normalization=self._normalized)
            losses = _with(losses, found)
        losses = self._add(losses, response, total_weights)
        return replace(losses, figures=_figures(rollouts, pair, samples.rows, totals))

    # -- the text ---------------------------------------------------------------------------------

    def _taken(self, batch: Batch) -> Rollouts | None:
        """Return the rollouts of a micro-batch, sampled with its weights or now."""
        for place, (given, rollouts) in enumerate(self._pending):
            if given is batch:
                del self._pending[place]
                return rollouts
        return self._rollouts(batch)

    def _rollouts(self, batch: Batch) -> Rollouts | None:
        """Sample the rollouts of a micro-batch; None if it is of a step on data."""
        mixture, step = self._mixture, int(self.clock.step)
        if mixture.lmbda + mixture.teacher_share == 0:
            return None
        ids = batch["input_ids"]
        keys = torch.stack([_keys(batch), torch.full_like(ids[:, 0], step)], dim=1)
        uniform = keyed_uniform(keys, 1 + mixture.sampling.max_new_tokens, seed=self._seed)
        choice = uniform[:, 0]
        if mixture.mixing == "per_step":
            key = torch.tensor([[-1, step]], device=ids.device)
            choice = keyed_uniform(key, 1, seed=self._seed)[:, 0].expand(len(ids))
        source = torch.full_like(ids[:, 0], DATA)
        source[choice < mixture.lmbda + mixture.teacher_share] = TEACHER
        source[choice < mixture.lmbda] = STUDENT
        if mixture.mixing == "per_step" and not source.any():
            return None
        return self._written(batch, source, uniform[:, 1:])

    def _written(self, batch: Batch, source: Tensor, uniform: Tensor) -> Rollouts:
        """Replace the text of rows by continuations of their prompts."""
        _check_whole(self.student)
        lengths = batch["attention_mask"].sum(1)
        prompts = prompt_lengths(batch, self._mixture.prompt_length).tolist()
        ids = [row[:length] for row, length in zip(batch["input_ids"], lengths, strict=True)]
        found: dict[int, Continuation] = {}
        teacher = getattr(self.teacher, "model", None)
        models = {STUDENT: self.student, TEACHER: teacher}
        for writer, model in models.items():
            places = (source == writer).nonzero().flatten().tolist()
            if not places or model is None:
                continue
            mixed = self._mixture.teacher_mix if writer == STUDENT else 0.0
            continuations = self._sampler(
                model,
                [ids[place][: prompts[place]] for place in places],
                uniform[places],
                other=teacher if mixed else None,
                share=mixed,
            )
            found |= dict(zip(places, continuations, strict=True))
        return _joined(batch, ids, prompts, found, sampled=source == STUDENT)

    # -- the losses -------------------------------------------------------------------------------

    def _of_objective(self, response: Response, of_student: Tensor) -> Response:
        """Return the elements of the objective: without labels on the student's own text."""
        output = replace(response.primary, labelled=~of_student)
        if self._estimator != "full":
            output = replace(output, weights=output.weights * ~of_student)
        return replace(response, outputs={LOGITS: output})

    def _totals(self, rollouts: Rollouts) -> dict[str, Tensor]:
        weights = self._task.weights(rollouts.batch)[LOGITS]
        rows = weights.view(len(rollouts.sampled), -1)
        return {
            LOGITS: weights.sum(),
            labels_of(LOGITS): rows[~rollouts.sampled].sum(),
            TOKENS: (rows[rollouts.sampled] > 0).sum().to(weights.dtype),
            ROLLOUTS: rollouts.sampled.sum().to(weights.dtype),
        }


class _Clock(nn.Module):
    """The number of finished steps, which a checkpoint keeps."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))


def _keys(batch: Batch) -> Tensor:
    """Return the key of each row: its index, or a hash of its tokens."""
    if "index" in batch:
        return batch["index"].long()
    ids = batch["input_ids"] * batch["attention_mask"]
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device) * 2_654_435_761
    return (ids * places).sum(1)


def _joined(
    batch: Batch,
    ids: Sequence[Tensor],
    prompts: Sequence[int],
    found: Mapping[int, Continuation],
    *,
    sampled: Tensor,
) -> Rollouts:
    """Build the batch of rows and continuations, padded on the right."""
    given = batch.get("labels", batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100))
    rows, labels, log_probs = [], [], []
    figures = {"length": 0.0, "cut_off": 0.0, "repetition": 0.0}
    for place, row in enumerate(ids):
        one = found.get(place)
        if one is None:
            rows.append(row)
            labels.append(given[place, : len(row)])
            log_probs.append(torch.zeros(len(row), device=row.device))
            continue
        prompt = row[: prompts[place]]
        rows.append(torch.cat([prompt, one.ids]))
        labels.append(torch.cat([torch.full_like(prompt, IGNORED), one.ids]))
        log_probs.append(torch.cat([torch.zeros_like(prompt, dtype=torch.float32), one.log_probs]))
        if sampled[place]:
            figures["length"] += len(one.ids)
            figures["cut_off"] += not one.finished
            figures["repetition"] += repetition(one.ids)
    # Entries per row; those per token, such as their bytes, are of the replaced text.
    kept = {name: value for name, value in batch.items() if value.ndim < 2}
    whole = {
        **kept,
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }
    return Rollouts(whole, sampled, pad_sequence(log_probs, batch_first=True), figures)


def _samples(rollouts: Rollouts, response: Response, of_student: Tensor, total: Tensor) -> Samples:
    """Return the sampled tokens, each with the element before it, which predicts it."""
    output = response.primary
    rows = (of_student & (output.weights > 0)).nonzero().flatten()
    least = torch.finfo(output.weights.dtype).tiny
    ids, log_probs = rollouts.batch["input_ids"].flatten(), rollouts.log_probs.flatten()
    return Samples(
        rows,
        ids=ids[rows + 1],
        log_probs=log_probs[rows + 1],
        sequence=output.sample_of[rows],
        weights=output.weights[rows] / total.to(output.weights.dtype).clamp_min(least),
    )


def _with(losses: Losses, parts: Mapping[str, Tensor]) -> Losses:
    """Add the terms of an estimator."""
    terms = {name: TermLoss(one.detach(), one.detach()) for name, one in parts.items()}
    total = torch.stack([losses.total, *parts.values()]).sum()
    return replace(losses, total=total, terms={**losses.terms, **terms})


def _figures(
    rollouts: Rollouts, pair: Pair, rows: Tensor, totals: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return this micro-batch's part of the means over the step's rollouts and their tokens."""
    count = totals[ROLLOUTS]
    if not count:
        return {}
    found = {name: one / totals[TOKENS] for name, one in token_figures(pair, rows).items()}
    return {
        f"rollouts/{name}": value
        for name, value in [*found.items(), *((n, x / count) for n, x in rollouts.figures.items())]
    }


def _check(student: nn.Module, inputs: SchemeInputs, mixture: Mixture) -> None:
    problems = mixture.problems()
    if inputs.task.name != "causal_lm":
        given, allowed = inputs.task.name, "causal_lm, with the scheme on_policy"
        raise InputError(Problem("task", given, allowed), *problems)
    teacher = getattr(inputs.teacher, "model", None)
    for where, model in (("student", student), ("teacher", teacher)):
        find = getattr(model, "get_output_embeddings", None)
        if callable(find) and find() is None:
            fix = "Load it as AutoModelForCausalLM does."
            allowed = "a model with a language-model head"
            problems.append(Problem(where, type(model).__name__, allowed, fix))
    if isinstance(inputs.teacher, CachedTeacher):
        problems.append(Problem("teacher", "cached outputs", LIVE))
    elif inputs.teacher is not None and teacher is None and mixture.uses_teacher_text:
        given = type(inputs.teacher).__name__
        problems.append(Problem("teacher", given, "a teacher with a model, which samples"))
    if problems:
        raise InputError(*problems)


def _check_whole(student: nn.Module) -> None:
    """Raise for shards: a process that writes longer than another would wait for it for ever."""
    if any(hasattr(parameter, "full_tensor") for parameter in student.parameters()):
        fix = "Train with data parallelism, which keeps whole models."
        raise InputError(Problem("student", "sharded parameters", "a whole model", fix))


LIVE = "a live teacher: sampled text is new in every step, and no cache has its outputs"
Share = Annotated[float, Field(ge=0, le=1)]


class OnPolicySettings(SchemeSettings):
    """On-policy distillation: a language model learns on text that it samples.

    The control is the same student trained on the labels of the data.

    Source: Agarwal et al. 2024 (GKD, arXiv 2306.13649); Gu et al. 2024 (MiniLLM, arXiv
    2306.08543).
    """

    default_objective: ClassVar[Sequence[Mapping[str, Any]] | None] = [
        {"divergence": {"kind": "reverse_kl", "temperature": 1.0}}
    ]

    lmbda: Annotated[
        Share, Field(description="Probability of student text in place of the data.")
    ] = 1.0
    teacher_share: Annotated[
        Share, Field(description="Probability of teacher text in place of the data.")
    ] = 0.0
    mixing: Annotated[
        Mixing, Field(description="Whether these are drawn once per step, or for each row.")
    ] = "per_step"
    beta: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="In place of `objective`: 0 is the forward KL, 1 the reverse KL, between "
            "them the generalised JSD.",
        ),
    ] = None
    estimator: Annotated[
        Estimator,
        Field(
            description="The loss of student text: the objective over the whole vocabulary "
            "(`full`), `minillm`, or the `policy_gradient` of the sampled tokens."
        ),
    ] = "full"
    temperature: Annotated[
        float, Field(gt=0, le=100, description="Temperature of the sampling.")
    ] = 1.0
    top_p: Annotated[
        float, Field(gt=0, le=1, description="Mass of the tokens that are sampled from.")
    ] = 1.0
    max_new_tokens: Annotated[
        int, Field(ge=1, le=131_072, description="Most tokens of a continuation.")
    ] = 128
    prompt_length: Annotated[
        int, Field(ge=1, le=131_072, description="Tokens of a document that are its prompt.")
    ] = 32
    end_token: Annotated[
        int | None,
        Field(
            ge=0,
            lt=2**31,
            description="Id that ends a text; default: that of the model's configuration.",
        ),
    ] = None
    teacher_mix: Annotated[
        float | None,
        Field(
            ge=0,
            lt=1,
            description="Share of the teacher in each sampled token's distribution; default: 0.2 "
            "with `minillm`, otherwise 0.",
        ),
    ] = None
    length_normalization: Annotated[
        bool, Field(description="Whether `minillm` averages the rewards of later tokens.")
    ] = True

    @model_validator(mode="before")
    @classmethod
    def _objective_of_beta(cls, values: Any) -> Any:
        """Set the objective that `beta` names."""
        if not isinstance(values, Mapping) or "objective" not in cls.model_fields:
            return values
        beta = values.get("beta")
        if not isinstance(beta, int | float) or isinstance(beta, bool) or not 0 <= beta <= 1:
            return values  # the field's own check reports it
        objective = [{"divergence": _divergence(float(beta))}]
        if values.get("objective", objective) != objective:
            allowed = "`beta` or `objective`, not both"
            raise RefusedError(Problem("beta", beta, allowed))
        return {**values, "objective": objective}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = self.mixture().problems()
        if self.teacher_mix and self.estimator == "full":
            allowed = "0 with `estimator: full`, which has no importance weights"
            problems.append(Problem("teacher_mix", self.teacher_mix, allowed))
        if getattr(self, "cache_teacher", False):
            problems.append(Problem("cache_teacher", True, f"false: the scheme needs {LIVE}"))
        if problems:
            raise RefusedError(*problems)
        return self

    def mixture(self) -> Mixture:
        """Return the settings of the text."""
        mix = self.teacher_mix
        if mix is None:
            mix = 0.2 if self.estimator == "minillm" else 0.0
        ends = None if self.end_token is None else (self.end_token,)
        return Mixture(
            Sampling(self.max_new_tokens, self.temperature, self.top_p, ends),
            lmbda=self.lmbda,
            teacher_share=self.teacher_share,
            mixing=self.mixing,
            prompt_length=self.prompt_length,
            teacher_mix=mix,
        )

    def build_scheme(self, student: nn.Module, inputs: SchemeInputs) -> OnPolicy:
        """Build the scheme."""
        return OnPolicy(
            student,
            inputs,
            self.mixture(),
            estimator=self.estimator,
            length_normalization=self.length_normalization,
        )

    def build_control(self, student: nn.Module, inputs: SchemeInputs) -> Offline:
        """Build the training on labels alone."""
        return on_labels(student, inputs)


def _divergence(beta: float) -> dict[str, Any]:
    """Return the divergence of GKD's β as a term."""
    if beta in (0.0, 1.0):
        return {"kind": "reverse_kl" if beta else "forward_kl", "temperature": 1.0}
    return {"kind": "jsd", "beta": beta, "temperature": 1.0}
