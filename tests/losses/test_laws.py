"""Every loss under every law that applies, against definitions in numpy and scipy."""

from functools import partial

import numpy as np
import pytest
from scipy import special

from limbeck import losses
from limbeck.errors import InputError
from limbeck.testing import check_loss


def forward_kl(student, teacher, temperature):
    p, q = (special.softmax(x / temperature, axis=1) for x in (teacher, student))
    return temperature**2 * special.rel_entr(p, q).sum(1)


def reverse_kl(student, teacher, temperature):
    return forward_kl(teacher, student, temperature)


def jsd(student, teacher, temperature, beta=0.5, normalized=False):
    p, q = (special.softmax(x / temperature, axis=1) for x in (teacher, student))
    m = beta * p + (1 - beta) * q
    value = beta * special.rel_entr(p, m).sum(1) + (1 - beta) * special.rel_entr(q, m).sum(1)
    return temperature**2 * value / (beta * (1 - beta) if normalized else 1)


def tvd(student, teacher, temperature):
    p, q = (special.softmax(x / temperature, axis=1) for x in (teacher, student))
    return temperature**2 * np.abs(p - q).sum(1) / 2


def cross_entropy(student, labels):
    return -special.log_softmax(student, axis=1)[np.arange(len(labels)), labels]


def label_smoothing(student, labels):
    targets = 0.9 * np.eye(student.shape[1])[labels] + 0.1 / student.shape[1]
    return -(targets * special.log_softmax(student, axis=1)).sum(1)


def mean_squares(student, teacher):
    return ((student - teacher) ** 2).reshape(len(student), -1).mean(1)


def divergence(kind, reference, **settings):
    loss = partial(losses.divergence, kind=kind, **settings)
    return partial(check_loss, loss, kind="divergence", reference=partial(reference, **settings))


# One entry a name of `limbeck.losses.__all__`: every form of it that is under the laws.
TRIALS = {
    "cross_entropy": [
        partial(check_loss, losses.cross_entropy, kind="hard_label", reference=cross_entropy)
    ],
    "divergence": [
        divergence("forward_kl", forward_kl),
        divergence("reverse_kl", reverse_kl),
        divergence("jsd", jsd),
        divergence("jsd", jsd, beta=0.1),
        divergence("jsd", jsd, beta=0.9, normalized=True),
        # The gradient of the total variation falls with 1/T, so that T² makes it grow.
        partial(divergence("tvd", tvd), without=[5]),
    ],
    "fitnet_hint": [
        partial(check_loss, losses.fitnet_hint, kind="feature", reference=mean_squares)
    ],
    "label_smoothing": [
        partial(
            check_loss,
            partial(losses.label_smoothing, smoothing=0.1),
            kind="hard_label",
            reference=label_smoothing,
        )
    ],
    "logit_mse": [partial(check_loss, losses.logit_mse, kind="response", reference=mean_squares)],
    "soft_target_kl": [
        partial(check_loss, losses.soft_target_kl, kind="divergence", reference=forward_kl)
    ],
}


def test_every_loss_is_on_trial():
    assert sorted(TRIALS) == sorted(losses.__all__)
    assert len(set(losses.__all__)) == len(losses.__all__)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "trial",
    [pytest.param(t, id=f"{name}-{i}") for name in TRIALS for i, t in enumerate(TRIALS[name])],
)
def test_every_law_holds(trial, seed):
    assert len(trial(seed=seed)) >= 7


def test_a_divergence_is_held_to_all_laws():
    assert TRIALS["divergence"][0]() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12]


@pytest.mark.parametrize("name", losses.__all__)
def test_the_catalogue_finds_each_loss_by_name(name):
    assert losses.find(name) is getattr(losses, name)
    assert losses.find(name).__name__ == name


def test_the_catalogue_suggests_names():
    with pytest.raises(InputError, match='did you mean "fitnet_hint"'):
        losses.find("fitnets_hint")
    with pytest.raises(InputError):
        losses.find("find")
