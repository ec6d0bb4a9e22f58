"""What flows between stages: files in folders, and the record of how each came to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from limbeck import fingerprint
from limbeck.atomic import write_json
from limbeck.bounded import read_json
from limbeck.errors import InputError
from limbeck.evaluate.chance import ChanceTest
from limbeck.evaluate.fidelity import Parity
from limbeck.report.result import Curve


def _inside(name: str) -> str:
    """Refuse the name of a file that does not lie inside its folder."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the relative name of a file inside the folder")
    return name


Inside = Annotated[str, AfterValidator(_inside)]
"""The name of a file relative to a folder that it lies in."""

Role = Literal["teacher", "student", "baseline"]


class Artefact(BaseModel):
    """One thing that a stage made, as it could ship: an ONNX file, and the weights it came from.

    Paths are relative to the stage's folder, so that a run can be moved.

    Attributes:
        role: What it is in the chain.
        label: What it is called in the report.
        file: The ONNX file.
        weights: The safetensors files, one a member; none if the file alone was changed.
        changes: What compressing did to the structure since the model was built, in order.
        parity: How well the file agrees with the model.
        validation_accuracy: Of the file.
        chance: How the file's predictions on validation compare with a constant prediction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    label: str
    file: Inside
    weights: tuple[Inside, ...]
    changes: tuple[dict[str, Any], ...] = ()
    parity: Parity | None
    validation_accuracy: float
    chance: ChanceTest | None = None


class Record(BaseModel):
    """What a stage did: its settings, what it started from, what it made, and what it noticed.

    `files` are those that it wrote, by their names in its folder; `read` are those that the user's
    own code read meanwhile, by their absolute paths; both with their hashes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    key: str
    seed: int
    settings: dict[str, Any]
    what: str
    artefacts: tuple[Artefact, ...]
    files: dict[Inside, str]
    read: dict[str, str] = {}
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Link:
    """A record and the folder in which it lies."""

    folder: Path
    record: Record

    def artefact(self, role: Role) -> Artefact | None:
        """Find what the stage made in a role."""
        return next((one for one in self.record.artefacts if one.role == role), None)


@dataclass(frozen=True)
class State:
    """Weights on disk, one file a member, and the changes of structure that they follow."""

    weights: tuple[Path, ...] = ()
    changes: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A teacher and a student on their way: the lineage so far, one link a stage."""

    lineage: tuple[Link, ...] = ()

    def then(self, folder: Path, record: Record) -> Candidate:
        """Add a link."""
        return Candidate((*self.lineage, Link(folder, record)))

    def newest(self, role: Role) -> tuple[Path, Artefact] | None:
        """Find the newest artefact in a role, and the folder in which it lies."""
        for link in reversed(self.lineage):
            artefact = link.artefact(role)
            if artefact is not None:
                return link.folder, artefact
        return None

    def state(self, role: Role, *, original: bool = False) -> State:
        """Give the newest weights in a role, or the first, and the structure that they have."""
        for link in self.lineage if original else reversed(self.lineage):
            artefact = link.artefact(role)
            if artefact is not None and artefact.weights:
                paths = tuple(link.folder / name for name in artefact.weights)
                return State(paths, artefact.changes)
        return State()

    @property
    def key(self) -> str:
        """Name what the next stage starts from."""
        return fingerprint.of_json([[link.record.key, link.record.files] for link in self.lineage])


def hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """Hash files of a folder, by relative name."""
    return {name: fingerprint.of_file(folder / name) for name in sorted(set(names))}


def save(folder: Path, record: Record) -> None:
    """Write a record; only then is a stage done."""
    write_json(folder / "record.json", record.model_dump(mode="json"))


def load(folder: Path, *, key: str) -> Record | None:
    """Read a finished stage's record, if its inputs were the same and its files are unharmed."""
    try:
        record = Record.model_validate(read_json(folder / "record.json"))
        if record.key == key and hashes(folder, list(record.files)) == record.files:
            return record
    except (InputError, OSError, ValueError, ValidationError):
        pass  # no record, half a folder, or one of another version: the stage is done anew
    return None
