import numpy as np
import pytest
import torch

from limbeck.connectors.fusion import build
from limbeck.errors import InputError
from limbeck.losses import review_kd

STUDENT = [(4, 8, 8, 8), (4, 16, 4, 4), (4, 24, 2, 2), (4, 24)]
TEACHER = [(4, 10, 16, 16), (4, 20, 4, 4), (4, 30, 4, 4), (4, 30)]


def drawn(shapes, **options):
    return [torch.randn(shape, **options) for shape in shapes]


def test_fused_features_have_the_teachers_shapes():
    student, teacher = drawn(STUDENT, requires_grad=True), drawn(TEACHER)
    parts = build(student, teacher)
    joined = parts(student, teacher, {})
    assert [tuple(f.shape) for f in joined.student] == TEACHER
    assert all(a is b for a, b in zip(joined.teacher, teacher, strict=True))
    value = review_kd(joined.student, joined.teacher)
    assert value.shape == (4,)
    value.sum().backward()
    assert all(f.grad.abs().sum() > 0 for f in student)
    assert all(p.grad is not None for p in parts.parameters())


def test_deeper_layers_reach_shallower_ones_and_not_the_other_way():
    student, teacher = drawn(STUDENT, requires_grad=True), drawn(TEACHER)
    joined = build(student, teacher)(student, teacher, {})
    reached = torch.autograd.grad(joined.student[0].square().sum(), student, retain_graph=True)
    assert all(gradient.abs().sum() > 0 for gradient in reached)
    reached = torch.autograd.grad(joined.student[2].square().sum(), student, allow_unused=True)
    assert reached[0] is None
    assert reached[1] is None
    assert reached[3] is not None


def test_two_levels_by_hand():
    """In evaluation mode normalisation does next to nothing, and each step can be followed."""
    student, teacher = drawn([(2, 3, 4, 4), (2, 5, 2, 2)]), drawn([(2, 4, 4, 4), (2, 6, 2, 2)])
    parts = build(student, teacher).eval()
    got = parts(student, teacher, {}).student[0].detach().numpy()
    upper, lower = parts.levels
    scale = 1 / np.sqrt(1 + 1e-5)

    def mixed(layer, features):
        weight = layer.weight.detach().double().numpy()[:, :, 0, 0]
        return np.einsum("oc,nchw->nohw", weight, features)

    shallow, deep = (f.double().numpy() for f in student)
    deep = mixed(lower.enter[0], deep) * scale
    shallow = mixed(upper.enter[0], shallow) * scale
    deep = deep.repeat(2, axis=2).repeat(2, axis=3)
    offset = upper.attend.bias.detach().numpy()[None, :, None, None]
    attention = mixed(upper.attend, np.concatenate([shallow, deep], axis=1)) + offset
    attention = 1 / (1 + np.exp(-attention))
    fused = shallow * attention[:, :1] + deep * attention[:, 1:]
    weight = upper.leave[0].weight.detach().double().numpy()
    padded = np.pad(fused, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = sum(
        np.einsum("oc,nchw->nohw", weight[:, :, y, x], padded[:, :, y : y + 4, x : x + 4])
        for y in range(3)
        for x in range(3)
    )
    np.testing.assert_allclose(got, expected * scale, rtol=1e-4, atol=1e-5)


def test_one_layer_needs_no_list():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 8, 8)
    joined = build(student, teacher)(student, teacher, {})
    assert joined.student.shape == teacher.shape
    assert review_kd(joined.student, joined.teacher).shape == (2,)


def test_what_is_handed_on_has_at_most_512_channels():
    parts = build([torch.zeros(2, 4, 2, 2), torch.zeros(2, 600)], drawn([(2, 4, 2, 2), (2, 6)]))
    assert parts.levels[0].enter[0].weight.shape[0] == 512


def test_one_sample_and_none():
    parts = build(drawn(STUDENT), drawn(TEACHER))
    for samples in (1, 0):
        student, teacher = (drawn([(samples, *s[1:]) for s in side]) for side in (STUDENT, TEACHER))
        joined = parts(student, teacher, {})
        value = review_kd(joined.student, joined.teacher)
        assert value.shape == (samples,)
        assert value.isfinite().all()


def test_half_precision_is_computed_in_float32():
    parts = build(drawn(STUDENT), drawn(TEACHER))
    halved = [f.bfloat16() for f in drawn(STUDENT)]
    assert {f.dtype for f in parts(halved, drawn(TEACHER), {}).student} == {torch.float32}


@pytest.mark.parametrize(
    ("student", "teacher", "reason"),
    [
        ([(2, 3, 4, 4)], [(2, 3, 4, 4), (2, 3)], "as many layers"),
        ([], [], "as many layers"),
        ([(2, 5, 8)], [(2, 5, 8)], "can be fused"),
        ([(2, 3, 4, 4)], [(3, 3, 4, 4)], "one batch"),
    ],
)
def test_what_cannot_be_fused_says_why(student, teacher, reason):
    with pytest.raises(InputError, match=reason):
        build(drawn(student), drawn(teacher))
    with pytest.raises(InputError, match="floating-point"):
        build(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3))
