"""Whatever kills a run, `--resume` ends it with the same bits."""

import hashlib
import random
import shutil
import signal
from pathlib import Path

import pytest

# benchmarks/kill.py does it twenty times, through the real command line.
KILLS = 8


def contents(run: Path) -> dict[str, str]:
    """Hash all that must be the same: weights and exported files of every stage, the student."""
    kinds = ("*.safetensors", "*.onnx")
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in kinds
        for path in run.rglob(kind)
    }


@pytest.fixture(scope="module")
def undisturbed(forks, tiny, tmp_path_factory):
    """The hashes of a run that nothing disturbed, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = forks("run", tiny, "--out", "run", cwd=folder, quick=True)
    assert ended.code == 0, ended.err
    return contents(folder / "run"), ended.seconds


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_resumes_to_the_same_bits(number, forks, tiny, undisturbed, tmp_path):
    expected, seconds = undisturbed
    moment = random.Random(number).uniform(0.02, 0.98) * seconds
    killed = forks("run", tiny, "--out", "run", cwd=tmp_path, quick=True, kill=moment)
    resumed = forks("run", tiny, "--out", "run", "--resume", cwd=tmp_path, quick=True)
    assert killed.code in (-signal.SIGKILL, 0)
    assert resumed.code == 0, resumed.err
    assert contents(tmp_path / "run") == expected
    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.rglob("checkpoint"))


def interrupted_in_training(forks, tiny, folder, seconds, number=signal.SIGKILL):
    """Stop a run while there is a checkpoint, and give the newest."""
    # Training is somewhere in the run; where exactly depends on the machine.
    for share in (0.3, 0.4, 0.5, 0.6, 0.25, 0.7, 0.2, 0.35, 0.45, 0.55, 0.15, 0.65, 0.8, 0.1):
        shutil.rmtree(folder / "run", ignore_errors=True)
        ended = forks(
            "run", tiny, "--out", "run", cwd=folder, quick=True, kill=share * seconds, signal=number
        )
        found = sorted((folder / "run").rglob("checkpoint/*.safetensors"))
        if len(found) > 1:
            return ended, found
    raise AssertionError("no moment with two checkpoints was met")


def test_a_truncated_checkpoint_is_named_and_the_one_before_it_resumes(
    forks, tiny, undisturbed, tmp_path
):
    expected, seconds = undisturbed
    _, checkpoints = interrupted_in_training(forks, tiny, tmp_path, seconds)
    whole = checkpoints[-1].read_bytes()
    checkpoints[-1].write_bytes(whole[: len(whole) // 2])
    resumed = forks("run", tiny, "--out", "run", "--resume", cwd=tmp_path, quick=True)
    assert resumed.code == 0, resumed.err
    assert checkpoints[-1].name in resumed.err
    assert "Traceback" not in resumed.err
    assert contents(tmp_path / "run") == expected


def test_an_interrupt_saves_reports_and_resumes(forks, tiny, undisturbed, tmp_path):
    expected, seconds = undisturbed
    ended, _ = interrupted_in_training(forks, tiny, tmp_path, seconds, signal.SIGINT)
    assert ended.code == 130
    assert "--resume" in ended.err
    assert "Traceback" not in ended.err
    resumed = forks("run", tiny, "--out", "run", "--resume", cwd=tmp_path, quick=True)
    assert resumed.code == 0, resumed.err
    assert contents(tmp_path / "run") == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_run_ends_as_an_interrupted_one(number, forks, tiny, tmp_path):
    # After the trainings, in a part that has no checkpoints of its own.
    trained = "run/stages/02-distill/record.json"
    ended = forks(
        "run", tiny, "--out", "run", cwd=tmp_path, quick=True, kill=trained, signal=number
    )
    assert ended.code == 130
    assert "--resume" in ended.err
    assert "Traceback" not in ended.err
    assert (tmp_path / trained).is_file()


def test_without_resume_a_killed_run_starts_anew_to_the_same_bits(
    forks, tiny, undisturbed, tmp_path
):
    expected, seconds = undisturbed
    interrupted_in_training(forks, tiny, tmp_path, seconds)
    again = forks("run", tiny, "--out", "run", cwd=tmp_path, quick=True)
    assert again.code == 0, again.err
    assert contents(tmp_path / "run") == expected
