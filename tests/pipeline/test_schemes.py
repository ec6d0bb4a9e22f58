"""Schemes in a recipe: each by its name, with its own settings beside those of `distill`."""

from __future__ import annotations

import copy

import pytest

from limbeck.errors import InputError
from limbeck.pipeline.load_recipe import read, resolve, shipped_recipes
from limbeck.pipeline.stages.distill import Distill, with_scheme
from limbeck.pipeline.validate import validate
from limbeck.schemes import SCHEMES

MUTUAL = read(shipped_recipes()["vision/mutual"])
NET = {"source": "limbeck", "name": "digits_cnn", "width": 4}


def mutual(**settings):
    content = copy.deepcopy(MUTUAL)
    content["stages"][0]["distill"] = {"scheme": "mutual", "epochs": 1, **settings}
    return content


@pytest.mark.parametrize("name", SCHEMES.names())
def test_each_scheme_is_a_stage_with_its_settings(name):
    stage = with_scheme(name)
    assert issubclass(stage, Distill)
    assert issubclass(stage, SCHEMES.load(name))
    assert stage.__name__ == "Distill"  # the stage's name in the record
    assert stage(epochs=1).scheme == stage(scheme=name, epochs=1).scheme == name


def test_the_stage_of_mutual_learning_needs_no_teacher():
    recipe = validate(mutual(copies=3))
    [(_, stage), *_] = recipe.parsed_stages()
    assert stage.needed(recipe) == ()
    assert list(stage.further_models()) == ["copies.1", "copies.2"]
    assert stage.loss_names() == ["task", "soft_target_kl"]
    assert stage.model_dump()["objective"][1] == {"soft_target_kl": {"temperature": 1.0}}
    assert list(with_scheme("mutual")(epochs=1).further_models()) == ["copies.1"]
    [own] = with_scheme("mutual")(epochs=1, peers=[NET | {"source": "python"}]).own_code()
    assert own == "digits_cnn"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheme": "mutal"}, r"distill\.scheme: got 'mutal'.*did you mean \"mutual\""),
        ({"scheme": 3}, r"distill\.scheme: got '3'"),
        ({"copis": 2}, r"distill\.copis: got 2;.*did you mean \"copies\""),
        ({"epoch": 2}, r"distill\.epoch: got 2;.*did you mean \"epochs\""),
        ({"copies": 1}, r"distill\.copies: got 1; allowed: greater than or equal to 2"),
        ({"copies": 2, "peers": [NET]}, r"distill\.copies: got 2; .*`peers`, not both"),
        ({"copies": 3, "ship": "peer_3"}, r"distill\.ship: got 'peer_3'; .*best, peer_1, peer_2$"),
        ({"peers": [NET], "ship": "best"}, r"distill\.ship: got 'best'; allowed: student$"),
        ({"peers": []}, r"distill\.peers: got \[\]"),
        ({"peers": [NET | {"source": "limbek"}]}, r"distill\.peers\.0\.source: got 'limbek'"),
        ({"peers": [NET, NET | {"name": "digit"}]}, r"distill\.peers\.1\.name: got 'digit'.*\?"),
        ({"cache_teacher": True}, r"distill\.cache_teacher: got True; .*uses no teacher"),
        ({"scheme": "offline", "copies": 2}, r"distill\.copies: got 2; allowed: one of"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=rf"stages\.{message}"):
        validate(mutual(**settings))


@pytest.mark.slow
def test_a_student_of_peers_ships_alone_beside_its_control(tmp_path, quick_measuring):
    import json

    from limbeck.pipeline.runner import run

    peers = [NET, NET]
    recipe = resolve(
        "mutual",
        [
            "profile=smoke",
            f"stages.distill={json.dumps({'scheme': 'mutual', 'epochs': 1, 'peers': peers})}",
        ],
    )
    run(recipe, out=tmp_path)
    record = json.loads((tmp_path / "stages" / "01-distill" / "record.json").read_text())
    assert [one["role"] for one in record["artefacts"]] == ["student", "baseline"]
    [curve, control] = record["curves"]
    losses = {key for key in curve["rows"][0] if key.endswith("soft_target_kl/raw")}
    names = ("student", "peer_1", "peer_2")
    assert losses == {f"train/{name}/soft_target_kl/raw" for name in names}
    assert {key for key in control["rows"][0] if key.endswith("raw")} == {"train/task/raw"}
    assert (tmp_path / "student" / "model.onnx").is_file()
