"""Semantic segmentation: an element is a pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
import torch.nn.functional as F

from limbeck import losses
from limbeck.errors import InputError, Problem
from limbeck.tasks._base import IMAGE_INPUTS, BaseTask
from limbeck.tasks._model_output import LOGITS, run_map
from limbeck.tasks._overlap import MEAN_IOU, PIXEL_ACCURACY
from limbeck.tasks._segmentation_details import segmentation_details
from limbeck.tasks.task import IGNORED, Output, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from limbeck.taps import Taps
    from limbeck.tasks.details import Details
    from limbeck.tasks.scores import Score
    from limbeck.tasks.task import Batch, Kind, TaskData

AUXILIARY_WEIGHT = 0.4
"""Weight of each auxiliary head in training (Zhao et al. 2017, section 5.2)."""


class ImageSegmentation(BaseTask):
    """Semantic segmentation: one class per pixel.

    A model returns logits `[n, classes, h, w]`, or a mapping with the field `logits` or `out`, as
    those of transformers and torchvision do; a smaller map is resized bilinearly to the image.
    Pixels of label -100 have weight 0: they count in no loss, distillation included, and in no
    score.

    Args:
        classes: The names of the classes.

    Example:
        >>> from torch import nn
        >>> task = ImageSegmentation(classes=("sky", "street"))
        >>> labels = torch.tensor([[[0, 1], [1, -100]]])
        >>> batch = {"image": torch.zeros(1, 3, 2, 2), "labels": labels}
        >>> response = task.respond(nn.Conv2d(3, 2, 1), batch)
        >>> response.primary.values.shape, response.primary.weights
        (torch.Size([4, 2]), tensor([1., 1., 1., 0.]))
    """

    name: ClassVar[str] = "image_segmentation"
    inputs = IMAGE_INPUTS
    element: ClassVar[str] = "pixel"
    kinds: ClassVar[Mapping[str, Kind]] = {LOGITS: "categorical"}
    scores: tuple[Score, ...] = (MEAN_IOU, PIXEL_ACCURACY)
    reading: ClassVar[str] = """
(logits,) = session.run(["logits"], inputs)
mask = logits[0].argmax(axis=0)  # the number of the class of every pixel
print({classes[number]: int((mask == number).sum()) for number in np.unique(mask)})
"""
    restoring: ClassVar[str] = """
maps = logits["out"] if isinstance(logits, dict) else getattr(logits, "logits", logits)
size = tuple(image.shape[-2:])
outputs = torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
"""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes

    @classmethod
    def of(cls, data: TaskData) -> Self:
        """Build the task for a data set.

        Raises:
            InputError: The data have no classes.
        """
        if not data.classes:
            fix = f"Name the column of label images there ({cls.name})."
            raise InputError(Problem.missing("data.masks", fix))
        return cls(data.classes)

    @property
    def details(self) -> Details:
        """Return the IoU of every class, the agreement of masks, and samples, for a report."""
        return segmentation_details(self.classes)

    def _run(self, model: nn.Module, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        inputs = self._take(batch, *self.inputs)
        logits, auxiliary = run_map(model, inputs, classes=len(self.classes))
        size = inputs["image"].shape[-2:]
        return _resized(logits, size), tuple(_resized(one, size) for one in auxiliary)

    def raw_outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model on a batch; return `logits [n, classes, h, w]` of every pixel.

        Raises:
            InputError: The batch has no images, or the model returns no map of logits.
        """
        return {LOGITS: self._run(model, batch)[0]}

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run the model on a batch; elements are the pixels, row by row of each image.

        Raises:
            InputError: As for `raw_outputs`, or the labels have another size than the images.
        """
        logits, auxiliary = self._run(model, batch)
        count, _, height, width = logits.shape
        labels = batch.get("labels")
        numbers = torch.arange(count, device=logits.device)
        output = Output(
            _rows(logits),
            weights=self.weights(batch)[LOGITS],
            sample_of=numbers.repeat_interleave(height * width),
            # Any valid class in place of an ignored pixel's: its weight is 0.
            labels=None if labels is None else labels.clamp_min(0).flatten(),
            auxiliary=tuple(map(_rows, auxiliary)),
        )
        found = {} if taps is None else taps.take()
        return Response({LOGITS: output}, taps=found, index=batch.get("index"))

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weight of every pixel, `[n * h * w]`: that of its row; 0 where ignored.

        Raises:
            InputError: The labels have another size than the images.
        """
        image = self._take(batch, *self.inputs)["image"]
        size = (image.shape[0], *image.shape[-2:])
        ones = torch.ones(size, device=image.device)
        if "labels" in batch:
            if batch["labels"].shape != size:
                allowed = f"{list(size)}, a class per pixel"
                raise InputError(Problem("batch.labels", list(batch["labels"].shape), allowed))
            ones = (batch["labels"] != IGNORED).float()
        if "weight" in batch:
            ones = ones * batch["weight"][:, None, None]
        return {LOGITS: ones.flatten()}

    def loss(self, response: Response) -> dict[str, Tensor]:
        """Compute the cross-entropy with the labels, one value per pixel.

        Each auxiliary head, active in training mode only, adds its cross-entropy times 0.4.

        Raises:
            InputError: The batch has no labels.

        Source: Long et al. 2015, "Fully convolutional networks for semantic segmentation"; Zhao et
        al. 2017, "Pyramid scene parsing network", section 5.2 (auxiliary heads).
        """
        logits, labels = self._with_labels(response)
        loss = losses.cross_entropy(logits, labels)
        for auxiliary in response.primary.auxiliary:
            loss = loss + AUXILIARY_WEIGHT * losses.cross_entropy(auxiliary, labels)
        return {LOGITS: loss}


def _resized(logits: Tensor, size: torch.Size) -> Tensor:
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def _rows(logits: Tensor) -> Tensor:
    """Return a map of logits as rows, `[n * h * w, classes]`."""
    return logits.movedim(1, -1).flatten(0, 2)
