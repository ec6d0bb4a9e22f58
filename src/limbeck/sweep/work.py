"""A worker of a sweep, which executes trials, each a run, until none are left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from limbeck.atomic import WriteError
from limbeck.errors import LimbeckError
from limbeck.pipeline.runner import run
from limbeck.pipeline.watch import Watch
from limbeck.report.sweep_result import Figures
from limbeck.sweep.objectives import figures_of
from limbeck.sweep.plan import Plan, settled
from limbeck.sweep.share import share, teaching
from limbeck.sweep.study import Study, Taken

TEACHERS = ".teachers"


def work(plan: Plan, watch: Watch) -> None:
    """Run trials until the plan's number or its timeout is reached.

    A failed trial is stored with its reason, and the next one begins.

    Args:
        plan: The plan of the sweep.
        watch: The progress reporter.

    Raises:
        InputError: Optuna is not installed, or the folder holds a sweep with another plan.
        WriteError: The disk is full; the current trial is repeated next time.
        KeyboardInterrupt: The user interrupted; likewise.
    """
    end = None if plan.timeout is None else time.monotonic() + plan.timeout
    study = Study(plan)
    with study.worked():
        while end is None or time.monotonic() < end:
            taken = study.take()
            if taken is None:
                return
            watch.say(f"Trial {taken.number} (of {plan.trials}): {written(taken.settings)}")
            _do(plan, study, taken, watch)


def written(settings: dict[str, Any]) -> str:
    """Write settings on one line.

    Example:
        >>> written({"student.width": 4, "stages.distill.epochs": 2})
        'student.width=4, stages.distill.epochs=2'
    """
    return ", ".join(f"{path}={value}" for path, value in settings.items())


def _do(plan: Plan, study: Study, taken: Taken, watch: Watch) -> None:
    clock = time.monotonic()
    try:
        figures = _figures(plan, taken, watch)
        study.finish(taken, figures, time.monotonic() - clock)
        return
    except WriteError:
        raise  # it would affect every later trial too
    except LimbeckError as error:
        reason = str(error)
    # Models and exporters are third-party code: any error type can occur.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    study.fail(taken, reason, time.monotonic() - clock)
    watch.say(f"  failed: {reason}")


def _figures(plan: Plan, taken: Taken, watch: Watch) -> Figures:
    recipe, folder = settled(plan.content, taken.settings), plan.folder(taken.number)
    with teaching(recipe, plan.out / TEACHERS):
        share(recipe, folder, _runs(plan))
        # A trial that was killed resumes from its checkpoint, bit for bit.
        return figures_of(run(recipe, out=folder, resume=True, watch=watch))


def _runs(plan: Plan) -> list[Path]:
    """Return the trials' folders, newest first: those were made by the newest code."""
    found = (plan.out / "trials").glob("[0-9]*")
    return sorted(found, key=lambda run: int(run.name), reverse=True)
