"""Divergences of sampled elements, from the log-probabilities of the sampled classes alone."""

from __future__ import annotations

from torch import Tensor

from limbeck.core.tensors import precise_pair
from limbeck.errors import InputError, Problem
from limbeck.losses._inputs import check_floating, check_same_shape

ESTIMATORS = ("reverse_kl", "forward_kl")
NAMES = {"k2": "reverse_kl", "k3": "forward_kl"}
"""The names of Schulman 2020, by the divergence whose gradient they have."""


def sampled_divergence(
    student_log_prob: Tensor, teacher_log_prob: Tensor, *, estimator: str = "reverse_kl"
) -> Tensor:
    r"""Compute a divergence of classes that the student sampled, named by its expected gradient.

    With q the student, p the teacher, y drawn from q and $r = \log p(y) - \log q(y)$:

    | estimator | also | value | expected value | expected gradient |
    |-|-|-|-|-|
    | `reverse_kl` | k2 | $r^2 / 2$ | $KL(q \| p)$, nearly | $\nabla KL(q \| p)$ |
    | `forward_kl` | k3 | $e^r - 1 - r$ | $KL(q \| p)$ | $\nabla KL(p \| q)$ |
    | refused | k1 | $-r$ | $KL(q \| p)$ | 0 |

    The gradients are those of back-propagation through $\log q(y)$ with the samples fixed. k1 has
    the reverse KL as its value, but its expected gradient is 0, since $E_q[\nabla \log q] = 0$.
    The gradient of `forward_kl` grows as p/q, without a bound, where the teacher is more
    probable.

    Args:
        student_log_prob: The student's log-probability of each sampled class, of any shape, with a
            gradient.
        teacher_log_prob: The teacher's, of the same shape.
        estimator: `reverse_kl` or `forward_kl`: the divergence that training on it minimises.

    Returns:
        One value per sample in nats, never negative, without a gradient to the teacher.

    Raises:
        InputError: The shapes differ, or the estimator is unknown; for `k1`, `k2` and `k3` the
            message has the name to use.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
        >>> sampled_divergence(student, teacher)
        tensor([0.2402, 0.0822])
        >>> sampled_divergence(student, teacher, estimator="k1")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: sampled_divergence.estimator: got 'k1'; ...

    Source: Schulman 2020, "Approximating KL divergence" (the values); Tang and Munos 2025, arXiv
    2506.09477 (the gradients).
    """
    where = "sampled_divergence"
    if estimator not in ESTIMATORS:
        fix = ""
        if estimator == "k1":
            fix = "The expected gradient of k1 is 0: it trains nothing."
        elif estimator in NAMES:
            fix = f"The gradient of {estimator} is that of {NAMES[estimator]}."
        raise InputError(Problem(f"{where}.estimator", estimator, ", ".join(ESTIMATORS), fix))
    for name, one in (("student", student_log_prob), ("teacher", teacher_log_prob)):
        check_floating(one, where=f"{where}.{name}_log_prob")
    check_same_shape(student_log_prob, teacher_log_prob, where=f"{where}.teacher_log_prob")
    student, teacher = precise_pair(student_log_prob, teacher_log_prob)
    ratio = teacher - student
    if estimator == "reverse_kl":
        return ratio.square() / 2
    return ratio.expm1() - ratio
