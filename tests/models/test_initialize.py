"""Students initialised from chosen layers of a teacher."""

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.models.initialize import copy_layers


class Tower(nn.Module):
    """Embedding, a stack of blocks, batch normalisation and a head."""

    def __init__(self, depth, width=4, classes=3, name="layers"):
        super().__init__()
        self.embed = nn.Embedding(9, width)
        blocks = [nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in range(depth)]
        self.body = nn.ModuleDict({name: nn.ModuleList(blocks)})
        self.norm, self.head = nn.BatchNorm1d(width), nn.Linear(width, classes)


def tower(*arguments, seed=0, **keywords):
    torch.manual_seed(seed)
    model = Tower(*arguments, **keywords)
    for one in (*model.parameters(), model.norm.running_mean):
        nn.init.normal_(one)
    return model


def equal(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_a_list_copies_layers_of_the_stack_and_all_that_fits_around_it():
    teacher, student = tower(6), tower(3, seed=1)
    before = {key: one.clone() for key, one in teacher.state_dict().items()}
    notes = copy_layers(student, teacher, [0, 2, 5])
    for own, given in enumerate((0, 2, 5)):
        assert equal(student.body["layers"][own], teacher.body["layers"][given])
    for name in ("embed", "norm", "head"):
        assert equal(getattr(student, name), getattr(teacher, name))
    assert all(torch.equal(one, before[key]) for key, one in teacher.state_dict().items())
    assert notes[0].startswith("initialised from the teacher: embed <- embed (1 tensor), ")
    assert "body.layers.1 <- body.layers.2 (4 tensors)" in notes[0]
    assert len(notes) == 1
    assert student.body["layers"][0][0].weight is not teacher.body["layers"][0][0].weight


def test_a_head_of_other_classes_stays_fresh_and_is_listed():
    teacher, student = tower(4), tower(2, classes=5, seed=1)
    fresh = student.head.weight.clone()
    notes = copy_layers(student, teacher, [3, 1])
    assert torch.equal(student.head.weight, fresh)
    assert notes[1] == "not initialised from the teacher, fresh: head.weight, head.bias"


def test_a_mapping_copies_only_what_it_names():
    teacher, student = tower(7, name="blocks"), tower(3, seed=1)
    fresh = student.embed.weight.clone()
    notes = copy_layers(student, teacher, {"body.layers.{i}": "body.blocks.{2i+1}"})
    for own, given in enumerate((1, 3, 5)):
        assert equal(student.body["layers"][own], teacher.body["blocks"][given])
    assert torch.equal(student.embed.weight, fresh)
    assert "body.layers.2 <- body.blocks.5 (4 tensors)" in notes[0]
    assert "embed.weight" in notes[1]


def test_the_longest_path_counts_and_a_single_tensor_can_be_named():
    teacher, student = tower(4), tower(2, seed=1)
    mapping = {"": "", "body.layers.{i}": "body.layers.{i+2}", "head.bias": "body.layers.0.1.bias"}
    with pytest.raises(InputError, match=r"body.layers.0.1.bias of shape \(4,\) for head.bias of"):
        copy_layers(student, teacher, mapping)
    mapping["head.bias"] = "head.bias"
    copy_layers(student, teacher, mapping)
    assert equal(student.embed, teacher.embed)
    assert equal(student.body["layers"][1], teacher.body["layers"][3])


def test_two_placeholders():
    teacher, student = nn.ModuleDict(), nn.ModuleDict()
    for model, depth in ((teacher, 4), (student, 2)):
        for stage in ("0", "1"):
            model[stage] = nn.Sequential(*(nn.Linear(2, 2) for _ in range(depth)))
    copy_layers(student, teacher, {"{s}.{i}": "{s}.{2*i}"})
    assert equal(student["1"][1], teacher["1"][2])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 2], "one stack of 2 layers .*the student has body.layers.0 to body.layers.2"),
        ([0, 2, 6], "of at least 7.*the teacher has body.layers.0 to body.layers.5"),
        ({"body.layer.{i}": "body.layers.{i}"}, 'body.layer.{i}.*did you mean "body.layers.0"'),
        ({"body.layers.{i}": "body.layers.{3i}"}, "body.layers.6.0.weight for body.layers.2.0"),
        ({"body.layers.{i}": "body.layers.{2k}"}, "placeholders such as"),
        ({"body.layers.{i": "body.layers.0"}, "placeholders such as"),
        ({"head": "embed"}, "embed.bias for head.bias"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_copied(layers, message):
    teacher, student = tower(6), tower(3, seed=1)
    before = {key: one.clone() for key, one in student.state_dict().items()}
    with pytest.raises(InputError, match=f"(?s)layers: got .*{message}"):
        copy_layers(student, teacher, layers)
    assert all(torch.equal(one, before[key]) for key, one in student.state_dict().items())


def test_all_shapes_that_differ_are_listed_with_both():
    with pytest.raises(InputError) as caught:
        copy_layers(tower(2, width=3), tower(4), [0, 2])
    text = str(caught.value)
    assert (
        "body.layers.2.0.weight of shape (4, 4) for body.layers.1.0.weight of shape (3, 3)" in text
    )
    assert len(caught.value.problems) == 8


def test_a_student_of_transformers_starts_from_every_other_layer():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 12}
    kind = transformers.BertForSequenceClassification
    teacher = kind(transformers.BertConfig(num_hidden_layers=4, **sizes))
    student = kind(transformers.BertConfig(num_hidden_layers=2, **sizes))
    notes = copy_layers(student, teacher, [0, 2])
    layers = teacher.bert.encoder.layer
    assert equal(student.bert.encoder.layer[1], layers[2])
    assert equal(student.bert.embeddings, teacher.bert.embeddings)
    assert len(notes) == 1
    other = transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(dim=8, hidden_dim=8, n_heads=2, n_layers=2, vocab_size=12)
    )
    stack = "distilbert.transformer.layer.{i}"
    mapping = {
        "distilbert.embeddings": "bert.embeddings",
        f"{stack}.attention.q_lin": "bert.encoder.layer.{2i}.attention.self.query",
        f"{stack}.ffn.lin1": "bert.encoder.layer.{2i}.intermediate.dense",
    }
    copy_layers(other, teacher, mapping)
    query = other.distilbert.transformer.layer[1].attention.q_lin
    assert equal(query, layers[2].attention.self.query)
