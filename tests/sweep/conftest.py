"""Results of sweeps, and fast runs."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from limbeck.evaluate.hardware import Hardware
from limbeck.report.result import Environment
from limbeck.report.sweep import Chosen, Figures, SweepResult, Trial, View
from limbeck.tasks.scores import ACCURACY

E2E = Path(__file__).parents[1] / "e2e"

# The smallest run with a teacher, a student and a file; most of its seconds are the exports.
TINY = """
name: tiny
task: image_classification
data: {source: sklearn, name: digits, max_samples: {train: 120, validation: 60, test: 40}}
teacher: {source: limbeck, name: digits_cnn, width: 3, expect: {above_chance: false}}
student: {source: limbeck, name: digits_cnn, width: 2}
threads: 1
stages:
  - train_teacher: {epochs: 1, checkpoint_every: 0}
  - distill: {epochs: 1, checkpoint_every: 0, batch_size: 32, baseline: false}
  - export: {format: onnx}
"""


def made_figures(accuracy: float, size: int, latency: float, **more: float) -> Figures:
    given = {"flops": size * 40, "parameters": size // 4, "memory": 40_000_000, "energy": None}
    return Figures(
        metric=ACCURACY.metric,
        score=accuracy,
        teacher_score=0.98,
        size=size,
        latency=latency,
        **{**given, **more},
    )


def made_trial(number: int, accuracy: float = 0.9, size: int = 1000, latency: float = 0.1, **more):
    settings = {"student.width": 4 + number, "stages.quantize.method": "int8_static"}
    found = made_figures(accuracy, size, latency)
    return Trial(number=number, settings=settings, state="done", seconds=3.0, figures=found, **more)


@pytest.fixture(scope="session")
def figures() -> Callable[..., Figures]:
    """Return a function that builds the figures of a trial."""
    return made_figures


@pytest.fixture(scope="session")
def trial() -> Callable[..., Trial]:
    """Return a function that builds a finished trial."""
    return made_trial


@pytest.fixture
def result() -> SweepResult:
    """Twelve trials: seven on the front with a knee, three dominated, one failed, one running."""
    curve = [(0.71, 6e3), (0.86, 9e3), (0.94, 14e3), (0.955, 22e3), (0.963, 33e3), (0.967, 52e3)]
    trials = [made_trial(n, a, int(s), s / 2e5, front=True) for n, (a, s) in enumerate(curve)]
    trials += [
        made_trial(6 + n, a - 0.04, int(s * 1.3), s / 1e5) for n, (a, s) in enumerate(curve[2:])
    ]
    settings = trials[0].settings
    trials.append(
        Trial(number=10, settings=settings, state="failed", reason="<b>no</b>", seconds=1.0)
    )
    trials.append(Trial(number=11, settings=settings, state="running"))
    return SweepResult(
        name="digits",
        task="image_classification",
        space={"student.width": "4 to 16", "stages.quantize.method": "int8_static, int8_dynamic"},
        costs=("size", "latency"),
        sampler="tpe",
        trials=tuple(trials),
        views=(
            View(cost="size", front=tuple(range(6)), knee=2),
            View(cost="latency", front=tuple(range(6)), knee=2),
        ),
        chosen=None,
        environment=Environment(
            hardware=Hardware(
                processor="A processor",
                cores=2,
                flags=(),
                memory_bytes=2**33,
                accelerator=None,
                system="Linux",
            ),
            versions={"limbeck": "0.1.0"},
            git_commit=None,
            command="limbeck sweep digits",
            started="2026-03-01T14:05:09+00:00",
            seconds=30.0,
        ),
        notes=("Validation samples chose.",),
    )


@pytest.fixture
def with_choice(result: SweepResult) -> Callable[..., SweepResult]:
    """Return a function that applies a budget to the result."""

    def choose(text: str) -> SweepResult:
        from limbeck.core.measurement import ScoreValue
        from limbeck.evaluate.intervals import wilson
        from limbeck.sweep.budget import choose, limits_of

        found, checks = choose(result.done, limits_of(text))
        fits = all(check.met for check in checks)
        interval = wilson(93, 100)
        test = ScoreValue(metric=ACCURACY.metric, value=0.93, interval=interval, samples=100)
        chosen = Chosen(number=found.number, fits=fits, checks=checks, test=test if fits else None)
        return result.model_copy(update={"chosen": chosen})

    return choose


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Export by torch's older exporter and measure for a moment; no code changes meanwhile."""
    from limbeck.core import fingerprint
    from limbeck.evaluate import measure
    from limbeck.pipeline import artefact_results, artefacts

    spec = importlib.util.spec_from_file_location("forks", E2E / "forks.py")
    assert spec is not None
    assert spec.loader is not None
    forks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(forks)
    with pytest.MonkeyPatch.context() as patch:
        # Restored after the tests: `quicken` replaces them.
        patch.setattr(artefacts, "to_onnx", artefacts.to_onnx)
        patch.setattr(artefact_results, "measure", artefact_results.measure)
        patch.setattr(measure, "peak_memory", measure.peak_memory)
        patch.setattr(fingerprint, "of_code", lambda: "the code")
        forks.quicken()
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the small recipe to a file."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path
