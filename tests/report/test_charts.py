import math
import re
from importlib import resources

import numpy as np
import pytest

from limbeck.display import format as fmt
from limbeck.display.charts import Group, Series, Step, lines, strip, waterfall
from limbeck.display.matrix import busiest, largest, matrix
from limbeck.display.svg import Scale, decades, element, from_zero, zoomed
from limbeck.evaluate.calibration.diagram import reliability
from limbeck.evaluate.calibration.metrics import Bin

CSS = (resources.files("limbeck.report") / "templates" / "style.css").read_text(encoding="utf-8")
NAMED = {"title": "a title", "description": "a description"}


def attributes(markup: str, kind: str, name: str) -> list[float]:
    """Return an attribute of all marks of a class, in order."""
    tags = [tag for tag in re.findall(r"<[a-z]+[^>]*>", markup) if f'class="{kind}"' in tag]
    return [float(re.search(rf' {name}="([^"]+)"', tag)[1]) for tag in tags]  # type: ignore[index]


@pytest.mark.parametrize("values", [[3.0], [0.0], [1e-6, 1e9], [-4.0, 2.0], [], [5.0, 5.0]])
def test_ranges_hold_their_values_and_are_never_empty(values: list[float]) -> None:
    low, high = zoomed(values)
    assert low < high
    assert all(low <= value <= high for value in values)
    assert from_zero(values)[0] == 0.0 < from_zero(values)[1]
    assert 0 < decades(values)[0] < decades(values)[1]


@pytest.mark.parametrize(("low", "high"), [(0.9612, 0.9984), (0, 7), (12, 90_000), (1e-9, 2e-9)])
def test_ticks_are_round_within_and_not_too_many(low: float, high: float) -> None:
    for log in (False, True) if low else (False,):
        ticks = Scale(low, high, start=0, end=1, log=log).ticks()
        assert 2 <= len(ticks) <= 8
        assert all(low * 0.99 <= tick <= high * 1.01 for tick in ticks)
        assert list(ticks) == sorted(set(ticks))


def test_a_scale_keeps_order_and_ends() -> None:
    for log in (False, True):
        scale = Scale(1, 1000, start=10, end=350, log=log)
        places = [scale(value) for value in (1, 2, 30, 999, 1000)]
        assert places == sorted(places)
        assert (places[0], places[-1]) == pytest.approx((10, 350))


def test_text_is_escaped_and_markup_is_not_escaped_twice() -> None:
    inner = element("title", "<b> & 'c'")
    outer = element("g", inner, class_='a"b')
    assert outer == '<g class="a&#34;b"><title>&lt;b&gt; &amp; &#39;c&#39;</title></g>'


def test_a_waterfall_puts_smaller_to_the_left_and_a_bar_between() -> None:
    steps = [
        Step("big", "teacher", 1e6, "1 MB"),
        Step("small", "student", 1e4, "10 kB", "÷100"),
        Step("unknown", "student", None, "not measured"),
        Step("smaller", "student", 1e3, "1 kB"),
    ]
    drawn = waterfall(steps, decades([1e6, 1e3]), log=True, axis=str, **NAMED)
    circles = [float(x) for x in re.findall(r'cx="([^"]+)"[^>]*class="mark"', drawn)]
    assert len(circles) == 2
    assert circles[0] > circles[1]
    widths = attributes(drawn, "step", "width")
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.02)  # two decades against one
    assert "not measured" in drawn


def test_a_strip_draws_every_seed_and_no_interval_for_one() -> None:
    three = Group("a", "student", (0.9, 0.9, 0.95), 0.9167, "91.7 %", (0.84, 0.99))
    one = Group("a", "student", (0.9,), 0.9, "90 %", None)
    drawn = strip([three], [0, 1, 2], axis=str, **NAMED)
    heights = attributes(drawn, "dot", "cy")
    assert len(heights) == 3
    assert heights[0] != heights[1], "dots that hide one another"
    assert 'class="whisker"' in drawn
    assert 'class="whisker"' not in strip([one], [0], axis=str, **NAMED)


def test_a_difference_shows_zero_even_where_it_is_far() -> None:
    group = Group("a", "student", (0.5, 0.51), 0.505, "+50", (0.44, 0.57))
    drawn = strip([group], [0, 1], axis=str, zero=True, **NAMED)
    (zero,) = attributes(drawn, "zero", "x1")
    assert zero < min(attributes(drawn, "dot", "cx"))


def test_lines_differ_without_colour() -> None:
    points = ((1.0, 0.5), (2.0, 0.4))
    drawn = lines(
        [Series("a", points), Series("b", points, dash="2 4"), Series("c", ((1.0, float("nan")),))],
        axis=str,
        **NAMED,
    )
    assert 'stroke-dasharray="2 4"' in drawn
    assert "nan" not in drawn
    assert "polyline" not in lines([], axis=str, **NAMED)


@pytest.mark.parametrize("values", [(0.0, 0.0), (1e-7, 3e-7), (-123_456.0, 98_765.0), (0.9, 0.95)])
def test_labels_of_the_vertical_axis_are_within_the_chart(values: tuple[float, float]) -> None:
    series = [Series("a", tuple(enumerate(values)))]
    drawn = lines(series, axis=lambda value: fmt.trim(fmt.number(value)), **NAMED)
    labels = re.findall(
        r'<text x="([\d.]+)" y="[\d.]+" text-anchor="end" class="t axis">(.*?)<', drawn
    )
    assert len(labels) > 2
    assert all(float(right) - 6.6 * len(label) >= 0 for right, label in labels), labels


def test_a_line_of_one_point_is_a_mark_with_its_number() -> None:
    series = [Series(name, ((1.0, value),)) for name, value in (("a", 0.5), ("b", math.nan))]
    drawn = lines(series, axis=str, write=lambda value: f"{value:.2f} nats", **NAMED)
    left = attributes(drawn, "mark", "cx")
    assert left == [pytest.approx((46 + 348) / 2)]
    assert "a: 0.50 nats" in drawn
    assert "b: no number" in drawn
    assert re.findall(r'class="t axis">(\d+)</text>', drawn) == ["1"]


def test_reliability_leaves_out_empty_bins() -> None:
    bins = [
        Bin(low=0, high=0.5, count=0, confidence=float("nan"), accuracy=float("nan")),
        Bin(low=0.5, high=1, count=8, confidence=0.75, accuracy=0.5),
    ]
    drawn = reliability(bins, "student", **NAMED)
    assert len(attributes(drawn, "bar", "x")) == 1
    (x,), (y,) = attributes(drawn, "mark", "cx"), attributes(drawn, "mark", "cy")
    assert (x, y) == pytest.approx((46 + 0.75 * 302, (12 + 222) / 2))


def test_a_matrix_shades_errors_by_count_and_outlines_the_diagonal() -> None:
    values = [[9, 1, 0], [4, 6, 0], [0, 0, 9]]
    drawn = matrix(
        values, ["a", "b", "<c>"], "student", written=str, tip=lambda i, j: f"{i},{j}",
        most=largest(values), rows="true", columns="predicted", **NAMED,
    )  # fmt: skip
    assert len(attributes(drawn, "diagonal", "x")) == 3
    faint, dark = attributes(drawn, "tint", "fill-opacity")
    assert faint < dark <= 0.55
    assert "&lt;c&gt;" in drawn


def test_the_busiest_classes_are_those_most_confused() -> None:
    counts = np.eye(50, dtype=int) * 10
    counts[3, 40] = counts[40, 3] = 5
    counts[7, 8] = 1
    assert busiest(counts.tolist(), 4) == (3, 7, 8, 40)
    assert busiest(counts.tolist(), 50) == tuple(range(50))


def colours(dark: bool) -> dict[str, np.ndarray]:
    block = re.findall(r":root \{(.*?)\}", CSS, re.S)[1 if dark else 0]
    found = re.findall(r"--([a-z]+): #([0-9a-f]{6});", block)
    tint = {"tint": np.array(float(re.findall(r"--tint: ([0-9.]+);", block)[0]))}
    return tint | {
        name: np.array([int(h[i : i + 2], 16) / 255 for i in (0, 2, 4)]) for name, h in found
    }


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """The contrast of WCAG 2."""

    def luminance(colour: np.ndarray) -> float:
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_sufficient_contrast(dark: bool) -> None:
    c = colours(dark)
    for ground in ("paper", "surface", "sunk"):
        for ink in ("ink", "quiet", "teacher", "student", "good", "bad"):
            assert contrast(c[ink], c[ground]) >= 4.5, (ink, ground)
    for role in ("teacher", "student"):
        share = 0.55 * c["tint"]
        tint = share * c[role] + (1 - share) * c["sunk"]
        assert contrast(c["ink"], tint) >= 4.5, role
        assert contrast(c["baseline"], c["paper"]) >= 3, "marks need 3 to 1"
