"""Entity spans of BIO tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

OUTSIDE = "O"


class Span(NamedTuple):
    """An entity: its type, its first token, and the token after its last one."""

    label: str
    start: int
    end: int


def is_bio(names: Sequence[str]) -> bool:
    """Return whether class names are BIO tags: `O`, `B-TYPE` and `I-TYPE`, with at least one type.

    Example:
        >>> is_bio(("O", "B-PER", "I-PER")), is_bio(("NOUN", "VERB"))
        (True, False)
    """
    return OUTSIDE in names and len(names) > 1 and all(map(is_bio_tag, names))


def is_bio_tag(name: str) -> bool:
    """Return whether a name is `O`, `B-TYPE` or `I-TYPE`.

    Example:
        >>> is_bio_tag("B-PER"), is_bio_tag("B-"), is_bio_tag("PER")
        (True, False, False)
    """
    return name == OUTSIDE or (name[:2] in ("B-", "I-") and len(name) > 2)


def entity_spans(tags: Sequence[str | None]) -> list[Span]:
    """Return the entities of a sequence of BIO tags.

    An entity begins at a `B-` tag, or at an `I-` tag that does not continue one of its type, as in
    the script conlleval and in the default mode of seqeval. A token without a tag (None) ends it.

    Example:
        >>> entity_spans(["B-PER", "I-PER", "O", "I-LOC", "I-ORG", "B-ORG"])[:2]
        [Span(label='PER', start=0, end=2), Span(label='LOC', start=3, end=4)]

    Source: Tjong Kim Sang 2002, "Introduction to the CoNLL-2002 shared task" (scoring); Nakayama
    2018, seqeval.
    """
    spans: list[Span] = []
    for place, tag in enumerate(tags):
        if tag is None or tag == OUTSIDE:
            continue
        label = tag[2:]
        if tag[0] == "I" and spans and spans[-1].end == place and spans[-1].label == label:
            spans[-1] = spans[-1]._replace(end=place + 1)
        else:
            spans.append(Span(label, place, place + 1))
    return spans
