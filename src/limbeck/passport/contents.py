"""Comparison of a student folder's files with those listed in its passport."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from limbeck.passport.finding import Finding
from limbeck.passport.folder import FileHash, Listing


def of_folder(listed: Mapping[str, FileHash], listing: Listing) -> Iterator[Finding]:
    """Yield every changed, added or missing file, and everything that is not a plain file.

    Args:
        listed: The files that the passport lists.
        listing: The files found in the folder.
    """
    for name, oddity in sorted(listing.oddities.items()):
        said = str(listed.get(name, "nothing"))
        yield Finding("escape" if oddity.escapes else "odd", name, said, oddity.what)
    for name in sorted(listed.keys() - listing.oddities.keys()):
        found = listing.files.get(name)
        if found == listed[name]:
            continue
        if found is not None:
            yield Finding("changed", name, str(listed[name]), str(found))
        elif _leads_out(name):
            said = f"{listed[name]} outside the folder"
            yield Finding("escape", name, said, "a name that was not followed")
        else:
            yield Finding("missing", name, str(listed[name]), "no such file")
    for name in sorted(listing.files.keys() - listed.keys()):
        yield Finding("added", name, "no such file", str(listing.files[name]))


def _leads_out(name: str) -> bool:
    # By the path rules of every system: a passport may be verified on another than its own.
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", name) is not None
