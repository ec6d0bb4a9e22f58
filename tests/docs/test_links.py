"""Every local link of every page leads somewhere: to a file, and to a heading in it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCED = re.compile(r"^```.*?^```[ \t]*$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
# What must not stand in a page that travels: places of one machine, and addresses that need one.
FOREIGN = re.compile(r"(?<![\w.])/(?:work|home|root|Users|tmp)/|localhost|127\.0\.0\.1|file://")


def headings(text):
    """List the anchors that GitHub makes of a page's headings."""
    anchors: dict[str, int] = {}
    for title in re.findall(r"^#{1,6} +(.+?) *#*$", FENCED.sub("", text), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = anchors.get(anchor, 0)
        anchors[anchor] = count + 1
        if count:
            anchors[f"{anchor}-{count}"] = 1
    return set(anchors)


def broken(page):
    """List the links of a page that lead nowhere."""
    found = []
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or not place.is_relative_to(ROOT.resolve()):
            found.append(f"{target}: no such file in the repository")
        elif anchor and anchor not in headings(place.read_text(encoding="utf-8")):
            found.append(f"{target}: no such heading")
    return found


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_every_local_link_leads_somewhere(page):
    assert broken(page) == []


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_no_page_names_a_place_on_one_machine(page):
    assert FOREIGN.search(page.read_text(encoding="utf-8")) is None


def test_every_page_in_docs_is_reached_from_the_index():
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for index in (ROOT / "docs" / "index.md", ROOT / "docs" / "studies" / "index.md")
        for target in LINK.findall(index.read_text(encoding="utf-8"))
    }
    own = {"docs/index.md", "docs/performance.md"}
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs")}
    missing = {page.relative_to(ROOT).as_posix() for page in pages if page.resolve() not in linked}
    assert missing <= own


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# A *title*, `here`\n[a](#a-title-here) [b](#b) [c](c.md) [d](https://d.e)\n")
    assert broken(page) == ["#b: no such heading", "c.md: no such file in the repository"]


def test_the_image_of_the_report_is_small():
    assert (ROOT / "docs" / "images" / "report.png").stat().st_size < 300_000
