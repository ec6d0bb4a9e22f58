"""Distillation methods for transformers: embeddings, hidden states, attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from limbeck.objective.methods.layer_maps import EMBEDDINGS, layer_map, paths
from limbeck.objective.schedules import Spec
from limbeck.objective.terms import Term

_BERT = "bert.encoder.layer.{}"
_QUERY_KEY = ("attention.self.query", "attention.self.key")
Map = str | Sequence[Sequence[int]] | Mapping[int, int]


def distilbert(
    student: str,
    teacher: str,
    *,
    temperature: Spec = 2.0,
    soft_weight: Spec = 5.0,
    task_weight: Spec = 2.0,
    cosine_weight: Spec = 1.0,
) -> list[Term]:
    r"""Build DistilBERT's loss: KL divergence, task loss and cosine loss of hidden states.

    $$2 \, L_{task} + 5 \, T^2 KL + 1 \, (1 - \cos)$$

    Args:
        student: The path of the student's last layer.
        teacher: The path of the teacher's last layer, of the same width or connected.
        temperature: T, above 0; 2 in the paper.
        soft_weight: The weight of the KL divergence.
        task_weight: The weight of the task loss, masked language modelling in the paper.
        cosine_weight: The weight of the cosine loss.

    Example:
        >>> [term.loss for term in distilbert("encoder", "encoder")]
        ['task', 'soft_target_kl', 'hidden_cosine']

    Source: Sanh et al. 2019; weights of its published code.
    """
    return [
        Term("task", weight=task_weight),
        Term("soft_target_kl", weight=soft_weight, temperature=temperature),
        Term("hidden_cosine", student=student, teacher=teacher, weight=cosine_weight),
    ]


def tinybert(
    student_layers: int,
    teacher_layers: int,
    *,
    student_heads: int,
    teacher_heads: int,
    layers: Map = "tinybert",
    student: str = _BERT,
    teacher: str = _BERT,
    embeddings: str = "bert.embeddings",
    prediction: Spec = 1.0,
    intermediate: Spec = 1.0,
) -> list[Term]:
    r"""Build TinyBERT's loss: embeddings, hidden states, attention and logits, layer by layer.

    The paper trains on intermediate layers first and then on logits: two stages, with `prediction`
    and then `intermediate` at 0; or one with schedules.

    Args:
        student_layers: The number of the student's layers.
        teacher_layers: The number of the teacher's layers.
        student_heads: The number of the student's attention heads.
        teacher_heads: The number of the teacher's attention heads; equal, since heads are compared
            one by one.
        layers: The layer mapping: a strategy of `limbeck.objective.methods.layer_maps`, or pairs.
        student: The path of the student's layer n.
        teacher: The path of the teacher's layer n.
        embeddings: The path of the embeddings on both sides.
        prediction: The weight of the logits, at temperature 1.
        intermediate: The weight of all other terms.

    Example:
        >>> terms = tinybert(2, 4, student_heads=2, teacher_heads=2)
        >>> [(term.loss, term.student) for term in terms[2:]]
        [('embedding_mse', 'bert.embeddings'), ('hidden_mse', 'bert.encoder.layer.0'), ...]

    Source: Jiao et al. 2020.
    """
    mapped = layer_map(student_layers, teacher_layers, layers)
    # Embeddings have their own term.
    found = paths([pair for pair in mapped if EMBEDDINGS not in pair], student, teacher)
    terms = [
        Term("task", weight=0.0),
        Term("soft_target_kl", weight=prediction, temperature=1.0),
        Term("embedding_mse", student=embeddings, teacher=embeddings, weight=intermediate),
    ]
    heads = {"student_heads": student_heads, "teacher_heads": teacher_heads}
    for layer, other in found:
        terms += [
            Term("hidden_mse", student=layer, teacher=other, weight=intermediate),
            Term(
                "attention_mse",
                student=[f"{layer}.{part}" for part in _QUERY_KEY],
                teacher=[f"{other}.{part}" for part in _QUERY_KEY],
                weight=intermediate,
                connector=heads,
            ),
        ]
    return terms


def minilm(
    student: str, teacher: str, *, heads: int = 12, weight: Spec = 1.0, task_weight: Spec = 0.0
) -> list[Term]:
    r"""Build MiniLMv2: self-attention relations of queries, keys and values of one layer.

    Widths and layer indices may differ.

    Args:
        student: The path of the student's attention with submodules query, key and value; the last
            layer's in the paper.
        teacher: The path of the teacher's; the last layer's for base models.
        heads: The number of relation heads; a divisor of both widths.
        weight: The weight of each relation.
        task_weight: The weight of the task loss; none in the paper.

    Example:
        >>> [term.student for term in minilm("attention.self", "attention.self")[1:]]
        ['attention.self.query', 'attention.self.key', 'attention.self.value']

    Source: Wang et al. 2021 (MiniLMv2).
    """
    parts = ("query", "key", "value")
    relations = [
        Term(
            "minilm_relation",
            student=f"{student}.{part}",
            teacher=f"{teacher}.{part}",
            weight=weight,
            heads=heads,
        )
        for part in parts
    ]
    return [Term("task", weight=task_weight), *relations]
