"""Recipe check without a run: finds everything that a run would report before training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.measurement import Result
from limbeck.errors import gathered
from limbeck.pipeline import machine
from limbeck.pipeline import run_folder as folders
from limbeck.pipeline.progress import NullReporter, ProgressReporter
from limbeck.pipeline.results import input_notes
from limbeck.pipeline.runner import Work

if TYPE_CHECKING:
    from limbeck.data.load import Data
    from limbeck.pipeline.recipe import Recipe


class Checked(Result):
    """The stages that a run of the recipe would execute, with its data and models.

    Attributes:
        name: The recipe's name.
        out: The run folder.
        rows: Number of rows per split.
        outputs: The number of outputs per sample, such as "10 classes".
        parameters: Number of parameters of each model before any change.
        stages: The names of the stages, in order.
        reused: Per seed, the stages already done by an earlier run in the folder.
        notes: Notes on the data and on loaded models.
    """

    name: str
    out: str
    rows: dict[str, int]
    outputs: str
    parameters: dict[str, int]
    stages: tuple[str, ...]
    reused: dict[int, tuple[str, ...]]
    notes: tuple[str, ...]


def check(recipe: Recipe, *, out: Path, watch: ProgressReporter | None = None) -> Checked:
    """Load the data, build the models, and dry-run every stage, without training or writing.

    Args:
        recipe: The resolved recipe; its user code is imported.
        out: The run folder.
        watch: The progress reporter.

    Raises:
        InputError: A run would fail; all problems that can be found at once.
    """
    with tempfile.TemporaryDirectory() as scratch, machine.threads(recipe.threads):
        place = Path(scratch) / "run"
        _, accelerator = gathered(
            [
                lambda: folders.check_place(out),
                lambda: machine.accelerator_of(recipe, place),
            ]
        )
        work = Work(recipe, place, accelerator, watch or NullReporter(), resume=False)
        trial = work.dry_run()
        facts = work.data.facts
        return Checked(
            name=recipe.name,
            out=str(out),
            rows={"train": facts.train, "validation": facts.validation, "test": facts.test},
            outputs=_outputs(work.data),
            parameters=trial.parameters,
            stages=tuple(name for name, _ in work.stages),
            reused={seed: tuple(names) for seed, names in work.unchanged(out).items()},
            notes=input_notes(work.recipe, work.data),
        )


def _outputs(data: Data) -> str:
    """Return the number of outputs per prediction, with what they are."""
    kind = "classes" if data.classes else "targets" if data.targets else "tokens"
    return f"{len(data.outputs)} {kind}"
