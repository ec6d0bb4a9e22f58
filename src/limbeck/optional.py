"""Imports of optional libraries, with the extra that installs them."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from limbeck.errors import InputError, Problem


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module; raise an error with the extra to install if it is missing.

    Example:
        >>> require("no_such_module", extra="vision")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: no_such_module: ... Install it: pip install "limbeck[vision]"
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise InputError(
            Problem(
                module,
                given="not installed",
                allowed=f'the "{extra}" extra of limbeck',
                fix=f'Install it: pip install "limbeck[{extra}]"',
            )
        ) from error


def available(module: str) -> bool:
    """Return whether an optional module is installed, without importing it.

    Example:
        >>> available("json"), available("no_such_module")
        (True, False)
    """
    return importlib.util.find_spec(module) is not None
