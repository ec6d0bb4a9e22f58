"""Silence of torch and ONNX during an export."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress prints, warnings and log records inside the block; exceptions pass.

    Example:
        >>> with quiet():
        ...     print("step 3 of 17")
    """
    # `logging.warning` installs a permanent handler on a bare root logger; this one prevents that.
    guard = logging.NullHandler()
    root = logging.getLogger()
    before = root.manager.disable
    root.addHandler(guard)
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(guard)
