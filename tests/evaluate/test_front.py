"""The front and its knee, against definitions written another way."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.evaluate.pareto import knee, pareto

# Few different numbers, so that there are equals.
NUMBERS = st.integers(-4, 4).map(float) | st.floats(-1e6, 1e6)
WAYS = st.lists(st.sampled_from(["minimize", "maximize"]), min_size=1, max_size=4)


def beats(one, other, ways):
    pairs = [
        (a, b) if way == "minimize" else (-a, -b)
        for a, b, way in zip(one, other, ways, strict=True)
    ]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def drawn(data, ways, most=12):
    row = st.lists(NUMBERS, min_size=len(ways), max_size=len(ways))
    return data.draw(st.lists(row, min_size=1, max_size=most))


@given(st.data(), WAYS)
def test_the_front_is_what_nothing_beats(data, ways):
    points = drawn(data, ways)
    expected = [not any(beats(other, one, ways) for other in points) for one in points]
    assert pareto(points, ways).tolist() == expected
    assert any(expected)


@given(st.data(), WAYS)
def test_whoever_is_behind_is_beaten_by_somebody_on_the_front(data, ways):
    points = drawn(data, ways)
    mask = pareto(points, ways)
    front = [one for one, good in zip(points, mask, strict=True) if good]
    for one, good in zip(points, mask, strict=True):
        assert good or any(beats(other, one, ways) for other in front)


@given(st.data(), WAYS, st.randoms())
def test_order_and_units_do_not_matter(data, ways, random):
    points = drawn(data, ways)
    mask = pareto(points, ways).tolist()
    order = list(range(len(points)))
    random.shuffle(order)
    moved = [[4 * value for value in points[place]] for place in order]
    assert pareto(moved, ways).tolist() == [mask[place] for place in order]


def by_geometry(points, ways):
    """The knee by the distance of a point from a line through two others."""
    turned = [
        [value if way == "minimize" else -value for value, way in zip(p, ways, strict=True)]
        for p in points
    ]
    low = [min(column) for column in zip(*turned, strict=True)]
    high = [max(column) for column in zip(*turned, strict=True)]
    unit = [
        [(value - a) / (b - a) for value, a, b in zip(p, low, high, strict=True)] for p in turned
    ]
    (x1, y1), (x2, y2) = min(unit), max(unit)
    length = math.hypot(x2 - x1, y2 - y1)
    return [((x2 - x1) * (y1 - y) - (x1 - x) * (y2 - y1)) / length for x, y in unit]


@given(
    st.lists(
        st.tuples(st.integers(1, 10_000), st.integers(0, 1000)),
        min_size=3,
        max_size=12,
        unique_by=(lambda p: p[0], lambda p: p[1]),
    )
)
def test_the_knee_lies_farthest_from_the_line_between_the_ends(points):
    ways = ["minimize", "maximize"]
    costs = sorted(cost for cost, _ in points)
    gains = sorted(gain for _, gain in points)
    front = list(zip(costs, gains, strict=True))
    assert pareto(front, ways).all()
    distances = by_geometry(front, ways)
    found = knee(front, ways)
    if found is None:
        assert max(distances) < 1e-6
    else:
        assert distances[found] == pytest.approx(max(distances))
        assert distances[found] > 0


def test_the_knee_of_a_front_by_hand():
    front = [(10, 0.50), (20, 0.90), (40, 0.95), (100, 1.00)]
    assert knee(front, ["minimize", "maximize"]) == 1
    turned = [(gain, cost) for cost, gain in reversed(front)]
    assert knee(turned, ["maximize", "minimize"]) == 2


@pytest.mark.parametrize(
    "front",
    [
        [(1, 0.5)],
        [(1, 0.5), (2, 0.6)],
        [(0, 0.0), (1, 0.5), (2, 1.0)],  # a straight line
        [(0, 0.0), (9, 0.1), (10, 1.0)],  # it bulges to the worse side
        [(1, 0.5), (1, 0.5), (1, 0.5)],
    ],
)
def test_a_front_without_a_bulge_has_no_knee(front):
    assert knee(front, ["minimize", "maximize"]) is None


def test_no_points_have_no_front():
    assert pareto([], ["minimize"]).tolist() == []


@pytest.mark.parametrize(
    ("points", "ways", "word"),
    [
        ([[1, math.nan]], ["minimize", "maximize"], "finite"),
        ([[1, math.inf]], ["minimize", "maximize"], "finite"),
        ([[1, 2]], ["minimize"], "directions"),
        ([[1, 2]], ["minimize", "maximise"], "maximize"),
    ],
)
def test_what_cannot_be_compared_is_refused(points, ways, word):
    with pytest.raises(InputError, match=word):
        pareto(points, ways)


def test_a_knee_is_one_of_two_coordinates():
    with pytest.raises(InputError, match="two coordinates"):
        knee([[1, 2, 3]] * 3, ["minimize"] * 3)
