"""Stage artefacts (files in folders), and the record of how each was produced."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from limbeck.core import fingerprint
from limbeck.core.files import read_json, write_json
from limbeck.errors import InputError
from limbeck.evaluate.chance import ChanceTest
from limbeck.evaluate.metrics import Parity
from limbeck.report.result import Curve


def _inside(name: str) -> str:
    """Return a file name; raise unless it is inside its folder."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the relative name of a file inside the folder")
    return name


Inside = Annotated[str, AfterValidator(_inside)]
"""A file name relative to, and inside, a folder."""

Role = Literal["teacher", "student", "baseline"]


class Artefact(BaseModel):
    """An artefact of a stage: an ONNX file, and the weights it was exported from.

    Paths are relative to the stage's folder, so that a run can be moved.

    Attributes:
        role: Its role in the chain.
        label: Its name in the report.
        file: The ONNX file.
        weights: The safetensors files, one per member; none if only the file was changed.
        changes: Structural changes since the model was built, in order.
        parity: Agreement of the file with the model.
        validation_score: The primary score of the file on validation.
        chance: Comparison of the file's validation predictions with a constant prediction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    label: str
    file: Inside
    weights: tuple[Inside, ...]
    changes: tuple[dict[str, Any], ...] = ()
    parity: Parity | None
    validation_score: float
    chance: ChanceTest | None = None

    @property
    def time_varies(self) -> bool:
        """Return whether the time of a prediction depends on the sample: with early exits."""
        return any(change["kind"] == "exits" for change in self.changes)


class Record(BaseModel):
    """The record of a stage: settings, inputs, outputs and notes.

    `files` are those written, by their names in the stage's folder; `read` are those read by the
    user's own code, by absolute path; both with hashes.
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
class StageRecord:
    """A record and its folder."""

    folder: Path
    record: Record

    def artefact(self, role: Role) -> Artefact | None:
        """Return the stage's artefact in a role, or None."""
        return next((one for one in self.record.artefacts if one.role == role), None)


@dataclass(frozen=True)
class State:
    """Saved weights, one file per member, with the structural changes they require."""

    weights: tuple[Path, ...] = ()
    changes: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Candidate:
    """The lineage of a teacher and a student so far, one link per stage."""

    lineage: tuple[StageRecord, ...] = ()

    def append(self, folder: Path, record: Record) -> Candidate:
        """Append a link."""
        return Candidate((*self.lineage, StageRecord(folder, record)))

    def newest(self, role: Role) -> tuple[Path, Artefact] | None:
        """Return the newest artefact in a role with its folder, or None."""
        for link in reversed(self.lineage):
            artefact = link.artefact(role)
            if artefact is not None:
                return link.folder, artefact
        return None

    def state(self, role: Role, *, original: bool = False) -> State:
        """Return the newest (or the original) weights in a role, with their structure."""
        for link in self.lineage if original else reversed(self.lineage):
            artefact = link.artefact(role)
            if artefact is not None and artefact.weights:
                paths = tuple(link.folder / name for name in artefact.weights)
                return State(paths, artefact.changes)
        return State()

    @property
    def key(self) -> str:
        """Return the key of the state from which the next stage starts."""
        return fingerprint.of_json([[link.record.key, link.record.files] for link in self.lineage])


def hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """Hash files of a folder, by relative name."""
    return {name: fingerprint.of_file(folder / name) for name in sorted(set(names))}


def save(folder: Path, record: Record) -> None:
    """Write a record, which marks the stage as done."""
    write_json(folder / "record.json", record.model_dump(mode="json"))


def load(folder: Path, *, key: str) -> Record | None:
    """Load a finished stage's record, if its inputs are the same and its files are intact."""
    try:
        record = Record.model_validate(read_json(folder / "record.json"))
        if record.key == key and hashes(folder, list(record.files)) == record.files:
            return record
    except (InputError, OSError, ValueError, ValidationError):
        pass  # no record, an incomplete folder, or another version: the stage runs again
    return None
