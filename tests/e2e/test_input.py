"""Bad input ends in one clear message and exit code 2, before anything is trained or written."""

import csv
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, wrong=None):
        super().__init__()
        self.wrong = wrong
        self.body = nn.Linear(64, 8)
        self.head = nn.Linear(8, classes + (wrong == "classes"))

    def forward(self, image):
        hidden = self.body(image.flatten(1)).relu()
        if self.wrong == "operator":
            hidden = torch.linalg.svd(hidden.reshape(-1, 2, 4)).S.sum(1, keepdim=True) + hidden
        if self.wrong == "custom":
            hidden = Own.apply(hidden)
        if self.wrong == "shape":
            hidden = hidden @ torch.zeros(3, 3)
        return self.head(hidden)


class Own(torch.autograd.Function):
    @staticmethod
    def forward(context, values):
        return torch.from_numpy(values.detach().numpy() * 2)

    @staticmethod
    def backward(context, gradient):
        return gradient * 2


def net(classes, wrong=None):
    return Net(classes, wrong)
"""


def refused(ended, *words: str) -> None:
    """Check that a command was refused in plain words, all of these among them."""
    assert ended.code == 2, (ended.code, ended.err)
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err, (word, ended.err)


@pytest.fixture
def run(forks, tmp_path):
    """Run `limbeck run` in an empty folder."""

    def command(recipe: object, *more: object, **order: object):
        (tmp_path / "here").mkdir(exist_ok=True)
        return forks(
            "run", recipe, "--out", "run", *more, cwd=tmp_path / "here", quick=True, **order
        )

    return command


@pytest.fixture
def untouched(tmp_path):
    """After the test nothing may stand in the folder that the command was given in."""
    yield
    assert not list((tmp_path / "here").iterdir())


def changes(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("recipe", "settings", "words"),
    [
        ("digit", (), ("recipe", 'did you mean "digits"')),
        ("none.yaml", (), ("a file that exists",)),
        ("digits", ("profile=smok",), ("profile", '"smoke"')),
        ("digits", ("stages.distil.epochs=5",), ("--set stages.distil.epochs", '"distill"')),
        ("digits", ("stages.train_teacher.epochs",), ("path=value",)),
        ("digits", ("stages.train_teacher.epoks=5",), ("stages.train_teacher.epoks", '"epochs"')),
        ("digits", ("seeds=[", "task=x"), ("--set seeds", "YAML")),
        ("digits", ("task=text_classification",), ("task", "gives image", "input_ids")),
        ("digits", ("teacher.name=digit_cnn",), ("teacher.name", '"digits_cnn"')),
        ("digits", ("student.widht=3",), ("widht", '"width"')),
        ("digits", ("student.width=-3",), ("student",)),
        (
            "digits",
            ("teacher.checkpoint=none.safetensors",),
            ("teacher.checkpoint", "LIMBECK_DATA"),
        ),
        ("digits", ("trackers=[aim]",), ("trackers.0", "pip install aim")),
        (
            "digits",
            ("stages.train_teacher.precision=float16",),
            ("precision", "float32 or bfloat16"),
        ),
        ("digits", ("data.columns={label: lable}",), ("label", "lable")),
        ("digits", ("data.name=digitz",), ("digits",)),
        ("digits", ("stages.quantize.calibration=0",), ("stages.quantize.calibration", "1")),
        ("digits", ("stages.quantize.calibration=2000",), ("calibration", "1 to 1294")),
    ],
)
def test_errors_in_a_recipe_are_named(recipe, settings, words, run):
    refused(run(recipe, *changes(*settings)), *words)


@pytest.mark.usefixtures("untouched")
def test_a_layer_that_is_not_there_is_named_before_teaching(run, tiny):
    term = "{fitnet_hint: {student: blok1, teacher: features.9}}"
    ended = run(tiny, *changes(f"stages.distill.objective=[task, {term}]"))
    refused(ended, "stages.distill.objective", "blok1", "features.9", "did you mean")


@pytest.mark.usefixtures("untouched")
def test_features_that_cannot_be_joined_are_named_before_teaching(run, tiny, tmp_path):
    from limbeck.models.build import build
    from limbeck.models.spec import ModelSpec

    net = build(ModelSpec(source="limbeck", name="digits_cnn", width=2), classes=10, channels=1)
    paths = [path for path, part in net.named_modules() if type(part).__name__ == "Conv2d"]
    head = [path for path, part in net.named_modules() if type(part).__name__ == "Linear"]
    term = f"{{fitnet_hint: {{student: {head[-1]}, teacher: {paths[0]}}}}}"
    ended = run(tiny, *changes(f"stages.distill.objective=[task, {term}]"))
    refused(ended, "stages.distill.objective", "student (2", "teacher (2")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("operator", ("student", "linalg_svd", "ONNX")),
        ("custom", ("student", "ONNX")),
        ("shape", ("student", "RuntimeError")),
        ("classes", ("student", "11", "10 classes")),
    ],
)
def test_a_model_of_the_user_is_tried_before_teaching(wrong, words, run, tiny, tmp_path):
    (tmp_path / "nets.py").write_text(MODELS)
    student = f"{{source: python, name: '{tmp_path}/nets.py:net', wrong: {wrong}}}"
    refused(run(tiny, *changes(f"student={student}")), *words)


@pytest.mark.usefixtures("untouched")
def test_weights_for_other_classes_are_named(run, tiny, tmp_path):
    from limbeck.export.weights import save_weights
    from limbeck.models.build import build
    from limbeck.models.spec import ModelSpec

    spec = ModelSpec(source="limbeck", name="digits_cnn", width=4)
    path = tmp_path / "seven.safetensors"
    save_weights(build(spec, classes=7, channels=1), path)
    ended = run(tiny, *changes(f"teacher.checkpoint={path}"))
    refused(ended, "teacher.checkpoint", "7 classes", "10 classes")


@pytest.mark.usefixtures("untouched")
def test_outputs_for_endless_augmentation_are_not_cached(run, tiny):
    ended = run(tiny, *changes("stages.distill.cache_teacher=true", "data.augment={shift: 1}"))
    refused(ended, "data.augment.views", "4")


def table(path: Path, *, label: str = "label", last: tuple[str, str] = ("0.5", "1")) -> Path:
    """Write a table whose last row is as given."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", label])
        for row in range(40):
            writer.writerow([f"text number {row}", row % 2])
        writer.writerow(last)
    return path


TEXTS = """
name: texts
task: text_classification
data:
  source: csv
  files: {{train: "{train}", test: "{train}"}}
  columns: {{label: label, text: text}}
  classes: [bad, good]
  text: {{tokenizer: {{train: {{vocab_size: 60}}}}, max_length: 8}}
teacher: {{source: transformers, name: bert, num_hidden_layers: 1, hidden_size: 8,
  num_attention_heads: 1, intermediate_size: 8}}
student: {{source: transformers, name: bert, num_hidden_layers: 1, hidden_size: 8,
  num_attention_heads: 1, intermediate_size: 8}}
stages: [train_teacher: {{epochs: 1}}, distill: {{epochs: 1}}, export]
"""


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("made", "words"),
    [
        (None, ("data.files.train", "LIMBECK_DATA")),
        ({"label": "lable"}, ("'label'", '"lable"')),
        ({"last": ("a text", "7")}, ("7 in row 40", "0 to 1")),
        ({"last": ("a text", "")}, ("no label in 1 of 41 rows",)),
        ({"last": ("", "1")}, ("text",)),
    ],
)
def test_errors_in_the_data_are_named(made, words, run, tmp_path):
    name = "missing.csv" if made is None else str(table(tmp_path / "table.csv", **made))
    recipe = tmp_path / "texts.yaml"
    recipe.write_text(TEXTS.format(train=name).replace(", export]", ", export: {}]"))
    refused(run(recipe), *words)


@pytest.mark.usefixtures("untouched")
def test_nan_in_images_is_named(run, tiny, tmp_path):
    (tmp_path / "own.py").write_text(
        "import numpy as np\nfrom datasets import Array2D, Dataset, Features, Value\n"
        "def load():\n"
        "    images = np.random.default_rng(0).random((40, 8, 8), dtype=np.float32)\n"
        "    images[7, 0, 0] = np.nan\n"
        "    kinds = Features(image=Array2D((8, 8), 'float32'), label=Value('int64'))\n"
        "    rows = {'image': list(images), 'label': [n % 10 for n in range(40)]}\n"
        "    return {'train': Dataset.from_dict(rows, features=kinds)}\n"
    )
    data = f"{{source: python, name: '{tmp_path}/own.py:load'}}"
    refused(run(tiny, *changes(f"data={data}")), "NaN", "image")


def test_a_folder_that_holds_something_else_is_left_alone(forks, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    ended = forks("run", tiny, "--out", "run", cwd=tmp_path, quick=True)
    refused(ended, "--out", "thesis.tex")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("place", ["file", "file/run", "file/deep/run"])
def test_a_place_that_cannot_be_written_to_is_named(place, forks, tiny, tmp_path):
    (tmp_path / "file").write_text("a file")
    ended = forks("run", tiny, "--out", place, cwd=tmp_path, quick=True)
    refused(ended, "file")
    assert (tmp_path / "file").read_text() == "a file"


def test_two_processes_do_not_share_a_folder(forks, tiny, tmp_path):
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ended = forks("run", tiny, "--out", "run", cwd=tmp_path, quick=True)
        assert ended.code == 1, ended.err
        assert "--out" in ended.err
        assert (tmp_path / "run" / ".lock").exists()
    assert forks("run", tiny, "--out", "run", cwd=tmp_path, quick=True).code == 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 kB, where the system lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0
    yield place if mounted else None
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_named_and_the_last_good_state_resumes(forks, tiny, small_disk, tmp_path):
    out = small_disk or tmp_path
    # Without a small disk, no file may become larger than a few kB: writes fail as on a full one.
    limit = {} if small_disk else {"largest": 12_000}
    filler = out / "filler"
    if small_disk:
        filler.write_bytes(b"0" * 120_000)
    wide = changes("teacher.width=16")
    ended = forks("run", tiny, *wide, "--out", out / "run", cwd=tmp_path, quick=True, **limit)
    refused(ended, "could not be written")
    filler.unlink(missing_ok=True)
    if small_disk:  # space is freed
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = forks("run", tiny, *wide, "--out", out / "run", "--resume", cwd=tmp_path, quick=True)
    assert again.code == 0, again.err
    undisturbed = tmp_path / "undisturbed"
    assert forks("run", tiny, *wide, "--out", undisturbed, cwd=tmp_path, quick=True).code == 0
    weights = "student/model.safetensors"
    assert (out / "run" / weights).read_bytes() == (undisturbed / weights).read_bytes()
