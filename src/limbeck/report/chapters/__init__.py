"""The page's chapters, one file a question of `limbeck.evaluate.questions`.

A file holds a function `chapter(found, result) -> Chapter` that draws what its question found.
"""

from limbeck.registry import Registry

CHAPTERS = Registry(__name__, kind="chapter", attribute="chapter")
"""Names of questions to functions that draw what they found."""
