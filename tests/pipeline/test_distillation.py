"""`limbeck.distill`: one call on plain modules and data."""

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import limbeck
from limbeck.errors import InputError
from limbeck.objective import Objective, Term
from limbeck.tasks.tabular_regression import TabularRegression


def digits():
    found = load_digits()
    pixels = torch.from_numpy(found.images).float()[:, None] / 16
    return pixels, torch.from_numpy(found.target)


def net(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10)
    )


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    x, y = digits()
    model = net(16)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_a_student_learns_from_its_teacher(teacher):
    before = copy.deepcopy(teacher.state_dict())
    torch.manual_seed(1)
    student = net(2)
    done = limbeck.distill(teacher, student, digits(), epochs=6, batch_size=32, seed=3)
    assert done.student is student
    assert done.teacher_scores["accuracy"] > 0.9
    assert done.scores["accuracy"] > 0.8
    assert len(done.history.rows) == 6
    assert not student.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_equal_calls_give_equal_students(teacher):
    students = []
    for form in (digits(), TensorDataset(*digits()), DataLoader(TensorDataset(*digits()), 64)):
        torch.manual_seed(1)
        student = net(1)
        limbeck.distill(teacher, student, form, epochs=1, seed=5)
        students.append(student.state_dict())
    for other in students[1:]:
        assert all(torch.equal(value, students[0][name]) for name, value in other.items())


def test_a_call_may_have_steps(teacher):
    done = limbeck.distill(teacher, net(1), digits(), steps=5, validate_every=2, seed=5)
    assert [row["step"] for row in done.history.rows] == [2, 4, 5]
    with pytest.raises(InputError, match=r"distill\.epochs: field required. Or `steps`"):
        limbeck.distill(teacher, net(1), digits())


def test_mappings_features_and_stated_validation(teacher):
    x, y = digits()
    rows = [{"image": one, "label": int(label)} for one, label in zip(x, y, strict=True)]
    objective = Objective([Term("task"), Term("fitnet_hint", student="0", teacher="0")])
    student = net(2)
    done = limbeck.distill(
        teacher, student, rows[:300], validation=rows[300:400], objective=objective, epochs=1,
        task="image_classification",
    )  # fmt: skip
    assert {"train/fitnet_hint/raw", "validation/accuracy"} <= set(done.history.rows[0])


def test_a_folder_belongs_to_one_training(teacher, tmp_path):
    def call(width=1, **more):
        torch.manual_seed(1)
        settings = {"epochs": 1, "folder": tmp_path / "run", **more}
        return limbeck.distill(teacher, net(width), digits(), **settings)

    first, again = call(), call()
    for one, other in zip(first.student.parameters(), again.student.parameters(), strict=True):
        assert torch.equal(one, other)
    for change in ({"width": 2}, {"objective": "label_only"}, {"epochs": 2}, {"seed": 4}):
        with pytest.raises(InputError, match=r"folder: got .*of another teacher, initial student"):
            call(**change)


def test_one_target_may_be_a_vector():
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    y = x @ torch.tensor([2.0, -1.0, 0.5]) + 3
    task = TabularRegression(("y",), mean=y.mean()[None], std=y.std()[None])
    scores = []
    for labels in (y, y[:, None]):
        torch.manual_seed(1)
        teacher, student = nn.Linear(3, 1), nn.Linear(3, 1)
        done = limbeck.distill(
            teacher, student, (x, labels), task=task, objective="label_only", epochs=30,
            batch_size=20, learning_rate=0.05,
        )  # fmt: skip
        scores.append(done.scores)
    assert scores[0] == scores[1]
    assert scores[0]["r2"] > 0.95
    with pytest.raises(InputError, match=r"batch\.labels: got"):
        limbeck.distill(
            teacher, student, (x, torch.zeros(200, 2)), task=task, objective="label_only", epochs=1
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, r"distill\.epochs: got 0"),
        ({"epoch": 3}, r'distill\.epoch: got 3.*did you mean "epochs"'),
        ({"task": "image_clasification"}, 'did you mean "image_classification"'),
        ({"objective": "hintn"}, 'did you mean "hinton"'),
        ({"validation": 2.0}, "a share between 0 and 1"),
        ({"data": [1, 2, 3]}, "pairs"),
        ({"data": 5}, "a data set with __getitem__"),
        ({"data": (torch.zeros(4, 3), torch.zeros(3))}, "4 inputs and 3 labels"),
        ({"data": (torch.zeros(4, 3, 2), torch.zeros(4))}, "inputs with 2 axes"),
        (
            {"student": nn.Sequential(nn.Flatten(), nn.Linear(64, 7))},
            "one per class, label or target",
        ),
    ],
)
def test_invalid_arguments_are_refused_in_one_error(teacher, change, message):
    given = {"data": digits(), "student": net(1), "epochs": 1, **change}
    with pytest.raises(InputError, match=message):
        limbeck.distill(teacher, given.pop("student"), given.pop("data"), **given)


def test_a_student_with_the_teachers_parameters_is_refused(teacher):
    with pytest.raises(InputError, match="parameters that are the teacher's"):
        limbeck.distill(teacher, teacher, digits(), epochs=1)
    shared = nn.Sequential(teacher[0], nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 10))
    with pytest.raises(InputError, match=r"the teacher's: 0\.weight"):
        limbeck.distill(teacher, shared, digits(), epochs=1)


def test_outputs_that_are_no_logits_and_loaders_with_own_rules_are_refused(teacher):
    soft = nn.Sequential(net(1), nn.Softmax(1))
    with pytest.raises(InputError, match=r"student\.output_type"):
        limbeck.distill(teacher, soft, digits(), epochs=1)
    with pytest.raises(InputError, match=r"teacher: got 'outputs \[8, 10\]'; allowed: \[n, 2\]"):
        limbeck.distill(teacher, net(1), digits(), classes=["a", "b"], epochs=1)
    data = TensorDataset(*digits())
    sampler = torch.utils.data.WeightedRandomSampler([1.0] * len(data), 50)
    for change, word in (({"sampler": sampler}, "sampler"), ({"collate_fn": list}, "collate_fn")):
        with pytest.raises(InputError, match=rf"data\.{word}"):
            limbeck.distill(teacher, net(1), DataLoader(data, 8, **change), epochs=1)


def test_a_loader_states_the_batch_size_and_float64_inputs_fit(teacher):
    x, y = digits()
    loader = DataLoader(TensorDataset(x.double(), y), 300)
    done = limbeck.distill(teacher, net(1), loader, validation=0.5, epochs=2)
    assert done.history.steps == 2 * 3


NARROW = nn.Sequential(nn.Flatten(), nn.Linear(63, 10))
FAILS = r"got .fails on a batch of the data \("


@pytest.mark.parametrize(
    ("student", "change", "message"),
    [
        (net(1), lambda x, y: (x, str(int(y))), r"data: got 'str in the field labels'; allowed"),
        (NARROW, lambda x, y: (x, y), rf"student: {FAILS}image \[8, 1, 8, 8\], labels \[8\]\): "),
        (
            net(1),
            lambda x, y: {"pixels": x, "labels": y},
            rf"teacher: {FAILS}pixels \[.*allowed: a module that takes image as",
        ),
    ],
    ids=["labels that are strings", "a student of another width", "a field of another name"],
)
def test_data_that_a_model_cannot_take_are_refused_with_their_shapes(
    teacher, student, change, message
):
    rows = [change(x, y) for x, y in zip(*digits(), strict=True)]
    with pytest.raises(InputError, match=message):
        limbeck.distill(teacher, student, rows, task="image_classification", epochs=1)


def test_terms_are_taken_as_they_are_and_the_teachers_modes_are_kept():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).train()
    teacher[1].eval()  # as for fine-tuning with fixed statistics
    terms = [Term("task"), Term("soft_target_kl", temperature=2.0)]
    done = limbeck.distill(teacher, net(1), digits(), objective=terms, epochs=1)
    assert "train/soft_target_kl/raw" in done.history.rows[0]
    assert [part.training for part in teacher.modules()] == [True, True, False, True]


def test_a_sample_without_a_label_is_trained_on_under_the_teacher_alone(teacher):
    x, y = digits()
    hidden = y.clone()
    hidden[200:] = -100
    students = {}
    for name, data, objective in (
        ("all rows", (x, hidden), "hinton"),
        ("unlabelled", (x[200:], hidden[200:]), "hinton"),
    ):
        torch.manual_seed(1)
        settings = {"epochs": 6, "validation": (x[:200], y[:200]), "seed": 3}
        students[name] = limbeck.distill(teacher, net(2), data, objective=objective, **settings)
    assert students["all rows"].scores["accuracy"] > 0.5
    # Without any label, only the teacher's term is left, with its weight.
    torch.manual_seed(1)
    alone = limbeck.distill(
        teacher,
        net(2),
        (x[200:], y[200:]),
        objective=[Term("soft_target_kl", temperature=4.0, weight=0.9)],
        epochs=6,
        validation=(x[:200], y[:200]),
        seed=3,
    )
    for a, b in zip(
        students["unlabelled"].student.parameters(), alone.student.parameters(), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-5)
    # Unlabelled samples in the share that validates are left out of the scores.
    done = limbeck.distill(teacher, net(2), (x, hidden), epochs=1)
    assert 0 <= done.scores["accuracy"] <= 1
