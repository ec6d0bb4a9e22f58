"""Check a recipe without running it: everything that a run would find out before it trains."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.evaluate.interval import Result
from limbeck.pipeline import folder as folders
from limbeck.pipeline import machine
from limbeck.pipeline.rehearsal import gathered
from limbeck.pipeline.runner import Work
from limbeck.pipeline.watch import Unwatched, Watch

if TYPE_CHECKING:
    from limbeck.pipeline.recipe import Recipe


class Checked(Result):
    """What a run of the recipe would do.

    Attributes:
        name: The recipe's name.
        out: The run folder.
        rows: How many rows each split has.
        classes: How many classes there are.
        parameters: How many parameters each model has before any stage changes it.
        stages: The names of the stages, in order.
        reused: For each seed, those that an earlier run in the folder has done already.
    """

    name: str
    out: str
    rows: dict[str, int]
    classes: int
    parameters: dict[str, int]
    stages: tuple[str, ...]
    reused: dict[int, tuple[str, ...]]


def check(recipe: Recipe, *, out: Path, watch: Watch | None = None) -> Checked:
    """Read the data, build the models, and try every stage, without training or writing anything.

    Args:
        recipe: The recipe, resolved; the code that it names is imported.
        out: Where a run would write.
        watch: What is told of the progress.

    Raises:
        InputError: A run would fail: every problem that can be found at once.
    """
    with tempfile.TemporaryDirectory() as scratch, machine.threads(recipe.threads):
        place = Path(scratch) / "run"
        _, accelerator = gathered(
            [
                lambda: folders.check_place(out),
                lambda: machine.accelerator_of(recipe, place),
            ]
        )
        work = Work(recipe, place, accelerator, watch or Unwatched(), resume=False)
        rehearsal = work.dry_run()
        facts = work.data.facts
        return Checked(
            name=recipe.name,
            out=str(out),
            rows={"train": facts.train, "validation": facts.validation, "test": facts.test},
            classes=len(work.data.classes),
            parameters=rehearsal.parameters,
            stages=tuple(name for name, _ in work.stages),
            reused={seed: tuple(names) for seed, names in work.unchanged(out).items()},
        )
