"""Latency measurement of all trials in turn, so that disturbances affect all alike."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from limbeck.data.load import load
from limbeck.evaluate.timing import Call, latencies
from limbeck.export.predictor import OnnxPredictor
from limbeck.pipeline import folder as folders
from limbeck.pipeline.recipe import Recipe
from limbeck.tasks import Batch

TOGETHER = 2e9
"""The most bytes of files loaded at once for timing."""


def timed(trials: Mapping[int, tuple[Recipe, Path]]) -> dict[int, float] | None:
    """Measure the latency of several students at batch 1 on one thread, in turn.

    Args:
        trials: Each trial's recipe and run folder, by number.

    Returns:
        The median of each in milliseconds; `None` if they are too large to be loaded together.
    """
    files = {number: run / folders.STUDENT / "model.onnx" for number, (_, run) in trials.items()}
    if not files or sum(file.stat().st_size for file in files.values()) > TOGETHER:
        return None
    examples: dict[str, Batch] = {}
    calls: dict[str, Call] = {}
    for number, (recipe, run) in trials.items():
        data = recipe.data.model_dump_json()
        if data not in examples:
            loaded = load(recipe.data, workdir=run / folders.DATA)
            examples[data] = loaded.validation.__getitems__([0])
        predictor = OnnxPredictor(files[number], threads=1)
        calls[str(number)] = partial(predictor.predict, predictor.feeds(examples[data]))
    seconds = max(2.0, 0.1 * len(calls))
    found = latencies(calls, threads=1, seconds=seconds)
    return {int(number): latency.p50 for number, latency in found.items()}
