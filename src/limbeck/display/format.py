"""Number formatting: one format per kind of quantity, for the page, the card and the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import wraps
from typing import Concatenate, ParamSpec

from limbeck.core.measurement import Interval, Metric

MISSING = "not measured"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]?B|[kMGT]?FLOP|m?s|min|h|points?|[µmk]?[Jg])(?!\w))")


P = ParamSpec("P")


def _or_words(
    write: Callable[Concatenate[float, P], str],
) -> Callable[Concatenate[float | None, P], str]:
    """Extend a formatter of finite numbers: `None`, NaN and infinities are written as words."""

    @wraps(write)
    def extended(value: float | None, /, *args: P.args, **kwargs: P.kwargs) -> str:
        if value is None:
            return MISSING
        if math.isfinite(value):
            return write(value, *args, **kwargs)
        if math.isnan(value):
            return "undefined"
        return "infinite" if value > 0 else "minus infinite"

    return extended


def significant(value: float, digits: int = 3) -> str:
    """Write a number to `digits` significant digits, with thousands separators, not an exponent.

    Example:
        >>> significant(0.11234), significant(38.26), significant(12345.6), significant(0)
        ('0.112', '38.3', '12,346', '0')
    """
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return minus(f"{value:,.{min(decimals, 12)}f}")


def minus(text: str) -> str:
    """Replace a leading hyphen by the minus sign."""
    return "\N{MINUS SIGN}" + text[1:] if text.startswith("-") else text


@_or_words
def number(value: float, digits: int = 3) -> str:
    """Write a number; very small and very large ones as a power of ten.

    Example:
        >>> number(0.0421), number(2.5e-7), number(None), number(float("inf"))
        ('0.0421', '2.5 × 10⁻⁷', 'not measured', 'infinite')
    """
    if value == 0 or 1e-4 <= abs(value) < 1e9:
        return significant(value, digits)
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = str(int(exponent)).translate(_RAISED)
    return f"{minus(mantissa.rstrip('0').rstrip('.'))} × 10{power}"


@_or_words
def percent(share: float, digits: int = 2) -> str:
    """Write a share as a percentage.

    Example:
        >>> percent(0.97777), percent(0.9891, 1), percent(None)
        ('97.78 %', '98.9 %', 'not measured')
    """
    return f"{minus(f'{share * 100:.{digits}f}')} %"


def percent_interval(interval: Interval | None, digits: int = 2) -> str:
    """Write an interval of a share.

    Example:
        >>> percent_interval(Interval(low=0.971, high=0.984, method="Wilson score"))
        '97.10 to 98.40 %'
    """
    if interval is None:
        return MISSING
    return f"{percent(interval.low, digits)[:-2]} to {percent(interval.high, digits)}"


@_or_words
def points(difference: float, digits: int = 2) -> str:
    """Write the difference of two shares in percentage points, always with its sign.

    Example:
        >>> points(0.0154), points(-0.003)
        ('+1.54 points', '−0.30 points')
    """
    return f"{minus(f'{difference * 100:+.{digits}f}')} points"


def points_interval(interval: Interval | None, digits: int = 2) -> str:
    """Write the interval of a difference of shares.

    Example:
        >>> points_interval(Interval(low=-0.002, high=0.03, method="Student t over seeds"))
        '−0.20 to +3.00 points'
    """
    if interval is None:
        return MISSING
    return f"{points(interval.low, digits)[: -len(' points')]} to {points(interval.high, digits)}"


def points_estimate(difference: float, interval: Interval | None, digits: int = 2) -> str:
    """Write the difference of two shares, followed by its interval if there is one.

    Example:
        >>> points_estimate(0.0154, Interval(low=-0.002, high=0.03, method="Student t over seeds"))
        '+1.54 points (−0.20 to +3.00)'
    """
    if interval is None:
        return points(difference, digits)
    ends = points_interval(interval, digits).removesuffix(" points")
    return f"{points(difference, digits)} ({ends})"


@_or_words
def score(value: float, metric: Metric, digits: int = 2) -> str:
    """Write the value of a metric: a share in per cent, anything else in its unit.

    Example:
        >>> score(0.97777, Metric(name="accuracy", title="Accuracy"))
        '97.78 %'
        >>> score(0.51234, Metric(name="mae", title="Mean absolute error", unit="°C"))
        '0.512 °C'
    """
    if metric.unit == "share":
        return percent(value, digits)
    return f"{number(value)} {metric.unit}".rstrip()


def score_interval(interval: Interval | None, metric: Metric, digits: int = 2) -> str:
    """Write the interval of a metric.

    Example:
        >>> found = Interval(low=1.5, high=2.25, method="percentile bootstrap")
        >>> score_interval(found, Metric(name="mae", title="Mean absolute error", unit=""))
        '1.50 to 2.25'
    """
    if interval is None:
        return MISSING
    if metric.unit == "share":
        return percent_interval(interval, digits)
    return f"{number(interval.low)} to {score(interval.high, metric)}"


@_or_words
def gain(difference: float, metric: Metric) -> str:
    """Write by how much a metric is better, with its sign: shares in percentage points.

    Example:
        >>> gain(0.0154, Metric(name="accuracy", title="Accuracy"))
        '+1.54 points'
    """
    if metric.unit == "share":
        return points(difference)
    sign = "+" if difference >= 0 else ""
    return f"{sign}{number(difference)} {metric.unit}".rstrip()


def gain_interval(interval: Interval | None, metric: Metric) -> str:
    """Write the interval of a gain."""
    if interval is None:
        return MISSING
    if metric.unit == "share":
        return points_interval(interval)
    unit = f" {metric.unit}".rstrip()
    return f"{gain(interval.low, metric).removesuffix(unit)} to {gain(interval.high, metric)}"


def gain_estimate(difference: float, interval: Interval | None, metric: Metric) -> str:
    """Write a gain, followed by its interval if there is one."""
    if metric.unit == "share":
        return points_estimate(difference, interval)
    return gain(difference, metric) + (f" ({gain_interval(interval, metric)})" if interval else "")


def _scaled(value: float, units: Sequence[str]) -> str:
    """Write a number of base units in the largest unit of which it holds at least one."""
    for unit in units[:-1]:
        # 999.6 rounds to 1,000 of the smaller unit: the next one up is shorter.
        if abs(value) < 999.5:
            return f"{significant(value)} {unit}"
        value /= 1000
    return f"{significant(value)} {units[-1]}"


@_or_words
def size(count: float) -> str:
    """Write bytes in decimal units (1 kB = 1000 bytes).

    Example:
        >>> size(812), size(38_214), size(1_433_000), size(None)
        ('812 B', '38.2 kB', '1.43 MB', 'not measured')
    """
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


@_or_words
def operations(count: float) -> str:
    """Write the floating-point operations per inference.

    Example:
        >>> operations(1_213_000)
        '1.21 MFLOP'
    """
    return _scaled(count, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"))


def integer(count: int | None) -> str:
    """Write an integer with thousands separators.

    Example:
        >>> integer(6274)
        '6,274'
    """
    return MISSING if count is None else minus(f"{count:,}")


@_or_words
def milliseconds(value: float) -> str:
    """Write the time per inference, always in milliseconds, so that two can be compared.

    Example:
        >>> milliseconds(0.1123)
        '0.112 ms'
    """
    return f"{significant(value)} ms"


@_or_words
def ratio(value: float) -> str:
    """Write a ratio.

    Example:
        >>> ratio(24.31), ratio(3.04), ratio(148.6)
        ('24.3×', '3.0×', '149×')
    """
    return f"{value:,.0f}×" if value >= 100 else f"{value:.1f}×" if value >= 1 else f"{value:.2f}×"


@_or_words
def joules(value: float) -> str:
    """Write an energy.

    Example:
        >>> joules(0.00213)
        '2.13 mJ'
    """
    return _scaled(value * 1e6, ("µJ", "mJ", "J", "kJ", "MJ"))


@_or_words
def grams(value: float) -> str:
    """Write a mass of carbon dioxide.

    Example:
        >>> grams(2.7e-7)
        '0.270 µg'
    """
    return _scaled(value * 1e6, ("µg", "mg", "g", "kg", "t"))


@_or_words
def duration(seconds: float) -> str:
    """Write a duration.

    Example:
        >>> duration(0.42), duration(42.4), duration(192), duration(3725)
        ('0.42 s', '42 s', '3 min 12 s', '1 h 02 min')
    """
    if seconds < 10:
        return f"{significant(seconds, 2)} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def timestamp(text: str) -> str:
    """Write an ISO 8601 timestamp for people; any other text is unchanged.

    Example:
        >>> timestamp("2026-03-01T14:05:09+00:00"), timestamp("yesterday")
        ('1 March 2026, 14:05 UTC', 'yesterday')
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = f" {when.tzname()}" if when.tzinfo else ""
    return f"{when.day} {when:%B %Y, %H:%M}{zone}"


def listing(words: Sequence[str]) -> str:
    """Join words with commas and "and".

    Example:
        >>> listing(["size"]), listing(["size", "latency", "accuracy"])
        ('size', 'size, latency and accuracy')
    """
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def plural(count: int, one: str, many: str = "") -> str:
    """Write a count with its noun.

    Example:
        >>> plural(1, "seed"), plural(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{integer(count)} {one if count == 1 else many or one + 's'}"


def trim(text: str) -> str:
    """Remove zeros after the decimal point that an axis does not need.

    Example:
        >>> trim("10.0 kB"), trim("1.50 MB"), trim("100 kB")
        ('10 kB', '1.5 MB', '100 kB')
    """
    value, _, unit = text.partition(" ")
    short = value.rstrip("0").rstrip(".") if "." in value else value
    return f"{short} {unit}".rstrip()


def tight(text: str) -> str:
    """Replace the space between a number and its unit by a no-break space.

    Example:
        >>> tight("keeps 99.0 % of it").replace(chr(160), "_")
        'keeps 99.0_% of it'
    """
    return _UNIT.sub("\N{NO-BREAK SPACE}", text)


_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def plain(text: str) -> str:
    r"""Escape the markup of Markdown and HTML, and join all lines into one.

    Example:
        >>> plain("a|b <script> *x*")
        'a\\|b \\<script\\> \\*x\\*'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Write a code span of any text on one line, including backticks.

    Example:
        >>> code("limbeck run 'my recipe.yaml'"), code("a`b")
        ("`limbeck run 'my recipe.yaml'`", '`` a`b ``')
    """
    line = " ".join(text.splitlines())
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{line}{space}{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> str:
    """Write a table; every cell is escaped.

    Args:
        head: The names of the columns.
        rows: The cells.
        figures: Whether all columns but the first are numeric and right-aligned.

    Example:
        >>> print(table(["", "size"], [["net", "3 kB"]]))
        |  | size |
        |-|-:|
        | net | 3 kB |
    """
    rule = "|-|" + ("-:|" if figures else "-|") * (len(head) - 1)
    lines = [f"| {' | '.join(map(plain, row))} |" for row in (head, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def bullets(items: Sequence[str]) -> str:
    """Write a list; every item is escaped."""
    return "\n".join(f"- {plain(item)}" for item in items)
