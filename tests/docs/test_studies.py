"""The pages of studies are those of the stored outcomes."""

from __future__ import annotations

from pathlib import Path

from limbeck.studies.page import index_files
from limbeck.studies.study import shipped

FOLDER = Path(__file__).parents[2] / "docs" / "studies"


def test_the_pages_are_current() -> None:
    """Each page, figure, the index and the claims equal what `limbeck study --index` writes."""
    for path, content in index_files(FOLDER).items():
        fix = "limbeck study --index --out docs/studies"
        assert path.read_text(encoding="utf-8") == content, f"{path.name}: run `{fix}`"


def test_no_result_is_without_a_study() -> None:
    """Each stored outcome belongs to a shipped study."""
    assert {path.stem for path in FOLDER.glob("*.json")} <= set(shipped())
