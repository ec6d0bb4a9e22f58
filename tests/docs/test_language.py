"""Retired words stay out of the source, the tests and the documentation."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
RETIRED = (
    *("stealing", "stolen", "steals", "robbery", "robberies", "robbed", "loot", "thief", "thieves"),
    *("theft", "half-truth", "nudged", "withstand", "withstood", "told_apart", "misfits"),
    *("rehearse", "rehearsal", "sureness", "partings", "surest", "doubter", "eldest_first"),
    *("probabilistic_transfer", "multi_level", "measure_gradients", "KnowledgeStore"),
    *("RecordedTeacher", "errors_told", "sitting", "twin"),
)
HISTORY = {"test_language.py", "plan.md", "schema.json"}


def test_retired_words_appear_nowhere() -> None:
    retired = re.compile(r"\b(" + "|".join(map(re.escape, RETIRED)) + r")\b", re.IGNORECASE)
    folders = (REPOSITORY / name for name in ("src", "docs", "tests"))
    files = [REPOSITORY / "README.md", *(path for top in folders for path in top.rglob("*"))]
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in files
        if path.suffix in {".py", ".md", ".yaml", ".jinja"} and path.name not in HISTORY
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if retired.search(line)
    ]
    assert found == []
