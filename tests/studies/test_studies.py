"""Studies: specification, resumption, verdicts and pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from limbeck.cli import _app
from limbeck.errors import InputError, LimbeckError
from limbeck.studies import Expectation, Study, load, names, run
from limbeck.studies.judge import conclude, judge
from limbeck.studies.page import claims, figure, page
from limbeck.studies.run import stored
from limbeck.studies.study import shipped

OWN = """
from pathlib import Path

def measured(*, seed, level, log):
    with Path(log).open("a") as file:
        file.write(f"{level} {seed}\\n")
    return {"height": level + 0.01 * seed, "extra": 1.0}

def broken(*, seed):
    return {"height": float("nan")}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a study of the user's own, whose measure writes a line per call."""
    (tmp_path / "mine.py").write_text(OWN)
    content = {
        "title": "Heights",
        "claim": "High is higher than low.",
        "source": "nobody 2026",
        "method": "Addition.",
        "measure": f"python:{tmp_path / 'mine.py'}:measured",
        "settings": {"level": 0.0, "log": str(tmp_path / "log")},
        "arms": {"low": {"level": 1.0}, "high": {"level": 2.0}},
        "seeds": [0, 1, 2],
        "expect": [{"value": "height", "of": "high", "minus": "low", "above": 0.5}],
        "show": ["extra"],
        "smoke": {"level": 0.5},
    }
    path = tmp_path / "heights.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _changed(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
    return path


def _rows(**arms: list[float]) -> dict[str, list[dict[str, float]]]:
    return {arm: [{"x": value} for value in values] for arm, values in arms.items()}


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.0, 1.1, 0.9], "supported"),
        ([-1.0, -1.1, -0.9], "refuted"),
        ([1.0, -1.1, 0.9], "undecided"),
        ([1.0], "undecided"),
    ],
)
def test_the_interval_decides(values: list[float], verdict: str) -> None:
    """A claim holds if the whole interval over seeds is inside of the bound."""
    rule = Expectation(value="x", of="a", above=0)
    assert judge(rule, _rows(a=values)).verdict == verdict


def test_differences_and_ratios_are_paired_by_seed() -> None:
    """Seeds that differ much do not widen the interval of a paired difference or ratio."""
    rows = _rows(a=[1.0, 10.0, 100.0], b=[0.5, 9.5, 99.5], c=[2.0, 20.0, 200.0])
    difference = judge(Expectation(value="x", of="a", minus="b", above=0.4, below=0.6), rows)
    assert difference.verdict == "supported"
    assert difference.measured.mean == pytest.approx(0.5)
    assert judge(Expectation(value="x", of="a", over="c", below=0.51), rows).verdict == "supported"


def test_one_value_decides_only_if_it_depends_on_no_seed() -> None:
    """A deterministic measure needs no interval."""
    rule = Expectation(value="x", of="a", above=0)
    assert judge(rule, _rows(a=[1.0]), deterministic=True).verdict == "supported"


def test_a_claim_holds_if_every_expectation_does() -> None:
    """One refuted expectation refutes it, or makes it mixed; an undecided one undecided."""
    rows = _rows(a=[1.0, 1.1], b=[-1.0, -1.1], c=[1.0, -1.0])
    found = {arm: judge(Expectation(value="x", of=arm, above=0), rows) for arm in "abc"}
    assert conclude([found["a"], found["a"]]) == "supported"
    assert conclude([found["a"], found["b"]]) == "mixed"
    assert conclude([found["a"], found["c"]]) == "undecided"
    assert conclude([found["b"]]) == "refuted"
    assert conclude([found["b"], found["c"]]) == "refuted"
    assert conclude([found["a"], found["b"], found["c"]]) == "mixed"


def test_what_is_stored_is_not_measured_again(own: Path, tmp_path: Path) -> None:
    """A run resumes after its last record, and repeats an arm whose settings changed."""
    study, log = load(str(own)), tmp_path / "log"
    first = run(study, tmp_path / "out")
    assert first.verdict == "supported"
    assert [one.seed for one in first.records] == [0, 1, 2, 0, 1, 2]
    assert len(log.read_text().splitlines()) == 6
    path = tmp_path / "out" / "heights.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "records": content["records"][:4]}))
    assert stored(study, tmp_path / "out") is None
    assert run(study, tmp_path / "out").checks == first.checks
    assert len(log.read_text().splitlines()) == 8
    again = load(str(_changed(own, arms={"low": {"level": 1.0}, "high": {"level": 3.0}})))
    assert run(again, tmp_path / "out").checks[0].measured.mean == pytest.approx(2)
    assert len(log.read_text().splitlines()) == 11
    assert stored(again, tmp_path / "out") is not None


def test_an_interrupted_run_keeps_its_records(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record is stored when it is measured."""
    study, calls = load(str(own)), []

    def stopped(self: Study) -> object:
        def measure(*, seed: int, **settings: object) -> dict[str, float]:
            if len(calls) == 3:
                raise KeyboardInterrupt
            calls.append(seed)
            return {"height": 1.0, "extra": 1.0}

        return measure

    monkeypatch.setattr(Study, "function", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "heights.json").read_text())["records"]
    assert len(kept) == 3


def test_the_page_has_claim_figures_and_verdict(own: Path, tmp_path: Path) -> None:
    """The page has the claim, each expectation with its interval, each arm and the figure."""
    study = load(str(own))
    found = run(study, tmp_path / "out")
    text = page(study, found)
    assert "**Supported.**" in text
    assert "| height of high − low | above 0.5 | 1.000 |" in text
    assert "| low | 1.010" in text
    assert figure(study, found).startswith('<svg xmlns="http://www.w3.org/2000/svg"')


def test_the_smoke_form_supports_no_conclusion(own: Path, tmp_path: Path) -> None:
    """The smoke form has one seed and its own settings, and says so."""
    study = load(str(own))
    found = run(study, tmp_path / "out", smoke=True)
    assert (len(found.records), found.verdict) == (2, "undecided")
    assert "supports no conclusion" in page(study, found)


def test_a_number_that_is_not_finite_is_an_error(own: Path, tmp_path: Path) -> None:
    """A measure that returns NaN stops the study, by name."""
    broken = f"python:{tmp_path / 'mine.py'}:broken"
    study = load(
        str(
            _changed(
                own,
                measure=broken,
                settings={},
                arms={"low": {}},
                expect=[{"value": "height", "of": "low", "above": 0}],
            )
        )
    )
    with pytest.raises(LimbeckError, match="heights: low, seed 0: height is NaN"):
        run(study, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expect": [{"value": "height", "of": "hihg", "above": 0}]}, "no arm 'hihg'"),
        ({"expect": [{"value": "height", "of": "high"}]}, "`above` or `below` is required"),
        ({"measure": "definitions.nothing"}, "allowed: module.function"),
        ({"sedes": [1]}, "did you mean"),
        ({"seeds": [1, 1]}, "each only once"),
    ],
)
def test_a_wrong_study_is_refused(
    own: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """A study that names no arm, no bound or no measure is refused before it runs."""
    with pytest.raises(InputError, match=message):
        run(load(str(_changed(own, **changes))), tmp_path / "out")


def test_an_unknown_value_names_those_measured(own: Path, tmp_path: Path) -> None:
    """An expectation of a value that is not measured lists the values."""
    rule = [{"value": "width", "of": "high", "above": 0}]
    with pytest.raises(InputError, match="height, extra"):
        run(load(str(_changed(own, expect=rule))), tmp_path / "out")


def test_the_command_runs_and_resumes(own: Path, tmp_path: Path) -> None:
    """`limbeck study FILE` writes the page, prints the verdict, and gives JSON."""
    command = ["study", str(own), "--out", str(tmp_path / "out")]
    first = CliRunner().invoke(_app(), command)
    assert first.exit_code == 0, first.output
    assert "supported" in first.output
    assert (tmp_path / "out" / "heights.md").is_file()
    second = CliRunner().invoke(_app(), [*command, "--json"])
    assert json.loads(second.output)[0]["verdict"] == "supported"
    assert len((tmp_path / "log").read_text().splitlines()) == 6


def test_the_command_requires_a_name() -> None:
    """Without a name or --all nothing is measured; a misspelt name suggests the right one."""
    assert CliRunner().invoke(_app(), ["study"]).exit_code == 2
    wrong = CliRunner().invoke(_app(), ["study", "worked_soft_target"])
    assert wrong.exit_code == 2
    assert "worked_soft_targets" in wrong.output


def test_every_shipped_study_is_valid() -> None:
    """Every shipped study can be loaded, has a measure, and settings that its arms can change."""
    for name in names():
        study = load(name)
        assert study.name == name
        assert callable(study.function())
        for arm in study.arms:
            study.settings_of(arm, smoke=True)
    paths = [path.stem for path in next(iter(shipped().values())).parents[1].rglob("*.yaml")]
    assert len(paths) == len(set(paths))


def test_every_claim_names_studies_that_exist() -> None:
    """The list of published figures refers to shipped studies only."""
    known = set(names())
    assert {name for one in claims() for name in one.studies} <= known


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", sorted(names()))
def test_the_smoke_form_of_every_study_runs(name: str, tmp_path: Path) -> None:
    """The smoke form of every study measures every arm and value that the study names."""
    study = load(name)
    found = run(study, tmp_path, smoke=True)
    assert len(found.checks) == len(study.expect)
    values = set().union(*(one.values for one in found.records))
    assert set(study.show) <= values
