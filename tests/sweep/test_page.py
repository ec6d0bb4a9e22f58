"""The page and the text summary of a sweep: the same figures, legible without colour."""

import json
import re
import shutil
import subprocess

import pytest

from limbeck.display.pareto import Point, pareto
from limbeck.report.sweep import SweepResult, render_sweep, rows, sentence, sweep_lines

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LABELS = {"across": str, "up": str, "name": "size", "title": "a", "description": "b"}


def test_the_same_result_gives_the_same_page_and_survives_json(result):
    again = SweepResult.model_validate_json(result.model_dump_json())
    assert again == result
    assert render_sweep(again) == render_sweep(result)


def test_a_page_is_self_contained_and_escapes_untrusted_text(result):
    page = render_sweep(result)
    assert "<b>no</b>" not in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert not re.search(r"<script|<link(?! rel=\"icon\")|src=|@import|url\(", page)


def test_every_trial_is_in_the_table_and_every_done_one_in_every_chart(result):
    page = render_sweep(result)
    assert len(re.findall(r'<th scope="row">', page)) == len(result.trials)
    tips = re.findall(r"<title>trial (\d+): ", page)
    assert sorted(tips) == sorted([str(trial.number) for trial in result.done] * 2)


def test_rows_are_ordered_by_standing(result, with_choice):
    found = rows(with_choice("size_kb=25"))
    assert [row.number for row in found] == [0, 1, 2, 3, 4, 5, 9, 8, 7, 6, 10, 11]
    standing = {row.number: row.standing for row in found}
    assert standing[2] == "knee for size and latency"
    assert (standing[3], standing[9], standing[10]) == ("chosen, front", "dominated", "failed")
    assert standing[11] == "not done yet"


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("size_kb=25", "Trial 3 has the best score within the budget: 95.50 % at 22.0 kB"),
        ("size_kb=5", "No trial fits the budget; trial 0 comes nearest, and misses size by 1 kB."),
        ("score.accuracy=0.97", "trial 5 comes nearest, and misses accuracy by 0.30 points"),
    ],
)
def test_the_sentence_names_the_chosen_trial(with_choice, budget, words):
    result = with_choice(budget)
    assert words in sentence(result)
    assert sweep_lines(result, page="sweep.html")[0] == sentence(result)


def test_the_terminal_shows_only_the_front(result):
    lines = sweep_lines(result, page="sweep.html")
    assert lines[0] == "6 of 10 trials are on the Pareto front."
    assert lines[-2] == "  12 trials: 6 on the front, 4 dominated, 1 failed and 1 not done yet"
    assert [line.split()[0] for line in lines[4:10]] == list("012345")


def test_marks_differ_in_shape(result, with_choice):
    plain = render_sweep(result)
    chart = re.findall(r"<svg viewBox.*?</svg>", plain, re.S)[0]
    assert chart.count('class="seed"') == 4
    assert chart.count("rotate(45") == 1
    assert chart.count('class="mark"') == 6
    assert 'class="diagonal"' not in chart
    chosen = re.findall(r"<svg viewBox.*?</svg>", render_sweep(with_choice("size_kb=25")), re.S)[0]
    assert chosen.count('class="diagonal"') == 1
    assert ">chosen 3<" in chosen
    assert ">budget<" in chosen


def test_the_step_line_is_monotonic_and_passes_through_the_front():
    points = [Point(c, q, "", front=True, line=True) for c, q in [(90, 0.9), (10, 0.5), (30, 0.8)]]
    drawn = pareto(points, **LABELS)
    path = re.search(r'points="([^"]+)"', drawn)[1]
    places = [tuple(map(float, pair.split(","))) for pair in path.split()]
    assert len(places) == 5
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    marks = re.findall(r'cx="([^"]+)" cy="([^"]+)"', drawn)
    for x, y in marks:
        assert any(abs(float(x) - a) < 0.1 and abs(float(y) - b) < 0.1 for a, b in places)


@pytest.mark.parametrize("count", [0, 1])
def test_a_chart_of_few_points_can_be_drawn(count):
    points = [Point(5, 0.9, "one", front=True, line=True), Point(float("inf"), 0.9, "two")]
    assert "<svg" in pareto([*points[:count], Point(0, 0.5, "free")], **LABELS)


WRAPPER = """<!doctype html><link rel="icon" href="data:,"><body style="margin:0">
<iframe id="f" src="page.html" style="border:0;width:390px;height:900px"></iframe>
<pre id="out"></pre>
<script>
document.getElementById("f").onload = function () {
  const inner = this.contentDocument, root = inner.documentElement;
  const sizes = [...inner.querySelectorAll("svg.chart text")].map(t =>
    parseFloat(inner.defaultView.getComputedStyle(t).fontSize) * t.getScreenCTM().a);
  document.getElementById("out").textContent =
    JSON.stringify([root.clientWidth, root.scrollWidth, Math.min(...sizes)]);
};
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH: the page was not opened")
def test_the_page_fits_a_phone_with_legible_text(with_choice, tmp_path):
    page = render_sweep(with_choice("size_kb=25,latency_ms=0.2"))
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    (tmp_path / "wrapper.html").write_text(WRAPPER, encoding="utf-8")
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--hide-scrollbars", "--virtual-time-budget=2000", "--allow-file-access-from-files",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--dump-dom",
         (tmp_path / "wrapper.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    width, scroll, smallest = json.loads(re.search(r'<pre id="out">(.*?)</pre>', done.stdout)[1])
    assert (width, scroll) == (390, 390)
    assert smallest >= 11
    assert ":CONSOLE" not in done.stderr
