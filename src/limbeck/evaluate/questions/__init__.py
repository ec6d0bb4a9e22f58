"""The questions that a student is asked beside its teacher: one file a question.

A file holds a function `ask(sitting) -> <its result>`; the result is named after the file.
"""

from limbeck.registry import Registry, camel_case

QUESTIONS = Registry(__name__, kind="question", attribute="ask")
"""Names to functions that ask them."""

RESULTS = Registry(__name__, kind="question", attribute=camel_case)
"""Names to the types of what they find."""
