"""The Pareto front and its knee, against independent definitions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.evaluate.pareto import knee, pareto

# Few different numbers, so that some are equal.
NUMBERS = st.integers(-4, 4).map(float) | st.floats(-1e6, 1e6)
DIRECTIONS = st.lists(st.sampled_from(["minimize", "maximize"]), min_size=1, max_size=4)


def dominates(one, other, directions):
    pairs = [
        (a, b) if direction == "minimize" else (-a, -b)
        for a, b, direction in zip(one, other, directions, strict=True)
    ]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def drawn(data, directions, most=12):
    row = st.lists(NUMBERS, min_size=len(directions), max_size=len(directions))
    return data.draw(st.lists(row, min_size=1, max_size=most))


@given(st.data(), DIRECTIONS)
def test_the_front_is_not_dominated(data, directions):
    points = drawn(data, directions)
    expected = [not any(dominates(other, one, directions) for other in points) for one in points]
    assert pareto(points, directions).tolist() == expected
    assert any(expected)


@given(st.data(), DIRECTIONS)
def test_points_off_the_front_are_dominated_by_one_on_it(data, directions):
    points = drawn(data, directions)
    mask = pareto(points, directions)
    front = [one for one, good in zip(points, mask, strict=True) if good]
    for one, good in zip(points, mask, strict=True):
        assert good or any(dominates(other, one, directions) for other in front)


@given(st.data(), DIRECTIONS, st.randoms())
def test_order_and_units_do_not_matter(data, directions, random):
    points = drawn(data, directions)
    mask = pareto(points, directions).tolist()
    order = list(range(len(points)))
    random.shuffle(order)
    moved = [[4 * value for value in points[place]] for place in order]
    assert pareto(moved, directions).tolist() == [mask[place] for place in order]


def distances_from_the_line(points, directions):
    """Return the distance of each point from the line through the ends."""
    oriented = [
        [
            value if direction == "minimize" else -value
            for value, direction in zip(p, directions, strict=True)
        ]
        for p in points
    ]
    low = [min(column) for column in zip(*oriented, strict=True)]
    high = [max(column) for column in zip(*oriented, strict=True)]
    unit = [
        [(value - a) / (b - a) for value, a, b in zip(p, low, high, strict=True)] for p in oriented
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
    directions = ["minimize", "maximize"]
    costs = sorted(cost for cost, _ in points)
    gains = sorted(gain for _, gain in points)
    front = list(zip(costs, gains, strict=True))
    assert pareto(front, directions).all()
    distances = distances_from_the_line(front, directions)
    found = knee(front, directions)
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
        [(0, 0.0), (9, 0.1), (10, 1.0)],  # the bulge is on the worse side
        [(1, 0.5), (1, 0.5), (1, 0.5)],
    ],
)
def test_a_front_without_a_bulge_has_no_knee(front):
    assert knee(front, ["minimize", "maximize"]) is None


def test_no_points_have_no_front():
    assert pareto([], ["minimize"]).tolist() == []


@pytest.mark.parametrize(
    ("points", "directions", "message"),
    [
        ([[1, math.nan]], ["minimize", "maximize"], "finite"),
        ([[1, math.inf]], ["minimize", "maximize"], "finite"),
        ([[1, 2]], ["minimize"], "directions"),
        ([[1, 2]], ["minimize", "maximise"], "maximize"),
    ],
)
def test_invalid_points_and_directions_are_refused(points, directions, message):
    with pytest.raises(InputError, match=message):
        pareto(points, directions)


def test_a_knee_is_one_of_two_coordinates():
    with pytest.raises(InputError, match="two coordinates"):
        knee([[1, 2, 3]] * 3, ["minimize"] * 3)
