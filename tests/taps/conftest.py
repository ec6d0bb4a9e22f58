"""Networks with submodules to tap."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Twice(nn.Module):
    """Runs one module twice, returns a tuple, and has a module that never runs."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(3, 3)
        self.again = self.shared
        self.pair = Pair()
        self.idle = nn.Linear(3, 3)

    def forward(self, x):
        return self.pair(x=self.again(self.shared(x)))[0]


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, x


class Checkpointed(nn.Module):
    """Runs a block as it is (None), or again in the backward pass, in one of the two modes."""

    def __init__(self, reentrant):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Dropout(0.5), nn.Linear(3, 3))
        self.reentrant = reentrant

    def forward(self, x):
        if self.reentrant is None:
            return self.block(x)
        return checkpoint(self.block, x, use_reentrant=self.reentrant)


class Frozen(nn.Module):
    """Has a part that gets no gradient, on purpose."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        with torch.no_grad():
            x = self.stem(x)
        return self.head(x)


@pytest.fixture
def checkpointed():
    return Checkpointed


@pytest.fixture
def frozen():
    return Frozen()


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Twice()


@pytest.fixture
def hooks():
    def count(module):
        return sum(
            len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()
        )

    return count
