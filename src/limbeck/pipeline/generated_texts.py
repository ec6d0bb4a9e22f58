"""Texts that the exported teacher and student generate for the same prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.evaluate.detail_results import GeneratedText
from limbeck.serving.generation import GenerationConfig, Generator, TokenizesPrompts
from limbeck.tasks.causal_lm import prompt_lengths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limbeck.export.predictor import OnnxPredictor
    from limbeck.pipeline.context import Context

TEXTS = 4
"""The number of test samples."""
PROMPT, NEW = 24, 60
"""The largest number of tokens of a document's beginning, and of the generated text."""


def generated_texts(
    student: OnnxPredictor, teacher: OnnxPredictor | None, context: Context
) -> tuple[GeneratedText, ...]:
    """Generate texts after the beginning of test samples; none for other tasks.

    The beginning is the prompt of a sample with prompt and response, and the first tokens of a
    document.
    """
    prepare, split = context.data.preprocess, context.data.test
    if not student.generates or not isinstance(prepare, TokenizesPrompts):
        return ()
    samples = dict(_divided(context, split.spread(min(TEXTS, len(split)))))
    prompts, config = [one for one, _ in samples.values()], GenerationConfig(max_new_tokens=NEW)
    texts = [
        [
            one.text
            for one in Generator(side, prepare, where="the exported file").continue_ids(
                prompts, config
            )
        ]
        for side in (student, teacher)
        if side is not None and side.generates
    ]
    return tuple(
        GeneratedText(
            index=index,
            prompt=prepare.decode(prompt),
            truth=prepare.decode(rest[:NEW]),
            student=own[0],
            teacher=own[1] if len(own) > 1 else None,
        )
        for (index, (prompt, rest)), *own in zip(samples.items(), *texts, strict=True)
    )


def _divided(
    context: Context, rows: list[int]
) -> Iterator[tuple[int, tuple[list[int], list[int]]]]:
    """Yield the tokens of the beginning and of the rest of samples that have both."""
    for row in rows:
        batch = context.data.test.__getitems__([row])
        length = int(batch["attention_mask"].sum())
        ids = batch["input_ids"][0, :length].tolist()
        start = int(prompt_lengths(batch, min(PROMPT, length // 2)))
        if 0 < start < length:
            yield row, (ids[:start], ids[start:])
