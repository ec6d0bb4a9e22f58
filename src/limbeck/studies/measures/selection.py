"""The selection of a student by accuracy and costs: fronts, limits, tolerances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck.evaluate.flops import parameters
from limbeck.evaluate.pareto import knee, pareto
from limbeck.studies.measures import bench, efficiency, pairs
from limbeck.studies.measures.bench import Spec


@dataclass(frozen=True)
class Candidate:
    """A trained student with its accuracy and its costs."""

    convolutional: bool
    accuracy: float
    flops: float
    kilobytes: float
    millijoules: float
    p99: float

    def cost(self, name: str) -> float:
        """Return a cost by name."""
        return float(getattr(self, name))


_CANDIDATES: dict[str, list[Candidate]] = {}


def _candidates(
    *, seed: int, students: Sequence[Spec], seconds: float, **settings: Any
) -> list[Candidate]:
    """Train the students and measure their costs, once per process; latencies interleaved."""
    place = repr((seed, students, seconds, settings))
    if place not in _CANDIDATES:
        both = [pairs.trained(seed=seed, student=one, **settings) for one in students]
        on = both[0].on
        calls = {
            str(n): efficiency.call_of(one.net, on.test.inputs[:1]) for n, one in enumerate(both)
        }
        times = efficiency.cpu_times(calls, seconds)
        joules = efficiency.joules_per_call(calls, seconds)
        _CANDIDATES[place] = [
            Candidate(
                convolutional=spec["name"] == "digits_cnn",
                accuracy=bench.describe(pair.predict(on.test.inputs), on.test)["accuracy"],
                flops=efficiency.flops_of(pair.net, on),
                kilobytes=4 * parameters(pair.net) / 1000,
                millijoules=1000 * joules[str(number)],
                p99=times[str(number)].p99,
            )
            for number, (spec, pair) in enumerate(zip(students, both, strict=True))
        ]
    return _CANDIDATES[place]


def front(*, seed: int, **settings: Any) -> dict[str, float]:
    """Describe the Pareto front of students over accuracy and FLOPs, and over three axes.

    Args:
        seed: The seed.
        settings: `students`, `seconds` of their latencies, and the rest of `pairs.trained`.

    Returns:
        `gain_share`, the share of the front's gain in accuracy that its knee has, and `cost_share`,
        the knee's FLOPs over the front's largest; `dominated`, the share of students below the
        front; `best_on_all`, 1 if one student is best in accuracy, p99 latency and energy at once,
        and `on_three_axes`, the students on the front of these.
    """
    found = _candidates(seed=seed, **settings)
    points = np.array([[one.flops, one.accuracy] for one in found])
    on_front = pareto(points, ["minimize", "maximize"])
    kept = points[on_front]
    at = knee(kept, ["minimize", "maximize"])
    best = kept[int(kept[:, 1].argmax()) if at is None else at]
    three = np.array([[one.accuracy, one.p99, one.millijoules] for one in found])
    signs = three * np.array([-1.0, 1.0, 1.0])
    return {
        "gain_share": float((best[1] - kept[:, 1].min()) / max(np.ptp(kept[:, 1]), 1e-9)),
        "cost_share": float(best[0] / kept[:, 0].max()),
        "dominated": float(1 - on_front.mean()),
        "best_on_all": float((signs <= signs.min(0)).all(1).any()),
        "on_three_axes": float(pareto(three, ["maximize", "minimize", "minimize"]).sum()),
    }


def select(
    *,
    seed: int,
    limits: Mapping[str, float] | None = None,
    tolerance: float | None = None,
    **settings: Any,
) -> dict[str, float]:
    """Select a student under limits of its costs, or the cheapest within a loss of accuracy.

    Args:
        seed: The seed.
        limits: Largest `flops`, `kilobytes` or `millijoules`; of the students within them, the most
            accurate is selected.
        tolerance: Without limits, the student of fewest FLOPs whose accuracy is at most this below
            the best.
        settings: As for `front`.

    Returns:
        `accuracy`, `flops`, `kilobytes` and `millijoules` (an estimate) of the selected student,
        `convolutional`, and `within`, the number of students within the limits.
    """
    found = _candidates(seed=seed, **settings)
    limits = limits or {}
    within = [one for one in found if all(one.cost(n) <= most for n, most in limits.items())]
    if not within:
        raise ValueError(f"no student is within {dict(limits)}")
    best = max(one.accuracy for one in within)
    lowest = best - (tolerance or 0.0)
    chosen = min((one for one in within if one.accuracy >= lowest), key=lambda one: one.flops)
    return {
        "accuracy": chosen.accuracy,
        "flops": chosen.flops,
        "kilobytes": chosen.kilobytes,
        "millijoules": chosen.millijoules,
        "convolutional": float(chosen.convolutional),
        "within": len(within),
    }
