"""Kinds of structural change: one file per kind, each with a function `apply(model, **settings)`.

A change is done in place, with fresh weights where there are new ones, so that saved weights can be
loaded afterwards. Its settings are plain JSON.
"""

from limbeck.core.registry import Registry

CHANGES = Registry(__name__, kind="change", attribute="apply")
"""Kinds of structural change by name: `CHANGES.load("factors")(model, ranks={"fc": 8})`."""
