"""What compact storage makes of compressed nets: bytes, time to load, time to answer.

python benchmarks/compact.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits
from torch import Tensor, nn

from limbeck.compress.quantizers import bfloat16, float16, int4_weights, int8_static
from limbeck.export.compact.onnx import compact
from limbeck.export.onnx import to_onnx
from limbeck.tasks.image_classification import ImageClassification

TASK = ImageClassification(tuple("0123456789"))
SHARE = 0.95


def digits() -> tuple[Tensor, Tensor]:
    """Give scikit-learn's pictures of digits, and which they are."""
    data = load_digits()
    return torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)


def net(width: int) -> nn.Sequential:
    """Build three convolutions and a linear layer, and teach them for a few seconds."""
    torch.manual_seed(0)

    def block(into: int, out: int) -> list[nn.Module]:
        return [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]

    model = nn.Sequential(
        *block(1, width),
        *(nn.MaxPool2d(2), *block(width, 2 * width)),
        *(nn.MaxPool2d(2), *block(2 * width, 4 * width)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10)),
    )
    images, labels = digits()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(3):
        for rows in torch.randperm(1500).split(64):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def prune(model: nn.Module) -> None:
    """Set the smallest weights of each layer to zero."""
    for weight in matrices(model):
        cut = weight.abs().flatten().kthvalue(int(SHARE * weight.numel())).values
        weight[weight.abs() <= cut] = 0


@torch.no_grad()
def ternarize(model: nn.Module) -> None:
    """Make each weight one of three values, by the threshold of ternary weight networks."""
    for weight in matrices(model):
        large = weight.abs() > 0.7 * weight.abs().mean()
        weight.copy_(weight.sign() * large * weight.abs()[large].mean())


def matrices(model: nn.Module) -> list[Tensor]:
    """List the weights of layers."""
    return [one.weight for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]


def products(share: float, layers: int = 6, width: int = 2048) -> onnx.ModelProto:
    """Build a large model: products one after another, with a share of zeros."""
    rng = np.random.default_rng(0)
    tensors = []
    for index in range(layers):
        weight = rng.standard_normal((width, width), np.float32) / width**0.5
        weight[rng.random((width, width), np.float32) < share] = 0
        tensors.append(numpy_helper.from_array(weight, f"w{index}"))
    nodes = [
        helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"x{index + 1}"])
        for index in range(layers)
    ]
    ends = (helper.make_tensor_value_info(f"x{end}", 1, ["n", width]) for end in (0, layers))
    x, y = ends
    graph = helper.make_graph(nodes, "products", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def load(path: Path) -> onnxruntime.InferenceSession:
    """Load a file for one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def operators(path: Path) -> Counter[str]:
    """Count the operators that are left when ONNX Runtime has optimised a file."""
    load(path)
    model = onnx.load(path.with_suffix(".optimized"), load_external_data=False)
    return Counter(node.op_type for node in model.graph.node)


def seconds(path: Path, times: int = 5) -> float:
    """Give the median processor time to load a file, without writing the optimised one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    found = []
    for _ in range(times):
        clock = time.process_time()
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found.append(time.process_time() - clock)
    return statistics.median(found)


def answer_ratio(first: Path, second: Path, blocks: int = 40) -> float:
    """Give how much longer the second file answers one sample than the first, in turns.

    By processor time: a busy machine would take its own in step with the turns.
    """
    ready = [load(first), load(second)]
    given = ready[0].get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    sample = {given.name: np.random.default_rng(0).random(shape, np.float32)}
    ratios = []
    for _ in range(blocks):
        times = []
        for session in ready:
            clock = time.process_time()
            for _ in range(20):
                session.run(None, sample)
            times.append(time.process_time() - clock)
        ratios.append(times[1] / times[0])
    return statistics.median(ratios)


def report(name: str, path: Path, against: Path) -> None:
    """Compact a file and print a line, with the file that it is held against."""
    model = onnx.load(path)
    record = compact(model)
    target = path.with_suffix(".compact.onnx")
    onnx.save(model, target)
    same = "same graph" if operators(path) == operators(target) else "OTHER GRAPH"
    forms = Counter(one.form for one in record.tensors)
    print(
        f"{name:<22}{record.bytes_before:>12,}{record.bytes_after:>12,}{record.ratio:>7.1f}x"
        f"{against.stat().st_size / record.bytes_after:>9.1f}x"
        f"{seconds(path) * 1e3:>9.1f}{seconds(target) * 1e3:>9.1f} ms"
        f"{answer_ratio(path, target):>8.2f}  {same}, {dict(forms)}"
    )


def main(folder: Path) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    images, _ = digits()
    print(
        f"{'file':<22}{'bytes':>12}{'compact':>12}{'ratio':>8}{'to dense':>10}"
        f"{'load':>9}{'load':>9}   {'answer':>9}"
    )
    for width in (8, 56):
        dense = folder / f"dense{width}.onnx"
        for name, change in (("dense", None), ("pruned", prune), ("ternary", ternarize)):
            model = net(width)
            if change is not None:
                change(model)
            path, int8 = folder / f"{name}{width}.onnx", folder / f"{name}{width}_int8.onnx"
            to_onnx(model, TASK, {"image": images[:2]}, path)
            int8_static.quantize(path, int8, calibration=[{"image": images[:200].numpy()}])
            report(f"{name} {width}", path, dense)
            report(f"{name} {width} int8", int8, dense)
        for method in (float16, bfloat16, int4_weights):
            target = folder / f"{method.__name__.rsplit('.')[-1]}.onnx"
            record = method.quantize(dense, target)
            print(
                f"{record.method + f' {width}':<22}{record.bytes_before:>12,}"
                f"{record.bytes_after:>12,}{record.ratio:>7.1f}x{'':>10}"
                f"{seconds(dense) * 1e3:>9.1f}{seconds(target) * 1e3:>9.1f} ms"
                f"{answer_ratio(dense, target):>8.2f}"
            )
    for share in (0.5, 0.95):
        path = folder / "products.onnx"
        onnx.save(products(share), path)
        report(f"6 x 2048^2, {share:.0%} zero", path, path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
