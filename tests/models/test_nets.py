"""The reference nets: exact sizes, output shapes, and the published accuracy of real weights."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.data.load import load
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError
from limbeck.models import nets
from limbeck.models.build import build
from limbeck.models.spec import ModelSpec, names

COUNTS = {
    "resnet8": 83_892,
    "resnet8x4": 1_233_540,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet32x4": 7_433_860,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
}
DATA = Path(os.environ["LIMBECK_DATA"])
WEIGHTS = DATA / "weights/cifar10_resnets/resnet20-12fca82f.safetensors"
TEST = DATA / "cifar10/test.parquet"


def _net(name: str, classes: int, channels: int, **arguments: object) -> nn.Module:
    spec = ModelSpec(source="limbeck", name=name, **arguments)
    return build(spec, classes=classes, channels=channels)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_net_of_every_file_is_listed_and_counted() -> None:
    files = list(Path(nets.__path__[0]).glob("[!_]*.py"))
    others = [
        "audio_cnn",
        "dense_detector",
        "digits_cnn",
        "early_exit_cnn",
        "gcn",
        "node_mlp",
        "series_mlp",
        "tabular_mlp",
        "token_tagger",
        "unet",
    ]
    assert len(files) == len(others)  # the nets for CIFAR share a file, and those for graphs
    assert names("limbeck") == sorted([*COUNTS, *others])


@pytest.mark.parametrize("name", COUNTS)
def test_cifar_nets_have_the_published_sizes(name: str) -> None:
    assert _count(_net(name, 100, 3)) == COUNTS[name]


def test_the_digits_net_has_6274_parameters() -> None:
    assert _count(_net("digits_cnn", 10, 1)) == 6_274
    assert _count(_net("digits_cnn", 10, 1, width=64)) > 15 * 6_274


def test_shortcuts_of_zeros_have_no_parameters() -> None:
    assert _count(_net("resnet20", 10, 3, shortcut="pad")) == 269_722


@pytest.mark.parametrize(
    ("name", "size"), [("digits_cnn", 8), ("digits_cnn", 28), ("resnet20", 32)]
)
def test_logits_of_images(name: str, size: int) -> None:
    model = _net(name, 7, 1)
    assert model(torch.randn(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize(("width", "depth"), [(5, 0), (5, 1), (1, 3), (7, 4)])
def test_the_perceptron_has_the_given_number_of_layers(width: int, depth: int) -> None:
    spec = ModelSpec(source="limbeck", name="tabular_mlp", width=width, depth=depth)
    model = build(spec, classes=3, table_features=11)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    sizes = [(layer.in_features, layer.out_features) for layer in linear]
    assert sizes == [*zip([11, *[width] * depth], [*[width] * depth, 3], strict=True)]
    rows = torch.randn(6, 11)
    expected = rows
    for layer in linear[:-1]:
        expected = (expected @ layer.weight.T + layer.bias).clamp(min=0)
    expected = expected @ linear[-1].weight.T + linear[-1].bias
    torch.testing.assert_close(model(rows), expected)


@pytest.mark.parametrize("arguments", [{"width": 0}, {"depth": -1}, {"table_features": 4}])
def test_an_invalid_perceptron_is_refused(arguments: dict[str, int]) -> None:
    spec = ModelSpec(source="limbeck", name="tabular_mlp", **arguments)
    with pytest.raises(InputError):
        build(spec, classes=3, table_features=11)


def test_a_net_for_other_data_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="table_features"):
        build(ModelSpec(source="limbeck", name="digits_cnn"), classes=3, table_features=11)
    with pytest.raises(InputError, match="channels"):
        build(ModelSpec(source="limbeck", name="tabular_mlp"), classes=3, channels=1)


def test_padding_takes_every_other_pixel() -> None:
    from limbeck.models.nets.cifar_resnet import Pad

    x = torch.arange(2 * 4 * 4, dtype=torch.float32).view(1, 2, 4, 4)
    out = Pad(2, 4, 2)(x)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert out[:, [0, 3]].abs().max() == 0


def test_nets_import_torch_alone() -> None:
    for path in Path(nets.__path__[0]).glob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} == {"torch"}
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] in {"torch", "__future__"}


@pytest.mark.skipif(
    not (WEIGHTS.is_file() and TEST.is_file()),
    reason=f"needs {WEIGHTS} and {TEST}: set LIMBECK_DATA to the folder of the shared data",
)
def test_real_weights_get_their_published_accuracy(tmp_path: Path) -> None:
    """The accuracy is 91.73 % on all 10,000 rows; these 1,000 are a stratified tenth of them."""
    image = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    files = {"train": str(TEST.resolve())}
    limit = {"test": 1000, "train": 10, "validation": 10}
    spec = DataSpec(source="parquet", files=files, image=image, max_samples=limit)
    test = load(spec, workdir=tmp_path).test
    model = _net("resnet20", 10, 3, shortcut="pad", checkpoint=str(WEIGHTS.resolve())).eval()
    with torch.inference_mode():
        right = sum(
            int((model(batch["image"]).argmax(1) == batch["labels"]).sum())
            for batch in test.batches(250)
        )
    # Two standard errors of 1,000 rows at 91.73 % are 17.
    assert abs(right - 917.3) < 18


@pytest.mark.parametrize(("height", "width"), [(64, 64), (60, 84), (33, 8)])
def test_a_detector_has_outputs_per_point_of_every_level(height: int, width: int) -> None:
    model = _net("dense_detector", 3, 1)
    assert _count(_net("dense_detector", 3, 3)) == 228_090
    points = sum(-(-height // stride) * -(-width // stride) for stride in (8, 16, 32))
    found = model(torch.randn(2, 1, height, width))
    assert {name: one.shape[1:] for name, one in found.items()} == {
        "classes": (points, 3),
        "box": (points, 4),
    }
    assert found["box"].min() > 0
    assert 0.009 < found["classes"].sigmoid().mean() < 0.011
