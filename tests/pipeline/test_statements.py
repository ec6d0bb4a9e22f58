"""The statements of a model's files are checked against the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from limbeck.data.load import Data, load
from limbeck.data.modalities.text._statement import tokenizers_differ
from limbeck.data.spec import DataSpec
from limbeck.models.build import build
from limbeck.models.spec import ModelSpec
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.statements import (
    check_models,
    class_order,
    with_statements,
)
from limbeck.pipeline.validate import validate

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DISTILL = [{"distill": {"epochs": 1}}]
TEXTS = ["Good film", "bad plot", "Café au lait", "good BAD film", "the plot", "a film"] * 4
BERT = {
    "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8,
    "max_position_embeddings": 32,
}  # fmt: skip


def recipe_of(data: dict[str, Any], teacher: Any, **more: Any) -> Recipe:
    task = "image_classification"
    if "text" in data or "table" in data:
        task = "text_classification" if "text" in data else "tabular_classification"
    content = {"name": "t", "task": task, "data": data, "teacher": teacher, "stages": DISTILL}
    student = {"source": "limbeck", "name": "digits_cnn"}
    return validate({**content, "student": student, **more})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict, Data]]:
    """Load the digits with class names, and perhaps other settings."""

    def make(**more: Any) -> tuple[dict, Data]:
        limit = {"train": 60, "validation": 20, "test": 20}
        spec = {
            "source": "sklearn",
            "name": "digits",
            "max_samples": limit,
            "classes": NAMES,
            **more,
        }
        return spec, load(DataSpec(**spec), workdir=tmp_path_factory.mktemp("data"))

    return make


@pytest.fixture
def student_folder(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write a folder such as `export` writes, and return a teacher that is loaded from it."""

    def make(classes: tuple[str, ...] = NAMES, **preprocess: Any) -> dict[str, Any]:
        spec = ModelSpec(source="limbeck", name="digits_cnn", width=2)
        model = build(spec, classes=len(classes), channels=1)
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        content = {"version": 1, "kind": "image", "mean": [0.25], "std": [0.5], "size": [8, 8]}
        content |= {"classes": classes, "resample": "bilinear", **preprocess}
        (tmp_path / "preprocess.json").write_text(json.dumps(content))
        return {"source": "limbeck", "name": "digits_cnn", "width": 2, "checkpoint": str(tmp_path)}

    return make


def test_classes_and_pixels_of_a_student_folder_are_fitted_to_the_data(
    digits, student_folder
) -> None:
    shuffled = tuple(reversed(NAMES))
    spec, data = digits()
    recipe = recipe_of(spec, student_folder(classes=shuffled))
    checks = check_models(recipe, data)
    assert not checks.problems
    assert checks.specs[0].class_names == shuffled
    assert checks.specs[0].normalization.mean == (0.25,)
    assert ["by name" in note or "renormalises" in note for note in checks.notes] == [True, True]
    # The recipe is then explicit, and what is found in it is the same.
    explicit = with_statements(recipe, data)
    assert explicit.teachers == checks.specs
    assert check_models(explicit, data).notes == checks.notes
    prepare = data.preprocess
    from limbeck.pipeline.context import normalization_of_data

    torch.manual_seed(0)
    fitted = build(
        explicit.teachers[0], classes=10, channels=1, class_names=NAMES,
        normalization=normalization_of_data(prepare),
    ).eval()  # fmt: skip
    alone = build(recipe.teachers[0], classes=10, channels=1).eval()
    image = data.train.__getitems__([0, 1, 2])["image"]
    pixels = image * prepare.std[0] + prepare.mean[0]
    torch.testing.assert_close(fitted(image), alone((pixels - 0.25) / 0.5).flip(1))


def test_a_model_with_more_classes_than_the_data(digits, student_folder) -> None:
    spec, data = digits()
    checks = check_models(recipe_of(spec, student_folder(classes=("spare", *NAMES))), data)
    assert not checks.problems
    assert "1 classes that the data lacks" in checks.notes[0]


@pytest.mark.parametrize(
    ("own", "data", "order"),
    [
        (("b", "a"), ("a", "b"), ("b", "a")),
        (("Not Spam", "SPAM"), ("spam", "not_spam"), ("not_spam", "spam")),
        (("tench, Tinca tinca", "crane"), ("tinca tinca",), ("tinca tinca", "crane")),
        (("entailment", "neutral", "contradiction"), ("neutral", "entailment"), None),
        (("NEG", "POS"), ("negative", "positive"), None),
        (("a b", "a-b"), ("a_b", "c"), None),
        (("Cat", "cat"), ("cat", "Cat"), ("Cat", "cat")),
        (("x", "y"), ("x", "X"), None),
    ],
)
def test_names_match_only_if_unambiguous(own, data, order) -> None:
    expected = order or (None if len(own) == 2 else own)
    if own[0] == "entailment":
        expected = own
    assert class_order(own, data) == expected


def test_classes_that_contradict_are_refused_with_both_lists(digits, student_folder) -> None:
    spec, data = digits()
    wrong = (*NAMES[:8], "ate", "nein")
    (problem,) = check_models(recipe_of(spec, student_folder(classes=wrong)), data).problems
    assert problem.where == "teacher.class_names"
    assert "ate, nein" in str(problem)
    assert "eight, nine" in problem.allowed
    stated = {**student_folder(classes=wrong), "class_names": list(NAMES)}
    assert not check_models(recipe_of(spec, stated), data).problems


def test_generic_names_are_noted(digits, student_folder) -> None:
    spec, data = digits()
    generic = tuple(f"LABEL_{number}" for number in range(10))
    checks = check_models(recipe_of(spec, student_folder(classes=generic)), data)
    assert not checks.problems
    assert "cannot be compared" in checks.notes[0]


def bare(tmp_path: Path, **more: Any) -> dict[str, Any]:
    spec = ModelSpec(source="limbeck", name="digits_cnn", width=2)
    save_file(build(spec, classes=10, channels=1).state_dict(), tmp_path / "net.safetensors")
    teacher = {"source": "limbeck", "name": "digits_cnn", "width": 2}
    return {**teacher, "checkpoint": str(tmp_path / "net.safetensors"), **more}


def test_the_normalisation_of_bare_weights_must_be_stated(digits, tmp_path) -> None:
    spec, data = digits()
    (problem,) = check_models(recipe_of(spec, bare(tmp_path)), data).problems
    assert problem.where == "teacher.normalization"
    assert "normalization: data" in problem.fix
    for stated in ("data", {"mean": [0.1], "std": [0.3]}):
        assert not check_models(
            recipe_of(spec, bare(tmp_path, normalization=stated)), data
        ).problems
    # What the recipe states of the data holds for all models; so does a `train_teacher` stage.
    image, loaded = digits(image={"mean": [0.5], "std": [0.5]})
    assert not check_models(recipe_of(image, bare(tmp_path)), loaded).problems
    again = recipe_of(spec, bare(tmp_path), stages=[{"train_teacher": {"epochs": 1}}])
    assert not check_models(again, data).problems


def test_weights_of_a_run_have_the_preprocessing_of_the_run(digits, tmp_path) -> None:
    spec, data = digits()
    stage = tmp_path / "run" / "stages" / "01-train_teacher"
    stage.mkdir(parents=True)
    teacher = bare(stage)
    data.preprocess.save((tmp_path / "run" / "student").resolve())
    checks = check_models(recipe_of(spec, teacher), data)
    assert not checks.problems
    assert checks.specs[0].normalization is None  # the data's own: nothing to change


def test_a_normalisation_that_contradicts_the_files_is_refused(digits, student_folder) -> None:
    spec, data = digits()
    stated = {**student_folder(), "normalization": {"mean": [0.5], "std": [0.5]}}
    (problem,) = check_models(recipe_of(spec, stated), data).problems
    assert "mean [0.5]" in str(problem)
    assert "mean [0.25]" in problem.allowed


def test_another_size_must_be_stated(digits, student_folder) -> None:
    spec, data = digits()
    (problem,) = check_models(recipe_of(spec, student_folder(size=[16, 16])), data).problems
    assert "data.image.size: 16" in problem.fix
    stated, same = digits(image={"size": 8})
    checks = check_models(recipe_of(stated, student_folder(size=[16, 16])), same)
    assert not checks.problems
    assert any("16 x 16" in note for note in checks.notes)


def test_libraries_state_the_preprocessing_of_their_own_weights(tmp_path) -> None:
    pytest.importorskip("torchvision")
    timm = pytest.importorskip("timm")
    from limbeck.models.build import states

    file = tmp_path / "mobilenet_v3_small-047dcff4.pth"
    file.touch()
    found = states(ModelSpec(source="torchvision", name="mobilenet_v3_small", checkpoint=str(file)))
    assert found.normalization.mean == (0.485, 0.456, 0.406)
    assert (found.size, found.interpolation) == ((224, 224), "bilinear")
    assert (len(found.class_names), found.class_names[0]) == (1000, "tench")
    # A timm folder: config.json beside the weights, as on the hub.
    config = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 96, 96]}
    content = {"pretrained_cfg": {**config, "label_names": ["b", "a"]}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    model = timm.create_model("test_resnet", num_classes=2)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    found = states(ModelSpec(source="timm", name="test_resnet", checkpoint=str(tmp_path)))
    assert (found.class_names, found.size) == (("b", "a"), (96, 96))
    assert found.normalization.std == (0.25,) * 3
    (tmp_path / "config.json").unlink()
    own = states(ModelSpec(source="timm", name="test_resnet", checkpoint=str(tmp_path)))
    assert own.normalization is None  # two classes: not timm's own weights


def test_image_processors_in_units_of_pixels_in_0_to_1(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    from limbeck.models.sources.transformers import _pixels

    random = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    for settings in (
        {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3]},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    ):
        processor = transformers.ViTImageProcessor(size={"height": 8, "width": 8}, **settings)
        processor.save_pretrained(tmp_path)
        found = _pixels(tmp_path / "preprocessor_config.json").normalization
        pixels = torch.from_numpy(random / 255.0)
        mean, std = (torch.tensor(part)[:, None, None] for part in (found.mean, found.std))
        expected = processor(random.transpose(1, 2, 0), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close((pixels - mean) / std, expected.double(), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict, Data]]:
    """Load reviews from a file, with settings for their texts."""
    folder = tmp_path_factory.mktemp("reviews")
    rows = "\n".join(f'"{text}",{n % 2}' for n, text in enumerate(TEXTS))
    (folder / "reviews.csv").write_text(f"text,label\n{rows}\n")

    def make(**text: Any) -> tuple[dict, Data]:
        spec = {
            "source": "csv", "files": {"train": str(folder / "reviews.csv")}, "max_overlap": 1,
            "text": {"max_length": 16, **text}, "classes": ("bad", "good"), "validation": 0.3,
        }  # fmt: skip
        return spec, load(DataSpec(**spec), workdir=folder / "work")

    return make


@pytest.fixture
def bert(tmp_path: Path) -> Callable[..., Path]:
    """Save a tiny BERT with a tokenizer of its own beside it."""
    transformers = pytest.importorskip("transformers")
    from limbeck.data.modalities.text import _tokenizers as tokenizers

    def make(*, lowercase: bool = True, head: bool = True, **config: Any) -> Path:
        folder = tmp_path / "bert"
        tokenizer = tokenizers.train(TEXTS, 60)
        if not lowercase:
            from tokenizers.normalizers import NFC

            tokenizer.normalizer = NFC()
        settings = {**BERT, "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 0, **config}
        kind = transformers.BertForSequenceClassification if head else transformers.BertModel
        kind(transformers.BertConfig(**settings)).save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    return make


def text_teacher(folder: Path) -> dict[str, Any]:
    return {"source": "transformers", "path": str(folder)}


def test_the_tokenizer_beside_the_weights_is_accepted(reviews, bert) -> None:
    folder = bert()
    spec, data = reviews(tokenizer=str(folder))
    assert not check_models(recipe_of(spec, text_teacher(folder)), data).problems


@pytest.mark.parametrize(
    ("own", "text", "match"),
    [
        ({}, {"tokenizer": {"train": {"vocab_size": 40}}}, "have other numbers"),
        ({"lowercase": False}, {}, "by the model's"),
        ({"max_position_embeddings": 8}, {}, "at most 8"),
        ({"pad_token_id": 3}, {}, "token 3, the pad_token_id"),
    ],
)
def test_another_tokenizer_is_refused(reviews, bert, tmp_path, own, text, match) -> None:
    plain = bert()
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_bytes((plain / "tokenizer.json").read_bytes())
    spec, data = reviews(**{"tokenizer": str(other), **text})
    folder = bert(**own)
    (problem,) = check_models(recipe_of(spec, text_teacher(folder)), data).problems
    assert match in str(problem)
    # The same holds for a student that begins from such a folder.
    student = check_models(recipe_of(spec, None, student=text_teacher(folder), stages=STAGES), data)
    assert [match in str(one) for one in student.problems] == [True]


@pytest.mark.parametrize(("rows", "noted"), [(64, False), (2000, True)])
def test_many_more_embeddings_than_tokens_are_noted(reviews, bert, rows, noted) -> None:
    folder = bert(vocab_size=rows)
    spec, data = reviews(tokenizer=str(folder))
    checks = check_models(recipe_of(spec, text_teacher(folder)), data)
    assert not checks.problems
    assert any("token embeddings, and the tokenizer" in note for note in checks.notes) == noted


STAGES = [{"distill": {"epochs": 1, "objective": ["task"]}}]


def test_tokenizers_with_equal_behaviour_are_equal() -> None:
    from tokenizers.normalizers import Lowercase, Sequence

    from limbeck.data.modalities.text import _tokenizers as tokenizers

    one, other = tokenizers.train(TEXTS, 60), tokenizers.train(TEXTS, 60)
    other.normalizer = Sequence([one.normalizer, Lowercase()])
    other.enable_truncation(5)
    assert not tokenizers_differ(one.to_str(), other.to_str(), TEXTS)


def test_a_vocabulary_file_without_tokenizer_json_is_read(reviews, bert) -> None:
    folder = bert()
    spec, data = reviews(tokenizer=str(folder))
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))
    assert not check_models(recipe_of(spec, text_teacher(folder)), data).problems
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary)))
    (problem,) = check_models(recipe_of(spec, text_teacher(folder)), data).problems
    assert "other numbers" in str(problem)


def test_labels_of_a_transformers_folder(reviews, bert) -> None:
    folder = bert(id2label={0: "Good", 1: "Bad"}, label2id={"Good": 0, "Bad": 1})
    spec, data = reviews(tokenizer=str(folder))
    checks = check_models(recipe_of(spec, text_teacher(folder)), data)
    assert checks.specs[0].class_names == ("good", "bad")
    folder = bert()  # LABEL_0, LABEL_1
    assert check_models(recipe_of(spec, text_teacher(folder)), data).specs[0].class_names is None


def test_a_class_that_a_transformers_folder_names_twice_is_refused(reviews, bert) -> None:
    folder = bert()
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "good", "1": "good"}
    (folder / "config.json").write_text(json.dumps(config))
    spec, data = reviews(tokenizer=str(folder))
    problems = check_models(recipe_of(spec, text_teacher(folder)), data).problems
    assert any("each class name once" in str(problem) for problem in problems)


TABLE = "age,sex,label\n" + "\n".join(f"{20 + n},{'mf'[n % 2]},{n % 2}" for n in range(40))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({}, None),
        ({"numeric": []}, "[sex]"),
        ({"mean": 80.0}, "mean 80.0"),
        ({"values": ["m", "f"]}, "['m', 'f']"),
    ],
)
def test_columns_of_a_table(tmp_path, change, match) -> None:
    (tmp_path / "rows.csv").write_text(TABLE)
    spec = {
        "source": "csv", "files": {"train": str(tmp_path / "rows.csv")},
        "table": {"numeric": ["age"], "categorical": ["sex"]}, "classes": ("no", "yes"),
    }  # fmt: skip
    data = load(DataSpec(**spec), workdir=tmp_path)
    folder = tmp_path / "student"
    data.preprocess.save(folder)
    content = json.loads((folder / "preprocess.json").read_text())
    content |= {key: value for key, value in change.items() if key == "numeric"}
    if "mean" in change:
        content["numeric"][0]["mean"] = change["mean"]
    if "values" in change:
        content["categorical"][0]["values"] = change["values"]
    (folder / "preprocess.json").write_text(json.dumps(content))
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors")
    teacher = {"source": "limbeck", "name": "tabular_mlp", "checkpoint": str(folder)}
    problems = check_models(recipe_of(spec, teacher), data).problems
    assert [match in str(problem) for problem in problems] == ([] if match is None else [True])


def test_what_is_no_statement_states_nothing(digits, student_folder, tmp_path) -> None:
    spec, data = digits()
    teacher = student_folder()
    for content in (
        "[]",
        "{",
        "{}",
        '{"kind": "image", "mean": "x", "classes": [1, 1]}',
        "[" * 9999,
    ):
        (tmp_path / "preprocess.json").write_text(content)
        (problem,) = check_models(recipe_of(spec, teacher), data).problems
        assert problem.where == "teacher.normalization"


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": 3, "id2label": {"a": 1}, "vocab_size": "many", "pad_token_id": True},
        {"architectures": ["XForSequenceClassification"], "id2label": {"0": "a", "7": "b"}},
        {"architectures": ["XForSequenceClassification"], "id2label": ["a", "a"]},
        {"max_position_embeddings": 9, "model_type": ["roberta"]},
    ],
)
def test_malformed_configurations_state_nothing(tmp_path, config) -> None:
    from limbeck.models.build import states

    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": ["a"], "size": "big"}')
    found = states(ModelSpec(source="transformers", path=str(tmp_path)))
    assert found.class_names is found.normalization is found.size is found.vocab_size is None


def test_a_student_is_expected_to_meet_a_budget(digits) -> None:
    spec, data = digits()
    student = {"source": "limbeck", "name": "digits_cnn", "expect": {"accuracy": 0.9}}
    (problem,) = check_models(recipe_of(spec, None, student=student, stages=STAGES), data).problems
    assert problem.where == "student.expect"
