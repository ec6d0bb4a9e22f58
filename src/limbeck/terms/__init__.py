"""Objective terms: the specification in a recipe or program, and the resolved term."""

from limbeck.terms.ready import Ready, prepare
from limbeck.terms.term import Term, read

__all__ = ["Ready", "Term", "prepare", "read"]
