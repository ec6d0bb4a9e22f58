"""The page's sections, one file per evaluation of `limbeck.evaluate.questions`.

Each file holds a function `chapter(found, result) -> Chapter` that draws the evaluation's result.
"""

from limbeck.registry import Registry

CHAPTERS = Registry(__name__, kind="chapter", attribute="chapter")
"""The registry of functions that draw results, by the name of the evaluation."""
