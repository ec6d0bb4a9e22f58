"""Decision trees of scikit-learn as a module: the form in which a forest or boosting teaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST = 1e-6
"""The least probability of a class; a forest's trees may all exclude one."""

# Only named by scikit-learn's private attributes; both have been stable for years.
_HIST, _GRADIENT = "HistGradientBoosting", "GradientBoosting"


@dataclass(frozen=True)
class Tree:
    """A decision tree: `left` and `right` are the children of each node, -1 at a leaf.

    Attributes:
        feature: The feature that a node compares, `[nodes]`.
        threshold: Its threshold; rows with a value of at most that go left, `[nodes]`.
        left: The left child, `[nodes]`.
        right: The right child, `[nodes]`.
        values: What a leaf adds to each output, `[nodes, outputs]`.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    values: NDArray[np.float64]

    def by_level(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the nodes level by level, each right child after the left, and first children.

        A leaf is its own first child.
        """
        level, order, first = np.zeros(1, np.int64), [np.zeros(1, np.int64)], []
        count = 1
        while len(level):
            inner = self.left[level] >= 0
            begin = count - len(level)
            children = begin + np.arange(len(level))
            children[inner] = count + 2 * np.arange(inner.sum())
            first.append(children)
            level = np.stack([self.left[level[inner]], self.right[level[inner]]], 1).ravel()
            order.append(level)
            count += len(level)
        return np.concatenate(order), np.concatenate(first)


class TreeEnsemble(nn.Module):
    r"""A sum of decision trees over the features of a row.

    $$z_k(x) = b_k + \sum_t v_{t, k}(x)$$

    Here $v_{t, k}(x)$ is the value of tree $t$ at the leaf of row $x$. Boosting sums logits; a
    forest sums probabilities, of which the logarithm is returned, at least $10^{-6}$ each;
    regression sums values. All trees descend one level at a time. The outputs are piecewise
    constant: they have no gradient, neither to the input nor to the trees, which scikit-learn fits.

    The sizes of the tensors follow from the fitted trees, and from the weights that are loaded.
    Before, there is one tree of one leaf.

    Args:
        outputs: The number of classes, or of targets.
        estimator: The name of the scikit-learn estimator.
        arguments: Its arguments.

    Attributes:
        depth: The number of levels below the roots.

    Example:
        >>> import numpy as np
        >>> model = TreeEnsemble(2, "RandomForestClassifier", {"n_estimators": 10})
        >>> features = np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32)
        >>> model.fit(features, np.array([0, 0, 1, 1]), seed=0)
        >>> model(torch.from_numpy(features)).argmax(1).tolist()
        [0, 0, 1, 1]

    Source: Breiman, Machine Learning 2001 (random forests); Friedman, Annals of Statistics 2001
        (gradient boosting); Ke et al. 2017 (LightGBM), which histogram-based boosting follows.
    """

    first_child: Tensor
    feature: Tensor
    roots: Tensor

    def __init__(self, outputs: int, estimator: str, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self._name, self._arguments, self._outputs = estimator, dict(arguments), outputs
        # Numbers that a fit chooses count as parameters, without a gradient.
        self.threshold = _fixed(torch.zeros(1))
        self.values = _fixed(torch.zeros(1, outputs))
        self.base = _fixed(torch.zeros(outputs))
        for name in ("feature", "first_child", "roots"):
            self.register_buffer(name, torch.zeros(1, dtype=torch.int64))
        self.depth = 0
        self.register_load_state_dict_post_hook(_check)

    @property
    def classifies(self) -> bool:
        """Return whether the outputs are classes."""
        return self._name.endswith("Classifier")

    @property
    def leaves(self) -> int:
        """Return the number of leaves of all trees."""
        own = torch.arange(len(self.first_child), device=self.first_child.device)
        return int((self.first_child == own).sum())

    @property
    def _sums_probabilities(self) -> bool:
        return self.classifies and _GRADIENT not in self._name

    def forward(self, features: Tensor) -> Tensor:
        """Return logits or values `[n, outputs]` of rows `[n, features]`."""
        node = self.roots.expand(features.shape[0], -1)
        for _ in range(self.depth):
            right = features.gather(1, self.feature[node]) > self.threshold[node]
            node = self.first_child[node] + right
        total = self.values[node].sum(1) + self.base
        return total.clamp(min=LEAST).log() if self._sums_probabilities else total

    def fit(
        self,
        features: NDArray[np.float32],
        targets: NDArray[Any],
        weights: NDArray[np.float32] | None = None,
        *,
        seed: int,
    ) -> None:
        """Fit the estimator, and take over its trees.

        Args:
            features: The rows, `[n, features]`, finite.
            targets: The number of the class of each row, `[n]`, or its targets `[n, targets]`.
            weights: The weight of each row, `[n]`; equal by default.
            seed: The estimator's `random_state`.

        Raises:
            InputError: scikit-learn refuses the rows, such as labels of one class alone.
        """
        estimator = estimator_of(self._name, {**self._arguments, "random_state": seed})
        if not self.classifies and targets.shape[1] == 1:
            targets = targets[:, 0]
        try:
            estimator.fit(features, targets, sample_weight=weights)
        except ValueError as error:
            allowed, fix = f"rows that {self._name} can be fitted to", str(error).split("\n")[0]
            raise InputError(Problem("teacher", f"{len(features)} rows", allowed, fix)) from error
        trees, base = _trees_of(estimator, self._name, self._outputs)
        self.load_state_dict(_tensors(trees, base))

    def take_sizes(self, tensors: Mapping[str, Tensor]) -> None:
        """Resize the own tensors to the shapes of those that are loaded next, by name."""
        for name, own in self.state_dict().items():
            given = tensors.get(name)
            if given is not None and given.ndim == own.ndim and given.shape[1:] == own.shape[1:]:
                getattr(self, name).data = torch.zeros(given.shape, dtype=own.dtype)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **named: Any) -> Any:
        """Load trees of any number and size.

        Raises:
            InputError: Children are no trees, or there are more outputs.
        """
        self.take_sizes(state_dict)
        return super().load_state_dict(state_dict, *args, **named)


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _check(model: TreeEnsemble, _keys: object) -> None:
    """Check that the children are trees, and measure their depth."""
    first, nodes = model.first_child, len(model.first_child)
    own = torch.arange(nodes, device=first.device)
    inside = bool((((first > own) & (first < nodes - 1)) | (first == own)).all())
    roots = bool(((model.roots >= 0) & (model.roots < nodes)).all())
    if not (inside and roots and len(model.feature) == len(model.threshold) == nodes):
        raise InputError(Problem("teacher", "nodes that form no trees", "weights of fitted trees"))
    level, model.depth = model.roots, 0
    while len(level := level[first[level] != level]):
        level = torch.cat([first[level], first[level] + 1])
        model.depth += 1


def estimator_of(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return an unfitted estimator of scikit-learn by its name."""
    import sklearn.ensemble
    import sklearn.tree

    module = sklearn.tree if hasattr(sklearn.tree, name) else sklearn.ensemble
    return getattr(module, name)(**arguments)


def _tensors(trees: Iterable[Tree], base: NDArray[np.float64]) -> dict[str, Tensor]:
    """Join trees to the tensors of a `TreeEnsemble`."""
    parts: dict[str, list[NDArray[Any]]] = {}
    roots, count = [], 0
    for tree in trees:
        order, first = tree.by_level()
        leaf = tree.left[order] < 0
        columns = {
            "feature": np.where(leaf, 0, tree.feature[order]),
            "threshold": np.where(leaf, np.finfo(np.float32).max, _down(tree.threshold[order])),
            "first_child": first + count,
            "values": np.where(leaf[:, None], tree.values[order], 0),
        }
        for name, column in columns.items():
            parts.setdefault(name, []).append(column)
        roots.append(count)
        count += len(order)
    joined = {name: np.concatenate(columns) for name, columns in parts.items()}
    floats = {"threshold", "values"}
    return {
        **{
            name: torch.from_numpy(one.astype(np.float32 if name in floats else np.int64))
            for name, one in joined.items()
        },
        "base": torch.from_numpy(base.astype(np.float32)),
        "roots": torch.tensor(roots, dtype=torch.int64),
    }


def _down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round down to float32: a float32 feature is then on the same side of the threshold."""
    rounded = thresholds.astype(np.float32)
    lower = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded > thresholds, lower, rounded)


def _trees_of(
    estimator: Any, name: str, outputs: int
) -> tuple[Iterator[Tree], NDArray[np.float64]]:
    """Return the trees of a fitted estimator with what each leaf adds, and the outputs' base."""
    classes = getattr(estimator, "classes_", None)
    if name.startswith((_HIST, _GRADIENT)):
        return _boosted(estimator, name, outputs, classes)
    members = getattr(estimator, "estimators_", [estimator])
    return (_of_forest(one.tree_, len(members), outputs, classes) for one in members), np.zeros(
        outputs
    )


def _of_forest(tree: Any, members: int, outputs: int, classes: NDArray[Any] | None) -> Tree:
    values = np.zeros((tree.node_count, outputs))
    if classes is None:
        values[:] = tree.value[:, :, 0]
    else:
        counts = tree.value[:, 0]
        values[:, classes.astype(int)] = counts / counts.sum(1, keepdims=True)
    return _of_tree(tree, values / members)


def _of_tree(tree: Any, values: NDArray[np.float64]) -> Tree:
    return Tree(tree.feature, tree.threshold, tree.children_left, tree.children_right, values)


def _boosted(
    estimator: Any, name: str, outputs: int, classes: NDArray[Any] | None
) -> tuple[Iterator[Tree], NDArray[np.float64]]:
    """Return the trees and the base of boosting, whose sums are the logits or the values.

    With two classes there is one tree per iteration, for the logit of the second.
    """
    columns = [0] if classes is None else classes.astype(int).tolist()
    columns = columns[1:] if len(columns) == 2 else columns
    # A class without a training row has the least probability.
    base = np.zeros(outputs) if classes is None else np.full(outputs, np.log(LEAST))
    if classes is not None:
        base[classes.astype(int)] = 0
    hist = name.startswith(_HIST)
    if hist:
        start = np.ravel(estimator._baseline_prediction)
    else:
        start = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), np.float32))[0]
    base[columns] = start

    def trees() -> Iterator[Tree]:
        for stage in estimator._predictors if hist else estimator.estimators_:
            for column, one in zip(columns, stage, strict=True):
                tree = _of_histogram(one.nodes, outputs, column) if hist else None
                yield tree or _of_gradient(one.tree_, estimator.learning_rate, outputs, column)

    return trees(), base


def _of_histogram(nodes: NDArray[Any], outputs: int, column: int) -> Tree:
    values = np.zeros((len(nodes), outputs))
    values[:, column] = nodes["value"]
    leaf = nodes["is_leaf"].astype(bool)
    left, right = (np.where(leaf, -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
    feature = nodes["feature_idx"].astype(np.int64)
    return Tree(feature, nodes["num_threshold"], left, right, values)


def _of_gradient(tree: Any, learning_rate: float, outputs: int, column: int) -> Tree:
    values = np.zeros((tree.node_count, outputs))
    values[:, column] = learning_rate * tree.value[:, 0, 0]
    return _of_tree(tree, values)
