"""A deviation of a student from its passport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "malformed",
    "schema",
    "edited",
    "recipe",
    "changed",
    "missing",
    "added",
    "escape",
    "odd",
    "signature",
    "lineage",
    "risk",
    "robustness",
    "stamp",
]

LONGEST = 600
"""The most characters of a text that a finding shows."""


@dataclass(frozen=True)
class Finding:
    """A deviation of a folder from its passport.

    Attributes:
        kind: `changed`, `missing`, `added`: of a file. `escape`: a name or a link leads out of the
            folder. `odd`: not a plain file, or not readable. `recipe`: its hash does not match.
            `edited`: the passport is not as it was written. `malformed`: not a passport. `schema`:
            not valid CycloneDX 1.6. `signature`: the signature is missing, is not by the key, or
            was made for other contents. `lineage`: the chain of teachers is inconsistent. `risk`:
            the class of risk is lower than an ancestor's, without a reason. `robustness`: the
            verdict does not follow from the figures. `stamp`: a file's embedded metadata
            contradicts the passport.
        where: The file, or the path in the passport.
        listed: The value in the passport.
        found: The value found.

    Example:
        >>> print(Finding("missing", "model.onnx", "9 bytes", "no such file"))
        missing: 'model.onnx': listed 9 bytes; found no such file
    """

    kind: Kind
    where: str
    listed: str
    found: str

    def __str__(self) -> str:
        where, listed, found = (_shown(text) for text in (self.where, self.listed, self.found))
        return f"{self.kind}: '{where}': listed {listed}; found {found}"


def _shown(text: str) -> str:
    # Names are untrusted: they must not control a terminal, nor fill it.
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
