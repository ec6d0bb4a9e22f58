import math
import re
from html.parser import HTMLParser

import pytest

from limbeck.display import format as fmt
from limbeck.evaluate.intervals import summarize
from limbeck.report import verdict
from limbeck.report.page import notes, render_page
from limbeck.report.result import Curve, RunResult

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'</style>{{ 7*7 }}"
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Outline(HTMLParser):
    """Parse a page: its tags with attributes, its text, and that tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def hostile(result: RunResult) -> RunResult:
    """Return the result with markup in every name."""
    link = result.chain[-1].model_copy(
        update={"label": HOSTILE, "what": HOSTILE, "notes": (HOSTILE,)}
    )
    curve = Curve(
        label=HOSTILE, rows=({"train/loss": 1.0, "train/b": 2.0, f"train/{HOSTILE}": 1.0},)
    )
    classes = tuple(f"{HOSTILE}{i}" for i in range(len(result.data.classes)))
    return result.model_copy(
        update={
            "name": HOSTILE,
            "task": HOSTILE,
            "chain": (*result.chain[:-1], link),
            "curves": (curve,),
            "data": result.data.model_copy(update={"classes": classes, "licence": HOSTILE}),
            "disagreements": tuple(
                one.model_copy(update={"image": HOSTILE, "text": HOSTILE})
                for one in result.disagreements
            ),
            "budget": tuple(
                check.model_copy(update={"name": HOSTILE, "unit": HOSTILE})
                for check in result.budget
            ),
            "recipe": {HOSTILE: HOSTILE},
            "environment": result.environment.model_copy(
                update={"command": HOSTILE, "started": HOSTILE, "versions": {HOSTILE: HOSTILE}}
            ),
            "notes": (HOSTILE,),
        }
    )


def test_the_page_is_well_formed(result: RunResult) -> None:
    assert Outline(render_page(result)).open == []


def test_the_page_loads_no_external_resources(result: RunResult) -> None:
    for tag, attributes in Outline(render_page(result)).tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "srcset", "xlink:href", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, name, value)
    page = render_page(result)
    assert "@import" not in page
    assert not re.findall(r"url\((?!['\"]?data:)", page)


def test_the_policy_forbids_network_and_scripts(digits: RunResult) -> None:
    policies = [a["content"] for t, a in Outline(render_page(digits)).tags if a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_the_same_result_gives_the_same_bytes(result: RunResult) -> None:
    again = RunResult.model_validate_json(result.model_dump_json())
    assert render_page(result) == render_page(again)


def test_hostile_names_appear_as_text(result: RunResult) -> None:
    outline = Outline(render_page(hostile(result)))
    assert outline.open == []
    assert not [tag for tag, _ in outline.tags if tag == "script"]
    assert not [a for _, a in outline.tags if any(name.startswith("on") for name in a)]
    assert "<script>alert(1)</script>" in outline.text
    assert "{{ 7*7 }}" in outline.text


def test_every_number_of_the_verdict_appears(result: RunResult) -> None:
    text = Outline(render_page(result)).text
    assert verdict.sentence(result) in text
    for number in verdict.numbers(result):
        for part in (number.name, number.value, *number.details):
            assert part in text
    for check in result.budget:
        assert verdict.amount(check.measured, check) in text
        assert verdict.requirement(check) in text


def test_the_verdict_comes_first(digits: RunResult) -> None:
    page = render_page(digits)
    assert page.index("<h1") < page.index("<h2")
    assert page.index("<h1") < page.index('class="chart"')


def test_links_of_the_contents_have_targets(result: RunResult) -> None:
    tags = Outline(render_page(result)).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    inner = [a["href"] for t, a in tags if t == "a"]
    assert len(inner) >= 14
    assert {str(href).removeprefix("#") for href in inner} <= set(ids)


def test_every_chart_has_a_title_and_a_description(digits: RunResult) -> None:
    page = render_page(digits)
    charts = re.findall(
        r'<svg[^>]*class="chart"[^>]*><title>([^<]+)</title><desc>([^<]+)</desc>', page
    )
    assert len(charts) == page.count('class="chart"') >= 14
    assert page.count('role="img"') == len(charts)
    assert page.count("<figure") == page.count("<figcaption>")


def test_language_and_viewport(digits: RunResult) -> None:
    page = render_page(digits)
    assert '<html lang="en">' in page
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in page


def test_missing_measurements_are_stated(minimal: RunResult) -> None:
    text = Outline(render_page(minimal)).text
    for sentence in (
        "No budget was set",
        "The run trained no label-only baseline",
        "The run recorded no training curves",
        "There was no teacher, or its probabilities were not recorded",
        "The run had no teacher to compare with",
        "There are no notes",
    ):
        assert sentence in text
    assert text.count(fmt.MISSING) >= 10


def test_one_seed_has_no_interval(texts: RunResult, digits: RunResult) -> None:
    assert "no interval is possible" in Outline(render_page(texts)).text
    assert "no interval is possible" not in Outline(render_page(digits)).text


def test_notes_and_disagreements_are_shown(digits: RunResult, texts: RunResult) -> None:
    text = Outline(render_page(digits)).text
    assert "mostly graph" in text
    assert "The predictions differ on 7 of 360 test samples; 6 of them are shown" in text
    images = [a for t, a in Outline(render_page(digits)).tags if t == "img"]
    assert len(images) == len(digits.disagreements)
    assert all(str(a["src"]).startswith("data:image/png;base64,iVBOR") and a["alt"] for a in images)
    for one in texts.disagreements:
        assert str(one.text) in Outline(render_page(texts)).text


def test_the_notes_of_a_stage_are_listed_once(digits: RunResult) -> None:
    """The students of one stage share its notes, and later stages may repeat one."""
    weak = "The teacher is no better than the label-only student."
    chain = [link.model_copy(update={"notes": (weak, link.label)}) for link in digits.chain]
    result = digits.model_copy(update={"chain": tuple(chain)})
    assert notes(result).count((digits.chain[0].label, weak)) == 1
    assert [note for _, note in notes(result)].count(weak) == 1
    assert {link.label for link in chain} <= {note for _, note in notes(result)}
    result = digits.model_copy(update={"notes": (*digits.data.notes, "One seed.")})
    assert notes(result)[:2] == [("Data", digits.data.notes[0]), ("Run", "One seed.")]


def test_energy_is_called_estimated(digits: RunResult) -> None:
    assert "Energy per inference, estimated" in Outline(render_page(digits)).text


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_break_no_chart(digits: RunResult, bad: float) -> None:
    curve = digits.curves[0]
    rows = ({**curve.rows[0], "train/loss": bad, "validation/accuracy": bad}, *curve.rows[1:])
    last = digits.chain[-1]
    measured = last.measured[0]
    fidelity = measured.fidelity
    assert fidelity is not None
    measured = measured.model_copy(update={"fidelity": fidelity.model_copy(update={"kl": bad})})
    result = digits.model_copy(
        update={
            "curves": (curve.model_copy(update={"rows": rows}),),
            "chain": (*digits.chain[:-1], last.model_copy(update={"measured": (measured,)})),
        }
    )
    page = render_page(result)
    assert not re.search(r'[ ="](nan|inf|-inf)[ ",]', page)
    assert ("undefined" if math.isnan(bad) else "infinite") in page


def test_an_insignificant_gain_is_not_claimed(digits: RunResult) -> None:
    comparison = digits.comparison
    assert comparison is not None
    unsure = comparison.model_copy(update={"difference": summarize([0.01, -0.008, 0.002])})
    text = Outline(render_page(digits.model_copy(update={"comparison": unsure}))).text
    assert "do not show that the teacher helped" in text


def test_a_thousand_classes_stay_drawable(digits: RunResult) -> None:
    count = 1000
    confusion = tuple(
        tuple(40 if i == j else int((i + 1) % count == j and i < 30) for j in range(count))
        for i in range(count)
    )
    chain = tuple(
        link.model_copy(
            update={
                "measured": tuple(
                    m.model_copy(update={"confusion": confusion}) for m in link.measured
                )
            }
        )
        for link in digits.chain
    )
    names = tuple(f"a class with a long name, number {i}" for i in range(count))
    data = digits.data.model_copy(update={"classes": names})
    page = render_page(digits.model_copy(update={"chain": chain, "data": data}))
    assert "Shown are the 25 of 1000 classes" in Outline(page).text
    assert len(page) < 2_000_000
