"""Laws of every modality and kind of label, and a modality whose samples are no rows."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_type_hints

import datasets
import numpy as np
import pytest
import torch
from pydantic import BaseModel

import limbeck
import limbeck.data.labels
import limbeck.data.modalities
from limbeck.data.label import LABELS, Labels
from limbeck.data.load import Data
from limbeck.data.modality import MODALITIES, Modality, Usage
from limbeck.data.preprocess import Preprocess, Target
from limbeck.data.rows import DenseLabels
from limbeck.data.settings import Section, Settings
from limbeck.data.spec import NOT_INPUTS, DataSpec
from limbeck.data.split import Prepared

SOURCE = Path(limbeck.__file__).parent
NAMES = MODALITIES.names()


def _stems(package: Any) -> list[str]:
    paths = Path(package.__path__[0]).iterdir()
    return sorted(one.stem for one in paths if not one.name.startswith("_"))


def test_every_file_is_a_modality_or_a_kind_of_label() -> None:
    assert _stems(limbeck.data.modalities) == NAMES
    assert _stems(limbeck.data.labels) == LABELS.names()
    assert sum(LABELS.load(name).is_default for name in LABELS.names()) == 1
    for name in LABELS.names():
        kind = LABELS.load(name)
        assert kind.name == name
        assert "labels" in kind.entries <= NOT_INPUTS


@pytest.mark.parametrize("name", NAMES)
def test_a_modality_keeps_its_contract(name: str) -> None:
    modality = MODALITIES.load(name)
    assert modality.name == name
    section = modality.keys.model_fields[name]
    assert section.default is None
    [kind] = [one for one in section.annotation.__args__ if one is not type(None)]
    assert issubclass(kind, Section)
    assert get_type_hints(modality.preprocess)["kind"] == Literal[name]
    assert modality.training_only <= set(modality.keys.model_fields) - {name}
    assert modality.later <= set(kind.model_fields)
    for input_name in modality.usage.inputs:
        assert re.search(rf"^{input_name} = ", modality.usage.code, re.MULTILINE)
    compile(modality.usage.code, name, "exec")


def test_the_data_section_has_the_keys_of_all() -> None:
    parts = [MODALITIES.load(name).keys for name in NAMES]
    parts += [LABELS.load(name).keys for name in LABELS.names()]
    keys = [key for part in parts for key in part.model_fields]
    assert len(set(keys)) == len(keys)
    assert set(keys) < set(DataSpec.model_fields)
    assert all(issubclass(DataSpec, part) and issubclass(part, BaseModel) for part in parts)


def test_reading_a_recipe_loads_neither_torch_nor_datasets() -> None:
    code = (
        "import sys; from limbeck.data.spec import DataSpec; import limbeck.data.preprocess\n"
        "assert not {'torch', 'datasets', 'sklearn', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_other_module_distinguishes_modalities() -> None:
    kinds = "|".join(MODALITIES.load(name).preprocess.__name__ for name in NAMES)
    tested = re.compile(rf"\b({kinds})\b|spec\.({'|'.join(NAMES)})\b|prepare\.kind ==")
    found = [
        path.name
        for path in SOURCE.rglob("*.py")
        if "modalities" not in path.parts and tested.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []


WINDOW, HORIZON = 4, 2


@dataclass(frozen=True)
class Scaled(Preprocess):
    kind: Literal["windows"] = "windows"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    def __call__(self, samples: Any) -> dict[str, np.ndarray]:
        return {"series": np.stack(samples)[..., None]}

    def read(self, value: object, *, where: str) -> Any:
        return value


@dataclass(frozen=True)
class NextRows(Labels):
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def of(self, source: str, rows: np.ndarray, samples: Any, prepare: Preprocess) -> DenseLabels:
        steps = rows[:, None] + WINDOW + np.arange(HORIZON)
        labels = torch.from_numpy(self.values[source][steps])
        return DenseLabels(labels, torch.from_numpy(self.rows[source][rows]))

    def targets(self, train: DenseLabels) -> tuple[Target, ...]:
        return (Target("value", float(train.tensor.mean()), float(train.tensor.std())),)


class WindowSamples:
    def __init__(self, values: np.ndarray, rows: np.ndarray) -> None:
        self.values, self.rows = torch.from_numpy(values), torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"series": self.values[self.rows[index][:, None] + torch.arange(WINDOW)][..., None]}

    def raw(self, row: int) -> dict[str, Any]:
        return {"text": f"rows from {int(self.rows[row])}"}


class Windows(Modality[Settings]):
    """A sample is a window of a table; its label are the next rows, and the last ones the test."""

    name: ClassVar[str] = "windows"
    keys: ClassVar[type[Settings]] = Settings
    preprocess: ClassVar[type[Preprocess]] = Scaled
    usage: ClassVar[Usage] = Usage("rows.csv", "numpy", "", ())
    owns_labels: ClassVar[bool] = True

    def columns(self, spec: DataSpec) -> dict[str, str]:
        return {"value": "data.windows"}

    def labels(self, spec: DataSpec, loaded: Any) -> NextRows:
        values = {name: np.array(one["value"], np.float32) for name, one in loaded.splits.items()}
        count = {name: len(one) - WINDOW - HORIZON + 1 for name, one in values.items()}
        strata = {name: np.zeros(one, np.int64) for name, one in count.items()}
        return NextRows(strata, (), values=values)

    def divide(self, spec: DataSpec, loaded: Any, labels: Labels) -> Any:
        positions = np.arange(len(labels.rows["train"]))
        parts = zip(("train", "validation", "test"), np.split(positions, [40, 50]), strict=True)
        return {name: ("train", one) for name, one in parts}, ("the last rows are the test",)

    def prepare(self, spec: DataSpec, loaded: Any, division: Any, *, workdir: Path) -> Prepared:
        prepare, splits, hashes = Scaled(), {}, {}
        for name, (source, rows) in division.rows.items():
            samples = WindowSamples(np.array(loaded.splits[source]["value"], np.float32), rows)
            splits[name] = division.split(name, samples, prepare)
            hashes[name] = rows.astype(np.uint64)
        return Prepared(splits, prepare, hashes)


def test_samples_and_labels_may_be_other_than_rows(
    tmp_path: Path, read: Callable[..., Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets.Dataset.from_dict({"value": [float(row) for row in range(65)]}).to_csv(
        tmp_path / "a.csv"
    )
    monkeypatch.setattr("limbeck.data.load.modality_of", lambda *_: Windows())
    data = read(source="csv", files={"train": "a.csv"})
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 10)
    batch = data.test.__getitems__([0, 9])
    assert batch["series"][..., 0].tolist() == [[50, 51, 52, 53], [59, 60, 61, 62]]
    assert batch["labels"].tolist() == [[54, 55], [63, 64]]
    assert (data.label_kind, data.outputs) == ("windows", ("value",))
    assert "the last rows are the test" in data.facts.notes
