"""Several teachers that answer as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from limbeck import fingerprint
from limbeck.errors import InputError, Problem
from limbeck.tasks import Batch
from limbeck.targets import DenseTargets
from limbeck.teachers.teacher import Answer, Teacher


class EnsembleTeacher:
    r"""The mean of several teachers' probabilities.

    $$z_i = \log \frac1M \sum_m \mathrm{softmax}(z^{(m)})_i$$

    The mean is returned as log-probabilities, which serve as logits: a softmax of them gives the mean back.
    Taps are not averaged, since the members' features share no axes; an ensemble has none.

    Args:
        members: The teachers, at least one, all over the same classes.

    Source: Hinton, Vinyals and Dean 2015; ledger C11.
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        if not members:
            raise InputError(Problem("members", given=0, allowed="at least one teacher"))
        self._members = tuple(members)

    @property
    def fingerprint(self) -> str:
        """Hash the members' fingerprints, in order."""
        return fingerprint.of_json([member.fingerprint for member in self._members])

    def answer(self, batch: Batch) -> Answer:
        """Average what the members say; one row of log-probabilities a unit."""
        answers = [member.answer(batch).targets.logits.float() for member in self._members]
        log_probabilities = torch.stack([answer.log_softmax(-1) for answer in answers])
        mean = log_probabilities.logsumexp(0) - torch.tensor(float(len(answers))).log()
        return Answer(DenseTargets(mean))
