from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import limbeck.data.sources
from limbeck.data.spec import SOURCES, DataSpec


def test_every_file_of_the_folder_is_a_source() -> None:
    files = Path(limbeck.data.sources.__path__[0]).glob("[!_]*.py")
    assert SOURCES.names() == sorted(file.stem for file in files)
    for name in SOURCES.names():
        assert callable(SOURCES.load(name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "parqet", "files": {"train": "a"}}, 'did you mean "parquet"?'),
        ({"source": "parquet"}, "files.train: field required"),
        ({"source": "sklearn"}, "name: field required"),
        ({"source": "csv", "files": {"train": "a"}, "revision": "main"}, "source: hub only"),
        ({"source": "csv", "files": {"train": "a"}, "colums": {}}, "Extra inputs"),
        ({"source": "csv", "files": {"training": "a"}}, "'train', 'validation' or 'test'"),
        ({"source": "csv", "files": {"train": "a"}, "validation": 1.0}, "less than 1"),
        ({"source": "csv", "files": {"train": "a"}, "classes": ["x", "x"]}, "same class twice"),
        ({"source": "csv", "files": {"train": "a"}, "image": {}, "text": {}}, "one of them"),
        ({"source": "csv", "files": {"train": "a"}, "text": {}, "augment": {}}, "for image data"),
        ({"source": "csv", "files": {"train": "a"}, "image": {"mean": [0, 0]}}, "one per channel"),
        ({"source": "csv", "files": {"train": "a"}, "image": {"std": [0.0]}}, "greater than 0"),
        ({"source": "csv", "files": {"train": "a"}, "image": {"channels": 2}}, "1 or 3"),
    ],
)
def test_invalid_settings_are_refused_with_the_fix(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=r".*") as caught:
        DataSpec(**settings)
    assert message in str(caught.value)


def test_a_spec_cannot_be_changed_and_goes_through_json() -> None:
    spec = DataSpec(source="csv", files={"train": "a"}, text={"tokenizer": {"train": {}}})
    assert DataSpec(**spec.model_dump(mode="json")) == spec
    with pytest.raises(ValidationError):
        spec.split_seed = 3  # type: ignore[misc]


def test_the_location_of_the_files_is_no_part_of_the_identity() -> None:
    here, there = (DataSpec(source="csv", files={"train": name}) for name in ("a", "/b"))
    assert here.identity() == there.identity()
    assert here.identity() != DataSpec(source="csv", files={"train": "a"}, test=0.3).identity()
