"""Object detection: elements are the anchor points of a dense detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from limbeck import losses
from limbeck.errors import InputError, Problem
from limbeck.tasks import _suppression
from limbeck.tasks._anchors import NO_OBJECT, Assignment, Points
from limbeck.tasks._average_precision import MEAN_AVERAGE_PRECISION, MEAN_AVERAGE_PRECISION_50
from limbeck.tasks._base import IMAGE_INPUTS, BaseTask
from limbeck.tasks._detection_details import detection_details
from limbeck.tasks._model_output import call
from limbeck.tasks.task import Output, Response

if TYPE_CHECKING:
    from limbeck.taps import Taps
    from limbeck.tasks.details import Details
    from limbeck.tasks.scores import Score
    from limbeck.tasks.task import Axes, Batch, Kind, TaskData

CLASSES, BOX = "classes", "box"


class ObjectDetection(BaseTask):
    """Object detection with an anchor-free, dense detector, such as RetinaNet, FCOS and ATSS.

    A model returns a mapping with `classes [n, points, classes]`, a logit per anchor point and
    class, and `box [n, points, 4]`, the distances from the point to the left, top, right and bottom
    edge of the box, in strides. The points are those of all levels, the finest first, row by row:
    of an image of 120x160 pixels and a stride of 8 there are 15x20.

    Classes are independent (a sigmoid each), without a class of the background: most points have
    none, and a softmax would spend its loss and its distillation on the probability of that class
    (Yang et al. 2023). Points are assigned to boxes by ATSS, from the boxes alone: the weights of
    a batch are known before a model has run. Each image has as much weight in `classes` as it has
    points with an object, at least 1, so that the focal loss is divided by the number of these
    points, as in RetinaNet; `box` has weight at these points only.

    A batch has `labels [n, m]`, of which -100 is padding, and `boxes [n, m, 4]`, (x1, y1, x2, y2)
    in pixels of the model's input.

    Args:
        classes: The names of the classes.
        strides: The stride of each level in pixels, the finest first.
        detections: The number of boxes per image after suppression, of the highest scores.
        suppression_iou: The IoU above which the box of the lower score is suppressed.
        least_score: The score above which a box is kept.

    Example:
        >>> class Net(nn.Module):
        ...     def forward(self, image):
        ...         return {
        ...             "classes": image.new_zeros(len(image), 84, 2),
        ...             "box": image.new_ones(len(image), 84, 4),
        ...         }
        >>> task = ObjectDetection(classes=("cat", "dog"))
        >>> batch = {
        ...     "image": torch.zeros(1, 3, 64, 64),
        ...     "labels": torch.tensor([[1, -100]]),
        ...     "boxes": torch.tensor([[[16.0, 16.0, 48.0, 48.0], [0.0, 0.0, 0.0, 0.0]]]),
        ... }
        >>> response = task.respond(Net(), batch)
        >>> {name: one.shape[0] for name, one in task.loss(response).items()}
        {'classes': 84, 'box': 84}
        >>> {name: tuple(one.shape) for name, one in task.outputs(Net(), batch).items()}
        {'classes': (1, 2, 84), 'box': (1, 84, 4), 'boxes': (1, 100, 4), 'scores': (1, 100),
        'labels': (1, 100)}

    Source: Lin et al. 2017 (focal loss); Tian et al. 2019 (FCOS); Zhang et al. 2020 (ATSS).
    """

    name: ClassVar[str] = "object_detection"
    inputs: ClassVar[Mapping[str, Axes]] = IMAGE_INPUTS
    element: ClassVar[str] = "anchor point"
    kinds: ClassVar[Mapping[str, Kind]] = {CLASSES: "binary", BOX: "value"}
    decoded: ClassVar[tuple[str, ...]] = ("boxes", "scores", "labels")
    scores: tuple[Score, ...] = (MEAN_AVERAGE_PRECISION, MEAN_AVERAGE_PRECISION_50)
    reading: ClassVar[str] = """
names = ["boxes", "scores", "labels"]
boxes, scores, labels = (one[0] for one in session.run(names, inputs))
for box, score, label in zip(boxes, scores, labels):
    if label >= 0:  # others are padding
        print(classes[label], float(score), box.tolist())  # in pixels of the model's input
"""
    restoring: ClassVar[str] = """
outputs = logits["classes"].transpose(1, 2)  # `logits["box"]` has distances in strides
"""

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        strides: Sequence[int] = (8, 16, 32),
        detections: int = 100,
        suppression_iou: float = 0.5,
        least_score: float = 0.05,
    ) -> None:
        self.classes = classes
        self.strides = tuple(strides)
        self.detections = detections
        self.suppression_iou = suppression_iou
        self.least_score = least_score
        self._last: Assignment | None = None

    @classmethod
    def of(cls, data: TaskData) -> Self:
        """Build the task for a data set.

        Raises:
            InputError: The data have no classes.
        """
        if not data.classes:
            allowed = "a column of boxes and one of their labels"
            raise InputError(Problem("task", "labels without classes", allowed))
        return cls(data.classes)

    @property
    def details(self) -> Details:
        """Return the AP of every class, the share of matched boxes, and samples, for a report."""
        return detection_details(self.classes)

    def translations(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        """Return the ONNX translations of the task's own operators."""
        return _suppression.translations()

    def raw_outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model; return `classes [n, classes, points]` and `box [n, points, 4]`.

        Raises:
            InputError: The batch lacks an input, or the model returns something else.
        """
        logits, distances, _ = self._run(model, batch)
        return {CLASSES: logits.transpose(1, 2), BOX: distances}

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model; return its outputs, and the boxes that suppression leaves.

        Returns:
            `classes [n, classes, points]` and `box [n, points, 4]` of the model; and by descending
            score `boxes [n, k, 4]` in pixels, `scores [n, k]` and `labels [n, k]`, where missing
            boxes have a score of 0 and the label -1.

        Raises:
            InputError: The batch lacks an input, or the model returns something else.
        """
        logits, distances, points = self._run(model, batch)
        height, width = batch["image"].shape[-2:]
        limits = distances.new_tensor([width, height, width, height])
        boxes = torch.minimum(points.decode(distances).clamp_min(0), limits)
        by_class = logits.transpose(1, 2)
        count = min(self.detections, logits.shape[1] * logits.shape[2])
        scores, labels, places = _suppression.suppress(
            boxes, by_class.sigmoid(), count, self.suppression_iou, self.least_score
        )
        kept = boxes.gather(1, places.unsqueeze(-1).expand(-1, -1, 4))
        kept = kept * (labels != NO_OBJECT).unsqueeze(-1)
        raw = {CLASSES: by_class, BOX: distances}
        return {**raw, "boxes": kept, "scores": scores, "labels": labels}

    def _points(self, batch: Batch) -> Points:
        [image] = self._take(batch, "image").values()
        return Points.of(image.shape[-2], image.shape[-1], self.strides, image)

    def _run(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Points]:
        [image] = self._take(batch, "image").values()
        returned = call(model, {"image": image})
        logits, distances = (
            returned.get(name) if isinstance(returned, Mapping) else None for name in self.kinds
        )
        if not (isinstance(logits, Tensor) and isinstance(distances, Tensor)):
            given = list(returned) if isinstance(returned, Mapping) else type(returned).__name__
            raise InputError(Problem("model", given, f"a mapping with {CLASSES} and {BOX}"))
        points = self._points(batch)
        expected = {CLASSES: len(self.classes), BOX: 4}
        problems = []
        for (name, width), tensor in zip(expected.items(), (logits, distances), strict=True):
            shape = (len(points.centre), width)
            if tensor.ndim != 3 or tuple(tensor.shape[1:]) != shape:
                levels = ", ".join(map(str, self.strides))
                allowed = f"[n, {shape[0]}, {width}], with the points of the strides {levels}"
                problems.append(Problem(f"model.{name}", list(tensor.shape), allowed))
        if problems:
            raise InputError(*problems)
        return logits, distances, points

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run the model on a batch; elements are its anchor points, image by image.

        Raises:
            InputError: As for `outputs`, or the labels and boxes do not fit together.
        """
        logits, distances, points = self._run(model, batch)
        classes, edges = self._assign(batch, points)
        weights = self._weights(batch, classes)
        sample_of = torch.arange(len(logits), device=logits.device)
        sample_of = sample_of.repeat_interleave(logits.shape[1])
        labelled = self.labelled(batch).get(CLASSES)
        has_labels = "labels" in batch
        outputs = {
            name: Output(
                values.flatten(0, 1),
                weights=weights[name],
                sample_of=sample_of,
                labels=labels.flatten(0, 1) if has_labels else None,
                labelled=labelled,
            )
            for name, values, labels in ((CLASSES, logits, classes), (BOX, distances, edges))
        }
        taken = {} if taps is None else taps.take()
        return Response(outputs, taps=taken, index=batch.get("index"))

    def _assign(self, batch: Batch, points: Points) -> tuple[Tensor, Tensor]:
        if "labels" not in batch:
            none = torch.full(
                (len(batch["image"]), len(points.centre)), NO_OBJECT, device=points.centre.device
            )
            return none, points.centre.new_ones(*none.shape, 4)
        labels, boxes = batch["labels"], batch.get("boxes")
        given = None if boxes is None else list(boxes.shape)
        if boxes is None or labels.ndim != 2 or boxes.shape != (*labels.shape, 4):
            allowed = f"{[*labels.shape, 4]}, for labels {list(labels.shape)} as [n, m]"
            fix = "Name the columns of boxes and their labels in data.boxes."
            raise InputError(Problem("batch.boxes", given, allowed, fix))
        # A step assigns a batch for its weights, its student and its teacher.
        if self._last is None or not self._last.of(points, boxes, labels):
            self._last = Assignment.of_batch(points, boxes, labels)
        return self._last.classes, self._last.distances

    def _weights(self, batch: Batch, classes: Tensor) -> dict[str, Tensor]:
        positive = (classes != NO_OBJECT).float()
        per_image = positive.sum(1, keepdim=True).clamp_min(1) / positive.shape[1]
        if "weight" in batch:
            of_image = batch["weight"].unsqueeze(1)
            positive, per_image = positive * of_image, per_image * of_image
        return {CLASSES: per_image.expand_as(positive).flatten(), BOX: positive.flatten()}

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weights of the anchor points, `[n · points]`, from the boxes alone.

        Raises:
            InputError: The batch lacks images, or labels and boxes do not fit together.
        """
        points = self._points(batch)
        return self._weights(batch, self._assign(batch, points)[0])

    def labelled(self, batch: Batch) -> dict[str, Tensor]:
        """Return which points are of an image with labels, if the batch has `labelled`."""
        if "labelled" not in batch:
            return {}
        points = self._points(batch)
        each = batch["labelled"].repeat_interleave(len(points.centre))
        return {CLASSES: each, BOX: each}

    def loss(self, response: Response) -> dict[str, Tensor]:
        """Compute the focal loss of the classes and the GIoU loss of the boxes, per anchor point.

        The focal loss of a point is divided by the weight of its image, so that the weighted mean
        is the sum over points divided by the number of points with an object.

        Raises:
            InputError: The batch has no labels.
        """
        classes, box = response.outputs[CLASSES], response.outputs[BOX]
        if classes.labels is None or box.labels is None:
            allowed = "labels and boxes, for a loss against the labels"
            raise InputError(Problem("batch.labels", None, allowed))
        assert classes.values is not None
        assert box.values is not None
        positive, sample_of = (classes.labels != NO_OBJECT).float(), classes.sample_of
        share = torch.bincount(sample_of, positive).clamp_min(1) / torch.bincount(sample_of)
        each = losses.sigmoid_focal(classes.values, classes.labels) / share[sample_of]
        return {CLASSES: each, BOX: losses.giou(box.values, box.labels)}
