"""Plug-ins: distributions with entry points on the search path, as pip installs them."""

import json
import sys

import pytest
from own_module import write_own_module
from typer.testing import CliRunner

from limbeck.cli import _app
from limbeck.core import plugins
from limbeck.core.registry import Registry, camel_case
from limbeck.errors import InputError
from limbeck.evaluate.evaluation import EVALUATIONS, RESULTS
from limbeck.losses import LOSSES
from limbeck.models.spec import SOURCES, ModelSpec
from limbeck.objective import Objective
from limbeck.objective.methods import METHODS
from limbeck.pipeline.stages import STAGES
from limbeck.schemes import SCHEMES
from limbeck.tasks import TASKS
from limbeck.tasks.image_classification import ImageClassification

CODE = """
from limbeck.models.source import Source
from limbeck.objective import Term
from limbeck.tasks.image_classification import ImageClassification


def huber_kd(student, teacher, *, delta: float = 1.0):
    from torch.nn.functional import huber_loss

    return huber_loss(student, teacher.detach(), reduction="none", delta=delta).mean(1)


class Satellite(ImageClassification):
    name = "satellite"


def huber_method(*, delta: float = 1.0):
    return [Term("huber_kd", delta=delta)]


source = Source(build=None, architecture=None, names=lambda: ["tiny"])
"""
EVALUATION = """
class InputDrift: pass


def evaluate(context): ...
"""
POINTS = """
[limbeck.losses]
huber_kd = {top}.parts:huber_kd

[limbeck.methods]
huber_method = {top}.parts

[limbeck.tasks]
satellite = {top}.parts:Satellite
by_module = {top}.by_module

[limbeck.model_sources]
zoo_of_vision = {top}.parts

[limbeck.evaluations]
input_drift = {top}.input_drift

[limbeck.schemes]
broken = {top}.broken:Settings
absent = {top}.parts:Absent
empty = {top}.parts
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that writes a distribution into a folder of the search path."""
    tops = []

    def write(name, points, *, version="1.2", files=()):
        top = name.replace("-", "_")
        tops.append(top)
        site = tmp_path / "site-packages"
        info = site / f"{top}-{version}.dist-info"
        info.mkdir(parents=True)
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: Losses.\n"
        (info / "METADATA").write_text(about)
        (info / "entry_points.txt").write_text(points.format(top=top))
        (site / top).mkdir()
        for file, text in {"__init__.py": "", **dict(files)}.items():
            (site / top / file).write_text(text)
        plugins._installed.cache_clear()
        monkeypatch.syspath_prepend(site)
        return site / top

    yield write
    plugins._installed.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]


@pytest.fixture
def package(install):
    files = {
        "parts.py": CODE,
        "by_module.py": CODE.replace("Satellite", "ByModule"),
        "broken.py": "raise OSError('no licence')",
        "input_drift.py": EVALUATION,
    }
    return install("their-kd", POINTS, files=files)


def test_names_are_added_without_importing_the_package(package):
    assert "satellite" in TASKS.names()
    assert TASKS.names() == sorted(TASKS.names())
    assert TASKS.origins()["satellite"] == "their-kd 1.2"
    assert TASKS.origins()["image_classification"] == "built-in"
    assert "huber_kd" in LOSSES.names()
    assert not [name for name in sys.modules if name.startswith("their_kd")]


def test_an_object_and_a_module_are_loaded(package):
    assert issubclass(TASKS.load("satellite"), ImageClassification)
    assert TASKS.load("by_module").__name__ == "ByModule"
    assert SOURCES.load("zoo_of_vision").names() == ["tiny"]
    assert ModelSpec(source="zoo_of_vision", name="tiny").source == "zoo_of_vision"
    assert EVALUATIONS.load("input_drift").__name__ == "evaluate"
    assert RESULTS.load("input_drift").__name__ == "InputDrift"


def test_a_loss_and_a_method_are_terms_of_an_objective(package):
    [term] = Objective.from_recipe([{"huber_kd": {"delta": 2.0}}])._ready
    assert (term.name, term.builtin, term.constant) == ("huber_kd", "", {"delta": 2.0})
    assert Objective.from_recipe({"huber_method": {"delta": 3}}).terms[0].arguments == {
        "delta": 3.0
    }
    with pytest.raises(InputError, match=r"delat.*did you mean \"delta\""):
        Objective.from_recipe([{"huber_kd": {"delat": 2.0}}])
    with pytest.raises(InputError, match='did you mean "huber_kd"'):
        Objective.from_recipe([{"huber_kdd": {}}])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"broken of their-kd 1.2 \(their_kd.broken:Settings\).*OSError: no licence"),
        ("absent", r"absent of their-kd 1.2.*an object of their_kd.parts"),
        ("empty", r"empty of their-kd 1.2.*a module that has a scheme"),
    ],
)
def test_a_plugin_that_fails_is_an_error_only_when_it_is_used(package, name, message):
    assert name in SCHEMES.names()
    assert SCHEMES.load("offline")
    with pytest.raises(InputError, match=f"(?s){message}"):
        SCHEMES.load(name)


def test_a_name_of_limbeck_is_not_replaced(install):
    install("greedy", "[limbeck.stages]\nprune = {top}:Prune\n")
    with pytest.raises(InputError, match=r"prune of greedy 1.2, which limbeck itself has too"):
        STAGES.names()
    with pytest.raises(InputError, match="Uninstall greedy"):
        STAGES.load("prune")


def test_a_name_of_two_packages_is_refused_with_both(install):
    install("one-kd", "[limbeck.losses]\nadded = {top}:added\n")
    install("two-kd", "[limbeck.losses]\nadded = {top}:added\n", version="3.0")
    with pytest.raises(InputError, match=r"added of two-kd 3.0, which one-kd 1.2 has too"):
        LOSSES.load("dkd")


def test_the_first_distribution_of_a_package_on_the_path_counts(install, tmp_path, monkeypatch):
    install("twice", "[limbeck.losses]\nadded = {top}:added\n")
    other = tmp_path / "other" / "twice-0.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: Twice\nVersion: 0.9\n")
    (other / "entry_points.txt").write_text("[limbeck.losses]\nadded = twice:added\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(other.parent)])
    assert LOSSES.origins()["added"] == "twice 1.2"


def test_the_source_of_a_plugin_is_hashed(package):
    value = TASKS.code_of("satellite")
    assert value == "their_kd.parts:Satellite"
    first = plugins.fingerprint_of(value)
    assert ("their-kd", "1.2") in first
    assert plugins.fingerprint_of(value) == first
    (package / "new.py").write_text("A = 1\n")
    second = plugins.fingerprint_of(value)
    (package / "new.py").write_text("A = 2\n")
    assert len({str(first), str(second), str(plugins.fingerprint_of(value))}) == 3
    assert plugins.fingerprint_of("torch:relu") == []


def test_the_list_shows_the_origin(package):
    shown = CliRunner().invoke(_app(), ["list", "losses"]).stdout
    [line] = [line for line in shown.splitlines() if line.startswith("huber_kd")]
    assert line.split() == ["huber_kd", "their-kd", "1.2", "Losses."]
    found = json.loads(CliRunner().invoke(_app(), ["list", "tasks", "--json"]).stdout)
    assert found["satellite"] == {"description": "Losses.", "origin": "their-kd 1.2"}
    assert found["image_classification"]["origin"] == "built-in"
    models = CliRunner().invoke(_app(), ["list", "models"]).stdout
    assert "limbeck list models --source zoo_of_vision" in models


def test_a_registry_without_a_group_is_named_after_its_folder():
    assert Registry("limbeck.tasks", kind="task", attribute=camel_case).group == "limbeck.tasks"
    groups = {one.group for one in (TASKS, SCHEMES, LOSSES, METHODS, STAGES, SOURCES, EVALUATIONS)}
    assert groups == {
        *("limbeck.tasks", "limbeck.schemes", "limbeck.losses", "limbeck.methods"),
        *("limbeck.stages", "limbeck.model_sources", "limbeck.evaluations"),
    }


# --- the user's own objects, by `python:` ---


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_own_module(tmp_path)
    return tmp_path


def test_own_objects_are_loaded_by_the_same_rule_everywhere(mine):
    assert TASKS.load("python:mine.py:Mine").__name__ == "Mine"
    assert SCHEMES.load("python:mine.py:MineSettings")().strength == 1.0
    assert LOSSES.load("python:mine.py:absolute").__name__ == "absolute"
    for names in (TASKS, SCHEMES, LOSSES):
        with pytest.raises(InputError, match=r"no such file"):
            names.load("python:other.py:x", where="here")
        with pytest.raises(InputError, match=r"package.module:function"):
            names.check("python:mine", where="here")
        with pytest.raises(InputError, match=r"or python:file.py:object"):
            names.check("pyton:mine.py:x", where="here")
    with pytest.raises(InputError, match=r"got 'python:mine.py:x'"):
        STAGES.load("python:mine.py:x")
