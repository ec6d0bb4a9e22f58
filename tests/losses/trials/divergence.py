"""The kinds of divergence, of all classes and of the likeliest."""

from functools import partial

import numpy as np
from scipy import special

from limbeck import losses
from limbeck.targets import TopKTargets
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


def in_buckets(student, teacher, k):
    """Logarithms of the probabilities of the teacher's k likeliest classes and of all others."""
    likeliest = np.argsort(-teacher, axis=1)[:, :k]
    both = []
    for logits in (student, teacher):
        p = special.softmax(logits, axis=1)
        kept = np.take_along_axis(p, likeliest, axis=1)
        np.put_along_axis(p, likeliest, 0, axis=1)
        both.append(np.log(np.concatenate([kept, p.sum(1, keepdims=True)], axis=1)))
    return both


def of_all(kind, reference, **settings):
    loss = partial(losses.divergence, kind=kind, **settings)
    return partial(check_loss, loss, kind="divergence", reference=partial(reference, **settings))


def of_likeliest(kind, reference, k, **settings):
    def loss(student, teacher, *, temperature):
        targets = TopKTargets.of(teacher, k)
        return losses.divergence(student, targets, kind=kind, temperature=temperature, **settings)

    def definition(student, teacher, temperature):
        if k < teacher.shape[1]:
            student, teacher = in_buckets(student, teacher, k)
        return reference(student, teacher, temperature, **settings)

    return partial(check_loss, loss, kind="divergence", reference=definition)


FORMS = [
    ("forward_kl", forward_kl, {}),
    ("reverse_kl", reverse_kl, {}),
    ("jsd", jsd, {}),
    ("jsd", jsd, {"beta": 0.1}),
    ("jsd", jsd, {"beta": 0.9, "normalized": True}),
]

TRIALS = {
    "divergence": [
        *(of_all(kind, reference, **settings) for kind, reference, settings in FORMS),
        *(of_likeliest(kind, reference, 5, **settings) for kind, reference, settings in FORMS),
        # Not 5: at large temperatures the limit is that of buckets, not of single classes.
        *(
            partial(of_likeliest(kind, reference, 2, **settings), without=[5])
            for kind, reference, settings in FORMS
        ),
        # Not 5: the gradient of the total variation falls with 1/T, so that T² makes it grow.
        partial(of_all("tvd", tvd), without=[5]),
        partial(of_likeliest("tvd", tvd, 5), without=[5]),
        partial(of_likeliest("tvd", tvd, 2), without=[5]),
    ],
    "fused_divergence": [
        *(
            partial(
                check_loss, partial(losses.fused_divergence, kind=kind, **settings), kind="fused"
            )
            for kind, _, settings in FORMS
        ),
        partial(
            check_loss, partial(losses.fused_divergence, kind="tvd"), kind="fused", without=[5]
        ),
    ],
}
