"""Anchor points of a dense detector, and their assignment to boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NO_OBJECT = -1
"""The label of an anchor point without an object."""

PADDING = -100
"""The label of padding among the boxes of a batch."""

ANCHOR, NEAREST = 8, 9
"""The side of an anchor box in strides, and the number of candidates per level."""


@dataclass(frozen=True)
class Points:
    """The anchor points of all levels, row by row, the finest level first.

    Attributes:
        centre: The points in pixels (x, y), `[points, 2]`.
        stride: The stride of each point's level in pixels, `[points]`.
        levels: The number of points per level.
        size: The height and width of the image.
    """

    centre: Tensor
    stride: Tensor
    levels: tuple[int, ...]
    size: tuple[int, int]

    @classmethod
    def of(cls, height: int, width: int, strides: Sequence[int], like: Tensor) -> Points:
        """Build the points of an image: the centres of each level's cells.

        A level has ceil(height / stride) · ceil(width / stride) cells.

        Args:
            height: The height of the image in pixels.
            width: The width.
            strides: The stride per level.
            like: A tensor of the device and dtype.

        Example:
            >>> points = Points.of(16, 32, (8, 16), torch.zeros(1))
            >>> points.levels, points.centre[:2].tolist(), points.stride[-1].item()
            ((8, 2), [[4.0, 4.0], [12.0, 4.0]], 16.0)
        """
        centres, sizes = [], []
        for stride in strides:
            y, x = (
                (torch.arange(-(-side // stride), device=like.device) + 0.5).to(like.dtype) * stride
                for side in (height, width)
            )
            grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
            centres.append(grid.flatten(0, 1))
            sizes.append(torch.full_like(centres[-1][:, 0], stride))
        levels = tuple(one.shape[0] for one in centres)
        return cls(torch.cat(centres), torch.cat(sizes), levels, (height, width))

    def decode(self, distances: Tensor) -> Tensor:
        """Convert distances in strides, `[..., points, 4]`, to boxes (x1, y1, x2, y2) in pixels."""
        moved = distances * self.stride.unsqueeze(-1)
        low, high = moved[..., :2], moved[..., 2:]
        return torch.cat([self.centre - low, self.centre + high], dim=-1)

    def encode(self, boxes: Tensor) -> Tensor:
        """Convert boxes in pixels, `[..., points, 4]`, to distances in strides; see `decode`."""
        low, high = self.centre - boxes[..., :2], boxes[..., 2:] - self.centre
        return torch.cat([low, high], dim=-1) / self.stride.unsqueeze(-1)


@torch.no_grad()
def assign(points: Points, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Assign anchor points to boxes by adaptive training sample selection (ATSS).

    Per box, the nine points of each level whose centres are nearest are candidates. Those are
    positive whose anchor box, a square of eight strides, has an IoU with the box of at least the
    mean plus the standard deviation over its candidates, and whose centre is inside of the box. A
    point that is positive for several boxes belongs to that of the largest IoU.

    Args:
        points: The anchor points.
        boxes: `[n, m, 4]` in pixels.
        labels: The classes, `[n, m]`; -100 is padding.

    Returns:
        The class of each point, `[n, points]`, -1 without an object; and the distances to the edges
        of its box in strides, `[n, points, 4]`, 1 without an object.

    Example:
        >>> points = Points.of(64, 64, (8,), torch.zeros(1))
        >>> boxes = torch.tensor([[[12.0, 12.0, 44.0, 44.0]]])
        >>> classes, distances = assign(points, boxes, torch.tensor([[2]]))
        >>> (classes == 2).sum().item(), distances[classes == 2].sum(-1).unique().tolist()
        (9, [8.0])

    Source: Zhang et al. 2020, "Bridging the gap between anchor-based and anchor-free detection via
    adaptive training sample selection".
    """
    count, total = labels.shape[1], len(points.centre)
    empty = torch.full((len(labels), total), NO_OBJECT, device=labels.device)
    if count == 0:
        return empty, points.centre.new_ones(len(labels), total, 4)
    valid, boxes = (labels != PADDING).unsqueeze(-1), boxes.to(points.centre)
    iou = _iou_with_anchors(points, boxes)
    candidates = _nearest(points, boxes)
    overlaps = iou.gather(-1, candidates)
    least = overlaps.mean(-1, keepdim=True) + _deviation(overlaps)
    low, high = points.centre - boxes[..., None, :2], boxes[..., None, 2:] - points.centre
    inside = torch.cat([low, high], dim=-1).amin(-1) > 0
    chosen = torch.zeros_like(inside).scatter(-1, candidates, overlaps >= least)
    iou = iou.masked_fill(~(chosen & inside & valid), -1.0)
    best, owner = iou.max(dim=1)  # over boxes
    positive = best >= 0
    classes = torch.where(positive, labels.gather(1, owner), empty)
    own = boxes.gather(1, owner.unsqueeze(-1).expand(-1, -1, 4))
    return classes, points.encode(own).masked_fill(~positive.unsqueeze(-1), 1.0)


@dataclass(frozen=True)
class Assignment:
    """The assignment of a batch, kept with the tensors that it was computed from.

    Attributes:
        classes: See `assign`.
        distances: See `assign`.
        source: The tensors, and their versions, which change with every operation in place.
        size: The height and width of the images.
    """

    classes: Tensor
    distances: Tensor
    source: tuple[tuple[Tensor, int], ...]
    size: tuple[int, int]

    @classmethod
    def of_batch(cls, points: Points, boxes: Tensor, labels: Tensor) -> Assignment:
        """Assign the points of a batch."""
        source = tuple((one, _version(one)) for one in (boxes, labels))
        return cls(*assign(points, boxes, labels), source, points.size)

    def of(self, points: Points, boxes: Tensor, labels: Tensor) -> bool:
        """Return whether this is the assignment of these points and boxes."""
        same = all(
            one is other and version == _version(other) >= 0
            for (one, version), other in zip(self.source, (boxes, labels), strict=True)
        )
        return same and self.size == points.size and self.distances.dtype == points.centre.dtype


def _version(tensor: Tensor) -> int:
    # Inference tensors count no changes: they never equal a kept one.
    return -1 if tensor.is_inference() else tensor._version


def _iou_with_anchors(points: Points, boxes: Tensor) -> Tensor:
    """Compute the IoU of boxes with each point's anchor box, `[n, m, points]`."""
    half = (points.stride * ANCHOR / 2).unsqueeze(-1)
    anchors = torch.cat([points.centre - half, points.centre + half], dim=-1)
    low = torch.maximum(boxes[..., None, :2], anchors[:, :2])
    high = torch.minimum(boxes[..., None, 2:], anchors[:, 2:])
    overlap = (high - low).clamp_min(0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1, keepdim=True)
    return overlap / (area + (2 * half.squeeze(-1)).square() - overlap)


def _deviation(overlaps: Tensor) -> Tensor:
    """Compute the standard deviation over the candidates, 0 of a single one."""
    if overlaps.shape[-1] == 1:
        return torch.zeros_like(overlaps)
    return overlaps.std(-1, keepdim=True)


def _nearest(points: Points, boxes: Tensor) -> Tensor:
    """Return the nearest points of every level, `[n, m, levels · 9]` or fewer."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    distance = (centre.unsqueeze(-2) - points.centre).square().sum(-1)
    found, start = [], 0
    for part in distance.split(points.levels, dim=-1):
        nearest = part.topk(min(NEAREST, part.shape[-1]), largest=False, dim=-1).indices
        found.append(nearest + start)
        start += part.shape[-1]
    return torch.cat(found, dim=-1)
