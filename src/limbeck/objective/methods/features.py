"""Feature-based distillation methods."""

from __future__ import annotations

from limbeck.objective.methods.pairs import beside, pairs, several
from limbeck.objective.schedules import Spec
from limbeck.objective.terms import Paths, Term


def fitnets(student: Paths, teacher: Paths, *, weight: Spec = 100.0) -> list[Term]:
    r"""Build FitNets: a hint loss (mean squared error) between features of one layer.

    $$L_{task} + w \, \frac1D \|r(f) - g\|^2$$

    with r the connector from the student's feature f to the shape of the teacher's g. The paper
    trains on hints first and on logits afterwards: `fitnets(...)` in one stage and `hinton()` in
    the next, or a weight that steps to 0.

    Args:
        student: The path of a module of the student.
        teacher: The path of a module of the teacher.
        weight: w; a number or a schedule. 100 in the CIFAR-100 benchmark.

    Example:
        >>> fitnets("layer2", "layer2")
        [Term('task'), Term('fitnet_hint', student='layer2', teacher='layer2', weight=100.0)]

    Source: Romero et al. 2015; weight of Tian, Krishnan and Isola 2020.
    """
    return beside("fitnet_hint", student, teacher, weight)


def at(student: Paths, teacher: Paths, *, weight: Spec = 1000.0) -> list[Term]:
    r"""Build attention transfer (AT): spatial attention maps, the mean square over channels.

    Args:
        student: Paths of modules with map outputs.
        teacher: The same number of paths of the teacher.
        weight: The weight of each pair; 1000 in the CIFAR-100 benchmark.

    Example:
        >>> at("body", "body")
        [Term('task'), Term('attention_transfer', student='body', teacher='body', weight=1000.0)]

    Source: Zagoruyko and Komodakis 2017.
    """
    return beside("attention_transfer", student, teacher, weight)


def nst(student: Paths, teacher: Paths, *, weight: Spec = 50.0) -> list[Term]:
    r"""Build neuron selectivity transfer (NST): MMD between activation patterns.

    Args:
        student: Paths of modules with map outputs.
        teacher: The same number of paths of the teacher.
        weight: The weight of each pair; 50 in the CIFAR-100 benchmark.

    Example:
        >>> [term.loss for term in nst(["layer1", "layer2"], ["layer1", "layer2"])]
        ['task', 'neuron_selectivity', 'neuron_selectivity']

    Source: Huang and Wang 2017.
    """
    return beside("neuron_selectivity", student, teacher, weight)


def ab(student: Paths, teacher: Paths, *, weight: Spec = 1.0, margin: float = 1.0) -> list[Term]:
    r"""Build activation boundary transfer (AB): hinge loss on the sign of pre-activations.

    The paper trains on this loss first, and on logits afterwards. Tap the input of the activation,
    not its output.

    Args:
        student: Paths of modules before their activation.
        teacher: The same number of paths of the teacher.
        weight: The weight of each pair.
        margin: The margin of the hinge loss.

    Example:
        >>> ab("bn2", "bn2")[1].loss
        'activation_boundary'

    Source: Heo et al. 2019.
    """
    return beside("activation_boundary", student, teacher, weight, margin=margin)


def ft(student: Paths, teacher: Paths, *, weight: Spec = 500.0) -> list[Term]:
    r"""Build factor transfer (FT): factors of a paraphraser and a translator.

    Args:
        student: Paths of modules with map outputs.
        teacher: The same number of paths of the teacher.
        weight: The weight of each pair; 500 in the CIFAR-100 benchmark.

    Example:
        >>> ft("layer3", "layer3")[1].loss
        'factor_transfer'

    Source: Kim, Park and Kwak 2018.
    """
    return beside("factor_transfer", student, teacher, weight)


def vid(student: Paths, teacher: Paths, *, weight: Spec = 1.0) -> list[Term]:
    r"""Build variational information distillation (VID): Gaussian log-likelihood of features.

    Args:
        student: Paths of modules with map outputs.
        teacher: The same number of paths of the teacher.
        weight: The weight of each pair; 1 in the CIFAR-100 benchmark.

    Example:
        >>> vid("layer3", "layer3")[1].loss
        'variational_information'

    Source: Ahn et al. 2019.
    """
    return beside("variational_information", student, teacher, weight)


def ofd(student: Paths, teacher: Paths, *, weight: float = 1e-3) -> list[Term]:
    r"""Build overhaul of feature distillation (OFD): partial L2 distance with a margin ReLU.

    The weight doubles from pair to pair, as in the paper.

    Args:
        student: Paths of modules before their activation, shallow to deep.
        teacher: The same number of paths of the teacher.
        weight: The weight of the deepest pair; 0.001 in the paper.

    Example:
        >>> [term.weight for term in ofd(["bn1", "bn2"], ["bn1", "bn2"])]
        [1.0, 0.0005, 0.001]

    Source: Heo et al. 2019 (a comprehensive overhaul).
    """
    found = pairs(student, teacher)
    return [
        Term("task"),
        *(
            Term("overhaul", student=layer, teacher=other, weight=weight / 2 ** (len(found) - n))
            for n, (layer, other) in enumerate(found, start=1)
        ),
    ]


def review_kd(student: Paths, teacher: Paths, *, weight: Spec = 1.0) -> list[Term]:
    r"""Build ReviewKD: each teacher feature from the fused deeper features of the student.

    Args:
        student: Paths of modules with map outputs, shallow to deep.
        teacher: The same number of paths of the teacher.
        weight: The weight; 0.6 to 8 in the paper, depending on the nets.

    Example:
        >>> review_kd(["layer1", "layer2"], ["layer1", "layer2"], weight=5.0)[1].student
        ['layer1', 'layer2']

    Source: Chen et al. 2021.
    """
    pairs(student, teacher)  # checks for equal numbers
    return [
        Term("task"),
        Term("review_kd", student=several(student), teacher=several(teacher), weight=weight),
    ]
