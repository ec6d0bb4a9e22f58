"""Samples sorted by class, for negative sampling from other classes at a constant cost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, Problem

_UNSEEN = torch.iinfo(torch.int64).max  # after every class, so that it is sorted last


class ClassOrder(nn.Module):
    """The class of every sample, learned from the batches, and sampling from other classes.

    Samples are sorted whenever their number seen has doubled, until every class is known: a few
    times per training. Between sorts, the only cost of a step that grows with the number of samples
    is a binary search.

    Args:
        samples: The number of samples.

    Attributes:
        classes: Each sample's class; the largest integer if it was not seen yet.
        order: The samples by class, as of the last sort.
        ranked: The classes in that order.
        passed: The number of samples seen.
        due: The number of samples seen at the next sort; 0 if there is none.
    """

    classes: Tensor
    order: Tensor
    ranked: Tensor
    passed: Tensor
    due: Tensor

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.register_buffer("classes", torch.full((samples,), _UNSEEN))
        self.register_buffer("order", torch.arange(samples))
        self.register_buffer("ranked", torch.full((samples,), _UNSEEN))
        self.register_buffer("passed", torch.tensor(0))
        self.register_buffer("due", torch.tensor(1))
        self._numbers: dict[
            str, int
        ] = {}  # the values of the buffers, without a device synchronisation
        self.register_load_state_dict_post_hook(_forget)

    def see(self, index: Tensor, labels: Tensor) -> None:
        """Store the classes of some samples.

        Raises:
            InputError: All samples are of one class.
        """
        if not self._number("due"):
            return
        self.classes[index] = labels
        passed = self._number("passed") + len(index)
        self._set("passed", passed)
        if passed >= self._number("due"):
            self._sort(passed)

    def has_classes(self) -> bool:
        """Return whether samples of at least two classes were sorted."""
        return self._number("distinct") > 1

    def draw(self, labels: Tensor, count: int) -> Tensor:
        """Draw samples of other classes, `[len(labels), count]`.

        While only one class has been seen, samples of unknown class are drawn.

        Args:
            labels: The class of each row, already passed to `see`.
            count: The number of samples per row.
        """
        known = self._number("known")
        if not self.has_classes():
            return self.order[
                torch.randint(known, len(self.order), (len(labels), count)).to(labels)
            ]
        start = torch.searchsorted(self.ranked, labels)
        size = torch.searchsorted(self.ranked, labels, right=True) - start
        # One of 2^62 integers, so that the modulo bias is below 2^-40.
        drawn = torch.randint(2**62, (len(labels), count), device=labels.device)
        place = drawn % (known - size).unsqueeze(1)
        place += (place >= start.unsqueeze(1)) * size.unsqueeze(1)  # skips the class
        return self.order[place]

    def _sort(self, passed: int) -> None:
        self.ranked, self.order = self.classes.sort(stable=True)
        self._numbers.clear()
        known, distinct = self._number("known"), self._number("distinct")
        complete = known == len(self.order)
        if complete and distinct < 2:
            allowed = "samples of at least two classes, for negatives of another class"
            raise InputError(Problem("labels", "one class", allowed, "Leave the labels out."))
        # With a single class there is nothing to draw from: sort again at every batch.
        soon = 2 * passed if distinct > 1 else passed + 1
        self._set("passed", passed)
        self._set("due", 0 if complete else soon)

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            seen = self.ranked[self.ranked != _UNSEEN]
            self._numbers |= {
                "passed": int(self.passed),
                "due": int(self.due),
                "known": len(seen),
                "distinct": len(seen.unique_consecutive()),
            }
        return self._numbers[name]

    def _set(self, name: str, value: int) -> None:
        getattr(self, name).fill_(value)
        self._numbers[name] = value


def _forget(order: ClassOrder, keys: object) -> None:
    order._numbers.clear()
