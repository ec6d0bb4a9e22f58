"""Named distillation methods: short compositions of loss terms, to use or to modify.

`__all__` lists the methods only: the names for recipes and `limbeck list methods`. Unless stated
otherwise, weights are those of the CIFAR-100 benchmark of Tian, Krishnan and Isola 2020. Layers are
given as paths, one or several per side; several are paired in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from limbeck.core.annotations import validate_arguments
from limbeck.core.registry import Catalogue
from limbeck.errors import InputError, Problem
from limbeck.objective.methods.features import ab, at, fitnets, ft, nst, ofd, review_kd, vid
from limbeck.objective.methods.logits import (
    dist,
    dkd,
    hinton,
    label_only,
    logit_standardization,
    mlkd,
    ttm,
    wttm,
)
from limbeck.objective.methods.relations import cc, crd, fsp, pkt, rkd, sp
from limbeck.objective.methods.transformers import distilbert, minilm, tinybert
from limbeck.objective.terms import Term

__all__ = [
    "ab",
    "at",
    "cc",
    "crd",
    "dist",
    "distilbert",
    "dkd",
    "fitnets",
    "fsp",
    "ft",
    "hinton",
    "label_only",
    "logit_standardization",
    "minilm",
    "mlkd",
    "nst",
    "ofd",
    "pkt",
    "review_kd",
    "rkd",
    "sp",
    "tinybert",
    "ttm",
    "vid",
    "wttm",
]
METHODS = Catalogue(__name__, kind="method", group="limbeck.methods")
"""The methods by name: those of `__all__`, and of plug-ins."""


def find(name: str, *, where: str = "method") -> Callable[..., list[Term]]:
    """Return the method of that name; raise an error with similar names if it is unknown.

    Example:
        >>> find("hinton") is hinton
        True
        >>> find("hintn")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: method: got 'hintn'; ... did you mean "hinton"...
    """
    method: Callable[..., list[Term]] = METHODS.load(name, where=where)
    return method


def read(entry: Mapping[str, Any], *, where: str) -> list[Term]:
    """Build terms from a recipe's entry, `{method: {settings}}`.

    Raises:
        InputError: An unknown method, or unknown or missing settings; the message lists all.

    Example:
        >>> read({"hinton": {"temperature": 2.0}}, where="objective")
        [Term('task', weight=0.1), Term('soft_target_kl', weight=0.9, temperature=2.0)]
    """
    if len(entry) != 1:
        raise InputError(Problem(where, dict(entry), "one method with its settings"))
    ((name, given),) = entry.items()
    method = find(name, where=where)
    settings = validate_arguments(method, given, where=f"{where}.{name}")
    try:
        return method(**settings)
    except InputError as error:
        raise InputError(
            *(
                Problem(f"{where}.{name}.{one.where}", one.given, one.allowed, one.fix)
                for one in error.problems
            )
        ) from error
