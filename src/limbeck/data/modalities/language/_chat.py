"""Chats as tokens: the template of the tokenizer, and which tokens are the assistant's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core.imports import require
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from limbeck.data.modalities.language._preprocess import LanguagePreprocess
    from limbeck.data.modalities.language._samples import Tokens

ASSISTANT = "assistant"


class Chat:
    """The conversion of chats to tokens.

    The tokens of an assistant's message are found by rendering the chat up to it, with the
    generation prompt, and with it: the first is a prefix of the second in token ids, and what
    follows is what the model has to generate. Masks that templates state themselves are not used:
    those of most templates are all zero.

    Args:
        preprocess: The tokenizer with its chat template.

    Raises:
        InputError: The tokenizer has no chat template.
    """

    def __init__(self, preprocess: LanguagePreprocess) -> None:
        if preprocess.template is None:
            fix = "Use a tokenizer with chat_template.jinja or a chat_template in its settings."
            raise InputError(Problem("data.language.messages", "no chat template", "one", fix))
        self._encoder, self._template = preprocess.encoder, preprocess.template
        self._library = require("transformers", extra="text").utils.chat_template_utils
        self._special = _special_tokens(preprocess)

    def render(self, messages: list[dict[str, Any]], *, generation_prompt: bool) -> str:
        """Render messages as text.

        Raises:
            InputError: The template fails.
        """
        try:
            [text], _ = self._library.render_jinja_template(
                conversations=[messages],
                chat_template=self._template,
                add_generation_prompt=generation_prompt,
                **self._special,
            )
        # Templates are programs of others and raise their own exceptions.
        except Exception as error:
            allowed = "messages that the chat template accepts"
            given = f"{type(error).__name__}: {error}"
            raise InputError(Problem("data.language.messages", given[:300], allowed)) from error
        return str(text)

    def __call__(self, row: Any, where: str) -> Tokens:
        """Convert a chat.

        Raises:
            InputError: The chat up to a message is no prefix of the chat with it.
        """
        from limbeck.data.modalities.language._samples import Tokens, token_sizes

        messages = json.loads(row) if isinstance(row, str) else row
        messages = [{key: x for key, x in one.items() if x is not None} for one in messages]
        text = self.render(messages, generation_prompt=False)
        whole = self._encoder.encode(text, add_special_tokens=False)
        ids, sizes = np.array(whole.ids, np.int32), token_sizes(text, whole.offsets)
        predicted = np.zeros(len(ids), dtype=bool)
        for place, message in enumerate(messages):
            if message["role"] != ASSISTANT:
                continue
            before = self._ids(messages[:place], generation_prompt=True)
            after = self._ids(messages[: place + 1], generation_prompt=False)
            if after[: len(before)] != before or ids[: len(after)].tolist() != after:
                given = f"a template by which message {place} does not follow its own prompt"
                allowed = "a template whose rendering of a chat begins with that of its beginning"
                raise InputError(Problem(where, given, allowed))
            predicted[len(before) : len(after)] = True
        if not predicted.any():
            allowed = "an assistant's message with text"
            raise InputError(Problem(where, "an empty assistant mask", allowed))
        return Tokens(ids, predicted, np.array(sizes, dtype=np.int32))

    def _ids(self, messages: list[dict[str, Any]], *, generation_prompt: bool) -> list[int]:
        text = self.render(messages, generation_prompt=generation_prompt)
        return list(self._encoder.encode(text, add_special_tokens=False).ids)


def _special_tokens(preprocess: LanguagePreprocess) -> dict[str, str]:
    """Return the special tokens that templates name."""
    encoder = preprocess.encoder
    found = {}
    first = encoder.encode("").ids
    if first:
        found["bos_token"] = encoder.id_to_token(first[0])
    if preprocess.eos is not None:
        found["eos_token"] = encoder.id_to_token(preprocess.eos)
    return {"bos_token": "", "eos_token": "", **found}
