"""ALM, ULD and GOLD against definitions in numpy, which loop over chunks."""

from __future__ import annotations

import subprocess
import sys
from inspect import unwrap

import numpy as np
import pytest
import torch

from limbeck.errors import InputError
from limbeck.losses.cross_tokenizer import alm, boundary_log_probs, chunk_log_probs, gold, uld

STUDENT = torch.tensor([-1, 0, 0, 1, 2, 2, 2, -1])  # BOS, five tokens in three chunks, EOS
TEACHER = torch.tensor([0, 1, 1, 2, 2])
MATCHED = torch.tensor([[0, 3], [2, 1], [5, 0]])
IDS = {"student_chunks": STUDENT, "teacher_chunks": TEACHER, "chunks": 3}


def draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def log_probs(seed, tokens):
    return draw(seed, tokens, 7).log_softmax(-1)[:, 0]


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def gradient_by_differences(function, point):
    flat, step = point.flatten(), 1e-6
    found = np.zeros(len(flat))
    for place in range(len(flat)):
        moved = [flat.copy(), flat.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        values = [function(one.reshape(point.shape)).sum() for one in moved]
        found[place] = (values[0] - values[1]) / (2 * step)
    return found.reshape(point.shape)


def agree(loss, definition, student):
    leaf = student.clone().requires_grad_()
    value = loss(leaf)
    np.testing.assert_allclose(value.detach(), definition(student.numpy()), rtol=1e-9, atol=1e-12)
    value.sum().backward()
    expected = gradient_by_differences(definition, student.numpy())
    np.testing.assert_allclose(leaf.grad, expected, rtol=2e-5, atol=1e-7)
    assert leaf.grad.abs().max() > 1e-4


def alm_definition(student, teacher, kind, tau, boundaries=(0.0, 0.0)):
    values = []
    for chunk in range(3):
        q, p = (
            np.exp((logs[ids.numpy() == chunk].sum() + edge) / tau)
            for logs, ids, edge in (
                (student, STUDENT, boundaries[0]),
                (teacher, TEACHER, boundaries[1]),
            )
        )
        if kind == "tvd":
            values.append((abs(p - q) + abs((1 - p) - (1 - q))) / 2)
            continue
        p, q = (q, p) if kind == "reverse_kl" else (p, q)
        values.append(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    return np.array(values)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "tvd"])
@pytest.mark.parametrize("tau", [1.0, 20.0])
def test_alm_equals_its_definition(kind, tau):
    student, teacher = log_probs(0, 8), log_probs(1, 5)
    agree(
        lambda x: alm(x, teacher, **IDS, kind=kind, temperature=tau),
        lambda x: alm_definition(x, teacher.numpy(), kind, tau),
        student,
    )


def test_alm_multiplies_by_the_boundaries():
    student, teacher = log_probs(0, 8), log_probs(1, 5)
    edges = {"student_boundary": torch.full((3,), -0.3), "teacher_boundary": torch.full((3,), -0.9)}
    found = alm(student, teacher, **IDS, **edges, temperature=2.0)
    expected = alm_definition(student.numpy(), teacher.numpy(), "forward_kl", 2.0, (-0.3, -0.9))
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # the boundaries are float32


def test_boundaries_are_the_probability_of_some_classes():
    logits = draw(2, 4, 6)
    starts = torch.tensor([True, False, False, True, True, False])
    expected = np.log(softmax(logits.numpy())[:, starts.numpy()].sum(-1))
    np.testing.assert_allclose(boundary_log_probs(logits, starts), expected, rtol=1e-9)


def test_chunks_sum_to_the_tokens():
    logs = log_probs(3, 8)
    found = chunk_log_probs(logs, STUDENT, chunks=3)
    torch.testing.assert_close(found.sum(), logs[1:-1].sum())
    torch.testing.assert_close(found[2], logs[4:7].sum())


def test_alm_of_tokens_left_out_has_no_gradient():
    leaf = log_probs(0, 8).requires_grad_()
    alm(leaf, log_probs(1, 5), **IDS).sum().backward()
    assert (leaf.grad != 0).tolist() == (STUDENT >= 0).tolist()


def sorted_distance(q, p):
    n = max(len(q), len(p))
    one, other = (np.pad(np.sort(x)[::-1], (0, n - len(x))) for x in (q, p))
    return np.abs(one - other).sum()


@pytest.mark.parametrize("classes", [(6, 6), (4, 9), (9, 4)])
def test_uld_equals_its_definition(classes):
    student, teacher = draw(4, 5, classes[0]), draw(5, 5, classes[1])
    p = softmax(teacher.numpy())

    def definition(logits):
        return np.array([sorted_distance(*one) for one in zip(softmax(logits), p, strict=True)])

    agree(lambda x: uld(x, teacher), definition, student)


def gold_definition(student, teacher, ids, beta, weights):
    rows = []
    for logits, own, chunk_ids in ((student, ids[0], STUDENT), (teacher, ids[1], TEACHER)):
        probabilities, side = softmax(logits), []
        for chunk in range(3):
            places = np.flatnonzero(chunk_ids.numpy() == chunk)
            rest = np.prod([probabilities[place, own[place]] for place in places[1:]])
            side.append(probabilities[places[0]] * rest)
        rows.append(side)
    values = []
    for q, p in zip(*rows, strict=True):
        own, other = MATCHED.numpy().T
        m = beta * p[other] + (1 - beta) * q[own]
        divergence = beta * p[other] * np.log(p[other] / m) + (1 - beta) * q[own] * np.log(
            q[own] / m
        )
        rest = sorted_distance(np.delete(q, own), np.delete(p, other))
        values.append(weights[0] * divergence.sum() + weights[1] * rest)
    return np.array(values)


@pytest.mark.parametrize("beta", [0.5, 0.1])
@pytest.mark.parametrize("weights", [None, (1.0, 0.3)])
def test_gold_equals_its_definition(beta, weights):
    student, teacher = draw(6, 8, 6), draw(7, 5, 9)
    ids = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1]), torch.tensor([8, 0, 3, 2, 7])
    given = {} if weights is None else {"matched_weight": 1.0, "unmatched_weight": 0.3}
    known = {"student_ids": ids[0], "teacher_ids": ids[1], "matched": MATCHED, "beta": beta}
    agree(
        lambda x: gold(x, teacher, **known, **IDS, **given),
        lambda x: gold_definition(x, teacher.numpy(), ids, beta, weights or (0.5, 0.5)),
        student,
    )


def same():
    logits = draw(8, 8, 6)
    ids = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    own = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    chunked = {"student_chunks": STUDENT, "teacher_chunks": STUDENT, "chunks": 3}
    classes = torch.arange(6).repeat(2, 1).T
    tokens = {"student_ids": ids, "teacher_ids": ids}
    return {
        "alm": (lambda x: alm(x, own, **chunked), own),
        "uld": (lambda x: uld(x, logits), logits),
        "gold": (lambda x: gold(x, logits, **tokens, **chunked, matched=classes), logits),
        "gold, no match": (
            lambda x: gold(x, logits, **tokens, **chunked, matched=classes[:0]),
            logits,
        ),
    }


@pytest.mark.parametrize("name", list(same()))
def test_zero_for_equal_models_and_tokenizers(name):
    loss, point = same()[name]
    leaf = point.clone().requires_grad_()
    value = loss(leaf)
    assert value.detach().abs().max() < 1e-14
    value.sum().backward()
    assert leaf.grad.abs().max() < 1e-9
    assert (loss(draw(9, *point.shape).log_softmax(-1) - 0.1) > 1e-6).any()


@pytest.mark.parametrize("name", list(same()))
def test_transforms_agree(name):
    loss, point = same()[name]
    point = point + 0.3 * draw(10, *point.shape) - 1
    leaf = point.clone().requires_grad_()
    loss(leaf).sum().backward()
    found = torch.func.grad(lambda x: loss(x).sum())(point)
    torch.testing.assert_close(found, leaf.grad)
    several = torch.stack([point, point - 0.5])
    torch.testing.assert_close(torch.vmap(loss)(several), torch.stack([loss(x) for x in several]))
    tangent = draw(11, *point.shape)
    _, moved = torch.func.jvp(lambda x: loss(x).sum(), (point,), (tangent,))
    torch.testing.assert_close(moved, (found * tangent).sum())


PROGRAM = """
import torch

from limbeck.losses.cross_tokenizer import alm, gold, uld

torch.manual_seed(0)
student, teacher = torch.randn(4, 6, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
ids = {"student_chunks": torch.tensor([-1, 0, 0, 1]), "teacher_chunks": torch.tensor([0, 1, 1])}
tokens = {"student_ids": torch.tensor([0, 1, 2, 3]), "teacher_ids": torch.tensor([4, 0, 2])}
own, other = (x.log_softmax(-1)[:, 0] for x in (student, teacher))
matched = torch.tensor([[0, 3], [2, 1]])
for loss, leaf in (
    (lambda x: alm(x, other, **ids, chunks=2).sum(), own),
    (lambda x: uld(x[:3], teacher).sum(), student),
    (lambda x: gold(x, teacher, **tokens, **ids, chunks=2, matched=matched).sum(), student),
):
    found = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        copy = leaf.clone().requires_grad_()
        function(copy).backward()
        found.append(copy.grad)
    torch.testing.assert_close(*found)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.long
def test_compiled_code_agrees():
    """In a process of its own: the session's checks of shapes do not compile."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr[-2000:]


@pytest.mark.parametrize("name", list(same()))
@pytest.mark.parametrize("size", [1e4, float("inf")])
def test_finite_for_extreme_inputs(name, size):
    loss, point = same()[name]
    extreme = point.clone()
    extreme[1] = -size if point.ndim == 1 else torch.tensor([-size, 1, 2, 3, 4, 1e4])
    leaf = extreme.float().requires_grad_()
    value = loss(leaf)
    value.sum().backward()
    assert value.isfinite().all()
    assert leaf.grad.isfinite().all()


def test_no_gradient_reaches_the_teacher():
    teacher = draw(7, 5, 9).requires_grad_()
    assert not uld(draw(4, 5, 6), teacher).requires_grad
    logs = log_probs(1, 5).requires_grad_()
    edges = {
        "student_boundary": torch.zeros(3),
        "teacher_boundary": torch.zeros(3).requires_grad_(),
    }
    assert not alm(log_probs(0, 8), logs, **IDS, **edges).requires_grad


def test_half_precision_is_computed_in_float32():
    student, teacher = (draw(seed, 5, 6).bfloat16() for seed in (4, 5))
    assert uld(student, teacher).dtype == torch.float32
    torch.testing.assert_close(uld(student, teacher), uld(student.float(), teacher.float()))


def test_no_chunks_give_no_values():
    none = torch.zeros(0)
    ids = torch.zeros(0, dtype=torch.int64)
    assert alm(none, none, student_chunks=ids, teacher_chunks=ids, chunks=0).shape == (0,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chunks": 4}, "no token in chunk 3"),
        ({"chunks": 2}, "chunks from 0 to 1, or -1"),
        ({"student_chunks": STUDENT[1:]}, r"alm.student_chunks.*shape \(8,\)"),
        ({"temperature": 0}, "alm.temperature"),
        ({"kind": "jsd"}, "alm.kind"),
        ({"teacher_boundary": torch.zeros(3)}, "alm.student_boundary.*both boundaries"),
    ],
)
def test_alm_refuses(changed, message):
    with pytest.raises(InputError, match=message):
        unwrap(alm)(log_probs(0, 8), log_probs(1, 5), **(IDS | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"matched": torch.tensor([[0, 1], [0, 2]])}, "a class in two pairs"),
        ({"matched": torch.tensor([[6, 1]])}, "classes from 0 to 5"),
        ({"student_ids": torch.full((8,), 6)}, "token ids from 0 to 5"),
        ({"beta": 1}, "gold.beta"),
        ({"matched_weight": -1}, "gold.matched_weight"),
    ],
)
def test_gold_refuses(changed, message):
    given = {"student_ids": torch.zeros(8, dtype=torch.int64), "matched": MATCHED}
    given |= {"teacher_ids": torch.zeros(5, dtype=torch.int64), **IDS}
    with pytest.raises(InputError, match=message):
        unwrap(gold)(draw(6, 8, 6), draw(7, 5, 9), **(given | changed))


def test_uld_refuses_unpaired_tokens():
    with pytest.raises(InputError, match="Pair the tokens"):
        unwrap(uld)(draw(4, 5, 6), draw(5, 4, 6))
