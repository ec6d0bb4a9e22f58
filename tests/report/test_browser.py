"""The page in a browser: no overflow, no console messages, and legible text."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.report.compare import render_comparison_page
from limbeck.report.page import render_page
from limbeck.report.result import RunResult

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None,
    reason="no Chromium on PATH: the page was not opened in a browser (apt-get install chromium)",
)

# `make test` puts it there, where there is npm.
AXE = Path(sys.prefix) / "npm/node_modules/axe-core/axe.min.js"

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr",
    "--hide-scrollbars", "--virtual-time-budget=2000", "--allow-file-access-from-files",
)  # fmt: skip

# A headless window cannot be as narrow as a phone, so the page is in a frame.
WRAPPER = """<!doctype html><link rel="icon" href="data:,"><body style="margin:0">
<iframe id="f" src="page.html" style="border:0;width:{width}px;height:900px"></iframe>
<pre id="out"></pre>
<script>
document.getElementById("f").onload = function () {{
  const inner = this.contentDocument, root = inner.documentElement;
  const sizes = [...inner.querySelectorAll("svg.chart text")].map(t =>
    parseFloat(inner.defaultView.getComputedStyle(t).fontSize) * t.getScreenCTM().a
  ).filter(Boolean);
  const wide = [...inner.querySelectorAll("body *")].filter(e =>
    e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest(".box, nav, .unseen")
  ).map(e => e.tagName + "." + e.getAttribute("class"));
  document.getElementById("out").textContent = JSON.stringify({{
    client: root.clientWidth, scroll: root.scrollWidth, wide: wide.slice(0, 5),
    smallest: Math.min(...sizes), charts: inner.querySelectorAll("svg.chart").length,
    dark: inner.defaultView.matchMedia("(prefers-color-scheme: dark)").matches,
    ground: inner.defaultView.getComputedStyle(inner.body).backgroundColor,
  }});
}};
</script>"""


# Violations that axe-core reports, and scrollable boxes that the keyboard cannot reach.
AXE_WRAPPER = """<!doctype html><link rel="icon" href="data:,"><body style="margin:0">
<iframe id="f" src="page.html" style="border:0;width:{width}px;height:900px"></iframe>
<pre id="out"></pre>
<script>
document.getElementById("f").onload = async function () {{
  const inner = this.contentDocument, script = inner.createElement("script");
  script.src = "axe.min.js";
  await new Promise(done => {{ script.onload = done; inner.head.append(script); }});
  const found = await this.contentWindow.axe.run(inner, {{ resultTypes: ["violations"] }});
  const wide = [...inner.querySelectorAll(".box")].filter(e => e.scrollWidth > e.clientWidth + 1);
  document.getElementById("out").textContent = JSON.stringify({{
    violations: found.violations.map(v =>
      v.id + ": " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 120)).join(" | ")),
    checked: found.passes.length,
    unreachable: wide.filter(e => e.tabIndex < 0).length,
    dead: [...inner.querySelectorAll('a[href^="#"]')].filter(a =>
      !inner.getElementById(decodeURIComponent(a.hash.slice(1)))).map(a => a.hash),
  }});
}};
</script>"""


def opened(
    page: str, folder: Path, *, width: int, dark: bool = False, wrapper: str = WRAPPER
) -> tuple[dict[str, object], list[str]]:
    """Open a page; return the measurements taken in it and the console messages."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    (folder / "wrapper.html").write_text(wrapper.format(width=width), encoding="utf-8")
    mode = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    done = subprocess.run(
        [str(BROWSER), *FLAGS, *mode, f"--user-data-dir={folder / 'profile'}",
         "--window-size=1400,1000",
         "--dump-dom", (folder / "wrapper.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.S)
    assert found, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert found[1], done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&")), console


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_has_no_overflow_and_no_console_messages(
    digits: RunResult, tmp_path: Path, width: int, dark: bool
) -> None:
    seen, console = opened(render_page(digits), tmp_path, width=width, dark=dark)
    assert console == []
    assert seen["client"] == width
    assert seen["scroll"] == width
    assert seen["wide"] == []
    assert seen["charts"]
    assert seen["dark"] is dark
    assert seen["ground"] == ("rgb(20, 21, 23)" if dark else "rgb(251, 250, 247)")


def test_charts_keep_text_of_eleven_pixels_on_a_phone(digits: RunResult, tmp_path: Path) -> None:
    seen, _ = opened(render_page(digits), tmp_path, width=390)
    assert float(str(seen["smallest"])) >= 11


def test_texts_and_a_minimal_run_fit_a_phone(
    texts: RunResult, minimal: RunResult, tmp_path: Path
) -> None:
    for result in (texts, minimal):
        seen, console = opened(render_page(result), tmp_path, width=390)
        assert (seen["scroll"], seen["wide"], console) == (390, [], [])


def test_details_of_tasks_fit_a_phone(with_details: RunResult, tmp_path: Path) -> None:
    seen, console = opened(render_page(with_details), tmp_path, width=390)
    assert (seen["scroll"], seen["wide"], console) == (390, [], [])
    assert float(str(seen["smallest"])) >= 11


TABLES = """<!doctype html><link rel="icon" href="data:,"><body style="margin:0">
<iframe id="f" src="page.html" style="border:0;width:{width}px;height:900px"></iframe>
<pre id="out"></pre>
<script>
document.getElementById("f").onload = function () {{
  const inner = this.contentDocument, edge = inner.documentElement.clientWidth;
  const cells = [...inner.querySelectorAll(".table tbody td")];
  const words = [...inner.querySelectorAll(".prediction b")].map(e => {{
    const range = inner.createRange(); range.selectNodeContents(e);
    return range.getClientRects().length;
  }});
  document.getElementById("out").textContent = JSON.stringify({{
    cells: cells.length, lines: Math.max(...words),
    hidden: cells.filter(e => e.getBoundingClientRect().right > edge + 1).length,
  }});
}};
</script>"""


def test_on_a_phone_no_figure_is_hidden_and_no_class_name_is_split(
    evaluated: RunResult, tmp_path: Path
) -> None:
    names = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag")
    data = evaluated.data.model_copy(update={"classes": (*names, "Boot")})
    page = render_page(evaluated.model_copy(update={"data": data}))
    seen, _ = opened(page, tmp_path, width=390, wrapper=TABLES)
    assert int(str(seen["cells"])) > 50
    assert (seen["hidden"], seen["lines"]) == (0, 1)


def test_long_names_and_markup_in_names_fit_a_phone(digits: RunResult, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>" + "x" * 300
    classes = tuple(f"{name}{i}" for i in range(10))
    result = digits.model_copy(
        update={
            "name": name,
            "notes": (name,),
            "data": digits.data.model_copy(update={"classes": classes}),
            "chain": tuple(link.model_copy(update={"label": name}) for link in digits.chain),
        }
    )
    seen, console = opened(render_page(result), tmp_path, width=390)
    assert (seen["scroll"], seen["wide"], console) == (390, [], [])


def test_the_comparison_fits_a_phone(digits: RunResult, minimal: RunResult, tmp_path: Path) -> None:
    seen, console = opened(render_comparison_page([digits, minimal]), tmp_path, width=390)
    assert (seen["scroll"], seen["wide"], console) == (390, [], [])


@pytest.mark.slow
@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed (make test needs npm)")
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_accessible(
    evaluated: RunResult, with_details: RunResult, tmp_path: Path, dark: bool
) -> None:
    shutil.copy(AXE, tmp_path / "axe.min.js")
    others = [evaluated.model_copy(update={"name": name}) for name in ("one", "two")]
    pages = (render_page(evaluated), render_comparison_page(others), render_page(with_details))
    for page in pages:
        # The page forbids scripts, and axe-core is one.
        page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
        seen, console = opened(page, tmp_path, width=390, dark=dark, wrapper=AXE_WRAPPER)
        assert seen["violations"] == []
        assert seen["checked"] > 10
        assert (seen["unreachable"], seen["dead"], console) == (0, [], [])
