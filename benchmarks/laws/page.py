"""Write what the laws have seen as a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

Found = dict[str, Any]

HEAD = """\
# Peers under limbeck's laws

The libraries that people distil with, held to the [laws](../CONTRIBUTING.md#the-laws) that
limbeck's own losses keep. `benchmarks/laws/run.py` writes this page from what it has run, and
from nothing else; how to run it again is said in
[benchmarks/README.md](../benchmarks/README.md#laws-what-peers-keep-of-limbecks-laws).

How to read it, so that it is fair:

- Each library ran in an environment of its own, on a CPU, in the newest release of the package
  index.
- A function is held to the formula that its name and its documentation promise (the third
  column), and its formula is judged apart from its reduction: what averages over a batch is
  called for one unit at a time. It is called on a batch for law 7 where it takes a mask, and for
  law 6 where no other reduction is on offer.
- Law 0 (shape and type of the answer) is limbeck's own contract and asked of nobody; nor is what
  a batch without units gives. Differences below 1e-5, and negative values above -1e-6, are taken
  for the rounding of float32. Where the formula itself is infinite, infinity is right.
- Law 2 is tried in float32, bfloat16 and float16. Who takes logits to float32 first keeps it.
- Law 3 is about who detaches the teacher. A training loop that runs the teacher under `no_grad`,
  as the libraries' own loops do, makes up for it.
- Law 5 asks for T² in value and gradient. A library may do without, and say so ("softened" in the
  third column); then a term's weight has to be found anew for each temperature.
- Law 13 asks that a jsd does not become another loss at the ends of beta. That beta of 0 and 1
  stand for the two KLs is documented by the libraries that do so.
- Unless a row says otherwise, inputs are 6 units of 5 logits drawn from N(0, 1), T = 2; features
  are 6 samples of 3×2×2. The messages are those of `limbeck.testing`.
"""

_LONG = re.compile(r"\d+\.\d{5,}")
SHORT = {
    1: "minimum at student = teacher",
    2: "never negative",
    3: "no gradient to the teacher",
    4: "value and gradient of the definition",
    5: "T²",
    6: "micro-batches",
    7: "padding",
    8: "symmetries",
    9: "finite",
    11: "top-k of all classes is dense",
    12: "padded vocabulary",
    13: "ends of jsd",
}


def write(results: Sequence[Found]) -> str:
    """Give the page's text."""
    ran = [found for found in results if "failed" not in found]
    parts = [HEAD, _summary(results), _overview(ran)]
    return "\n".join(parts + [_section(found) for found in ran])


def _summary(results: Iterable[Found]) -> str:
    rows = ["## What was run", "", "| library | versions | functions | date |", "|-|-|-:|-|"]
    for found in results:
        if "failed" in found:
            rows.append(f"| {found['title']} | {_cell(found['failed'])} | | {found['date']} |")
            continue
        versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        rows.append(
            f"| {found['title']} | {versions}, Python {found['python']} | "
            f"{len(found['verdicts'])} | {found['date']} |"
        )
    return "\n".join([*rows, ""])


def _overview(ran: Sequence[Found]) -> str:
    """Count, for each law, of how many functions it was asked and how many keep it."""
    titles = [found["title"] for found in ran]
    rows = [
        "Of how many functions a law was asked, and how many keep it:",
        "",
        f"| law | {' | '.join(titles)} |",
        f"|-|{'-:|' * len(titles)}",
    ]
    for law, name in SHORT.items():
        cells = [_count(found, str(law)) for found in ran]
        if any(cells):
            rows.append(f"| {law} {name} | {' | '.join(cells)} |")
    return "\n".join([*rows, ""])


def _count(found: Found, law: str) -> str:
    asked = [verdict["seen"][law] for verdict in found["verdicts"] if law in verdict["seen"]]
    return f"{sum(broken is None for broken in asked)} of {len(asked)}" if asked else ""


def _section(found: Found) -> str:
    version = found["versions"].get(found["title"], "")
    rows = [
        f"## {found['title']} {version}".rstrip(),
        "",
        "| function | law | promised | holds, or the counter-example |",
        "|-|-|-|-|",
    ]
    for verdict in found["verdicts"]:
        rows += _rows(verdict)
    if found["note"]:
        rows.insert(1, f"\nInstalling: {found['note']}.")
    rows += [f"\nNot on trial: `{name}`: {_cell(why)}." for name, why in found["left_out"].items()]
    return "\n".join([*rows, ""])


def _rows(verdict: Found) -> list[str]:
    how = f" ({_cell(verdict['how'])})" if verdict["how"] else ""
    function = f"`{_cell(verdict['function'])}`{how}"
    seen = {int(law): broken for law, broken in verdict["seen"].items()}
    kept = ", ".join(str(law) for law, broken in seen.items() if broken is None)
    rows = [f"| {function} | {kept} | {_cell(verdict['promise'])} | hold |"]
    rows += [
        f"| | **{law}** {SHORT.get(law, '')} | | {_cell(broken)} |"
        for law, broken in seen.items()
        if broken is not None
    ]
    return rows


def _cell(text: str) -> str:
    short = _LONG.sub(lambda number: f"{float(number[0]):.4g}", text)
    return " ".join(short.split()).replace("|", "\\|")
