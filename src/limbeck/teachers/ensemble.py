"""Teacher ensembles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from limbeck.core import fingerprint
from limbeck.errors import InputError, Problem
from limbeck.targets import Answer, BernoulliTargets, DenseTargets, Targets, ValueTargets
from limbeck.tasks import Batch
from limbeck.teachers.teacher import Teacher

AVERAGED = (DenseTargets, BernoulliTargets, ValueTargets)
"""The forms with one row of numbers per element, of which a mean exists."""


class EnsembleTeacher(nn.Module):
    r"""The mean of several teachers' predictions.

    $$z_i = \log \frac1M \sum_m \mathrm{softmax}(z^{(m)})_i$$

    The mean probabilities of a categorical output are returned as log-probabilities, which are
    valid logits: their softmax is the mean. Independent labels are averaged as probabilities and
    returned as logits. Values are averaged; their deviation is that of the mixture, between and
    within the members. An ensemble has no taps, since the members' features share no axes.

    Args:
        members: The teachers, at least one, with the same outputs and classes.

    Raises:
        InputError: There are no members.

    Example:
        >>> from types import SimpleNamespace
        >>> rows = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
        >>> members = [
        ...     SimpleNamespace(answer=lambda batch, row=row: Answer({"logits": DenseTargets(row)}))
        ...     for row in rows
        ... ]
        >>> EnsembleTeacher(members).answer({}).logits.softmax(-1)
        tensor([[0.7000, 0.3000]])

    Source: Hinton, Vinyals and Dean 2015.
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        super().__init__()
        if not members:
            raise InputError(Problem("members", given=0, allowed="at least one teacher"))
        self._members = tuple(members)
        # Registered, so that they are moved and saved with the ensemble.
        self.members = nn.ModuleList(one for one in members if isinstance(one, nn.Module))
        self.eval()

    def add_taps(self, paths: Iterable[str]) -> None:
        """Raise an error: the features of several models share no axes.

        Raises:
            InputError: A path is given.
        """
        if paths := list(paths):
            allowed = "terms on answers only, with several teachers"
            fix = "The features of an ensemble's members share no axes: distil from one of them."
            raise InputError(Problem("teacher", paths, allowed, fix))

    def train(self, mode: bool = True) -> EnsembleTeacher:
        """Keep evaluation mode, for any argument."""
        return super().train(False)

    @property
    def fingerprint(self) -> str:
        """Hash the members' fingerprints, in order."""
        return fingerprint.of_json([member.fingerprint for member in self._members])

    def answer(self, batch: Batch) -> Answer:
        """Average the members' targets of each output.

        Raises:
            InputError: The members have different outputs, elements, classes or target forms.
        """
        answers = [member.answer(batch).targets for member in self._members]
        names = [tuple(targets) for targets in answers]
        if len(set(names)) > 1:
            raise InputError(Problem("members", names, "teachers with the same outputs"))
        outputs = names[0]
        return Answer({name: _mean(name, [one[name] for one in answers]) for name in outputs})

    def forward(self, batch: Batch) -> Answer:
        """Run `answer`, for wrappers that call a module."""
        return self.answer(batch)


def _mean(name: str, members: Sequence[Targets]) -> Targets:
    """Average the members' targets of one output."""
    rows = [one.values.float() for one in members if isinstance(one, AVERAGED)]
    shapes = [tuple(one.shape) for one in rows]
    kinds = {type(one).__name__ for one in members}
    if len(rows) < len(members) or len(kinds) > 1:
        given = f"{name}: {', '.join(sorted(kinds))}"
        allowed = "one form for all members, with all logits or values"
        raise InputError(Problem("members", given, allowed))
    if len(set(shapes)) > 1:
        allowed = "teachers that answer over the same elements and classes"
        raise InputError(Problem("members", shapes, allowed))
    stacked = torch.stack(rows)
    if isinstance(members[0], DenseTargets):
        return DenseTargets(stacked.log_softmax(-1).logsumexp(0) - math.log(len(rows)))
    if isinstance(members[0], BernoulliTargets):
        yes = torch.nn.functional.logsigmoid(stacked).logsumexp(0)
        no = torch.nn.functional.logsigmoid(-stacked).logsumexp(0)
        return BernoulliTargets(yes - no)
    variance = stacked.var(0, correction=0)
    for one in members:
        if isinstance(one, ValueTargets) and one.deviation is not None:
            variance = variance + one.deviation.float().square() / len(rows)
    return ValueTargets(stacked.mean(0), variance.sqrt())
