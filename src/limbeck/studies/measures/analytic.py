"""Models of distillation with a closed form, compared with simulations."""

from __future__ import annotations

import numpy as np


def hint_gain(
    *, alignment: float, noise: float, weight: float, rows: int, width: int, label_noise: float
) -> float:
    r"""Compute the expected gain of a hint in linear regression, in squared error.

    Labels are $y = x^T w + \sigma\epsilon$ with $x \sim N(0, I)$ and $\|w\| = 1$. A hint is a
    vector $h$ with cosine $a$ to $w$, norm 1, plus noise of variance $\tau^2$ per component, and
    the student minimises $\|y - Xv\|^2 / n + \lambda \|v - h\|^2$. For $X^T X = n I$ the error
    $\|v - w\|^2$ is $d\sigma^2 / n$ without the hint and
    $(d\sigma^2 / n + \lambda^2 (2 - 2a + d\tau^2)) / (1 + \lambda)^2$ with it; the gain is the
    first minus the second. A hint helps if and only if
    $\lambda (2 - 2a + d\tau^2) < (2 + \lambda) d\sigma^2 / n$.

    Args:
        alignment: a, in [-1, 1].
        noise: τ.
        weight: λ, above 0.
        rows: n.
        width: d.
        label_noise: σ.

    Example:
        >>> round(hint_gain(alignment=1, noise=0, weight=1, rows=100, width=10, label_noise=1), 6)
        0.075
    """
    alone = width * label_noise**2 / rows
    bias = 2 - 2 * alignment + width * noise**2
    return alone - (alone + weight**2 * bias) / (1 + weight) ** 2


def intermediate_supervision(
    *,
    seed: int,
    weight: float,
    rows: int = 100,
    width: int = 10,
    label_noise: float = 1.0,
    alignments: tuple[float, ...] = (-0.5, 0.0, 0.5, 0.8, 0.9, 0.95, 1.0),
    noises: tuple[float, ...] = (0.0, 0.03, 0.1, 0.2, 0.4, 0.8),
    draws: int = 200,
) -> dict[str, float]:
    """Compare the sign of a hint's measured gain with the closed form of `hint_gain`.

    Returns:
        `agreement`, the share of settings (alignment and noise) with the predicted sign;
        `correlation` of measured and predicted gains; `helps`, the share of settings where the
        measured gain is above 0; `gain_best` and `gain_worst`, the measured gains of the best
        aligned hint without noise and of the worst aligned with most noise.
    """
    rng = np.random.default_rng(seed)
    predicted, measured = [], []
    for alignment in alignments:
        for noise in noises:
            predicted.append(
                hint_gain(
                    alignment=alignment,
                    noise=noise,
                    weight=weight,
                    rows=rows,
                    width=width,
                    label_noise=label_noise,
                )
            )
            gains = [
                _gain(rng, alignment, noise, weight, rows, width, label_noise) for _ in range(draws)
            ]
            measured.append(float(np.mean(gains)))
    first, second = np.array(predicted), np.array(measured)
    return {
        "agreement": float(((first > 0) == (second > 0)).mean()),
        "correlation": float(np.corrcoef(first, second)[0, 1]),
        "helps": float((second > 0).mean()),
        "gain_best": measured[len(noises) * (len(alignments) - 1)],
        "gain_worst": measured[len(noises) - 1],
    }


def _gain(
    rng: np.random.Generator,
    alignment: float,
    noise: float,
    weight: float,
    rows: int,
    width: int,
    label_noise: float,
) -> float:
    """Return the gain of one drawn data set and hint."""
    x = rng.standard_normal((rows, width))
    w, other = np.linalg.qr(rng.standard_normal((width, 2)))[0].T
    y = x @ w + label_noise * rng.standard_normal(rows)
    hint = alignment * w + np.sqrt(1 - alignment**2) * other
    hint = hint + noise * rng.standard_normal(width)
    gram, cross = x.T @ x / rows, x.T @ y / rows
    alone = np.linalg.solve(gram, cross)
    helped = np.linalg.solve(gram + weight * np.eye(width), cross + weight * hint)
    return float(((alone - w) ** 2).sum() - ((helped - w) ** 2).sum())
