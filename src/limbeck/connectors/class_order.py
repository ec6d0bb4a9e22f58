"""Samples in the order of their classes, so that a draw can step over one class at no cost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, Problem

_UNSEEN = torch.iinfo(torch.int64).max  # behind every class, so that sorting puts it last


class ClassOrder(nn.Module):
    """Learn from the batches which sample is of which class, and draw from the other classes.

    Samples are sorted when twice as many have gone by as at the last time, until every class is
    known: a handful of times in a training. In between, a step does nothing that grows with the
    number of samples but a binary search.

    Args:
        samples: How many samples there are.

    Attributes:
        classes: Each sample's class; the largest whole number where it was not seen yet.
        order: The samples by class, as they were sorted last.
        ranked: The classes in that order.
        passed: How many samples have gone by.
        due: How many have to have gone by for the next sorting; 0 when there is none.
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
        self._numbers: dict[str, int] = {}  # what the buffers say, to be known without a wait
        self.register_load_state_dict_post_hook(_forget)

    def see(self, index: Tensor, labels: Tensor) -> None:
        """Take note of some samples' classes.

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
        """Tell whether samples of at least two classes were sorted."""
        return self._number("distinct") > 1

    def draw(self, labels: Tensor, count: int) -> Tensor:
        """Draw samples of other classes, `[len(labels), count]`.

        As long as a single class has been seen, those are drawn whose class is not known.

        Args:
            labels: A class for each row; `see` has been told of them.
            count: How many to draw for each.
        """
        known = self._number("known")
        if not self.has_classes():
            return self.order[
                torch.randint(known, len(self.order), (len(labels), count)).to(labels)
            ]
        start = torch.searchsorted(self.ranked, labels)
        size = torch.searchsorted(self.ranked, labels, right=True) - start
        # One of 2^62 numbers, so that the remainder favours none by more than 2^-40.
        drawn = torch.randint(2**62, (len(labels), count), device=labels.device)
        place = drawn % (known - size).unsqueeze(1)
        place += (place >= start.unsqueeze(1)) * size.unsqueeze(1)  # steps over the class
        return self.order[place]

    def _sort(self, passed: int) -> None:
        self.ranked, self.order = self.classes.sort(stable=True)
        self._numbers.clear()
        known, distinct = self._number("known"), self._number("distinct")
        complete = known == len(self.order)
        if complete and distinct < 2:
            allowed = "samples of at least two classes, for negatives of another class"
            raise InputError(Problem("labels", "one class", allowed, "Leave the labels out."))
        # With a single class there is nothing to draw from yet: look again at every batch.
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
