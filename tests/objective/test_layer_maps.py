import pytest

from limbeck.errors import InputError
from limbeck.objective.methods.layer_maps import SIX_OF_TWELVE, layer_map, paths

WRITTEN_OUT = [
    ("early", 3, 12, [(0, 0), (1, 1), (2, 2)]),
    ("last", 3, 12, [(0, 9), (1, 10), (2, 11)]),
    ("skip", 6, 12, [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]),
    ("skip", 5, 12, [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9)]),
    ("uniform", 4, 12, [(0, 0), (1, 4), (2, 7), (3, 11)]),
    ("uniform", 1, 12, [(0, 11)]),
    ("uniform", 3, 2, [(0, 0), (1, 1), (2, 1)]),
    ("tinybert", 4, 12, [(-1, -1), (0, 2), (1, 5), (2, 8), (3, 11)]),
    ("tinybert", 6, 12, [(-1, -1), (0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]),
]


@pytest.mark.parametrize(("strategy", "student", "teacher", "expected"), WRITTEN_OUT)
def test_strategies_match_their_definitions(strategy, student, teacher, expected):
    assert layer_map(student, teacher, strategy) == expected


@pytest.mark.parametrize("strategy", ["early", "last", "skip", "uniform", "tinybert"])
@pytest.mark.parametrize(("student", "teacher"), [(1, 1), (4, 4), (2, 6), (6, 24)])
def test_every_block_of_the_student_learns_and_order_is_kept(strategy, student, teacher):
    pairs = [pair for pair in layer_map(student, teacher, strategy) if pair[0] >= 0]
    assert [pair[0] for pair in pairs] == list(range(student))
    blocks = [pair[1] for pair in pairs]
    assert blocks == sorted(set(blocks))
    assert all(0 <= block < teacher for block in blocks)


@pytest.mark.parametrize("layers", [1, 5, 12])
def test_a_student_of_the_same_depth_learns_block_by_block(layers):
    for strategy in ("early", "last", "skip", "uniform"):
        assert layer_map(layers, layers, strategy) == [(one, one) for one in range(layers)]


def test_maps_of_ones_own():
    assert layer_map(6, 12, {0: 2, 5: 11}) == [(0, 2), (5, 11)]
    assert layer_map(6, 12, [[0, 2], (0, 3)]) == [(0, 2), (0, 3)]
    assert layer_map(6, 12, SIX_OF_TWELVE) == list(SIX_OF_TWELVE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 12, "unifrom"), 'did you mean "uniform"'),
        ((0, 12, "last"), "student_layers: got 0"),
        ((4, True, "last"), "teacher_layers: got True"),
        ((6, 4, "last"), "no more blocks than the teacher has"),
        ((5, 12, "tinybert"), "divides"),
        ((4, 12, {}), "each once"),
        ((4, 12, {0: 12}), "layer_map.teacher: got 12; allowed: a block from 0 to 11"),
        ((4, 12, {-2: 0}), "layer_map.student: got -2"),
        ((4, 12, [(0, 1), (0, 1)]), "each once"),
        ((4, 12, [0, 1]), "a list of such pairs"),
        ((4, 12, {0: "1"}), "a list of such pairs"),
        ((4, 12, None), "a list of such pairs"),
    ],
)
def test_invalid_maps_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        layer_map(*arguments)


def test_pairs_become_paths():
    found = paths([(-1, -1), (1, 5)], "layer.{}", "bert.layer.{}.output")
    assert found == [
        ("layer.0:input", "bert.layer.0.output:input"),
        ("layer.1", "bert.layer.5.output"),
    ]
    assert paths([(1, 5)], "a.{}:input", "b.{}") == [("a.1:input", "b.5")]


def test_paths_without_a_place_for_the_number_are_an_error():
    with pytest.raises(InputError) as caught:
        paths([(-1, -1)], "layer", "layer.{}:input")
    assert [problem.where for problem in caught.value.problems] == [
        "paths.student",
        "paths.teacher",
    ]
