"""On-policy distillation: its text, its estimators by enumeration, and its limits."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from torch import nn

from limbeck.errors import InputError, LimbeckError
from limbeck.objective import Objective
from limbeck.pipeline.stages.distill import Distill, with_scheme
from limbeck.schemes import SCHEMES, Offline, SchemeInputs
from limbeck.schemes._estimators import Pair, Samples, minillm, policy_gradient, repetition
from limbeck.schemes._sampling import Sampler, Sampling
from limbeck.targets import DenseTargets
from limbeck.tasks import Output
from limbeck.tasks.causal_lm import CausalLm
from limbeck.tasks.image_classification import ImageClassification
from limbeck.teachers import FrozenTeacher

VOCABULARY, END = 11, 2
TASK = CausalLm(VOCABULARY)
SETTINGS = {"max_new_tokens": 5, "prompt_length": 3, "end_token": END}


class Causal(nn.Module):
    """A small causal model without a cache."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator))
        self.before = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator))

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(2).float()
        count = mask.cumsum(1).clamp_min(1)
        mean = (self.before[input_ids] * mask).cumsum(1) / count
        return self.table[input_ids] + mean


def llama(seed, **settings):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        eos_token_id=END,
        **settings,
    )
    return LlamaForCausalLM(config)


def batch_of(rows=4, positions=9):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, VOCABULARY, (rows, positions), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, 7:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 0] = -100
    labels[1, :5] = -100  # a prompt of its own
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "labels": labels,
        "index": torch.arange(rows) * 3,
    }


def inputs_of(teacher, objective=None, task=TASK):
    terms = objective or [{"divergence": {"kind": "reverse_kl", "temperature": 1.0}}]
    return SchemeInputs(
        task=task,
        objective=lambda: Objective.from_recipe(terms),
        probe=batch_of(),
        teacher=teacher,
    )


def scheme_of(student, teacher, objective=None, **settings):
    found = SCHEMES.load("on_policy")(**{**SETTINGS, **settings})
    return found.build_scheme(student, inputs_of(FrozenTeacher(teacher, TASK), objective))


def gradients(scheme, batches, totals=True):
    weights = None
    if totals:
        parts = [scheme.total_weights(one) for one in batches]
        weights = {name: sum(one[name] for one in parts) for name in parts[0]}
    losses = [scheme.step(one, 0.0, weights) for one in batches]
    sum(one.total for one in losses).backward()
    found = [p.grad.clone() for p in scheme.student.parameters()]
    scheme.student.zero_grad()
    return losses, found


@pytest.mark.parametrize("estimator", ["full", "policy_gradient", "minillm"])
@pytest.mark.parametrize("model", [Causal, llama])
def test_a_student_like_its_teacher_has_neither_loss_nor_gradient(estimator, model):
    student = model(0)
    scheme = scheme_of(student, copy.deepcopy(student), estimator=estimator)
    [losses], found = gradients(scheme, [batch_of()], totals=False)
    assert float(losses.total) == pytest.approx(0, abs=1e-5)
    assert all(one.abs().max() < 1e-5 for one in found)
    if estimator != "minillm":  # with the teacher's share, the student's text is also its own
        assert float(losses.figures["rollouts/top_k_overlap"]) == 1


def test_without_student_text_it_is_the_offline_scheme():
    objective = [{"task": {"weight": 0.3}}, {"divergence": {"kind": "jsd", "temperature": 1.0}}]
    student, teacher = Causal(0), Causal(1)
    scheme = scheme_of(student, teacher, objective, lmbda=0.0)
    offline = Offline(
        student,
        TASK,
        Objective.from_recipe(objective),
        teacher=FrozenTeacher(teacher, TASK),
        probe=batch_of(),
    )
    for totals in (False, True):
        [one], of_scheme = gradients(scheme, [batch_of()], totals)
        [two], of_offline = gradients(offline, [batch_of()], totals)
        assert torch.equal(one.total, two.total)
        assert not one.figures
        assert all(map(torch.equal, of_scheme, of_offline))


@pytest.mark.parametrize("model", [Causal, llama])
def test_text_follows_the_models_own_distribution(model):
    one = model(0).eval()
    prompt = torch.tensor([3, 4, 5])
    count = 4000
    uniform = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)).double()
    found = Sampler(TASK, Sampling(2, end_tokens=(END,)))(one, [prompt] * count, uniform)
    first = torch.bincount(torch.stack([c.ids[0] for c in found]), minlength=VOCABULARY) / count
    ids = prompt[None]
    logits = TASK.raw_outputs(one, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    p = logits["logits"][0, :, -1].softmax(0).detach()
    assert (first - p).abs().max() < 0.03
    for c in found[:50]:
        assert float(c.log_probs[0]) == pytest.approx(float(p[c.ids[0]].log()), abs=1e-4)
        assert len(c.ids) == 1 if c.ids[0] == END else len(c.ids) == 2
        assert c.finished == (int(c.ids[-1]) == END)


@pytest.mark.parametrize("model", [Causal, llama])
def test_a_rows_text_does_not_depend_on_its_batch(model):
    scheme = scheme_of(model(0), model(1), lmbda=1.0)
    whole, batch = scheme._rollouts(batch_of()), batch_of()
    for row in range(4):
        alone = scheme._rollouts({name: value[row : row + 1] for name, value in batch.items()})
        length = int(alone.batch["attention_mask"].sum())
        ids = whole.batch["input_ids"][row, :length]
        assert torch.equal(ids, alone.batch["input_ids"][0, :length])
    before = torch.get_rng_state()
    again = scheme._rollouts(batch_of())
    assert torch.equal(again.batch["input_ids"], whole.batch["input_ids"])
    assert torch.equal(before, torch.get_rng_state())
    scheme.after_step(1)
    other = scheme._rollouts(batch_of()).batch["input_ids"]
    assert other.shape != again.batch["input_ids"].shape or (
        not torch.equal(other, again.batch["input_ids"])
    )


@pytest.mark.parametrize("estimator", ["full", "policy_gradient", "minillm"])
def test_micro_batches_have_the_gradient_of_the_whole_batch(estimator):
    scheme = scheme_of(Causal(0), Causal(1), estimator=estimator, lmbda=0.5, mixing="per_sample")
    batch = batch_of(rows=6)
    [whole], expected = gradients(scheme, [batch], totals=False)
    parts = [{k: v[start : start + 2] for k, v in batch.items()} for start in (0, 2, 4)]
    losses, found = gradients(scheme, parts)
    assert float(sum(one.total for one in losses)) == pytest.approx(float(whole.total), rel=1e-5)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    for name, value in whole.figures.items():
        total = sum(one.figures.get(name, 0) for one in losses)
        assert float(total) == pytest.approx(float(value), rel=1e-5)


def test_text_that_ends_at_once_trains_its_end_token():
    student = Causal(0)
    with torch.no_grad():
        student.table[:, END] = 50.0
    scheme = scheme_of(student, Causal(1))
    rollouts = scheme._rollouts(batch_of())
    assert ((rollouts.batch["labels"] != -100).sum(1) == 1).all()
    [losses], _ = gradients(scheme, [batch_of()])
    assert float(losses.figures["rollouts/length"]) == 1
    assert float(losses.figures["rollouts/cut_off"]) == 0
    assert float(losses.total) > 1


def test_prompts_are_the_rows_own_and_labels_the_new_tokens():
    rollouts = scheme_of(Causal(0), Causal(1))._rollouts(batch_of())
    given = batch_of()["input_ids"]
    ids, labels = rollouts.batch["input_ids"], rollouts.batch["labels"]
    for row, prompt in enumerate([3, 5, 3, 3]):
        assert torch.equal(ids[row, :prompt], given[row, :prompt])
        length = int(rollouts.batch["attention_mask"][row].sum())
        assert (labels[row, :prompt] == -100).all()
        assert (labels[row, length:] == -100).all()
        assert torch.equal(labels[row, prompt:length], ids[row, prompt:length])
        assert 1 <= length - prompt <= 5


def test_labels_never_use_the_students_text():
    objective = [{"task": {}}, {"divergence": {"kind": "reverse_kl", "temperature": 1.0}}]
    [losses], _ = gradients(scheme_of(Causal(0), Causal(1), objective), [batch_of()])
    assert float(losses.terms["task"].raw) == 0
    assert float(losses.terms["divergence"].raw) > 0
    of_teacher = scheme_of(Causal(0), Causal(1), objective, lmbda=0.0, teacher_share=1.0)
    [losses], _ = gradients(of_teacher, [batch_of()])
    assert float(losses.terms["task"].raw) > 0
    assert not losses.figures


# -- estimators, against the enumeration of all sequences of two tokens ---------------------------

CLASSES, LENGTH = 3, 2


def tables(seed):
    """Logits of the first token, and of the second after each first one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1 + CLASSES, CLASSES, generator=generator, dtype=torch.float64)


def exact(student, teacher):
    """Compute the reverse KL of sequences by enumeration."""
    log_q, log_p = student.log_softmax(1), teacher.log_softmax(1)
    total = 0.0
    for first, second in product(range(CLASSES), repeat=LENGTH):
        q = log_q[0, first] + log_q[1 + first, second]
        p = log_p[0, first] + log_p[1 + first, second]
        total = total + q.exp() * (q - p)
    return total


def expected(estimator, student, teacher, share=0.0):
    """Compute the estimator's expected gradient over all sequences."""
    mixed = ((1 - share) * student.softmax(1) + share * teacher.softmax(1)).detach()
    total = torch.zeros_like(student)
    for first, second in product(range(CLASSES), repeat=LENGTH):
        logits = student.clone().requires_grad_()
        rows = torch.tensor([0, 1 + first])
        output = Output(logits[rows], torch.ones(LENGTH).double(), torch.zeros(LENGTH).long())
        chosen = torch.tensor([first, second])
        p = mixed[rows].gather(1, chosen[:, None]).squeeze(1)
        samples = Samples(
            torch.arange(LENGTH), chosen, p.log(), torch.zeros(LENGTH).long(), torch.ones(2)
        )
        pair = Pair.of(output, DenseTargets(teacher[rows]))
        loss = torch.stack(list(estimator(pair, samples).values())).sum()
        [gradient] = torch.autograd.grad(loss, logits)
        total += p.prod() * gradient
    return total


def test_minillm_has_the_gradient_of_the_reverse_kl_of_sequences():
    student, teacher = tables(0), tables(1)
    logits = student.clone().requires_grad_()
    [gradient] = torch.autograd.grad(exact(logits, teacher), logits)
    found = expected(lambda *x: minillm(*x, length_normalization=False), student, teacher)
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)
    # With two tokens the length normalisation divides by 1.
    normal = expected(lambda *x: minillm(*x, length_normalization=True), student, teacher)
    torch.testing.assert_close(normal, found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_policy_gradient_is_that_of_each_tokens_reverse_kl(share):
    student, teacher = tables(0), tables(1)
    logits = student.clone().requires_grad_()
    log_q, log_p = logits.log_softmax(1), teacher.log_softmax(1)
    kl = (log_q.exp() * (log_q - log_p)).sum(1)
    mixed = ((1 - share) * student.softmax(1) + share * teacher.softmax(1))[0]
    [gradient] = torch.autograd.grad(kl[0] + (mixed * kl[1:]).sum(), logits)
    torch.testing.assert_close(
        expected(policy_gradient, student, teacher, share), gradient, rtol=1e-4, atol=1e-5
    )


def test_repetition_is_the_share_of_repeated_n_grams():
    assert repetition(torch.tensor([5] * 8)) == pytest.approx(0.8)
    assert repetition(torch.arange(8)) == 0
    assert repetition(torch.arange(3)) == 0


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lmbda": 1.5}, "lmbda"),
        ({"lmbda": -0.1}, "lmbda"),
        ({"lmbda": 0.5, "teacher_share": 0.6}, "teacher_share"),
        ({"cache_teacher": True}, "cache_teacher"),
        ({"teacher_mix": 0.2}, "importance weights"),
        ({"beta": 0.5, "objective": [{"task": {}}]}, "beta"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises((ValueError, LimbeckError), match=message):
        with_scheme("on_policy")(scheme="on_policy", epochs=1, **settings)


@pytest.mark.parametrize(("beta", "kind"), [(0, "forward_kl"), (1, "reverse_kl"), (0.5, "jsd")])
def test_beta_is_that_of_gkd(beta, kind):
    stage = with_scheme("on_policy")(scheme="on_policy", epochs=1, beta=beta)
    assert isinstance(stage, Distill)
    assert stage.objective[0]["divergence"]["kind"] == kind


def test_other_tasks_and_models_without_a_head_are_refused():
    from transformers import LlamaModel

    settings = SCHEMES.load("on_policy")(**SETTINGS)
    images = ImageClassification(classes=("a", "b"))
    teacher = FrozenTeacher(Causal(1), TASK)
    with pytest.raises(InputError, match="causal_lm"):
        settings.build_scheme(Causal(0), inputs_of(teacher, task=images))
    with pytest.raises(InputError, match="language-model head"):
        settings.build_scheme(LlamaModel(llama(0).config), inputs_of(teacher))


def test_a_prompt_without_a_position_left_is_refused():
    student = llama(0)
    student.config.max_position_embeddings = 3
    scheme = scheme_of(student, Causal(1))
    with pytest.raises(InputError, match="at most 2 tokens"):
        scheme.step(batch_of(), 0.0)


# -- a whole training -----------------------------------------------------------------------------


def test_a_resumed_training_equals_an_undisturbed_one(tmp_path):
    from accelerate import Accelerator

    from limbeck.training import Training, fit

    batch = batch_of(rows=12)
    rows = [{name: value[row] for name, value in batch.items()} for row in range(12)]
    settings = Training(
        epochs=2, batch_size=2, gradient_accumulation_steps=2, checkpoint_every=0, keep="last"
    )

    def train(folder, interrupt_at):
        scheme = scheme_of(Causal(0), Causal(1), lmbda=0.8, mixing="per_sample")
        calls = 0

        class Bar:
            def update(self, done, total, note, *, milestone=False):
                nonlocal calls
                calls += 1
                if calls == interrupt_at:
                    raise KeyboardInterrupt

        history = fit(
            scheme,
            train=rows,
            validate=lambda model: {"sum": float(model.table.detach().sum())},
            settings=settings,
            folder=folder,
            seed=3,
            accelerator=Accelerator(cpu=True),
            progress_bar=Bar(),
        )
        return scheme.student.state_dict(), history.rows

    whole, expected = train(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", 6)
    weights, found = train(tmp_path / "parts", None)
    assert all(torch.equal(value, whole[name]) for name, value in weights.items())
    for one, two in zip(found, expected, strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}
    assert any("rollouts/length" in row for row in found)
