"""Store the figures of measured recipes in docs/results, and write them into the pages.

`python docs/build_results.py add RUN` stores a run of a shipped recipe; with `--heldout` one with
new seeds, with which the published figures are compared. `render` writes the tables, the output of
the demo, and figures in sentences: `<!-- vision-few_labels.gain -->+7.19 points<!-- / -->`.
`check` lists what is not current, as a test does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scipy import stats

from limbeck.core.files import write_json
from limbeck.core.measurement import Interval, Metric, Result
from limbeck.display import format as fmt
from limbeck.errors import InputError, Problem
from limbeck.evaluate.intervals import Summary
from limbeck.pipeline.load_recipe import find, resolve, shipped_recipes
from limbeck.report import verdict
from limbeck.report.load import load_run
from limbeck.report.result import BudgetCheck, Link, RunResult

if TYPE_CHECKING:
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.recipe import Recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
HELDOUT = RESULTS / "heldout"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FIGURE = re.compile(r"<!-- ([\w-]+)\.(\w+) -->([^<]*)<!-- / -->")


class Side(Result):
    """A model of a result: its primary score per seed, and the cost of the first seed's file."""

    model: str
    score: Summary
    size_bytes: int
    parameters: int
    latency_ms: float | None


class Stored(Result):
    """The figures of one recipe, of one run.

    `gain` is the distilled student's over `baseline`, before later stages. `cpu_seconds` is the
    processor time of the whole run, None where it was not recorded; `note` is what a reader must
    know, `why` the reason of a gain that is not above 0, `summary` what the command line printed.
    """

    recipe: str
    overrides: tuple[str, ...]
    recipe_hash: str
    commit: str | None
    date: str
    machine: str
    versions: dict[str, str]
    seeds: tuple[int, ...]
    metric: Metric
    teacher: Side | None
    student: Side
    baseline: Summary | None
    gain: Summary | None
    budget: tuple[BudgetCheck, ...]
    seconds: float
    cpu_seconds: float | None
    summary: tuple[str, ...]
    note: str = ""
    why: str = ""

    @property
    def label(self) -> str:
        """Return the recipe and its overrides as code."""
        return ", ".join(f"`{part}`" for part in (self.recipe, *self.overrides))

    @property
    def stem(self) -> str:
        """Return the name of the file, such as `graph-cora-inductive`."""
        return "-".join([self.recipe.replace("/", "-"), *(o.split("=")[1] for o in self.overrides)])

    @property
    def gains(self) -> bool:
        """Return whether the interval of the gain is above 0."""
        return bool(self.gain and self.gain.interval and self.gain.interval.low > 0)


Results = Mapping[str, Stored]


def load(folder: Path = RESULTS) -> dict[str, Stored]:
    """Load the stored results of a folder, by the name of the file."""
    files = sorted(folder.glob("*.json"))
    return {file.stem: Stored.model_validate_json(file.read_text("utf-8")) for file in files}


def extract(
    result: RunResult,
    recipe: str = "",
    local: list[str] | None = None,
    **further: float | str | None,
) -> Stored:
    """Build the stored form of a run; `further` are fields that the run does not know.

    A run of a copy of a recipe is stored under the name `recipe`, if the two agree but for the
    overrides `local`, such as the folder of a model that others load from a hub.

    Raises:
        InputError: It is not a run of a shipped recipe, or the recipe has changed since.
    """
    from limbeck.pipeline.recipe import Recipe

    words = shlex.split(result.environment.command)
    named = {path: name for name, path in shipped_recipes().items()}
    if not recipe and (words[1:2] != ["run"] or len(words) < 3 or find(words[2]) not in named):
        raise InputError(Problem("the run's command", shlex.join(words), "a shipped recipe's run"))
    overrides = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    overrides = [] if recipe else overrides
    name = recipe or named[find(words[2])]
    ran = Recipe.model_validate(result.recipe)
    if recipe_hash(ran) != recipe_hash(resolve(name, [*overrides, *(local or [])])):
        raise InputError(Problem(name, "another recipe", "that of the run", "Run it again."))
    made, comparison = result.environment, result.comparison
    report = Path("runs") / result.name / "report.html"
    quantized = [stage["quantize"]["method"] for stage in ran.stages if "quantize" in stage]
    student = _names([ran.student_spec] if ran.student_spec else [])
    if quantized:
        student = f"{student} ({quantized[-1]})"
    fields = {
        "recipe": name,
        "overrides": [one for one in overrides if not one.startswith(("seeds=", "threads="))],
        "recipe_hash": recipe_hash(resolve(name, overrides)),
        "commit": made.git_commit,
        "date": made.started[:10],
        "machine": f"{fmt.plural(made.hardware.cores, 'core')}, {made.hardware.processor}",
        "versions": made.versions,
        "seeds": result.seeds,
        "metric": result.metric,
        "teacher": _side(result.teacher, _names(ran.teachers)) if result.teacher else None,
        "student": _side(result.shipped, student),
        "baseline": comparison and comparison.baseline,
        "gain": comparison and comparison.difference,
        "budget": result.budget,
        "seconds": made.seconds,
        "summary": verdict.verdict_lines(result, report=report),
    }
    return Stored.model_validate(fields | further)


def recipe_hash(recipe: Recipe) -> str:
    """Compute a hash of everything in a recipe that decides its outcome.

    Seeds and evaluations are excluded.
    """
    left_out = {"name", "description", "seeds", "threads", "profiles", "provenance"}
    content = recipe.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
    content["stages"] = [one for one in content["stages"] if "evaluate" not in one]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _side(link: Link, model: str) -> Side:
    cost = link.measured[0].cost
    return Side(
        model=model,
        score=link.score,
        size_bytes=cost.size_bytes,
        parameters=cost.parameters,
        latency_ms=verdict.p50(link.measured[0]),
    )


def _names(specs: list[ModelSpec]) -> str:
    counts = Counter(Path(spec.name or spec.path or spec.source).name for spec in specs)
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())


def prediction_interval(published: Summary, new: int, metric: Metric | None = None) -> Interval:
    r"""Compute the interval that contains the mean of m new seeds with a probability of 95 %.

    $$\bar x \pm t_{n-1}\, s \sqrt{1/n + 1/m}$$

    Args:
        published: The values of n seeds, at least two.
        new: The number m.
        metric: A metric whose bounds clip the interval.
    """
    n = len(published.values)
    half = stats.t.ppf(0.975, n - 1) * stats.tstd(published.values) * math.sqrt(1 / n + 1 / new)
    low, high = metric.bounds if metric else (-math.inf, math.inf)
    return Interval(
        low=max(low, float(published.mean - half)),
        high=min(high, float(published.mean + half)),
        method=f"Student t, prediction of the mean of {new}",
    )


def figures(one: Stored) -> dict[str, str]:
    """Write the figures that a sentence may quote, by name."""
    metric, teacher, student, gain = one.metric, one.teacher, one.student, one.gain
    found = {
        "student": fmt.score(student.score.mean, metric),
        "student_interval": fmt.score_interval(student.score.interval, metric),
        "size": fmt.size(student.size_bytes),
        "parameters": fmt.integer(student.parameters),
        "seeds": str(len(one.seeds)),
        "time": fmt.duration(one.cpu_seconds or one.seconds),
    }
    if teacher:
        found["teacher"] = fmt.score(teacher.score.mean, metric)
        found["teacher_size"] = fmt.size(teacher.size_bytes)
        found["teacher_parameters"] = fmt.integer(teacher.parameters)
        found["fewer"] = f"{teacher.parameters / student.parameters:.0f}"
    if gain and one.baseline:
        found["baseline"] = fmt.score(one.baseline.mean, metric)
        found["gain"] = fmt.gain_estimate(gain.mean, gain.interval, metric)
    return found


def measured(results: Results) -> str:
    """Write the table of recipes, and below it what a reader must know of some."""
    head = (
        "| recipe | teacher → student | size | score (seeds, interval) | gain (interval) | time |"
    )
    notes = [f"- {one.label}: {note}" for one in results.values() for note in _notes(one)]
    stored = {one.recipe for one in results.values()}
    left = ", ".join(f"`{name}`" for name in shipped_recipes() if name not in stored)
    if left:
        notes += ["", *textwrap.wrap(f"Not re-measured: {left}.", 118, break_on_hyphens=False)]
    table = [head, "|-|-|-|-|-|-|", *map(_row, results.values())]
    return "\n".join([*table, *([""] if notes[:1] != [""] else []), *notes]).rstrip()


def _row(one: Stored) -> str:
    of = figures(one)
    models, size, score = f"{one.student.model}, {of['parameters']}", of["size"], of["student"]
    if one.teacher:
        models = f"{one.teacher.model}, {of['teacher_parameters']} → {models}"
        size, score = f"{of['teacher_size']} → {size}", f"{of['teacher']} → {score}"
    name = "" if one.metric.name == "accuracy" else f"{one.metric.text} "
    about = [fmt.plural(len(one.seeds), "seed")]
    about += [of["student_interval"]] if one.student.score.interval else []
    about += [] if one.metric.higher_is_better else ["lower is better"]
    time = of["time"] if one.cpu_seconds else f"{of['time']}, wall"
    score = f"{name}{score} ({', '.join(about)})"
    return f"| {' | '.join([one.label, models, size, score, of.get('gain', '-'), time])} |"


def _notes(one: Stored) -> Iterator[str]:
    if one.note:
        yield one.note
    if recipe_hash(resolve(one.recipe, one.overrides)) != one.recipe_hash:
        yield "not re-measured since the recipe changed."
    for check in one.budget:
        if check.word != "met":
            given, allowed = (verdict.amount(v, check) for v in (check.measured, check.allowed))
            yield f"budget {check.word}: {verdict.budget_name(check)} {given}, allowed {allowed}."
    if one.why:
        yield one.why


def heldout(results: Results) -> str:
    """Write the table of runs with new seeds beside the published figures."""
    head = [
        "recipe",
        "figure",
        "published (95 % interval of the mean)",
        "new mean (seeds)",
        "inside",
    ]
    lines = [
        f"| {' | '.join([*head, '95 % prediction of the new mean', 'inside'])} |",
        "|-" * 7 + "|",
    ]
    for stem, new in load(HELDOUT).items():
        one, metric = results[stem], new.metric
        pairs = {"student": (one.student.score, new.student.score)}
        if one.teacher and new.teacher:
            pairs["teacher"] = (one.teacher.score, new.teacher.score)
        if one.gain and new.gain:
            pairs["gain"] = (one.gain, new.gain)
        for name, (old, now) in pairs.items():
            is_gain = name == "gain"
            predicted = prediction_interval(old, len(now.values), None if is_gain else metric)
            spans = [
                fmt.gain_interval(span, metric) if is_gain else fmt.score_interval(span, metric)
                for span in (old.interval, predicted)
            ]
            means = [
                fmt.gain(mean, metric) if is_gain else fmt.score(mean, metric)
                for mean in (old.mean, now.mean)
            ]
            new_mean = f"{means[1]} ({len(now.values)})"
            cells = [f"{means[0]} ({spans[0]})", new_mean, _inside(now.mean, old.interval)]
            cells += [spans[1], _inside(now.mean, predicted)]
            lines.append(f"| {' | '.join([one.label, name, *cells])} |")
    return "\n".join(lines)


def _inside(value: float, interval: Interval | None) -> str:
    return "yes" if interval and interval.low <= value <= interval.high else "**no**"


def demo(results: Results) -> str:
    """Write the output of the demo, long lines wrapped."""
    lines = results["vision-few_labels"].summary
    wrapped = [textwrap.fill(line, 118, subsequent_indent="  ") for line in lines]
    return "\n".join(["```text", *wrapped, "```"])


def updated(page: str, results: Results) -> str:
    """Insert the stored figures into a page, and remove rows of earlier ones.

    Raises:
        KeyError: A sentence names a result or a figure that does not exist.
    """
    for name, write in {"measured": measured, "heldout": heldout, "demo-output": demo}.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if begin:
            page = f"{before}{begin}{write(results)}\n{end}{after}"
    before, begin, earlier = page.partition("## Earlier figures\n")
    stored = tuple(f"| `{one.recipe}` |" for one in results.values() if not one.overrides)
    rows = [row for row in earlier.splitlines(keepends=True) if not row.startswith(stored)]
    page = before + begin + "".join(rows)
    return FIGURE.sub(
        lambda m: f"<!-- {m[1]}.{m[2]} -->{figures(results[m[1]])[m[2]]}<!-- / -->", page
    )


def problems() -> Iterator[str]:
    """List pages that differ from the stored results, and results without an explanation."""
    results = load()
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        if updated(page, results) != page:
            yield f"{path.name}: not current; run: python docs/build_results.py render"
    for stem, one in results.items():
        if stem != one.stem:
            yield f"{stem}.json: contains {one.stem}"
        if one.gain and not one.gains and not one.why:
            yield f"{stem}.json: the gain is not above 0; state why: add RUN --why TEXT"


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=["add", "render", "check"])
    parser.add_argument("run", nargs="?", help="The run folder to add.")
    parser.add_argument("--heldout", action="store_true", help="The run has new seeds.")
    parser.add_argument("--cpu-seconds", type=float, help="The processor time of the run.")
    parser.add_argument("--recipe", default="", help="The recipe, if the run is of a copy.")
    parser.add_argument("--set", action="append", help="How the copy differs without effect.")
    parser.add_argument("--note", help="What a reader must know of the figures.")
    parser.add_argument("--why", help="The reason of a gain that is not above 0.")
    given = parser.parse_intermixed_args()
    if given.action == "add":
        found = load_run(given.run)
        new = extract(found, given.recipe, given.set, cpu_seconds=given.cpu_seconds)
        folder, old = HELDOUT if given.heldout else RESULTS, load().get(new.stem)
        note, why = given.note or (old and old.note), given.why or (old and old.why)
        texts = {"note": note or "", "why": why if why and not new.gains else ""}
        new = new.model_copy(update={} if given.heldout else texts)
        write_json(folder / f"{new.stem}.json", new.model_dump(mode="json"))
    if given.action != "check":
        results = load()
        for path in PAGES:
            path.write_text(updated(path.read_text("utf-8"), results), encoding="utf-8")
    found = list(problems())
    print("\n".join(found) or "Every figure is that of a stored result.")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    _main()
