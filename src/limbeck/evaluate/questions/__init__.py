"""The evaluations of a student against its teacher, one file each.

A file defines a function `ask(sitting) -> <its result>`; the result is named after the file. Its
function `workload(sitting)`, with the same settings, computes the number of predictions.
"""

from limbeck.registry import Registry, camel_case

QUESTIONS = Registry(__name__, kind="question", attribute="ask")
"""Evaluations by name."""

WORKLOADS = Registry(__name__, kind="question", attribute="workload")
"""Functions that compute an evaluation's workload, by name."""

RESULTS = Registry(__name__, kind="question", attribute=camel_case)
"""Types of the results, by name."""
