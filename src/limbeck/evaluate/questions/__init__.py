"""The questions that a student is asked beside its teacher: one file a question.

A file holds a function `ask(sitting) -> <its result>`; the result is named after the file. Its
function `workload(sitting)`, with the same settings, computes how many predictions that takes.
"""

from limbeck.registry import Registry, camel_case

QUESTIONS = Registry(__name__, kind="question", attribute="ask")
"""Names to functions that ask them."""

WORKLOADS = Registry(__name__, kind="question", attribute="workload")
"""Names to functions that compute their workload."""

RESULTS = Registry(__name__, kind="question", attribute=camel_case)
"""Names to the types of what they find."""
