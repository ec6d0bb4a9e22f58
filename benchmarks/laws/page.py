"""Write the results of the laws as a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

Found = dict[str, Any]

HEAD = """\
# Losses of other libraries under limbeck's laws

The distillation losses of other libraries, tested by the [laws](../CONTRIBUTING.md#the-laws) of
limbeck's own losses. `benchmarks/laws/run.py` writes this page from its results;
[benchmarks/README.md](../benchmarks/README.md#laws-what-peers-keep-of-limbecks-laws) describes
how to run it.

Method:

- Each library ran in a separate environment, on a CPU, in its newest release.
- A function is compared with the formula that its name and documentation state (the third
  column), apart from its reduction: a function that averages over a batch is called for one
  element at a time. It is called on a batch for law 7 if it takes a mask, and for law 6 if no
  other reduction is available.
- Law 0 (shape and dtype of the result) is limbeck's own contract and not tested here; nor is
  the result for an empty batch. Differences below 1e-5, and negative values above -1e-6, count
  as float32 rounding. Where the formula itself is infinite, infinity is correct.
- Law 2 is tested in float32, bfloat16 and float16. A function that converts logits to float32
  meets it.
- Law 3 concerns whether the function detaches the teacher. The libraries' own training loops
  run the teacher under `no_grad`, which is sufficient.
- Law 5 requires T² in value and gradient. A library may document that it omits T² ("softened"
  in the third column); the weight of the term then has to change with the temperature.
- Law 13 requires that a jsd does not become another loss at the ends of beta. Libraries whose
  beta of 0 and 1 selects the two KL divergences document this.
- Unless a row states otherwise, inputs are 6 elements of 5 logits drawn from N(0, 1), T = 2;
  features are 6 samples of 3×2×2. The messages are those of `limbeck.testing`.
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
    """Return the page's text."""
    ran = [found for found in results if "failed" not in found]
    parts = [HEAD, _summary(results), _overview(ran)]
    return "\n".join(parts + [_section(found) for found in ran])


def _summary(results: Iterable[Found]) -> str:
    rows = ["## Libraries", "", "| library | versions | functions | date |", "|-|-|-:|-|"]
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
    """Count, for each law, the functions to which it applies and those that meet it."""
    titles = [found["title"] for found in ran]
    rows = [
        "The number of functions to which a law applies, and how many meet it:",
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
    applied = [verdict["seen"][law] for verdict in found["verdicts"] if law in verdict["seen"]]
    return f"{sum(broken is None for broken in applied)} of {len(applied)}" if applied else ""


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
