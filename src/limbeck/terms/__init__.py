"""One term of an objective: what a recipe or a program says, and that with every name looked up."""

from limbeck.terms.ready import Ready, prepare
from limbeck.terms.term import Term, read

__all__ = ["Ready", "Term", "prepare", "read"]
