"""Retired words stay out, and public docstrings begin with a verb or a noun phrase."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
RETIRED = (
    *("stealing", "stolen", "steals", "robbery", "robberies", "robbed", "loot", "thief", "thieves"),
    *("theft", "half-truth", "nudged", "withstand", "withstood", "told_apart", "misfits"),
    *("rehearse", "rehearsal", "sureness", "partings", "surest", "doubter", "eldest_first"),
    *("probabilistic_transfer", "multi_level", "measure_gradients", "KnowledgeStore"),
    *(
        "RecordedTeacher",
        "errors_told",
        "sitting",
        "twin",
        "ours",
        "theirs",
        "heard",
        "told",
        "tells",
    ),
    *(
        "said",
        "chapter",
        "chapters",
        "finding",
        "findings",
        "question",
        "questions",
        "picture",
        "pictures",
    ),
    *(
        "door",
        "road",
        "house",
        "somebody",
        "anybody",
        "asks",
        "clothes",
        "by_unit",
        "PerUnit",
    ),
    *("MovingAverage", "ticker", "steps_an_epoch", "commonest"),
)
HISTORY = {"test_language.py", "plan.md", "schema.json"}
NAMES = {"camvid.yaml"}
"""Files with the words of others, such as the classes of a data set."""


def test_retired_words_appear_nowhere() -> None:
    retired = re.compile(r"\b(" + "|".join(map(re.escape, RETIRED)) + r")\b", re.IGNORECASE)
    folders = (REPOSITORY / name for name in ("src", "docs", "tests"))
    files = [REPOSITORY / "README.md", *(path for top in folders for path in top.rglob("*"))]
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in files
        if path.suffix in {".py", ".md", ".yaml", ".jinja"} and path.name not in HISTORY | NAMES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if retired.search(line)
    ]
    assert found == []


VERBS = set(
    re.findall(
        r"\S+",
        """
    Accumulate Add Append Apply Assign Average Average-pool Build Call Capture Catch Check
    Choose Clamp Classify Collect Compare Compress Compute Concatenate Condition Continue
    Convert Copy Count Decode Describe Determine Disable Distil Distribute Divide Do Draw
    Dry-run Empty Encode Escape Estimate Evaluate Execute Export Extract Factorise Fill Find Fit
    Fix Flatten Flush Fold Format Gather Generate Group Hash Ignore Import Infer Initialise
    Install Iterate Join Judge Keep List Load Lock Log Look Map Mask Measure Merge Move
    Normalise Open Pack Pad Pair Parse Predict Prefix Print Prune Quantise Query Raise Rank Read
    Record Reduce Refuse Register Release Remove Rename Render Replace Report Reset Reshape
    Resize Resolve Restore Return Rotate Round Run Sample Scale Score Search Select Set Shard
    Share Shorten Shrink Shuffle Sign Split Standardise Start Store Sum Suppress Test Trace
    Train Transform Truncate Try Unpack Update Validate Verify Wrap Write Yield Zero
    """,
    )
)
NO_NOUNS = {
    "What",
    "Whether",
    "How",
    "Who",
    "Which",
    "Where",
    "Why",
    "Give",
    "Gives",
    "Says",
    "Tells",
}


def _public(node: ast.AST) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from _public(child)


def test_public_docstrings_begin_with_a_verb_or_a_noun_phrase() -> None:
    found = []
    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        for node in _public(ast.parse(path.read_text(encoding="utf-8"))):
            first = (ast.get_docstring(node) or "-").split()[0].rstrip(".,:;")
            wrong = first in NO_NOUNS if isinstance(node, ast.ClassDef) else first not in VERBS
            if first != "-" and wrong:
                found.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}: {node.name}: {first}")
    assert found == []
