"""Random networks of blocks that permute, share and concatenate channels."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, CLASSES = 8, 4


def conv(into: int, out: int, size: int = 3, **settings: int) -> nn.Conv2d:
    return nn.Conv2d(into, out, size, padding=size // 2, **settings)


class Lambda(nn.Module):
    """A function of the map, without weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    """The sum of a convolution of a map and of the map, possibly with permuted channels."""

    def __init__(self, shortcut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.shortcut = conv(WIDTH, WIDTH), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.conv(x))


class Padded(nn.Module):
    """A shortcut of option A of the CIFAR ResNets: more channels, the new ones zero."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = conv(WIDTH, 2 * WIDTH), conv(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        half = WIDTH // 2
        return F.relu(self.narrow(F.relu(self.wide(x) + F.pad(x, (0, 0, 0, 0, half, half)))))


class Joined(nn.Module):
    """Two branches of different widths, concatenated; the halves of the input may be swapped."""

    def __init__(self, swap: bool) -> None:
        super().__init__()
        self.a, self.b, self.both = conv(WIDTH, 6), conv(WIDTH, 4, 1), conv(10, WIDTH, 1)
        self.swap = swap

    def forward(self, x: Tensor) -> Tensor:
        if self.swap:
            one, other = x.chunk(2, 1)
            x = torch.cat([other, one], 1)
        parts = [F.relu(self.b(x)), F.relu(self.a(x))]
        return F.relu(self.both(torch.cat(parts, 1)))


class Two(nn.Module):
    """One convolution under two names, called by both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(WIDTH, WIDTH)
        self.second = self.first
        self.after = conv(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.after(F.relu(self.second(F.relu(self.first(x))))))


class Tied(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.second = (conv(WIDTH, WIDTH) for _ in range(3))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.middle(F.relu(self.first(x))))))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * scale[:, :, None, None]


def plain() -> nn.Module:
    return nn.Sequential(conv(WIDTH, WIDTH), nn.BatchNorm2d(WIDTH), nn.ReLU())


def depthwise() -> nn.Module:
    return nn.Sequential(conv(WIDTH, WIDTH, groups=WIDTH), nn.ReLU(), conv(WIDTH, WIDTH, 1))


def grouped() -> nn.Module:
    return nn.Sequential(conv(WIDTH, WIDTH, groups=2), nn.ReLU(), conv(WIDTH, WIDTH, groups=4))


def pixels() -> nn.Module:
    return nn.Sequential(nn.PixelShuffle(2), conv(WIDTH // 4, WIDTH), nn.ReLU(), nn.AvgPool2d(2))


def unpixels() -> nn.Module:
    return nn.Sequential(
        nn.PixelUnshuffle(2), conv(4 * WIDTH, WIDTH, 1), nn.Upsample(scale_factor=2)
    )


def by_index() -> nn.Module:
    places = torch.tensor([3, 1, 0, 2, 7, 6, 4, 5])
    return Lambda(lambda x: x[:, places])


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "depthwise": depthwise,
    "grouped": grouped,
    "shuffle": lambda: nn.ChannelShuffle(2),
    "regroup": lambda: Lambda(
        lambda x: x.reshape(len(x), 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
    ),
    "flip": lambda: Lambda(lambda x: x.flip(1)),
    "roll": lambda: Lambda(lambda x: x.roll(1, 1)),
    "index": by_index,
    "einsum": lambda: Lambda(
        lambda x: torch.einsum("bchw,cd->bdhw", x, torch.eye(x.shape[1]).flip(0).to(x))
    ),
    "pixels": pixels,
    "unpixels": unpixels,
    "sum": lambda: Residual(lambda x: x),
    "flipped sum": lambda: Residual(lambda x: x.flip(1)),
    "padded sum": Padded,
    "joined": lambda: Joined(swap=False),
    "swapped": lambda: Joined(swap=True),
    "two names": Two,
    "tied": Tied,
    "gate": Gate,
}
HEADS = ("mean", "flatten", "channels last", "hidden", "heads", "recurrent")


class OddNet(nn.Module):
    """Blocks between a convolution and a head; no two channels have the same bias."""

    def __init__(self, blocks: list[str], head: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, WIDTH), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.blocks = nn.Sequential(*(BLOCKS[name]() for name in blocks))
        self.last = conv(WIDTH, WIDTH)
        self.kind = head
        if head == "recurrent":
            self.lstm = nn.LSTM(WIDTH, 6, batch_first=True)
        if head == "hidden":
            self.hidden = nn.Linear(WIDTH * 16, 12)
        sizes = {"mean": WIDTH, "hidden": 12, "heads": WIDTH, "recurrent": 6}
        self.head = nn.Linear(sizes.get(head, WIDTH * 16), CLASSES)
        with torch.no_grad():
            for name, tensor in (*self.named_parameters(), *self.named_buffers()):
                if name.endswith(("bias", "running_mean")):
                    tensor.uniform_(-0.5, 0.5)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.last(self.blocks(self.stem(image))))
        if self.kind == "mean":
            return self.head(x.mean((2, 3)))
        if self.kind == "channels last":
            return self.head(x.permute(0, 2, 3, 1).flatten(1))
        if self.kind == "heads":
            x = x.flatten(2).reshape(len(x), 2, -1, 16).mean(-1).transpose(1, 2)
            return self.head(x.flatten(1))
        if self.kind == "recurrent":
            return self.head(self.lstm(x.flatten(2).transpose(1, 2))[0][:, -1])
        x = x.flatten(1)
        return self.head(F.relu(self.hidden(x)) if self.kind == "hidden" else x)


def drawn(seed: int) -> tuple[OddNet, str]:
    """Draw a network from a seed, and return it with a description of its blocks."""
    draw = random.Random(seed)
    blocks = draw.choices(list(BLOCKS), k=draw.randint(1, 3))
    head = draw.choice(HEADS)
    torch.manual_seed(seed)
    return OddNet(blocks, head).eval(), f"{' > '.join(blocks)} > {head}"


def with_silent(model: nn.Module, cut: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
    """Set to zero, by hooks on outputs, the channels of a model that a pruned copy lacks.

    Channels are identified by their biases, which are unique. The outputs of norms, which follow
    their layers, are zeroed as well.
    """
    smaller = dict(cut.named_modules())

    def hook(gone: Tensor) -> Callable[..., Tensor]:
        def silence(_: nn.Module, __: object, output: Tensor) -> Tensor:
            output = output.clone()
            output[:, gone] = 0
            return output

        return silence

    handles = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            left = torch.isin(module.bias, smaller[path].bias)
            if not left.all():
                handles.append(module.register_forward_hook(hook(~left)))
    return handles
