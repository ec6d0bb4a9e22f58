"""Losses between language models with different tokenizers: ALM, ULD, GOLD.

Tokens of both sides are assigned to chunks, the smallest spans of text that both tokenizers close;
a token of chunk -1 (BOS, EOS, padding, a prompt) is left out. The element of `alm` and `gold` is a
chunk. The functions take tensors of two vocabularies, and are not named in recipes.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from limbeck.core.numbers import is_number
from limbeck.core.tensors import precise, precise_pair
from limbeck.errors import InputError, Problem, check_choice
from limbeck.losses._inputs import (
    check_axes,
    check_logits,
    check_temperature,
    check_weights,
    out_of_range,
)
from limbeck.losses._kinds import MINIMUM_LOGIT, Mixture, log_mixture, log_softmax, not_negative

BinaryKind: TypeAlias = Literal["forward_kl", "reverse_kl", "tvd"]
PerToken: TypeAlias = Float[Tensor, " tokens"]
Chunks: TypeAlias = Integer[Tensor, " tokens"]
PerChunk: TypeAlias = Float[Tensor, " chunks"]
TokenLogits: TypeAlias = Float[Tensor, "tokens classes"]


def chunk_log_probs(log_probs: Tensor, chunk_ids: Tensor, *, chunks: int) -> Tensor:
    """Sum the log-probabilities of the tokens of each chunk.

    Args:
        log_probs: Log-probability of each token given those before it, `[tokens]`.
        chunk_ids: The chunk of each token, `[tokens]`, from 0; -1 for a token that is left out.
        chunks: The number of chunks.

    Returns:
        The log-probability of each chunk given the text before it, `[chunks]`.

    Raises:
        InputError: A wrong shape, dtype or chunk, or a chunk without a token.

    Example:
        >>> log_probs = torch.tensor([-1.0, -2.0, -3.0])
        >>> chunk_log_probs(log_probs, torch.tensor([-1, 0, 0]), chunks=1)
        tensor([-5.])
    """
    _check_tokens(log_probs, where="chunk_log_probs.log_probs")
    _check_chunks(chunk_ids, len(log_probs), chunks, where="chunk_log_probs.chunk_ids")
    return _summed(precise(log_probs), chunk_ids, chunks)


def boundary_log_probs(logits: Tensor, starts_word: Tensor) -> Tensor:
    """Compute the log-probability that the next token starts a word.

    Args:
        logits: Logits after the last token of each chunk, `[chunks, classes]`.
        starts_word: Whether a token starts a new word, or ends the text, bool `[classes]`.

    Returns:
        Log-probabilities, `[chunks]`.

    Raises:
        InputError: A wrong shape or dtype.

    Example:
        >>> boundary_log_probs(torch.zeros(1, 4), torch.tensor([True, False, True, False])).exp()
        tensor([0.5000])
    """
    check_logits(logits, where="boundary_log_probs.logits")
    if starts_word.dtype != torch.bool or starts_word.shape != logits.shape[1:]:
        given = f"{starts_word.dtype} {tuple(starts_word.shape)}"
        allowed = f"a boolean mask of the classes, shape {tuple(logits.shape[1:])}"
        raise InputError(Problem("boundary_log_probs.starts_word", given, allowed))
    logs = log_softmax(precise(logits), 1.0)
    return logs.masked_fill(~starts_word, MINIMUM_LOGIT).logsumexp(-1)


def alm(
    student_log_probs: PerToken,
    teacher_log_probs: Float[Tensor, " teacher_tokens"],
    *,
    student_chunks: Chunks,
    teacher_chunks: Integer[Tensor, " teacher_tokens"],
    chunks: int,
    student_boundary: PerChunk | None = None,
    teacher_boundary: PerChunk | None = None,
    kind: BinaryKind = "forward_kl",
    temperature: PositiveFloat = 100.0,
) -> PerChunk:
    r"""Compute approximate likelihood matching (ALM): a divergence of the likelihoods of chunks.

    With $p$ and $q$ the likelihoods of a chunk under teacher and student, at temperature τ:

    $$f(p^{1/\tau} \| q^{1/\tau}) + f(1 - p^{1/\tau} \| 1 - q^{1/\tau})$$

    The likelihood of a chunk is the product of those of its tokens, so that the teacher gives one
    log-probability per token. A token's likelihood also depends on what its tokenizer would have
    merged: "the" excludes "there" where "there" is one token. With the log-probabilities of the
    boundaries the outcome is "these bytes, and then a new word", the same event on both sides.

    Args:
        student_log_probs: Log-probabilities of the student's tokens, `[tokens]`.
        teacher_log_probs: Log-probabilities of the teacher's tokens, `[teacher tokens]`.
        student_chunks: The chunk of each of the student's tokens; -1 leaves a token out.
        teacher_chunks: The chunk of each of the teacher's tokens.
        chunks: The number of chunks.
        student_boundary: Log-probability that a new word follows each chunk, `[chunks]`, as from
            `boundary_log_probs`; with `teacher_boundary`.
        teacher_boundary: The same of the teacher.
        kind: The divergence f of two outcomes: `forward_kl`, `reverse_kl` or `tvd`.
        temperature: τ, above 0. Large values compare log-likelihoods rather than likelihoods.

    Returns:
        One value per chunk, `[chunks]`, never negative. Its size falls with 1/τ.

    Raises:
        InputError: A wrong shape, dtype or chunk, a chunk without a token, one boundary without
            the other, an unknown kind, or a temperature <= 0.

    Example:
        >>> student, teacher = torch.tensor([-1.0, -1.0]), torch.tensor([-2.0])
        >>> ids = {"student_chunks": torch.tensor([0, 0]), "teacher_chunks": torch.tensor([0])}
        >>> alm(student, teacher, **ids, chunks=1)
        tensor([0.])

    Source: Minixhofer et al. 2025.
    """
    check_temperature(temperature, where="alm.temperature")
    check_choice(kind, get_args(BinaryKind), where="alm.kind")
    _check_tokens(student_log_probs, where="alm.student_log_probs")
    _check_tokens(teacher_log_probs, where="alm.teacher_log_probs")
    _check_chunks(student_chunks, len(student_log_probs), chunks, where="alm.student_chunks")
    _check_chunks(teacher_chunks, len(teacher_log_probs), chunks, where="alm.teacher_chunks")
    student, teacher = precise_pair(student_log_probs, teacher_log_probs)
    log_q, log_p = (
        _summed(logs, ids, chunks)
        for logs, ids in ((student, student_chunks), (teacher, teacher_chunks))
    )
    if (student_boundary is None) != (teacher_boundary is None):
        name = "student_boundary" if student_boundary is None else "teacher_boundary"
        raise InputError(Problem(f"alm.{name}", None, "both boundaries, or none"))
    if student_boundary is not None and teacher_boundary is not None:
        for name, one in (("student", student_boundary), ("teacher", teacher_boundary)):
            _check_tokens(one, where=f"alm.{name}_boundary")
            if len(one) != chunks:
                allowed = f"one log-probability per chunk, shape ({chunks},)"
                raise InputError(Problem(f"alm.{name}_boundary", tuple(one.shape), allowed))
        log_q = log_q + student_boundary.to(log_q.dtype)
        log_p = log_p + teacher_boundary.detach().to(log_p.dtype)
    return _binary(log_p / temperature, log_q / temperature, kind)


def uld(
    student_logits: TokenLogits,
    teacher_logits: Float[Tensor, "tokens teacher_classes"],
) -> Float[Tensor, " tokens"]:
    r"""Compute the universal logit distillation loss (ULD): a Wasserstein distance of classes.

    With the probabilities of each side in descending order, padded with zeros to one length:

    $$\sum_i |p_{(i)} - q_{(i)}|$$

    Tokens are paired by the caller: by their position, as published, or by chunks.

    Args:
        student_logits: Logits, `[tokens, student classes]`.
        teacher_logits: Logits of the paired tokens, `[tokens, teacher classes]`.

    Returns:
        One value from 0 to 2 per pair of tokens, `[tokens]`. The published weight is 1.5.

    Raises:
        InputError: A wrong shape or dtype, or another number of tokens.

    Example:
        >>> uld(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([1.])

    Source: Boizard et al. 2024.
    """
    check_logits(student_logits, where="uld.student_logits")
    check_logits(teacher_logits, where="uld.teacher_logits")
    if len(student_logits) != len(teacher_logits):
        given = f"{len(teacher_logits)} tokens, and {len(student_logits)} of the student"
        fix = "Pair the tokens: cut to the shorter side, or take one per chunk."
        raise InputError(Problem("uld.teacher_logits", given, "as many as the student has", fix))
    pair = precise_pair(student_logits, teacher_logits)
    return _sorted_distance(*(log_softmax(one, 1.0).exp() for one in pair))


def gold(
    student_logits: TokenLogits,
    teacher_logits: Float[Tensor, "teacher_tokens teacher_classes"],
    *,
    student_ids: Chunks,
    teacher_ids: Integer[Tensor, " teacher_tokens"],
    student_chunks: Chunks,
    teacher_chunks: Integer[Tensor, " teacher_tokens"],
    chunks: int,
    matched: Integer[Tensor, "pairs 2"],
    beta: Mixture = 0.5,
    matched_weight: NonNegativeFloat | None = None,
    unmatched_weight: NonNegativeFloat | None = None,
) -> PerChunk:
    r"""Compute general online logit distillation (GOLD) over chunks.

    Each side has one distribution per chunk: that of its first token y, times the likelihood of
    the chunk's other tokens (their log-probabilities are summed),

    $$\log p(y) = \log p_1(y) + \sum_{i>1} \log p_i(x_i)$$

    Classes M with the same string in both vocabularies are compared by the Jensen-Shannon
    divergence with m = βp + (1−β)q, all others by `uld`:

    $$w_m \sum_{y \in M} \Big[\beta\,p \log\frac pm + (1-\beta)\,q \log\frac qm\Big]
      + w_u \sum_i |p_{(i)} - q_{(i)}|$$

    Args:
        student_logits: Logits that predict the student's tokens, `[tokens, student classes]`.
        teacher_logits: Logits that predict the teacher's, `[teacher tokens, teacher classes]`.
        student_ids: The student's tokens, `[tokens]`.
        teacher_ids: The teacher's tokens, `[teacher tokens]`.
        student_chunks: The chunk of each of the student's tokens; -1 leaves a token out.
        teacher_chunks: The chunk of each of the teacher's tokens.
        chunks: The number of chunks.
        matched: Pairs of a student's and a teacher's class with one string, `[pairs, 2]`; a class
            is in one pair at most.
        beta: The weight of the teacher in the mixture, in (0, 1).
        matched_weight: The weight of matched classes; by default their share of the student's
            vocabulary.
        unmatched_weight: The weight of all others; by default 1 minus that share.

    Returns:
        One value per chunk, `[chunks]`, never negative.

    Raises:
        InputError: A wrong shape, dtype, token, class or chunk, a chunk without a token, or an
            invalid beta or weight.

    Example:
        >>> logits, one = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> tokens = {"student_ids": one, "teacher_ids": one}
        >>> ids = {"student_chunks": one, "teacher_chunks": one, "chunks": 1}
        >>> gold(logits, logits, **tokens, **ids, matched=torch.tensor([[0, 0]]))
        tensor([0.])

    Source: Patiño et al. 2025 (GOLD, in Hugging Face TRL); Boizard et al. 2024.
    """
    if not (is_number(beta) and 0 < beta < 1):
        raise InputError(Problem("gold.beta", beta, "a number above 0 and below 1"))
    check_logits(student_logits, where="gold.student_logits")
    check_logits(teacher_logits, where="gold.teacher_logits")
    student, teacher = precise_pair(student_logits, teacher_logits)
    student_side, teacher_side = (
        _merged(logits, ids, chunk_ids, chunks, side)
        for logits, ids, chunk_ids, side in (
            (student, student_ids, student_chunks, "student"),
            (teacher, teacher_ids, teacher_chunks, "teacher"),
        )
    )
    _check_matched(matched, student.shape[1], teacher.shape[1])
    share = len(matched) / student.shape[1]
    matched_weight = share if matched_weight is None else matched_weight
    unmatched_weight = max(1 - share, 0.0) if unmatched_weight is None else unmatched_weight
    check_weights("gold", matched_weight=matched_weight, unmatched_weight=unmatched_weight)
    own, other = matched.long().unbind(1)
    log_q, log_p = student_side[:, own], teacher_side[:, other]
    difference = log_p - log_q
    # log(q/m) and log(p/m), without a difference of two mixtures
    q_part = log_q.exp() * -log_mixture(difference, beta)
    p_part = log_p.exp() * -log_mixture(-difference, 1 - beta)
    together = not_negative((beta * p_part + (1 - beta) * q_part).sum(-1))
    rest = _sorted_distance(_without(student_side, own), _without(teacher_side, other))
    return matched_weight * together + unmatched_weight * rest


def _binary(log_p: Tensor, log_q: Tensor, kind: BinaryKind) -> Tensor:
    """Compute a divergence of two outcomes, from the log-probabilities of one."""
    # The ceiling: the logarithm of 1 - 1 is not finite.
    ceiling = -torch.finfo(log_q.dtype).eps
    log_p, log_q = (one.clamp(MINIMUM_LOGIT, ceiling) for one in (log_p, log_q))
    if kind == "tvd":
        return (log_p.exp() - log_q.exp()).abs()
    if kind == "reverse_kl":
        log_p, log_q = log_q, log_p
    not_p, not_q = -log_p.expm1(), -log_q.expm1()
    value = log_p.exp() * (log_p - log_q) + not_p * (not_p.log() - not_q.log())
    return not_negative(value)


def _summed(log_probs: Tensor, chunk_ids: Tensor, chunks: int) -> Tensor:
    # Tokens that are left out are summed in one more chunk; -inf stays there.
    index = torch.where(chunk_ids < 0, chunks, chunk_ids).long()
    return log_probs.new_zeros(chunks + 1).index_add(0, index, log_probs)[:chunks]


def _merged(logits: Tensor, ids: Tensor, chunk_ids: Tensor, chunks: int, side: str) -> Tensor:
    """Return the log-distribution of each chunk's first token, plus those of the other tokens."""
    tokens, classes = logits.shape
    _check_chunks(chunk_ids, tokens, chunks, where=f"gold.{side}_chunks")
    if ids.shape != (tokens,) or ids.is_floating_point():
        allowed = f"one token id per row of logits, shape ({tokens},)"
        raise InputError(Problem(f"gold.{side}_ids", tuple(ids.shape), allowed))
    if invalid := out_of_range(ids, classes):
        allowed = f"token ids from 0 to {classes - 1}"
        raise InputError(Problem(f"gold.{side}_ids", invalid[0], allowed))
    index = torch.where(chunk_ids < 0, chunks, chunk_ids).long()
    places = torch.arange(tokens, device=logits.device)
    first = torch.full((chunks + 1,), tokens, device=logits.device)
    first = first.scatter_reduce(0, index, places, "amin")
    logs = log_softmax(logits, 1.0)
    own = logs.gather(1, ids.long().unsqueeze(1)).squeeze(1)
    others = own.masked_fill(places == first[index], 0)
    return logs[first[:chunks]] + _summed(others, chunk_ids, chunks).unsqueeze(1)


def _sorted_distance(student: Tensor, teacher: Tensor) -> Tensor:
    classes = max(student.shape[1], teacher.shape[1])
    first, second = (
        F.pad(one.sort(dim=-1, descending=True).values, (0, classes - one.shape[1]))
        for one in (student, teacher)
    )
    return (first - second).abs().sum(-1)


def _without(logs: Tensor, classes: Tensor) -> Tensor:
    """Return the probabilities with some classes at 0, which are last in descending order."""
    taken = torch.zeros(logs.shape[1], dtype=torch.bool, device=logs.device)
    return logs.exp().masked_fill(taken.index_fill(0, classes, True), 0)


def _check_tokens(log_probs: Tensor, *, where: str) -> None:
    check_axes(
        log_probs,
        (1,),
        where=where,
        allowed="log-probabilities of tokens or chunks, one dimension",
        fix="Flatten it, and leave padding out.",
    )


def _check_chunks(chunk_ids: Tensor, tokens: int, chunks: int, *, where: str) -> None:
    """Raise an error for chunks of another shape or out of range, or, on a CPU, one not filled."""
    if not isinstance(chunks, int) or isinstance(chunks, bool) or chunks < 0:
        raise InputError(Problem(where, chunks, "a number of chunks, at least 0"))
    if chunk_ids.shape != (tokens,) or chunk_ids.is_floating_point():
        given = f"{chunk_ids.dtype} {tuple(chunk_ids.shape)}"
        allowed = f"one whole number per token, shape ({tokens},)"
        raise InputError(Problem(where, given, allowed))
    if invalid := out_of_range(chunk_ids + 1, chunks + 1):
        allowed = f"chunks from 0 to {chunks - 1}, or -1"
        raise InputError(Problem(where, invalid[0] - 1, allowed))
    if chunk_ids.device.type != "cpu" or torch.compiler.is_compiling():
        return
    try:
        empty = set(range(chunks)) - set(chunk_ids.unique().tolist())
    except RuntimeError:  # under `torch.func.vmap` values cannot be read
        return
    if empty:
        fix = "Align both tokenizations of the same text, and number the chunks from 0."
        allowed = "at least one token in every chunk"
        raise InputError(Problem(where, f"no token in chunk {min(empty)}", allowed, fix))


def _check_matched(matched: Tensor, student: int, teacher: int) -> None:
    where = "gold.matched"
    if matched.ndim != 2 or matched.shape[1] != 2 or matched.is_floating_point():
        given = f"{matched.dtype} {tuple(matched.shape)}"
        raise InputError(Problem(where, given, "whole numbers [pairs, 2]"))
    for column, classes in enumerate((student, teacher)):
        if invalid := out_of_range(matched[:, column], classes):
            raise InputError(Problem(where, invalid[0], f"classes from 0 to {classes - 1}"))
    if matched.device.type != "cpu" or torch.compiler.is_compiling():
        return
    try:
        repeated = any(len(one.unique()) < len(one) for one in matched.unbind(1))
    except RuntimeError:
        return
    if repeated:
        raise InputError(Problem(where, "a class in two pairs", "each class in one pair at most"))
