"""Trust-on-first-use record of signed folders and their keys, stored outside the student folders.

An attacker with write access to a folder can also delete its signature, without a trace in the
folder. `sign` and a successful `verify --key` therefore record it in the user's state folder
(`LIMBECK_STATE`, else `XDG_STATE_HOME/limbeck`, else `~/.local/state/limbeck`), as SSH does with
host keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from limbeck.passport.folder import replacing

_LARGEST = 64 * 2**10
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SignatureRecord:
    """A folder that was signed.

    Attributes:
        key: The SHA-256 of the public key.
        noted: When it was recorded, in ISO 8601.
    """

    key: str
    noted: str


def note_signature(folder: Path, key: str) -> bool:
    """Write the record that a folder is signed with a key; return False if it cannot be written.

    Args:
        folder: The student folder.
        key: The SHA-256 of the public key, as stated in the signature.
    """
    noted = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"folder": os.path.realpath(folder), "key": key, "noted": noted}
    place = _place(folder)
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return False
    try:
        with replacing(place) as file:
            file.write(json.dumps(content, indent=2).encode())
    except Exception:  # a read-only home must not prevent signing
        return False
    return True


def noted_signature(folder: Path) -> SignatureRecord | None:
    """Return the record of a folder, or None."""
    place = _place(folder)
    try:
        if place.is_symlink() or not place.is_file() or place.stat().st_size > _LARGEST:
            return None
        content = json.loads(place.read_text(encoding="utf-8"))
        key, noted = content["key"], content["noted"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(key, str) or not _SHA256.fullmatch(key) or not isinstance(noted, str):
        return None
    return SignatureRecord(key, noted[:40])


def drop_signature_note(folder: Path) -> None:
    """Remove the record of a folder whose contents were replaced on purpose."""
    with contextlib.suppress(OSError):
        _place(folder).unlink(missing_ok=True)


def _place(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()
    return _state_folder() / "signatures" / f"{name}.json"


def _state_folder() -> Path:
    stated = os.environ.get("LIMBECK_STATE")
    if stated:
        return Path(stated)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "limbeck"
