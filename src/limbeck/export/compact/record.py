"""What storing weights compactly did, tensor by tensor."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class CompactTensor(BaseModel):
    """A tensor that is stored in another form.

    Attributes:
        name: Its name.
        form: The form, in words.
        bytes_before: What it took in the file.
        bytes_after: What it takes now; the functions that several tensors share are not counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    form: str
    bytes_before: int
    bytes_after: int


class CompactRecord(BaseModel):
    """What storing a model's weights compactly did.

    Attributes:
        bytes_before: Size of the file with every tensor as it is.
        bytes_after: Its size now; never more.
        tensors: The tensors that are stored in another form, largest gain first.
        note: Why nothing was done, if nothing was; empty otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes_before: int
    bytes_after: int
    tensors: tuple[CompactTensor, ...]
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times smaller the file is."""
        return self.bytes_before / self.bytes_after
