"""Teacher ensembles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from limbeck.core import fingerprint
from limbeck.errors import InputError, Problem
from limbeck.targets import DenseTargets
from limbeck.tasks import Batch
from limbeck.teachers.teacher import Answer, Teacher


class EnsembleTeacher(nn.Module):
    r"""The mean of several teachers' probabilities.

    $$z_i = \log \frac1M \sum_m \mathrm{softmax}(z^{(m)})_i$$

    The mean is returned as log-probabilities, which are valid logits: their softmax is the mean. An
    ensemble has no taps, since the members' features share no axes.

    Args:
        members: The teachers, at least one, with the same classes.

    Raises:
        InputError: There are no members.

    Example:
        >>> from types import SimpleNamespace
        >>> rows = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
        >>> members = [
        ...     SimpleNamespace(answer=lambda batch, row=row: Answer(DenseTargets(row)))
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
        """Average the members' probabilities; return one row of log-probabilities per element.

        Raises:
            InputError: The members have different numbers of classes.
        """
        answers = [member.answer(batch).logits.float() for member in self._members]
        shapes = [tuple(logits.shape) for logits in answers]
        if len(set(shapes)) > 1:
            allowed = "teachers that answer over the same elements and classes"
            raise InputError(Problem("members", shapes, allowed))
        log_probabilities = torch.stack([logits.log_softmax(-1) for logits in answers])
        return Answer(DenseTargets(log_probabilities.logsumexp(0) - math.log(len(answers))))

    def forward(self, batch: Batch) -> Answer:
        """Run `answer`, for wrappers that call a module."""
        return self.answer(batch)
