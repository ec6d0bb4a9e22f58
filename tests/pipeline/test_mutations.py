"""Mutated recipes: each is refused with every problem, or is valid."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.pipeline.load_recipe import read, resolve, shipped_recipes
from limbeck.pipeline.recipe import Recipe
from limbeck.pipeline.validate import validate

TEXTS = {name: path.read_text() for name, path in shipped_recipes().items()}
CONTENTS = {name: read(path) for name, path in shipped_recipes().items()}
EXAMPLES = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

NUMBERS = st.sampled_from([0, -1, 1, 10**30, 10**400, -(2**63), 0.5, 1e308, math.inf, math.nan])
WORDS = st.sampled_from(
    [*("", " ", "epochs", "digits", "\x1b[2J", "λ😀", "a" * 5000, "null", "[red]", "\u202e"),
     *("/", "..", "~")]
)  # fmt: skip
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=8))
JUNK = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
PIECES = st.sampled_from(
    [*("&a [*a]", "&b {c: *b}", "[" * 400 + "]" * 400, "2024-02-31", "2001-01-01 10:00:00"),
     *("!!python/object:os.system {}", "!!binary aGk=", "!!timestamp no", "!!bool no idea"),
     *("!!int x", "0x" + "f" * 5000, "9" * 5000, "? [a, b] : c", "<<: 5", "name: twice", "\t"),
     *("\x00", "---", "- ", ": ", "{", "'", "*nowhere", "%TAG", ".inf", ".nan", "1e999", "🙂")]
)  # fmt: skip
OVERRIDDEN = [
    *("stages", "stages.0", "stages.9", "stages.train_teacher", "seeds.0"),
    *(
        "stages.train_teacher.epochs.x",
        "name.x",
        "teacher.width",
        "data.max_samples.train",
        "profile",
        "profiles.smoke",
        "budget",
    ),
    *("stages.distill.objective.soft_target_kl.temperature", "stages.distill.objective.0.weight"),
    *("", ".", "a..b"),
]


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all parts."""
    if path:
        yield path
    parts = content.items() if isinstance(content, dict) else []
    for key, part in enumerate(content) if isinstance(content, list) else parts:
        yield from places(part, (*path, key))


@st.composite
def changed_contents(draw: st.DrawFn) -> Any:
    """Mutate one to three parts of a shipped recipe."""
    content: Any = copy.deepcopy(CONTENTS[draw(st.sampled_from(sorted(CONTENTS)))])
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(content))
        if not found:
            break
        path = draw(st.sampled_from(found))
        holder = content
        for key in path[:-1]:
            holder = holder[key]
        mutate(draw, holder, path[-1])
    return content


def mutate(draw: st.DrawFn, holder: Any, key: Any) -> None:
    mutation = draw(
        st.sampled_from(["replace", "delete", "rename", "repeat", "reverse", "wrap", "deepen"])
    )
    value = holder[key]
    if mutation == "replace":
        holder[key] = draw(JUNK)
    elif mutation == "delete":
        del holder[key]
    elif mutation == "rename" and isinstance(holder, dict):
        holder[draw(WORDS)] = holder.pop(key)
    elif mutation == "repeat" and isinstance(holder, list):
        holder.append(copy.deepcopy(value))
    elif mutation == "reverse" and isinstance(value, list):
        value.reverse()
    elif mutation == "wrap":
        holder[key] = draw(st.sampled_from([[value], {"train": value}, [], {}]))
    else:
        for _ in range(60):
            value = [value]
        holder[key] = value


@st.composite
def changed_texts(draw: st.DrawFn) -> str:
    """Insert or remove text anywhere in a shipped recipe."""
    text = TEXTS[draw(st.sampled_from(sorted(TEXTS)))]
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 30))
        text = text[:start] + draw(PIECES | st.text(max_size=5)) + text[start + length :]
    return text


def refused_or_valid(name: str, overrides: Sequence[str] = ()) -> None:
    """Resolve a recipe; only a complete `InputError` may be raised."""
    try:
        recipe = resolve(name, overrides)
    except InputError as refusal:
        check(refusal)
    else:
        assert isinstance(recipe, Recipe)
        recipe.parsed_stages()
        yaml.safe_dump(recipe.model_dump(mode="json"))


def check(refusal: InputError) -> None:
    assert refusal.problems
    for problem in refusal.problems:
        assert problem.where
        assert problem.allowed
        assert ": got " in str(problem) or ": field required" in str(problem)
        assert len(str(problem)) < 20_000


@pytest.mark.slow
@EXAMPLES
@given(content=changed_contents())
def test_a_recipe_with_mutated_parts_is_refused_or_valid(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    try:
        text = yaml.safe_dump(content, allow_unicode=True)
    except ValueError:  # a number that is too long to be written: as hexadecimal it can be
        text = "seeds: [0x" + "f" * 5000 + "]"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    refused_or_valid(str(path))


@pytest.mark.slow
@EXAMPLES
@given(text=changed_texts())
def test_a_recipe_with_mutated_text_is_refused_or_valid(text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    refused_or_valid(str(path))


@settings(EXAMPLES, max_examples=150)
@given(
    where=st.sampled_from(OVERRIDDEN),
    value=PIECES | st.sampled_from(["5", "smoke", "[1, 2]", "{a: 1}", "null", ""]),
)
def test_an_override_is_refused_or_valid(where, value):
    refused_or_valid("digits", [f"{where}={value}"])


@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_invalid_content_is_refused_at_every_place(name):
    for path in places(CONTENTS[name]):
        content = copy.deepcopy(CONTENTS[name])
        holder = content
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = {"nonsense": [math.inf]}
        with pytest.raises(InputError):
            validate(content)
