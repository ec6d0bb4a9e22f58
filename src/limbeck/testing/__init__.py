"""Tests of the laws (properties) of a loss, a task or a scheme: limbeck's own or a user's.

`check_loss` raises at the first broken law, `audit_loss` reports all; `check_task` and
`check_scheme` have laws of their own. The laws of a loss are numbered:

| law | property |
|-|-|
| 0 | shapes, dtypes and precision; inputs are not changed in place |
| 1 | the minimum is at student = teacher |
| 2 | a divergence is never negative |
| 3 | the gradient reaches the student and not the teacher |
| 4 | value and gradient equal those of the definition |
| 5 | the gradient has a similar norm at every temperature |
| 6 | micro-batches have the values and gradients of the whole batch |
| 7 | masked elements have no effect |
| 8 | invariance to the order of classes and elements, and to logit offsets |
| 9 | finite values and gradients for extreme, constant and empty inputs |
| 10 | the fused form equals the dense form |
| 11 | top-k targets of all classes equal dense ones; sampled targets are unbiased |
| 12 | a padded vocabulary has no effect |
| 13 | the limits of `jsd` |
| 15 | `torch.func` transforms and higher derivatives equal plain torch, or raise |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias, get_args

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, Problem, check_choice, gathering
from limbeck.testing import components, forms, laws, masks, transforms
from limbeck.testing.subject import Draw, Kind, Reference, Subject

__all__ = [
    "LAWS",
    "BrokenLawError",
    "Draw",
    "Kind",
    "Reference",
    "audit_loss",
    "check_loss",
    "check_scheme",
    "check_task",
]
if TYPE_CHECKING:
    from limbeck.schemes import SchemeInputs, SchemeSettings
    from limbeck.tasks import Batch, Task

Law: TypeAlias = Callable[[Subject], Iterator[str]]
_SHOWN = 3  # violations of one law that an audit reports


class BrokenLawError(AssertionError):
    """A broken law of a loss, a task or a scheme.

    Attributes:
        law: The number of the law.
    """

    def __init__(self, law: int, violation: str) -> None:
        self.law = law
        super().__init__(f"law {law}: {violation}")


def check_loss(
    loss: Callable[..., Tensor],
    *,
    kind: Kind,
    reference: Reference | None = None,
    without: Iterable[int] = (),
    seed: int = 0,
    draw: Draw | None = None,
) -> list[int]:
    """Test a loss against every law of its kind.

    | kind | compares | returns |
    |-|-|-|
    | `divergence` | logits `[elements, classes]`, as distributions | one value per element |
    | `response` | logits, in any other form | one value per element |
    | `hard_label` | logits and labels `[elements]` | one value per element |
    | `batch` | logits, over the batch as a whole | a scalar |
    | `feature` | features `[samples, ...]` | one value per sample |
    | `relation` | features, over the batch as a whole | a scalar |
    | `fused` | as `divergence`, from `(hidden, weight, targets)` | a mean, a scalar |

    Args:
        loss: A function (student, second, **keywords); bind other arguments with
            `functools.partial`. A second parameter named `targets` receives each type of
            `limbeck.targets`. The keywords `temperature` and `labels` are set, and `mask` and
            `index` if required.
        kind: The kind of the loss.
        reference: An independent implementation of the formula in numpy and float64, for law 4,
            called with the same keywords. Without it law 4 compares the gradient with finite
            differences of the loss's own values.
        without: Laws that do not apply. Law 6 (a split) does not apply to scalars: their element is
            the batch.
        seed: The seed of the inputs.
        draw: A function that returns the inputs (student, second) for a generator and a scale, in
            float64, if the loss needs other shapes than six elements of five logits or of features
            3×2×2: both with samples first, each a tensor or a tuple of tensors.

    Returns:
        The numbers of the tested laws, all of which hold.

    Raises:
        BrokenLawError: A law is broken; the message describes the first one.
        InputError: An unknown kind or law, or a loss with unbound arguments.

    Example:
        >>> from limbeck.losses import logit_mse
        >>> check_loss(logit_mse, kind="response")
        [0, 1, 3, 4, 6, 7, 8, 9, 15]
        >>> check_loss(lambda student, teacher: (student - teacher).sum(1), kind="response")
        Traceback (most recent call last):
        ...
        limbeck.testing.BrokenLawError: law 0: half precision is to be computed in float32, not in
        torch.bfloat16
        >>> check_loss(logit_mse, kind="divergance")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: check_loss.kind: got 'divergance'; ... did you mean "divergence"?
    """
    subject = Subject(loss, kind, reference, seed, draw)
    tested = _applicable(subject, set(without))
    with torch.enable_grad():
        for law in tested:
            for violation, cause in _violations(law, subject):
                raise BrokenLawError(law, violation) from cause
    return tested


def audit_loss(
    loss: Callable[..., Tensor],
    *,
    kind: Kind,
    reference: Reference | None = None,
    without: Iterable[int] = (),
    seed: int = 0,
    draw: Draw | None = None,
) -> dict[int, str | None]:
    """Test every law of a loss's kind, and report all results; the arguments are `check_loss`'s.

    Returns:
        For each tested law: None if it holds, otherwise the first few violations. An exception of
            the loss is a violation, too.

    Raises:
        InputError: An unknown kind or law, or a loss with unbound arguments.

    Example:
        >>> def averaged(student, teacher):
        ...     return (student - teacher.detach()).double().square().mean()
        >>> verdicts = audit_loss(averaged, kind="response")
        >>> [law for law, broken in verdicts.items() if broken]
        [0, 6, 9]
        >>> verdicts[6]
        'micro-batches change the gradient: off by ...
    """
    subject = Subject(loss, kind, reference, seed, draw)
    verdicts: dict[int, str | None] = {}
    with torch.enable_grad():
        for law in _applicable(subject, set(without)):
            first = islice(_violations(law, subject), _SHOWN)
            verdicts[law] = "; ".join(violation for violation, _ in first) or None
    return verdicts


def check_task(task: Task, model: nn.Module, batch: Batch) -> None:
    """Test a task against the laws of tasks, on a model and a batch.

    | law | property |
    |-|-|
    | 1 | kinds, response and weights agree on outputs, elements and samples |
    | 2 | the gradient of each output's mean loss does not depend on a split into micro-batches |
    | 3 | a sample of weight 0 equals one left out, and weights of 1 equal none |
    | 4 | the outputs of an export are the values of the response |

    Args:
        task: The task.
        model: A model of the task, which is not changed; it is copied and in evaluation mode.
        batch: A batch of at least 4 samples, with labels and without weights.

    Raises:
        BrokenLawError: A law is broken; the message describes the first violation.
        InputError: The tensors of the batch differ in their number of samples.

    Example:
        >>> from limbeck.tasks.tabular_classification import TabularClassification
        >>> batch = {"features": torch.randn(5, 4), "labels": torch.arange(5) % 3}
        >>> check_task(TabularClassification(("a", "b", "c")), nn.Linear(4, 3), batch)
    """
    for law, violation in components.task_violations(task, model, batch):
        raise BrokenLawError(law, violation)


def check_scheme(settings: SchemeSettings, student: nn.Module, inputs: SchemeInputs) -> None:
    """Test a scheme against the laws of schemes, on a student, its inputs and their example batch.

    | law | property |
    |-|-|
    | 1 | students are attributes; each phase trains parameters that a checkpoint includes |
    | 2 | `check_terms` changes neither weights nor gradients |
    | 3 | the gradient of a phase does not depend on a split into micro-batches |
    | 4 | a sample of weight 0 equals one left out |
    | 5 | the control trains the same student without the teacher |

    Laws 3 and 4 do not hold for terms over the batch, such as relations: leave them out.

    Args:
        settings: The scheme's settings.
        student: The student, which is not changed.
        inputs: Task, objective, teacher and an example batch of at least 4 samples.

    Raises:
        BrokenLawError: A law is broken; the message describes the first violation.
        InputError: The tensors of the batch differ in their number of samples.

    Example:
        >>> from limbeck.objective import Objective, methods
        >>> from limbeck.schemes import SchemeInputs
        >>> from limbeck.schemes.offline import OfflineSettings
        >>> from limbeck.tasks.tabular_classification import TabularClassification
        >>> from limbeck.teachers import FrozenTeacher
        >>> task = TabularClassification(("a", "b", "c"))
        >>> inputs = SchemeInputs(
        ...     task=task,
        ...     objective=lambda: Objective(methods.hinton()),
        ...     probe={"features": torch.randn(5, 4), "labels": torch.arange(5) % 3},
        ...     teacher=FrozenTeacher(nn.Linear(4, 3), task),
        ... )
        >>> check_scheme(OfflineSettings(), nn.Linear(4, 3), inputs)
    """
    for law, violation in components.scheme_violations(settings, student, inputs):
        raise BrokenLawError(law, violation)


def _violations(law: int, subject: Subject) -> Iterator[tuple[str, Exception | None]]:
    """Yield the violations of a law, with the exception if the loss raised one."""
    try:
        yield from ((violation, None) for violation in LAWS[law](subject))
    except Exception as error:  # a user's own loss may raise any exception
        yield f"the loss raises {type(error).__name__}: {error}", error


LAWS: dict[int, Law] = {
    0: laws.contract,
    1: laws.minimum,
    2: laws.non_negative,
    3: laws.no_gradient_to_teacher,
    4: laws.definition,
    5: laws.temperature,
    6: laws.split,
    7: masks.masked,
    8: laws.symmetry,
    9: laws.finite,
    10: forms.fused,
    11: forms.sparse,
    12: forms.padding,
    13: forms.ends,
    15: transforms.transforms,
}
_OF_KIND: dict[str, frozenset[int]] = {
    "divergence": frozenset(LAWS) - {10},
    "response": frozenset({0, 1, 3, 4, 5, 6, 7, 8, 9, 15}),
    "hard_label": frozenset({0, 2, 4, 6, 7, 8, 9, 12, 15}),
    "batch": frozenset({0, 1, 3, 4, 5, 7, 8, 9, 15}),
    "feature": frozenset({0, 1, 3, 4, 6, 7, 9, 15}),
    "relation": frozenset({0, 1, 3, 4, 7, 8, 9, 15}),
    "fused": frozenset(LAWS) - {6},
}


def _applicable(subject: Subject, without: set[int]) -> list[int]:
    _check(subject, without)
    excluded = set(without)
    if "temperature" not in subject.settings(subject.draw()):
        excluded.add(5)
    if not subject.takes_targets:
        excluded.add(11)
    # Only in `jsd` is `beta` the weight of a mixture.
    has_beta = subject.has("beta") and (subject.kind == "fused" or not subject.has("labels"))
    if not has_beta or subject.bound("kind").get("kind", "jsd") != "jsd":
        excluded.add(13)
    return [law for law in LAWS if law in _OF_KIND[subject.kind] - excluded]


def _check(subject: Subject, without: Iterable[int]) -> None:
    problems: list[Problem] = []
    kinds = get_args(Kind)
    with gathering(problems):
        check_choice(subject.kind, kinds, where="check_loss.kind")
    problems += [
        Problem("check_loss.without", law, f"numbers of laws: {', '.join(map(str, LAWS))}")
        for law in without
        if law not in LAWS
    ]
    if not callable(subject.loss):
        problems.append(Problem("check_loss.loss", subject.loss, "a function"))
    elif subject.kind in kinds:
        for name in subject.unbound:
            fix = f"Bind it with functools.partial(loss, {name}=...)."
            problems.append(Problem.missing(f"check_loss.loss.{name}", fix))
    if problems:
        raise InputError(*problems)
