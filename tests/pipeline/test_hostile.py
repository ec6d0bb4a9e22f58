"""Malicious recipes and overrides are refused in bounded time and memory."""

import os
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest

from limbeck.errors import InputError
from limbeck.pipeline import candidate, evaluation
from limbeck.pipeline.artefact_results import artefact_results
from limbeck.pipeline.load_recipe import MOST_BYTES, parse, read, resolve
from limbeck.pipeline.schema import recipe_schema
from limbeck.pipeline.validate import validate

LETTERS = "abcdefghijkl"
SECONDS = 20  # of processor time; each takes below three


def bomb(first: str, following: str) -> str:
    """Build mappings or lists that each contain the previous one ten times."""
    lines = [f"a: &a {first}"]
    lines += [f"{b}: &{b} " + following.format(f"[{f', *{a}' * 10}]".replace("[, ", "["))
              for a, b in pairwise(LETTERS)]  # fmt: skip
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {b: c\nd: 1", ", line 2, column 2: got 'd: 1'; allowed: YAML. expected ',' or '}'"),
        ("a: 1\n\tb: 2", ", line 2, column 1: got 'b: 2'; allowed: YAML. found character '\\t'"),
        (
            'a: "b',
            ", line 1, column 6: got 'a: \"b'; allowed: YAML. found unexpected end of stream",
        ),
        ("a: [1\n", ", line 2, column 1: got 'the end of the text'; allowed: YAML. expected"),
        ("a: 1\na: 2", ", line 2, column 1: got 'a: 2'; allowed: YAML. the key 'a' is given twice"),
        ("a: 1\nb: \x01", ", line 2, column 4: got 'b: \\x01'; allowed: YAML. special characters"),
        ("a: *b", ", line 1, column 4: got 'a: *b'; allowed: YAML. found undefined alias 'b'"),
    ],
)
def test_a_syntax_error_has_line_and_column(text, message):
    with pytest.raises(InputError) as error:
        parse(text, where="mine.yaml")
    assert str(error.value).startswith(f"mine.yaml{message}")
    assert "\n" not in str(error.value)


def test_a_run_folder_in_place_of_a_recipe_is_recognised(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: mine")
    with pytest.raises(InputError, match=r"Its recipe is .*recipe\.yaml\.$"):
        resolve(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        bomb("{k: 1, l: 2, m: 3}", "{{<<: {}}}"),
        bomb("[1, 2, 3]", "{}"),
        f"a: &a '{'x' * 900_000}'\nb: [{'*a, ' * 20_000}]",
        "a: &a {" + ", ".join(f"k{n}: 1" for n in range(3000)) + "}\n"
        "b: {<<: [" + "*a, " * 3000 + "]}",
        "seeds: [" + "1, " * 200_000 + "1]",
        "- " * 300_000,
        "{a: " * 60_000,
        "a: 1" + ":1" * 300_000,
        "!!int " + "7" * 300_000,
        "x" * (MOST_BYTES + 1),
        "{1: a, '1': b}",
        "{null: a, 'None': b}",
        "a\x00b",
    ],
    ids=lambda text: text[:12].replace("\x00", "0"),
)
def test_yaml_that_expands_or_loses_a_key_is_refused(text):
    clock = time.process_time()
    with pytest.raises(InputError) as caught:
        parse(text, where="recipe")
    assert time.process_time() - clock < SECONDS
    assert len(str(caught.value)) < 2000


def test_a_long_benign_list_is_read():
    names = [f"class {number}" for number in range(21_843)]
    assert parse("\n".join(f"- {name}" for name in names), where="recipe") == names


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "latin-1", "utf-16", "large"])
def test_files_that_are_not_small_texts_are_refused_without_blocking(kind, tmp_path):
    path = tmp_path / "recipe.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        path.write_bytes(b"#" * (MOST_BYTES + 1))
    else:
        path.write_bytes("name: é".encode(kind))
    with pytest.raises(InputError, match=r"recipe\.yaml"):
        read(path)
    with pytest.raises(InputError):
        resolve(str(path))


@pytest.mark.parametrize(
    "path",
    [
        *("stages.²", "stages.٣", "stages.-1", "stages.1e9", "stages." + "9" * 4999, "seeds.⑦"),
        *("a." * 51 + "b", "a" * 1001, "stages.00000000000000000000001"),
    ],
)
def test_paths_of_odd_digits_depth_or_length_are_refused(path):
    with pytest.raises(InputError, match="--set"):
        resolve("digits", [f"{path}=1"])


def unbounded(node: object, where: str) -> list[str]:
    """List the numbers of a JSON schema that have no largest value."""
    if isinstance(node, list):
        return [
            one for number, part in enumerate(node) for one in unbounded(part, f"{where}/{number}")
        ]
    if not isinstance(node, dict):
        return []
    bounded = {"maximum", "exclusiveMaximum", "const", "enum"} & node.keys()
    here = [where] if node.get("type") in ("integer", "number") and not bounded else []
    return here + [one for key, part in node.items() for one in unbounded(part, f"{where}/{key}")]


def test_every_number_of_the_schema_has_a_largest_value():
    schema = recipe_schema()
    # Arguments of losses are bounded when an objective is made, all alike.
    for name in ("term", "named_method", "weight", "number_or_schedule"):
        del schema["$defs"][name]
    assert not unbounded(schema, "")


def resolve_and_build(setting: str) -> None:
    from limbeck.models.build import build

    recipe = resolve("digits", [setting])
    for spec in (*recipe.teachers, recipe.student):
        build(spec, classes=10, channels=1)


@pytest.mark.parametrize(
    "setting",
    [
        *(
            "teacher.width=200000000",
            "student.width=.inf",
            "stages.0.train_teacher.batch_size=1e18",
        ),
        *("stages.1.distill.objective.1.soft_target_kl.temperature=1e308", "seeds=[1e30]"),
        "stages.1.distill.objective.1={mlkd: {temperatures: [1e18]}}",
        *("stages.evaluate.evaluations.fidelity.n_resamples=1000000000", "description=[1e30]"),
        *("data.augment={shift: 100000}", "data.image={size: 100000000}", "budget.flops=1e40"),
        *("stages.2.quantize.calibration=1000000000000", "threads=1e9", "data.split_seed=1e30"),
    ],
)
def test_excessive_numbers_are_refused_with_their_path(setting):
    with pytest.raises(InputError) as caught:
        resolve_and_build(setting)
    place = setting.partition("=")[0].split(".")[-1]
    assert any(place in str(problem) for problem in caught.value.problems)


@pytest.mark.parametrize("where", ["recipe", "data", "term", "evaluate", "stages", "table"])
def test_many_wrong_keys_are_counted_not_listed(where):
    many = {f"key{number}": 1 for number in range(30_000)}
    content = {
        "name": "many",
        "task": "image_classification",
        "data": {"source": "sklearn", "name": "digits"},
        "student": {"source": "limbeck", "name": "digits_cnn"},
        "stages": [{"distill": {"epochs": 1, "objective": ["task"]}}],
    }
    if where == "recipe":
        content |= many
    elif where == "data":
        content["data"] |= many
    elif where == "term":
        content["stages"][0]["distill"]["objective"] = [{"soft_target_kl": many}]
    elif where == "evaluate":
        content["stages"].append({"evaluate": {"evaluations": {"fidelity": many}}})
    elif where == "stages":
        content["stages"] += [{name: {}} for name in many]
    else:
        content["data"]["table"] = {"numeric": [*many, "key7"]}
    clock = time.process_time()
    with pytest.raises(InputError) as caught:
        validate(content)
    assert time.process_time() - clock < SECONDS
    assert len(caught.value.problems) <= 101


@pytest.mark.parametrize("kind", ["pipe", "device", "deep", "null", "latin-1"])
def test_foreign_files_in_a_run_folder_are_ignored(kind, tmp_path):
    path = tmp_path / "record.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes({"deep": b"[" * 100_000, "null": b"null"}.get(kind, b'"\xe9"'))
    assert candidate.load(tmp_path, key="") is None
    assert evaluation._kept(path) is None
    path.rename(tmp_path / "examination.json")
    with pytest.raises(ExaminedError):
        artefact_results(
            candidate=None, context=SimpleNamespace(run=tmp_path, seed=0, progress=Begun())
        )


class ExaminedError(Exception):
    """The computation begins, since no result was saved."""


class Begun:
    def begin(self, line):
        raise ExaminedError(line)
