"""How long factorising a BERT-base takes, and how near its factors are to the best there are.

python benchmarks/svd.py                  every Linear layer of the encoder, weights alone
python benchmarks/svd.py --whiten         by what random samples make of the layers
python benchmarks/svd.py --orders 4       weights whose singular values fall by four orders
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

from limbeck.compress.factorizers.svd import Svd
from limbeck.compress.low_rank import decompose
from limbeck.compress.method import CalibrationContext


def bert(layers: int, orders: float) -> nn.Module:
    """A BERT-base with random weights, the columns of which get shorter."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight *= torch.logspace(0, -orders, module.in_features)
    return model


def door(samples: int, tokens: int) -> CalibrationContext:
    """Random texts, for whitening."""
    texts = torch.randint(1000, 30000, (samples, tokens))
    return CalibrationContext(
        batches=lambda: iter([{"input_ids": part} for part in texts.split(16)]),
        forward=lambda model, batch: model(**batch).logits,
        loss=lambda model, batch: model(**batch).logits.sum(),
        validate=lambda model: 0.0,
        seed=0,
    )


def product(two: nn.Sequential) -> torch.Tensor:
    """The weight that two layers stand for."""
    first, second = two
    return second.weight.double() @ first.weight.double()


def main() -> None:
    """Read the command line, and print seconds and errors."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--orders", type=float, default=0)
    parser.add_argument("--whiten", action="store_true")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()

    model = bert(given.layers, given.orders)
    dense = {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    method = Svd(rank=given.rank, skip=["classifier"], whiten=given.whiten)
    clock = time.perf_counter()
    done = method.transform(model, door(given.samples, given.tokens))
    print(f"{time.perf_counter() - clock:.1f} s in all, {torch.get_num_threads()} threads")
    print(done.what)
    weights = {path: dense[path].weight.detach() for path in done.change["layers"]}

    for name, way in {
        "products' eigenvectors, float64": decompose,
        "torch.linalg.svd, float32": lambda w: torch.linalg.svd(w, full_matrices=False),
        "torch.linalg.svd, float64": lambda w: torch.linalg.svd(w.double(), full_matrices=False),
    }.items():
        clock = time.perf_counter()
        for weight in weights.values():
            way(weight)
        print(f"{name}: {time.perf_counter() - clock:.1f} s for {len(weights)} matrices")

    if given.whiten:
        return
    shown = {tuple(weight.shape): path for path, weight in weights.items()}
    for shape, path in shown.items():
        weight = weights[path].double()
        values = torch.linalg.svdvals(weight)
        tail = values[given.rank :].norm()
        error = (product(model.get_submodule(path)) - weight).norm()
        off = (decompose(weight).energies.sqrt() - values).abs().max() / values[0]
        print(
            f"{shape}: error {error / weight.norm():.6f} of the weight's length, "
            f"{error / tail - 1:+.1e} of the least possible; singular values within {off:.0e}"
        )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
