"""Object detection: assignment, losses, the law of micro-batches, suppression in the file, mAP."""

import contextlib
import io
import time
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from limbeck.errors import InputError
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor
from limbeck.models.nets.dense_detector import dense_detector
from limbeck.objective import Objective, Term
from limbeck.schemes import Offline
from limbeck.targets.layout import Layout
from limbeck.tasks import ScoreTable, mean_loss, total_weights
from limbeck.tasks._anchors import Points, assign
from limbeck.tasks._suppression import suppress, translations
from limbeck.tasks.object_detection import ObjectDetection
from limbeck.teachers import CachedTeacher, FrozenTeacher

CLASSES = ("red", "white", "platelet")
HEIGHT, WIDTH = 48, 64
POINTS = 6 * 8 + 3 * 4 + 2 * 2


class Heads(nn.Module):
    """A detector whose outputs are the image's own numbers, times a weight."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.classes = nn.Linear(3, 3, bias=False, dtype=dtype)
        self.box = nn.Linear(3, 4, dtype=dtype)

    def forward(self, image):
        rows = image.flatten(2).transpose(1, 2)[:, :POINTS]
        return {"classes": self.classes(rows), "box": self.box(rows).exp()}


def drawn_boxes(generator, count, most=5):
    """Draw boxes and labels of some images, padded; the last image has none."""
    labels = torch.full((count, most), -100)
    boxes = torch.zeros(count, most, 4)
    for image in range(count - 1):
        own = int(torch.randint(1, most + 1, (1,), generator=generator))
        centre = torch.rand(own, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
        half = 4 + 14 * torch.rand(own, 2, generator=generator)
        boxes[image, :own] = torch.cat([centre - half, centre + half], 1)
        labels[image, :own] = torch.randint(3, (own,), generator=generator)
    return labels, boxes


def batch_of(count=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(count, 3, HEIGHT, WIDTH, generator=generator, dtype=dtype)
    labels, boxes = drawn_boxes(generator, count)
    index = torch.arange(count)
    return {"image": image, "labels": labels, "boxes": boxes, "index": index, "view": 0 * index}


# -- assignment -----------------------------------------------------------------------------------


def assigned_by_loops(labels, boxes, strides=(8, 16, 32)):
    """Assign the points of one image, box by box, as in the paper's algorithm 1."""
    grid = [
        ((column + 0.5) * stride, (row + 0.5) * stride, stride)
        for stride in strides
        for row in range(-(-HEIGHT // stride))
        for column in range(-(-WIDTH // stride))
    ]
    best, owner = [0.0] * len(grid), [-1] * len(grid)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        if labels[number] == -100:
            continue
        ious = []
        for x, y, stride in grid:
            wide = max(0.0, min(x2, x + 4 * stride) - max(x1, x - 4 * stride))
            high = max(0.0, min(y2, y + 4 * stride) - max(y1, y - 4 * stride))
            ious.append(wide * high / ((x2 - x1) * (y2 - y1) + 64 * stride**2 - wide * high))
        candidates = []
        for stride in strides:
            level = [at for at, point in enumerate(grid) if point[2] == stride]
            gap = [
                (grid[at][0] - (x1 + x2) / 2) ** 2 + (grid[at][1] - (y1 + y2) / 2) ** 2
                for at in level
            ]
            candidates += [level[place] for place in np.argsort(gap, kind="stable")[:9]]
        found = np.array([ious[at] for at in candidates])
        least = found.mean() + found.std(ddof=1)
        for at in candidates:
            x, y, _ = grid[at]
            inside = x1 < x < x2 and y1 < y < y2
            if ious[at] >= least and inside and ious[at] > best[at]:
                best[at], owner[at] = ious[at], number
    return owner


def test_points_are_assigned_as_in_the_algorithm():
    generator = torch.Generator().manual_seed(1)
    labels, boxes = drawn_boxes(generator, 12)
    points = Points.of(HEIGHT, WIDTH, (8, 16, 32), torch.zeros(1, dtype=torch.float64))
    classes, distances = assign(points, boxes, labels)
    positives = 0
    for image in range(12):
        owner = assigned_by_loops(labels[image].tolist(), boxes[image].double().tolist())
        expected = [-1 if one < 0 else int(labels[image, one]) for one in owner]
        assert classes[image].tolist() == expected
        decoded = points.decode(distances[image])
        for at, one in enumerate(owner):
            if one >= 0:
                positives += 1
                torch.testing.assert_close(decoded[at], boxes[image, one].double())
    assert positives > 40
    assert (classes[-1] == -1).all()


def test_an_image_without_boxes_has_one_point_of_weight():
    batch = batch_of()
    task = ObjectDetection(CLASSES)
    weights = {name: one.view(4, -1) for name, one in task.weights(batch).items()}
    positive = (
        assign(
            Points.of(HEIGHT, WIDTH, task.strides, torch.zeros(1)), batch["boxes"], batch["labels"]
        )[0]
        >= 0
    )
    torch.testing.assert_close(weights["box"], positive.float())
    torch.testing.assert_close(weights["classes"].sum(1), positive.sum(1).clamp_min(1).float())
    none = {**batch, "labels": batch["labels"][:, :0], "boxes": batch["boxes"][:, :0]}
    assert task.weights(none)["box"].sum() == 0
    assert mean_loss(task, task.respond(Heads(), none)).isfinite()


def test_boxes_that_change_are_assigned_again():
    task, batch = ObjectDetection(CLASSES), batch_of()
    first = task.weights(batch)["box"].clone()
    assert torch.equal(task.weights(batch)["box"], first)
    batch["boxes"] += 12
    moved = task.weights(batch)["box"]
    assert not torch.equal(moved, first)
    assert torch.equal(moved, ObjectDetection(CLASSES).weights(batch)["box"])
    larger = {**batch, "image": torch.zeros(4, 3, 2 * HEIGHT, WIDTH)}
    assert len(task.weights(larger)["box"]) == 4 * (12 * 8 + 6 * 4 + 3 * 2)
    turned = {**batch, "image": torch.zeros(4, 3, WIDTH, HEIGHT)}
    assert not torch.equal(task.weights(turned)["box"], moved)


# -- losses ---------------------------------------------------------------------------------------


def test_losses_are_those_of_torchvision():
    task, batch = ObjectDetection(CLASSES), batch_of()
    torch.manual_seed(0)
    response = task.respond(Heads(), batch)
    classes, box = response.outputs["classes"], response.outputs["box"]
    positive = classes.labels >= 0
    target = torch.zeros_like(classes.values)
    target[positive, classes.labels[positive]] = 1
    focal = torchvision.ops.sigmoid_focal_loss(classes.values, target, reduction="sum")
    sign = torch.tensor([-1, -1, 1, 1])
    own, true = (one[positive] * sign for one in (box.values, box.labels))
    giou = torchvision.ops.generalized_box_iou_loss(own, true, reduction="mean")
    objects = positive.view(4, -1).sum(1).clamp_min(1).sum()
    torch.testing.assert_close(mean_loss(task, response), focal / objects + giou)


def gradients(model, task, batches, objective, teacher, totals):
    model.zero_grad()
    for batch in batches:
        response = task.respond(model, batch)
        found = objective(
            response,
            teacher.answer(batch),
            task_loss=task.loss,
            progress=0.0,
            total_weights=totals,
        )
        found.total.backward()
    return [
        torch.zeros_like(one) if one.grad is None else one.grad.clone()
        for one in model.parameters()
    ]


TERMS = {
    "task": [Term("task")],
    "classes": [Term("binary_kl", temperature=2.0, output="classes")],
    "box": [Term("giou", output="box"), Term("logit_mse", output="box")],
}


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_micro_batches_change_no_gradient(terms):
    task, batch = ObjectDetection(CLASSES), batch_of(dtype=torch.float64)
    torch.manual_seed(0)
    model, teacher = (Heads(torch.float64) for _ in range(2))
    run = partial(
        gradients,
        model,
        task,
        objective=Objective(terms),
        teacher=FrozenTeacher(teacher, task),
        totals=total_weights(task, batch),
    )
    whole = run([batch])
    assert max(one.abs().max() for one in whole) > 0
    parts = [{key: value[rows] for key, value in batch.items()} for rows in ([0], [1, 3], [2])]
    for one, other in zip(run(parts), whole, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_an_image_of_weight_zero_changes_nothing(terms):
    task, batch = ObjectDetection(CLASSES), batch_of(dtype=torch.float64)
    torch.manual_seed(0)
    model, teacher = (Heads(torch.float64) for _ in range(2))
    frozen = FrozenTeacher(teacher, task)
    run = partial(gradients, model, task, objective=Objective(terms), teacher=frozen, totals=None)
    weighted = run([{**batch, "weight": torch.tensor([1.0, 0.0, 1.0, 1.0])}])
    left_out = run([{key: value[[0, 2, 3]] for key, value in batch.items()}])
    for one, other in zip(weighted, left_out, strict=True):
        torch.testing.assert_close(one, other)


class Memory:
    """A cache of targets in the stored layout."""

    def __init__(self, targets, samples):
        self.layout = Layout.of(targets, samples=samples)
        self.records = self.layout.pack(targets, samples=samples)

    def lookup(self, index, view):
        return self.layout.unpack(self.records[index.numpy()])


def test_recorded_answers_have_the_gradient_of_the_teacher():
    task, batch = ObjectDetection(CLASSES), batch_of()
    torch.manual_seed(0)
    model, teacher = Heads(), FrozenTeacher(Heads(), task)
    recorded = CachedTeacher(Memory(teacher.answer(batch).targets, 4), fingerprint="")
    shuffled = {name: one[[2, 0, 3, 1]] for name, one in batch.items()}
    objective = Objective([*TERMS["classes"], *TERMS["box"]])
    run = partial(gradients, model, task, [shuffled], objective, totals=None)
    for one, other in zip(run(recorded), run(teacher), strict=True):
        torch.testing.assert_close(one, other)


def test_a_scheme_distils_classes_and_boxes():
    task, batch = ObjectDetection(CLASSES), batch_of()
    torch.manual_seed(0)
    student, teacher = Heads(), Heads()
    objective = Objective([Term("task"), *TERMS["classes"], *TERMS["box"]])
    scheme = Offline(student, task, objective, teacher=FrozenTeacher(teacher, task), probe=batch)
    terms = scheme.step(batch, 0.0).terms
    positive = task.respond(student, batch).outputs["classes"].labels >= 0
    one, two = (
        model(batch["image"])["box"].flatten(0, 1)[positive] for model in (student, teacher)
    )
    expected = (one - two).square().mean()
    torch.testing.assert_close(terms["logit_mse"].raw, expected.detach())
    assert terms["giou"].raw > 0


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda n: {"classes": torch.zeros(n, POINTS, 3)}, "a mapping with classes and box"),
        (lambda n: torch.zeros(n, 3), "model: got 'Tensor'"),
        (
            lambda n: {"classes": torch.zeros(n, POINTS, 3), "box": torch.zeros(n, POINTS - 1, 4)},
            r"model\.box: got .*allowed: \[n, 64, 4\], with the points of the strides 8, 16, 32",
        ),
    ],
)
def test_other_outputs_of_a_model_are_refused(returned, message):
    class Other(nn.Module):
        def forward(self, image):
            return returned(len(image))

    with pytest.raises(InputError, match=message):
        ObjectDetection(CLASSES).outputs(Other(), batch_of())


def test_labels_without_boxes_are_refused():
    task, batch = ObjectDetection(CLASSES), batch_of()
    with pytest.raises(InputError, match=r"batch\.boxes: got None; allowed: \[4, 5, 4\]"):
        task.weights({name: one for name, one in batch.items() if name != "boxes"})
    with pytest.raises(InputError, match=r"batch\.boxes: got \[4, 4, 4\]"):
        task.weights({**batch, "boxes": batch["boxes"][:, :4]})
    response = task.respond(Heads(), {"image": batch["image"]})
    with pytest.raises(InputError, match=r"batch\.labels: got None; allowed: labels and boxes"):
        task.loss(response)


# -- suppression ----------------------------------------------------------------------------------


def drawn_heads(seed, images=3, classes=3, points=60):
    """Draw boxes that overlap much, with equal ones, equal scores, and scores an ulp apart."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(images, points, 2, generator=generator) * 40
    half = 4 + 6 * torch.rand(images, points, 2, generator=generator)
    boxes = torch.cat([centre - half, centre + half], dim=-1)
    scores = torch.rand(images, classes, points, generator=generator)
    boxes[:, 1::7] = boxes[:, ::7][:, : boxes[:, 1::7].shape[1]]
    scores[..., 1::5] = scores[..., ::5][..., : scores[..., 1::5].shape[2]]
    scores[..., 2::5] = torch.nextafter(scores[..., ::5], torch.tensor(1.0))[..., :12]
    return boxes, scores


@pytest.mark.parametrize("seed", range(4))
def test_suppression_keeps_the_boxes_of_torchvision(seed):
    boxes, scores = drawn_heads(seed)
    found, classes, points = suppress(boxes, scores, 50, 0.5, 0.25)
    for image in range(len(boxes)):
        expected = []
        for label, row in enumerate(scores[image]):
            above = torch.arange(len(row))[row > 0.25]
            kept = above[torchvision.ops.nms(boxes[image, above], row[above], 0.5)]
            expected += [(-float(row[at]), label, int(at)) for at in kept]
        expected = sorted(expected)[:50]
        count = len(expected)
        shown = zip(found[image], classes[image], points[image], strict=True)
        assert [(-float(s), int(c), int(p)) for s, c, p in shown][:count] == expected
        assert (found[image, count:] == 0).all()
        assert (classes[image, count:] == -1).all()


class Suppression:
    """A task that only suppresses, so that scores are the same to the bit in torch and the file."""

    inputs = {"boxes": ("batch",), "points": ("batch",)}  # noqa: RUF012
    decoded = ()

    def __init__(self, count):
        self.count = count

    def translations(self):
        return translations()

    def outputs(self, model, batch):
        found = suppress(model(batch["boxes"]), batch["points"], self.count, 0.6, 0.3)
        return dict(zip(("scores", "labels", "places"), found, strict=True))


@pytest.mark.parametrize("count", [20, 180])
def test_the_file_suppresses_as_torch_does(tmp_path, count):
    """Equal boxes, equal scores and scores an ulp apart included, for batches of any size."""
    task, (boxes, scores) = Suppression(count), drawn_heads(count, images=5)
    path = tmp_path / "model.onnx"
    to_onnx(nn.Identity(), task, {"boxes": boxes[:2], "points": scores[:2]}, path)
    predictor = OnnxPredictor(path, threads=1)
    expected = task.outputs(nn.Identity(), {"boxes": boxes, "points": scores})
    assert (expected["labels"] >= 0).sum(1).float().mean() > 15
    for rows in (slice(0, 5), slice(2, 3), slice(1, 4)):
        found = predictor.predict({"boxes": boxes[rows], "points": scores[rows]})
        assert found["labels"].shape == (len(boxes[rows]), count)
        kept = expected["labels"][rows].numpy() >= 0
        for name, value in expected.items():
            shown = np.where(kept, value[rows].numpy(), 0)
            np.testing.assert_array_equal(np.where(kept, found[name], 0), shown, err_msg=name)
        np.testing.assert_array_equal(found["labels"] >= 0, kept)


@pytest.mark.slow
def test_a_net_is_exported_with_its_suppression(tmp_path):
    task = ObjectDetection(CLASSES)
    torch.manual_seed(0)
    model = dense_detector(3, width=8).eval()
    with torch.no_grad():
        model.classes.weight *= 30
        model.classes.bias += 2
    image = torch.randn(5, 3, 60, 84)
    to_onnx(model, task, {"image": image}, tmp_path / "model.onnx")
    found = OnnxPredictor(tmp_path / "model.onnx", threads=1).predict({"image": image})
    with torch.no_grad():
        expected = task.outputs(model, {"image": image})
    assert (expected["labels"] >= 0).sum() > 20
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.numpy(), atol=1e-3, err_msg=name)


# -- mean average precision -----------------------------------------------------------------------


def drawn_detections(generator, images, most=12, classes=3):
    """Draw labelled boxes, and detections of which many are near a labelled one."""
    batch = {"labels": np.full((images, most), -100), "boxes": np.zeros((images, most, 4))}
    k = 3 * most
    outputs = {
        "labels": np.full((images, k), -1),
        "scores": np.zeros((images, k)),
        "boxes": np.zeros((images, k, 4)),
    }
    for image in range(images):
        own, found = generator.integers(0, most + 1), generator.integers(0, k + 1)
        low = generator.uniform(0, 80, (own, 2))
        true = np.concatenate([low, low + generator.uniform(5, 30, (own, 2))], 1)
        batch["boxes"][image, :own] = true
        batch["labels"][image, :own] = generator.integers(0, classes, own)
        low = generator.uniform(0, 80, (found, 2))
        boxes = np.concatenate([low, low + generator.uniform(5, 30, (found, 2))], 1)
        labels = generator.integers(0, classes, found)
        for place in range(found):
            if own and generator.random() < 0.7:
                near = generator.integers(own)
                boxes[place] = batch["boxes"][image, near] + generator.normal(0, 2, 4)
                labels[place] = batch["labels"][image, near]
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.5)
        outputs["boxes"][image, :found] = boxes
        outputs["labels"][image, :found] = labels
        outputs["scores"][image, :found] = generator.permutation(found) / k + image / (k * images)
    outputs["scores"] = np.where(outputs["labels"] >= 0, outputs["scores"] * 0.9 + 0.01, 0)
    return outputs, batch


def by_pycocotools(outputs, batch, images):
    """Compute mAP and mAP at 0.5 of images, each as often as it is listed."""
    ground, found = [], []
    for number, image in enumerate(images, 1):
        for label, box in zip(batch["labels"][image], batch["boxes"][image], strict=True):
            if label >= 0:
                size = box[2:] - box[:2]
                own = {"bbox": [*box[:2], *size], "area": float(size.prod()), "iscrowd": 0}
                ground.append(
                    {**own, "id": len(ground) + 1, "image_id": number, "category_id": int(label)}
                )
        rows = (outputs[name][image] for name in ("labels", "scores", "boxes"))
        for label, score, box in zip(*rows, strict=True):
            if label >= 0:
                bbox = [*box[:2], *(box[2:] - box[:2])]
                found.append(
                    {
                        "image_id": number,
                        "category_id": int(label),
                        "bbox": bbox,
                        "score": float(score),
                    }
                )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(1, len(images) + 1)],
            "annotations": ground,
            "categories": [{"id": label} for label in range(3)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:2]


def table_of(outputs, batch):
    table = ScoreTable(ObjectDetection.scores)
    for rows in np.array_split(np.arange(len(batch["labels"])), 3):
        table.update(
            *({key: value[rows] for key, value in one.items()} for one in (outputs, batch)), {}
        )
    return table


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_average_precision_is_that_of_coco(seed):
    outputs, batch = drawn_detections(np.random.default_rng(seed), 15)
    expected = by_pycocotools(outputs, batch, range(15))
    assert 0.05 < expected[0] < expected[1] < 0.95
    assert list(table_of(outputs, batch).values().values()) == pytest.approx(expected, abs=1e-9)


def test_a_bootstrap_draw_is_the_score_of_the_drawn_images():
    generator = np.random.default_rng(5)
    outputs, batch = drawn_detections(generator, 10)
    table = table_of(outputs, batch)
    drawn = generator.integers(0, 10, (4, 10))
    counts = np.stack([np.bincount(draw, minlength=10) for draw in drawn]).astype(float)
    found = np.stack([one.value(table.parts(one), counts) for one in table.scores], axis=1)
    expected = [by_pycocotools(outputs, batch, draw) for draw in drawn]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_weight_counts_an_image_as_often():
    outputs, batch = drawn_detections(np.random.default_rng(7), 6)
    weighted = table_of(outputs, {**batch, "weight": np.array([1, 2, 0, 1, 3, 1])}).values()
    expected = by_pycocotools(outputs, batch, [0, 1, 1, 3, 4, 4, 4, 5])
    assert list(weighted.values()) == pytest.approx(expected, abs=1e-9)


def test_without_a_labelled_box_there_is_no_score():
    outputs, batch = drawn_detections(np.random.default_rng(7), 3)
    batch["labels"][:] = -100
    assert np.isnan(list(table_of(outputs, batch).values().values())).all()


def test_a_thousand_draws_take_seconds():
    generator = np.random.default_rng(0)
    outputs, batch = drawn_detections(generator, 72, most=33)
    table = table_of(outputs, batch)
    counts = generator.multinomial(72, np.full(72, 1 / 72), size=1000).astype(float)
    start = time.process_time()
    draws = table.scores[0].value(table.parts(table.scores[0]), counts)
    assert time.process_time() - start < 5
    assert draws.std() > 0
