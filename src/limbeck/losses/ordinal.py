"""Losses of ordered classes."""

from __future__ import annotations

import torch

from limbeck.core.tensors import precise
from limbeck.losses._inputs import check_label_range, check_labels, check_logits
from limbeck.losses._kinds import MINIMUM_LOGIT, not_negative
from limbeck.losses._types import Labels, Logits, PerElement


def cumulative_cross_entropy(student: Logits, labels: Labels) -> PerElement:
    r"""Compute the cross-entropy of the cumulative probabilities of ordered classes, their sum.

    $$-\sum_{k=0}^{C-2} [y > k] \log P(Y > k) + [y \le k] \log P(Y \le k), \;
      P(Y \le k) = \sum_{i \le k} \mathrm{softmax}(z)_i$$

    Each threshold between two neighbouring classes is a binary problem, as in CORAL and CORN. The
    probabilities are those of a softmax, so that they are consistent in rank for any model, and a
    probability far from the label costs more than one beside it. It is a strictly proper score,
    the ranked ignorance score, and equals the cross-entropy for two classes.

    Args:
        student: Logits z, `[elements, classes]`, the classes in their order.
        labels: The labels y, `[elements]`. There is no ignore index: use a weight of 0.

    Returns:
        One value per element in nats, `[elements]`.

    Raises:
        InputError: A wrong shape or dtype, or labels out of range (checked on a CPU).

    Example:
        >>> import torch
        >>> cumulative_cross_entropy(torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([2]))
        tensor([7.3788])

    Source: Tödter and Ahrens 2012, "Generalization of the ignorance score" (the ranked version);
    Cao, Mirjalili and Raschka 2020 (CORAL) and Shi, Cao and Raschka 2021 (CORN) for the thresholds.
    """
    where = "cumulative_cross_entropy.labels"
    check_logits(student, where="cumulative_cross_entropy.student")
    check_labels(labels, student, where=where)
    check_label_range(labels, student.shape[-1], where=where)
    logits = precise(student).clamp_min(MINIMUM_LOGIT)
    count = logits.shape[-1]
    thresholds = torch.arange(count - 1, device=logits.device)
    below = torch.arange(count, device=logits.device) <= thresholds.unsqueeze(-1)
    above_label = labels.long().unsqueeze(-1) > thresholds
    kept = below.unsqueeze(0) ^ above_label.unsqueeze(-1)
    own = logits.unsqueeze(-2).masked_fill(~kept, MINIMUM_LOGIT).logsumexp(-1)
    each = not_negative(logits.logsumexp(-1, keepdim=True) - own)
    return each.clamp_max(-MINIMUM_LOGIT).sum(-1)  # finite for a label of an excluded class
