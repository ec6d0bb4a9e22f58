"""Record of compact storage, per tensor."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class CompactTensor(BaseModel):
    """A tensor stored in another form.

    Attributes:
        name: Its name.
        form: Description of the form.
        bytes_before: Its bytes in the original file.
        bytes_after: Its bytes now, without functions shared by several tensors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    form: str
    bytes_before: int
    bytes_after: int


class CompactRecord(BaseModel):
    """The result of storing a model's weights compactly.

    Attributes:
        bytes_before: Size of the file with original tensors.
        bytes_after: Its size now; never larger.
        tensors: The tensors stored in another form, largest gain first.
        note: The reason if nothing was changed; empty otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes_before: int
    bytes_after: int
    tensors: tuple[CompactTensor, ...]
    note: str = ""

    @property
    def ratio(self) -> float:
        """Return the compression ratio, bytes before / bytes after."""
        return self.bytes_before / self.bytes_after
