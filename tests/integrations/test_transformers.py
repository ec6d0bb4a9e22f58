"""The Trainer distils as a loop written by hand does, and keeps what is not its own."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.errors import InputError
from limbeck.losses import fitnet_hint
from limbeck.objective import Objective, Term
from limbeck.taps import Taps

transformers = pytest.importorskip("transformers")
from limbeck.integrations.transformers import FILE, DistillationTrainer  # noqa: E402

WORDS, LENGTH = 23, 8
IGNORED = -100


def language_model(seed, width=16, words=WORDS):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=words,
        n_positions=LENGTH,
        n_embd=width,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return transformers.GPT2LMHeadModel(config).double()


def classifier(seed, width=16, classes=3):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=width,
        max_position_embeddings=LENGTH,
        num_labels=classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config).double()


def image_classifier(seed):
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.ViTForImageClassification(config)


def texts(count, seed=0):
    """Texts of different lengths, with prompts that have no label."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(4, LENGTH + 1, (), generator=generator))
        ids = torch.zeros(LENGTH, dtype=torch.long)
        ids[:length] = torch.randint(1, WORDS, (length,), generator=generator)
        mask = (torch.arange(LENGTH) < length).long()
        labels = torch.where(mask.bool(), ids, IGNORED)
        labels[:2] = IGNORED
        rows.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return rows


def classified(count):
    rows = texts(count)
    return [{**row, "labels": torch.tensor(place % 3)} for place, row in enumerate(rows)]


def translator(seed, width=16, start=0):
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=WORDS,
        d_model=width,
        d_kv=8,
        d_ff=width,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        decoder_start_token_id=start,
    )
    return transformers.T5ForConditionalGeneration(config).double()


def translations(count):
    """Pairs whose targets are as long as their padded sources, with padding elsewhere."""
    rows = texts(count)
    targets = texts(count, seed=1)
    return [
        {**row, "labels": torch.where(other["attention_mask"].bool(), other["input_ids"], IGNORED)}
        for row, other in zip(rows, targets, strict=True)
    ]


@pytest.fixture
def trainer_of(tmp_path):
    def build(student, teacher, rows, *, objective=None, folder="out", **settings):
        kwargs = {key: settings.pop(key) for key in ("compute_metrics",) if key in settings}
        arguments = {
            "output_dir": str(tmp_path / folder),
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "lr_scheduler_type": "constant",
            "learning_rate": 1e-2,
            "optim": "adamw_torch",
            "per_device_train_batch_size": 4,
            "max_steps": 3,
            "logging_steps": 1,
            "save_strategy": "no",
            "seed": 0,
        }
        return DistillationTrainer(
            student,
            teacher,
            transformers.TrainingArguments(**arguments | settings),
            train_dataset=rows,
            eval_dataset=rows,
            objective=objective,
            **kwargs,
        )

    return build


def parameters(model):
    return torch.cat([one.detach().flatten() for one in model.parameters()])


def by_hand(student, teacher, rows, *, batch, steps, temperature=4.0, alpha=0.1):
    """Hinton's distillation over tokens, in plain torch; rows in order."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for step in range(steps):
        part = rows[step * batch : (step + 1) * batch]
        inputs = {key: torch.stack([row[key] for row in part]) for key in part[0]}
        labels = inputs.pop("labels")
        with torch.no_grad():
            soft = teacher(**inputs).logits
        logits = student(**inputs).logits
        if logits.ndim == 3:
            logits, soft, labels = logits[:, :-1], soft[:, :-1], labels[:, 1:]
        kept = labels != IGNORED
        logits, soft, labels = logits[kept], soft[kept], labels[kept]
        divergence = F.kl_div(
            (logits / temperature).log_softmax(-1),
            (soft / temperature).log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        hard = F.cross_entropy(logits, labels)
        loss = alpha * hard + (1 - alpha) * temperature**2 * divergence
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        losses.append({"loss": loss.item(), "task/raw": hard.item()})
    return losses


@pytest.mark.parametrize(("model", "rows"), [(language_model, texts), (classifier, classified)])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_equals_a_loop_by_hand_for_any_accumulation(trainer_of, model, rows, accumulation):
    rows = rows(12)
    trained, expected, teacher = model(0), model(0), model(1, width=32)
    before = parameters(teacher)
    trainer = trainer_of(
        trained,
        teacher.train(),
        rows,
        per_device_train_batch_size=4 // accumulation,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
    )
    trainer.train()
    losses = by_hand(expected, teacher.eval(), rows, batch=4, steps=3)
    torch.testing.assert_close(parameters(trained), parameters(expected), rtol=1e-6, atol=1e-8)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry, own in zip(logged, losses, strict=True):
        assert entry["loss"] == pytest.approx(own["loss"], rel=1e-5)
        assert entry["task/raw"] == pytest.approx(own["task/raw"], rel=1e-5)
        weighted = entry["task/weighted"] + entry["soft_target_kl/weighted"]
        assert weighted == pytest.approx(own["loss"], rel=1e-5)
    assert torch.equal(parameters(teacher), before)
    assert not any(part.training for part in teacher.modules())
    assert not getattr(teacher.config, "use_cache", False)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_encoder_decoder_model_trains_as_by_hand(trainer_of, accumulation):
    """Labels are the decoder's: not shifted, without the encoder's mask, as in its own loss."""
    rows = translations(12)
    trained, expected, teacher = translator(0), translator(0), translator(1, width=32, start=2)
    trainer_of(
        trained,
        teacher,
        rows,
        per_device_train_batch_size=4 // accumulation,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        max_grad_norm=0.0,
    ).train()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(3):
        part = rows[4 * step : 4 * step + 4]
        inputs = {key: torch.stack([row[key] for row in part]) for key in part[0]}
        kept = inputs["labels"] != IGNORED
        with torch.no_grad():  # each model shifts the labels behind its own start token
            soft = teacher.eval()(**inputs).logits[kept]
        returned = expected(**inputs)
        divergence = F.kl_div(
            (returned.logits[kept] / 4).log_softmax(-1),
            (soft / 4).log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        optimizer.zero_grad()
        (0.1 * returned.loss + 0.9 * 16 * divergence).backward()
        optimizer.step()
    torch.testing.assert_close(parameters(trained), parameters(expected), rtol=1e-6, atol=1e-8)


def test_what_an_encoder_decoder_model_cannot_have_is_refused(trainer_of):
    with pytest.raises(InputError, match=r"teacher_model: .*two encoder-decoder models, or none"):
        trainer_of(translator(0), language_model(1), translations(4))
    objective = [Term("fitnet_hint", student="encoder.block.0", teacher="encoder.block.0")]
    with pytest.raises(InputError, match="objective: got 'terms over features'"):
        trainer_of(translator(0), translator(1), translations(4), objective=objective)
    rows = [{k: one for k, one in row.items() if k != "labels"} for row in translations(4)]
    with pytest.raises(InputError, match=r"batch.labels: .*the decoder's positions"):
        trainer_of(translator(0), translator(1), rows).train()


def test_a_term_of_weight_0_leaves_what_the_trainer_does(trainer_of):
    rows, students = classified(12), [classifier(0), classifier(0)]
    for part in (*students[0].modules(), *students[1].modules()):
        if isinstance(part, nn.Dropout):
            part.p = 0.3
    layer = "bert.encoder.layer.0"
    hint = Term("fitnet_hint", student=layer, teacher=layer, weight=0.0)
    objective = [Term("task"), hint]
    trainer = trainer_of(students[0], classifier(1, width=32), rows, objective=objective)
    plain = transformers.Trainer(students[1], trainer.args, train_dataset=rows)
    for one in (trainer, plain):
        transformers.set_seed(0)
        one.train()
    torch.testing.assert_close(*map(parameters, students))


def test_gradients_are_balanced(trainer_of):
    objective = Objective([Term("task"), Term("soft_target_kl", temperature=2.0, weight="auto")])
    trainer = trainer_of(classifier(0), classifier(1), classified(4), objective=objective)
    trainer.train()
    ratios = [
        entry["soft_target_kl/weighted"] / entry["soft_target_kl/raw"]
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    assert ratios[0] == pytest.approx(1.0)
    assert ratios[1] > 2.0  # measured in the first step


def test_the_loss_is_computed_without_a_training_loop(trainer_of):
    rows, student = classified(4), classifier(0).train()
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    loss, outputs = trainer_of(student, classifier(1), rows).compute_loss(student, batch, True)
    loss.backward()
    assert outputs["logits"].shape == (4, 3)


def test_a_batch_without_elements_changes_nothing(trainer_of):
    rows = [{**row, "labels": torch.full((LENGTH,), IGNORED)} for row in texts(4)]
    student = language_model(0)
    before = parameters(student)
    trainer_of(student, language_model(1), rows).train()
    assert torch.equal(parameters(student), before)


def test_images_and_unlabelled_rows_train(trainer_of):
    rows = [{"pixel_values": torch.randn(3, 8, 8)} for _ in range(8)]
    student, teacher = image_classifier(0), image_classifier(1)
    before = parameters(student)
    trainer_of(student, teacher, rows, objective=[Term("soft_target_kl", temperature=2.0)]).train()
    assert not torch.equal(parameters(student), before)


def test_padding_is_no_element_even_if_it_is_labelled(trainer_of):
    rows = texts(4)
    labelled = [{**row, "labels": row["labels"].clone()} for row in rows]
    for row in labelled:
        row["labels"][row["attention_mask"] == 0] = 5
    students = [language_model(0), language_model(0)]
    for student, data in zip(students, (rows, labelled), strict=True):
        trainer_of(student, language_model(1), data, max_steps=1).train()
    assert torch.equal(*map(parameters, students))


FEATURES = [
    Term("task", weight=0.5),
    Term("fitnet_hint", student="bert.encoder.layer.0", teacher="bert.encoder.layer.0"),
]


def test_a_compiled_model_gets_its_inputs_by_name(trainer_of):
    rows, students = classified(4), [classifier(0), classifier(0)]
    for student, wrap in zip(students, (nn.Module.to, forwarded), strict=True):
        model = wrap(student, "cpu")
        trainer_of(model, classifier(1), rows, max_steps=1, remove_unused_columns=False).train()
    assert torch.equal(*map(parameters, students))


def forwarded(module, _):
    """Wrap a module as torch.compile does: `forward` is an attribute of the instance."""
    outer = nn.Module()
    outer.inner = module
    outer.forward = lambda *args, **kwargs: module(*args, **kwargs)
    return outer


def test_features_train_connectors_which_stay_out_of_the_model(trainer_of, tmp_path):
    student, teacher = classifier(0), classifier(1, width=32)
    objective = Objective(FEATURES)
    trainer = trainer_of(
        student, teacher, classified(12), objective=objective, save_strategy="steps", save_steps=3
    )
    trainer.create_optimizer()
    [weights] = [copy.deepcopy(one) for one in objective.connectors.values()]
    trainer.train()
    assert not torch.equal(parameters(weights), parameters(objective.connectors["fitnet_hint"]))
    assert all(one.grad is None for one in objective.connectors.parameters())
    checkpoint = tmp_path / "out" / "checkpoint-3"
    assert (checkpoint / FILE).is_file()
    trainer.save_model(str(tmp_path / "student"))
    assert not (tmp_path / "student" / FILE).exists()
    for folder in (checkpoint, tmp_path / "student"):
        loaded = transformers.BertForSequenceClassification.from_pretrained(folder)
        torch.testing.assert_close(parameters(loaded).double(), parameters(student))
    stored = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert stored < 1.5 * 8 * parameters(student).numel()  # no teacher


@pytest.mark.parametrize("limit", [0.0, 0.05])
def test_connectors_are_trained_as_by_hand(trainer_of, limit):
    rows = classified(4)
    student, teacher = classifier(0), classifier(1, width=32)
    expected = copy.deepcopy(student)
    objective = Objective(FEATURES)
    trainer = trainer_of(
        student,
        teacher,
        rows,
        objective=objective,
        max_grad_norm=limit,
        train_sampling_strategy="sequential",
    )
    trainer.create_optimizer()
    connector = copy.deepcopy(objective.connectors["fitnet_hint"])
    trainer.train()
    optimizer = torch.optim.AdamW(
        [*expected.parameters(), *connector.parameters()], lr=1e-2, weight_decay=0.0
    )
    inputs = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    layer = "bert.encoder.layer.0"
    for _ in range(3):
        with Taps(expected, [layer]) as own, Taps(teacher, [layer]) as soft:
            loss = 0.5 * expected(**inputs).loss
            with torch.no_grad():
                teacher(**inputs)
            joined = connector(own.take()[layer], soft.take()[layer], {})
        loss = loss + fitnet_hint(joined.student, joined.teacher).mean()
        optimizer.zero_grad()
        loss.backward()
        if limit:
            together = [*expected.parameters(), *connector.parameters()]
            assert nn.utils.clip_grad_norm_(together, limit) > limit
        optimizer.step()
    torch.testing.assert_close(parameters(student), parameters(expected))
    torch.testing.assert_close(
        parameters(objective.connectors["fitnet_hint"]), parameters(connector)
    )


def test_resumed_equals_undisturbed(trainer_of, tmp_path):
    trained = []
    for seed, checkpoint in ((0, None), (5, str(tmp_path / "out" / "checkpoint-2"))):
        student, objective = classifier(seed), Objective(FEATURES)
        trainer = trainer_of(
            student,
            classifier(1, width=32),
            classified(12),
            objective=objective,
            save_strategy="steps",
            save_steps=2,
            max_steps=5,
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        trained.append(parameters(nn.ModuleList([student, objective.connectors])))
    assert torch.equal(*trained)


def test_evaluation_and_prediction_are_those_of_the_trainer(trainer_of):
    def accuracy(prediction):
        return {
            "accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())
        }

    student, rows = classifier(0), classified(6)
    trainer = trainer_of(student, classifier(1), rows, compute_metrics=accuracy)
    metrics = trainer.evaluate()
    inputs = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    logits = student.eval()(**inputs).logits
    assert metrics["eval_accuracy"] == pytest.approx(
        (logits.argmax(-1) == inputs["labels"]).double().mean().item()
    )
    assert math.isfinite(metrics["eval_loss"])
    unlabelled = [{key: one for key, one in row.items() if key != "labels"} for row in rows]
    predicted = torch.as_tensor(trainer.predict(unlabelled).predictions)
    torch.testing.assert_close(predicted, logits.detach(), check_dtype=False)


class Tokenizer:
    def __len__(self):
        return WORDS

    def save_pretrained(self, folder):
        pass


def test_padded_vocabularies_are_compared_on_the_common_part(trainer_of, tmp_path):
    rows = texts(4)
    padded, plain = [], []
    teacher = language_model(1)
    wider = language_model(1, words=WORDS + 9)
    with torch.no_grad():
        wider.transformer.load_state_dict(
            {k: v for k, v in teacher.transformer.state_dict().items() if k != "wte.weight"},
            strict=False,
        )
        wider.transformer.wte.weight[:WORDS] = teacher.transformer.wte.weight
    divergence = [Term("divergence", kind="forward_kl", temperature=2.0)]
    for model, kept in ((wider, padded), (teacher, plain)):
        student = language_model(0)
        args = trainer_of(student, None, rows, objective="label_only", max_steps=1).args
        DistillationTrainer(
            student,
            model,
            args,
            train_dataset=rows,
            data_collator=transformers.default_data_collator,
            processing_class=Tokenizer(),
            objective=divergence,
        ).train()
        kept.append(parameters(student))
    torch.testing.assert_close(padded, plain)
    with pytest.raises(InputError, match="teacher: got '32 classes'; allowed: 23 classes"):
        trainer_of(language_model(0), wider, rows).train()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": None}, "teacher: .*a teacher, which a term requires"),
        ({"teacher": "gpt2"}, "teacher: got 'str'.*from_pretrained"),
        ({"teacher": "student"}, "teacher: got 'parameters of the student'"),
        ({"objective": "hintn"}, 'did you mean "hinton"'),
        (
            {"objective": [Term("fitnet_hint", student="bert.encodr", teacher="bert.enc")]},
            "(?s)bert.enc.*bert.encodr",
        ),
        ({"label_smoothing_factor": 0.1}, "args.label_smoothing_factor: got 0.1"),
    ],
)
def test_bad_arguments_are_one_clear_error(trainer_of, change, message):
    student = classifier(0)
    teacher = change.pop("teacher", classifier(1))
    teacher = student if isinstance(teacher, str) and teacher == "student" else teacher
    with pytest.raises(InputError, match=message):
        trainer_of(student, teacher, classified(4), **change)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "batch.labels: .*labels, for a loss against the labels"),
        (torch.tensor(0.5), "batch.labels: got 'labels of float32'"),
        (torch.zeros(2, dtype=torch.long), r"batch.labels: .*labels \[4\]"),
    ],
)
def test_labels_that_do_not_fit_are_one_clear_error(trainer_of, labels, message):
    rows = [{**row, "labels": labels} for row in classified(4)]
    if labels is None:
        rows = [{key: one for key, one in row.items() if key != "labels"} for row in rows]
    with pytest.raises(InputError, match=message):
        trainer_of(classifier(0), classifier(1), rows).train()


def test_a_teacher_of_other_classes_is_refused(trainer_of):
    with pytest.raises(InputError, match="teacher: got '5 classes'; allowed: 3 classes"):
        trainer_of(classifier(0), classifier(1, classes=5), classified(4)).train()
