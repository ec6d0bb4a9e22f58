import numpy as np
import pytest
import torch

from limbeck.connectors.fusion import build
from limbeck.errors import InputError
from limbeck.losses import review_kd

STUDENT = [(4, 8, 8, 8), (4, 16, 4, 4), (4, 24, 2, 2), (4, 24)]
TEACHER = [(4, 10, 16, 16), (4, 20, 4, 4), (4, 30, 4, 4), (4, 30)]


def random(shapes, **options):
    return [torch.randn(shape, **options) for shape in shapes]


def test_fused_features_have_the_teachers_shapes():
    student, teacher = random(STUDENT, requires_grad=True), random(TEACHER)
    connector = build(student, teacher)
    output = connector(student, teacher, {})
    assert [tuple(f.shape) for f in output.student] == TEACHER
    assert all(a is b for a, b in zip(output.teacher, teacher, strict=True))
    value = review_kd(output.student, output.teacher)
    assert value.shape == (4,)
    value.sum().backward()
    assert all(f.grad.abs().sum() > 0 for f in student)
    assert all(p.grad is not None for p in connector.parameters())


def test_deeper_layers_affect_shallower_ones_only():
    student, teacher = random(STUDENT, requires_grad=True), random(TEACHER)
    output = build(student, teacher)(student, teacher, {})
    gradients = torch.autograd.grad(output.student[0].square().sum(), student, retain_graph=True)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    gradients = torch.autograd.grad(output.student[2].square().sum(), student, allow_unused=True)
    assert gradients[0] is None
    assert gradients[1] is None
    assert gradients[3] is not None


def test_two_levels_against_numpy():
    """Normalisation in evaluation mode only divides by sqrt(1 + 1e-5)."""
    student, teacher = random([(2, 3, 4, 4), (2, 5, 2, 2)]), random([(2, 4, 4, 4), (2, 6, 2, 2)])
    connector = build(student, teacher).eval()
    actual = connector(student, teacher, {}).student[0].detach().numpy()
    upper, lower = connector.levels
    scale = 1 / np.sqrt(1 + 1e-5)

    def convolve(layer, features):
        weight = layer.weight.detach().double().numpy()[:, :, 0, 0]
        return np.einsum("oc,nchw->nohw", weight, features)

    shallow, deep = (f.double().numpy() for f in student)
    deep = convolve(lower.enter[0], deep) * scale
    shallow = convolve(upper.enter[0], shallow) * scale
    deep = deep.repeat(2, axis=2).repeat(2, axis=3)
    offset = upper.attend.bias.detach().numpy()[None, :, None, None]
    attention = convolve(upper.attend, np.concatenate([shallow, deep], axis=1)) + offset
    attention = 1 / (1 + np.exp(-attention))
    fused = shallow * attention[:, :1] + deep * attention[:, 1:]
    weight = upper.leave[0].weight.detach().double().numpy()
    padded = np.pad(fused, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = sum(
        np.einsum("oc,nchw->nohw", weight[:, :, y, x], padded[:, :, y : y + 4, x : x + 4])
        for y in range(3)
        for x in range(3)
    )
    np.testing.assert_allclose(actual, expected * scale, rtol=1e-4, atol=1e-5)


def test_one_layer_without_a_list():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 8, 8)
    output = build(student, teacher)(student, teacher, {})
    assert output.student.shape == teacher.shape
    assert review_kd(output.student, output.teacher).shape == (2,)


def test_fused_features_have_at_most_512_channels():
    connector = build(
        [torch.zeros(2, 4, 2, 2), torch.zeros(2, 600)], random([(2, 4, 2, 2), (2, 6)])
    )
    assert connector.levels[0].enter[0].weight.shape[0] == 512


def test_batches_of_one_sample_and_of_none():
    connector = build(random(STUDENT), random(TEACHER))
    for samples in (1, 0):
        student, teacher = (
            random([(samples, *s[1:]) for s in side]) for side in (STUDENT, TEACHER)
        )
        output = connector(student, teacher, {})
        value = review_kd(output.student, output.teacher)
        assert value.shape == (samples,)
        assert value.isfinite().all()


def test_half_precision_is_computed_in_float32():
    connector = build(random(STUDENT), random(TEACHER))
    half = [f.bfloat16() for f in random(STUDENT)]
    assert {f.dtype for f in connector(half, random(TEACHER), {}).student} == {torch.float32}


@pytest.mark.parametrize(
    ("student", "teacher", "reason"),
    [
        ([(2, 3, 4, 4)], [(2, 3, 4, 4), (2, 3)], "as many layers"),
        ([], [], "as many layers"),
        ([(2, 5, 8)], [(2, 5, 8)], "can be fused"),
        ([(2, 3, 4, 4)], [(3, 3, 4, 4)], "one batch"),
    ],
)
def test_unsupported_features_raise(student, teacher, reason):
    with pytest.raises(InputError, match=reason):
        build(random(student), random(teacher))
    with pytest.raises(InputError, match="floating-point"):
        build(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3))
