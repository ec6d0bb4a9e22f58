"""One way in which a student departs from its passport."""

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
"""How much of what is said a finding shows."""


@dataclass(frozen=True)
class Finding:
    """One way in which a folder departs from its passport.

    Attributes:
        kind: `changed`, `missing`, `added`: a file is. `escape`: a name or a link leads out of the
            folder. `odd`: not a plain file, or not readable. `recipe`: not what its hash says.
            `edited`: the passport is not as it was written. `malformed`: it is no passport.
            `schema`: it is not CycloneDX 1.6. `signature`: the signature is missing, is not by the
            key, or was made for other contents. `lineage`: the chain of teachers does not hold.
            `risk`: the class of risk is lower than an ancestor's, without a reason. `robustness`:
            the verdict does not follow from the figures. `stamp`: a file's header says otherwise.
        where: The file, or the place in the passport.
        listed: What the passport says.
        found: What is there.

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
    # Names come from elsewhere: they may not steer a terminal, nor fill it.
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
