"""Losses and figures of sampled sequences, from student outputs and teacher targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from limbeck import losses
from limbeck.errors import InputError, Problem
from limbeck.targets import DenseTargets, HeadTargets, Targets
from limbeck.tasks import Output

BLOCK = 2**25
"""The bytes of logits that are computed at once."""
TOP_K = 16
"""The number of the teacher's most probable tokens of the logged masses."""


@dataclass(frozen=True)
class Pair:
    """The outputs of both sides for the same elements, of which logits are computed in blocks.

    Args:
        output: The student's output.
        targets: The teacher's: all logits, or hidden states and head.

    Raises:
        InputError: The targets are others.
    """

    output: Output
    targets: DenseTargets | HeadTargets

    @classmethod
    def of(cls, output: Output, targets: Targets) -> Pair:
        """Return the pair.

        Raises:
            InputError: The teacher gives neither all logits nor hidden states and head.
        """
        if not isinstance(targets, DenseTargets | HeadTargets):
            allowed = "dense or head: probabilities of all tokens, with student samples"
            raise InputError(Problem("teacher.targets", type(targets).__name__, allowed))
        return cls(output, targets)

    @property
    def classes(self) -> int:
        """Return the number of classes that both sides have."""
        return min(self.output.classes or 0, self.targets.classes)

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """Divide element indices into blocks of a limited size."""
        yield from rows.split(max(1, BLOCK // (4 * self.classes)))

    def student(self, rows: Tensor) -> Tensor:
        """Return the student's logits of some elements, of the common classes."""
        return self.output.logits(rows)[:, : self.classes]

    def teacher(self, rows: Tensor) -> Tensor:
        """Return the teacher's logits of some elements, of the common classes."""
        return self.targets.take(rows).logits[:, : self.classes]

    def log_probs(self, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of tokens: the student's, with gradient, and the teacher's.

        Args:
            rows: The element indices.
            tokens: A token for each.
        """
        students, teachers = [], []
        for block, wanted in zip(
            self.blocks(rows), tokens.split(max(1, BLOCK // (4 * self.classes))), strict=True
        ):
            if self.output.values is None:  # the logits again, in the backward pass
                one = checkpoint(self._student_log_probs, block, wanted, use_reentrant=False)
            else:
                one = self._student_log_probs(block, wanted)
            students.append(one)
            teachers.append(_gathered(self.teacher(block), wanted))
        return torch.cat(students), torch.cat(teachers)

    def _student_log_probs(self, rows: Tensor, tokens: Tensor) -> Tensor:
        return _gathered(self.student(rows), tokens)


def _gathered(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.float().log_softmax(1).gather(1, tokens.unsqueeze(1)).squeeze(1)


class Samples(NamedTuple):
    """The sampled tokens of a batch's rollouts.

    Attributes:
        rows: The element that predicts each, `[tokens]`.
        ids: Their ids, `[tokens]`.
        log_probs: The log-probability with which each was sampled, `[tokens]`.
        sequence: The sequence of each, `[tokens]`; the tokens of one are adjacent, in order.
        weights: The weight of each, divided by the step's sum of weights, `[tokens]`.
    """

    rows: Tensor
    ids: Tensor
    log_probs: Tensor
    sequence: Tensor
    weights: Tensor


def policy_gradient(pair: Pair, samples: Samples) -> dict[str, Tensor]:
    r"""Compute the policy gradient of sampled tokens, $-\rho_t A_t$ per token.

    The advantage is $A_t = \log p(y_t) - \log q(y_t)$, without a gradient, and the importance
    ratio $\rho_t = q(y_t) / \tilde p(y_t)$ is that of the student to the distribution that was
    sampled. The expected gradient is that of the reverse KL of each token's distribution.

    Source: Williams 1992; Agarwal et al. 2024 (GKD) names the estimator.
    """
    log_q, log_p = pair.log_probs(samples.rows, samples.ids)
    advantage = log_p - log_q.detach()
    ratio = (log_q - samples.log_probs).exp()
    return {"policy_gradient": -(samples.weights * ratio * advantage).sum()}


def minillm(pair: Pair, samples: Samples, *, length_normalization: bool) -> dict[str, Tensor]:
    r"""Compute the single-step and the long-term part of MiniLLM's gradient of the reverse KL.

    With $w_t = q(y_t) / \tilde p(y_t)$ and $r_t = \log p(y_t) - \log q(y_t)$, without gradient:

    $$w_t KL(q_t \| p_t) \quad\text{and}\quad
    -w_t R_{t+1} \log q(y_t), \; R_{t+1} = \frac{1}{T - t} \sum_{s=t+1}^{T} r_s$$

    The division by the number of later tokens is the length normalisation.

    Source: Gu et al. 2024, arXiv 2306.08543.
    """
    log_q, log_p = pair.log_probs(samples.rows, samples.ids)
    weights = samples.weights * (log_q.detach() - samples.log_probs).exp()
    later = _later(log_p - log_q.detach(), samples.sequence, mean=length_normalization)
    return {
        "minillm_single": _reverse_kl(pair, samples.rows, weights),
        "minillm_long": -(weights * later * log_q).sum(),
    }


def _later(rewards: Tensor, sequence: Tensor, *, mean: bool) -> Tensor:
    """Sum the rewards of the later tokens of each sequence, or average them; 0 at its last."""
    reached = rewards.double().cumsum(0)
    _, counts = sequence.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    last = (ends - 1).repeat_interleave(counts)
    number = last - torch.arange(len(rewards), device=rewards.device)
    found = (reached[last] - reached).masked_fill(number == 0, 0.0)
    if mean:
        found = found / number.clamp_min(1)
    return found.to(rewards.dtype)


def _reverse_kl(pair: Pair, rows: Tensor, weights: Tensor) -> Tensor:
    """Sum the weighted reverse KL divergences of some elements."""
    output = pair.output
    if output.values is not None:
        values = losses.divergence(
            output.values[rows], pair.targets.take(rows), kind="reverse_kl", temperature=1.0
        )
        return (weights * values).sum()
    assert output.hidden is not None
    assert output.head is not None
    weight, bias = output.head.weight, getattr(output.head, "bias", None)
    assert isinstance(weight, Tensor)
    every = weights.new_zeros(len(output.weights)).index_add(0, rows, weights)
    return losses.fused_divergence(
        output.hidden,
        weight,
        pair.targets,
        kind="reverse_kl",
        temperature=1.0,
        weights=every,
        reduction="sum",
        bias=bias if isinstance(bias, Tensor) else None,
        softcap=output.softcap,
    )


@torch.no_grad()
def token_figures(pair: Pair, rows: Tensor) -> dict[str, Tensor]:
    """Sum figures of the distributions of some elements.

    Returns:
        The sums of `teacher_top_k_mass` and `student_top_k_mass`, the masses on the teacher's 16
        most probable tokens; `top_k_overlap`, the share of those among the student's 16; and
        `student_entropy` in nats.
    """
    total = torch.zeros(4, dtype=torch.float64, device=rows.device)
    k = min(TOP_K, pair.classes)
    for block in pair.blocks(rows):
        teacher = pair.teacher(block).float().softmax(1)
        log_q = pair.student(block).float().log_softmax(1)
        mass, places = teacher.topk(k, dim=1)
        own = log_q.topk(k, dim=1).indices
        chosen = torch.zeros_like(teacher, dtype=torch.bool).scatter_(1, own, value=True)
        q = log_q.exp()
        figures = [
            mass.sum(1),
            q.gather(1, places).sum(1),
            chosen.gather(1, places).float().mean(1),
            -torch.xlogy(q, q).sum(1),
        ]
        total += torch.stack([one.double().sum() for one in figures])
    names = ("teacher_top_k_mass", "student_top_k_mass", "top_k_overlap", "student_entropy")
    return dict(zip(names, total, strict=True))


def repetition(ids: Tensor, n: int = 4) -> float:
    """Compute the share of a sequence's n-grams that repeat an earlier one; 0 if it is shorter.

    Example:
        >>> repetition(torch.tensor([1, 2, 1, 2, 1, 2, 1]))
        0.5
    """
    if len(ids) < n:
        return 0.0
    grams = ids.unfold(0, n, 1)
    return 1 - len(grams.unique(dim=0)) / len(grams)
