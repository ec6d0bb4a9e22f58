"""Validation of a passport against the CycloneDX 1.6 schema, with the optional library for it.

limbeck writes and verifies passports without it; the tests validate every kind of passport with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from itertools import islice
from typing import Any

MOST_ERRORS = 100
"""The most schema violations that are collected."""

LARGEST = 2**20
"""The longest document, in characters, that is validated: more would take seconds."""


def validate(passport: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Validate a passport with cyclonedx-python-lib, strictly.

    Args:
        passport: The document.

    Returns:
        The first hundred schema violations; empty for a valid document; `None` if the library is
        not installed.

    Example:
        >>> validate({"bomFormat": "CycloneDX", "specVersion": "1.6"}) in ((), None)
        True
    """
    validator = _validator()
    if validator is None:
        return None
    try:
        text = json.dumps(passport)
        if len(text) > LARGEST:
            return (f"$: {len(text):,} characters; at most {LARGEST:,} are validated",)
        errors = validator.validate_str(text, all_errors=True) or ()
        # The library wraps jsonschema's error, whose own text quotes the whole schema.
        return tuple(
            f"{error.data.json_path}: {error.data.message[:200]}"
            for error in islice(errors, MOST_ERRORS)
        )
    except RecursionError:
        return ("$: too many levels of nesting",)


@cache
def _validator() -> Any:
    try:
        from cyclonedx.exception import MissingOptionalDependencyException
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    except ImportError:
        return None
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    try:
        validator.validate_str("{}")
    except MissingOptionalDependencyException:
        return None
    return validator
