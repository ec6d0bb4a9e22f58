"""Causal language modelling: shifted once, prompts without weight, equal by every route."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

from limbeck.errors import InputError  # noqa: E402
from limbeck.objective import Objective, Term  # noqa: E402
from limbeck.targets import Layout, PackedLayout, expanded  # noqa: E402
from limbeck.tasks import ScoreTable, causal_lm, total_weights  # noqa: E402
from limbeck.tasks.causal_lm import CausalLm  # noqa: E402
from limbeck.teachers import FrozenTeacher, TargetForm  # noqa: E402

VOCABULARY = 50


def llama(seed: int, vocabulary: int = VOCABULARY) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
    )
    return transformers.AutoModelForCausalLM.from_config(config)


def gemma(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=32,
        final_logit_softcapping=0.5,
    )
    return transformers.AutoModelForCausalLM.from_config(config)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(1, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 3 + [0] * 4])
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, :4] = -100  # a prompt
    index = torch.arange(3)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "index": index}


@pytest.mark.parametrize("build", [llama, gemma])
@pytest.mark.parametrize("large", [False, True])
def test_the_loss_is_that_of_transformers(
    build: type, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:  # no logits, blocks of two tokens
        monkeypatch.setattr(causal_lm, "LARGE", 1)
        monkeypatch.setattr(causal_lm, "BLOCK", 8 * VOCABULARY)
    model, task, given = build(0), CausalLm(VOCABULARY), batch()
    response = task.respond(model, given)
    assert (response.primary.values is None) == large
    losses = task.loss(response)["logits"]
    mean = (losses * response.primary.weights).sum() / response.primary.weights.sum()
    inputs = {key: given[key] for key in ("input_ids", "attention_mask", "labels")}
    expected = model(**inputs).loss
    assert torch.allclose(mean, expected, atol=1e-5)
    parameters = [one for one in model.parameters() if one.requires_grad]
    for found, wanted in zip(
        torch.autograd.grad(mean, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        assert torch.allclose(found, wanted, atol=1e-5)


def test_scores_are_those_of_the_definition() -> None:
    model, task, given = llama(0).eval(), CausalLm(VOCABULARY), batch()
    given["target_bytes"] = torch.arange(21).reshape(3, 7)
    with torch.no_grad():
        outputs = task.outputs(model, given)
    arrays = [{key: one.numpy() for key, one in part.items()} for part in (outputs, given)]
    weights = {key: one.numpy() for key, one in task.weights(given).items()}
    table = ScoreTable(task.scores)
    table.update(*arrays, weights)
    logs = outputs["logits"].double().log_softmax(1)
    nats, sizes, right = [], 0, 0
    for row in range(3):
        for place in range(1, 7):
            label = int(given["labels"][row, place])
            if label != -100:
                nats.append(-float(logs[row, label, place - 1]))
                sizes += int(given["target_bytes"][row, place])
                right += int(outputs["logits"][row, :, place - 1].argmax()) == label
    values = table.values()
    assert values["perplexity"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
    assert values["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / sizes, rel=1e-5)
    assert values["token_accuracy"] == pytest.approx(right / len(nats))


FORMS = [
    TargetForm("dense"),
    TargetForm("top_k", k=VOCABULARY),
    TargetForm("sampled", draws=400),
    TargetForm("head"),
]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=lambda one: one.form)
@pytest.mark.parametrize("large", [False, True])
def test_a_student_that_equals_its_teacher_has_no_loss_by_any_route(
    form: TargetForm, recorded: bool, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(causal_lm, "LARGE", 1)
    task, given = CausalLm(VOCABULARY), batch()
    teacher = FrozenTeacher(llama(0), task, targets=form)
    objective = Objective([Term("fused_divergence", kind="reverse_kl", temperature=1.0)])
    results = {}
    for seed in (0, 1):
        student = llama(seed)
        response, answer = task.respond(student, given), teacher.answer(given)
        if recorded:
            kept = {"logits": task.weights(given)["logits"] > 0}
            layout = PackedLayout.of(answer.targets, precision="float32")
            records = layout.pack(answer.targets, kept, samples=3)
            read = layout.unpack(records)["logits"]
            answer = type(answer)({"logits": expanded(read, kept["logits"])})
        objective.connect(response, answer)
        losses = objective(response, answer, task_loss=task.loss)
        weight = student.get_output_embeddings().weight
        results[seed] = losses.total, torch.autograd.grad(losses.total, weight)[0]
    assert results[0][0].item() == pytest.approx(0, abs=1e-5)
    assert results[0][1].abs().max() < 1e-5
    # Another student: the value and gradient of the dense definition.
    student = llama(1)
    inputs = {key: given[key] for key in ("input_ids", "attention_mask")}
    rows = task.weights(given)["logits"] > 0
    q = student(**inputs).logits.flatten(0, 1)[rows].log_softmax(-1)
    with torch.no_grad():
        p = llama(0)(**inputs).logits.flatten(0, 1)[rows].log_softmax(-1)
    expected = (q.exp() * (q - p)).sum(-1).mean()
    [gradient] = torch.autograd.grad(expected, student.get_output_embeddings().weight)
    value, found = results[1]
    spread = 0.2 if form.form == "sampled" else 1e-4
    assert torch.allclose(value, expected, rtol=spread, atol=1e-5)
    assert (found - gradient).norm() <= (0.5 if form.form == "sampled" else 1e-4) * gradient.norm()


def test_a_sample_of_the_teacher_is_unbiased() -> None:
    task, given, student = CausalLm(VOCABULARY), batch(), llama(1)
    objective = Objective([Term("divergence", kind="forward_kl", temperature=1.0)])

    def gradient(form: TargetForm) -> torch.Tensor:
        answer = FrozenTeacher(llama(0), task, targets=form).answer(given)
        losses = objective(task.respond(student, given), answer, task_loss=task.loss)
        return torch.autograd.grad(losses.total, student.get_output_embeddings().weight)[0]

    exact = gradient(TargetForm("dense"))
    draws = [gradient(TargetForm("sampled", draws=20, seed=seed)) for seed in range(60)]
    error = torch.stack(draws).mean(0) - exact
    spread = torch.stack(draws).std(0).norm() / math.sqrt(60)
    assert error.norm() < 2 * spread


def test_padding_of_a_vocabulary_is_compared_by_its_common_part() -> None:
    task, given = CausalLm(VOCABULARY), batch()
    response = task.respond(llama(1, VOCABULARY + 6), given)
    answer = FrozenTeacher(llama(0), task).answer(given)
    objective = Objective([Term("divergence", kind="forward_kl", temperature=1.0)])
    objective.check_classes(response, answer, least=VOCABULARY)
    with pytest.raises(InputError, match="classes"):
        objective.check_classes(response, answer, least=VOCABULARY + 1)
    too_small = llama(1, VOCABULARY - 1)
    with pytest.raises(InputError, match="logits"):
        task.outputs(too_small, {**given, "input_ids": given["input_ids"].clamp_max(40)})


def test_labels_of_another_length_are_refused() -> None:
    given = batch() | {"labels": torch.zeros(3, 6, dtype=torch.int64)}
    with pytest.raises(InputError, match="a token per position"):
        CausalLm(VOCABULARY).weights(given)


def test_the_mass_of_a_step_is_that_of_its_predicted_tokens() -> None:
    assert float(total_weights(CausalLm(VOCABULARY), batch())["logits"]) == 3 + 4 + 2


def test_a_fixed_layout_still_holds_tokens(tmp_path: Path) -> None:
    task, given = CausalLm(VOCABULARY), batch()
    answer = FrozenTeacher(llama(0), task).answer(given)
    assert Layout.of(answer.targets, samples=3).dtype.itemsize == 7 * VOCABULARY * 4
