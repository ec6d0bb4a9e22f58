"""Tables: standardised numbers, and one-hot encoded categories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from limbeck.data.columns import NO_NUMBER
from limbeck.data.label import kind_of
from limbeck.data.modalities.table._preprocess import TablePreprocess
from limbeck.data.modality import Modality, Usage
from limbeck.data.settings import Section, Settings, duplicates
from limbeck.errors import Problem, RefusedError

if TYPE_CHECKING:
    from typing import Self

    from limbeck.data.loaded import Loaded
    from limbeck.data.preprocess import Preprocess
    from limbeck.data.spec import DataSpec
    from limbeck.data.split import Division, Prepared

CODE = """
with open("row.json") as file:
    row = json.load(file)  # the columns by name: {"age": 39, "sex": "Female"}; null is missing
features = []
missing = MISSING
for column in prepare["numeric"]:
    value = row[column["name"]]
    if isinstance(value, str):  # such as a cell of a CSV file
        word = value.strip().lower()
        value = None if word in missing else {"true": 1, "false": 0}.get(word, word)
    features.append(0.0 if value is None else (float(value) - column["mean"]) / column["std"])
    if column["flag"]:
        features.append(float(value is None))
for column in prepare["categorical"]:
    value = row[column["name"]]
    if column["kind"] == "text" and not isinstance(value, str | None):
        raise TypeError(f'{column["name"]}: a text, such as {column["values"][-1]!r}')
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # names of whole numbers have no decimal point
    value = "" if value is None else str(value)
    features += [float(value == known) for known in column["values"]]
    features.append(float(value not in column["values"]))
features = np.array([features], dtype=np.float32)
""".replace("MISSING", str(sorted(NO_NUMBER)))


class TableSpec(Section):
    """Table preprocessing settings.

    Attributes:
        numeric: Numeric columns, standardised by mean and standard deviation of the training rows;
            a missing number becomes the mean, with a second feature as missing indicator, if any
            were missing.
        categorical: Categorical columns, one-hot encoded: one feature per value in the training
            rows, and one for any other.
    """

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Return all columns in use."""
        return self.numeric + self.categorical

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if not self.columns:
            raise ValueError("numeric and categorical are empty; allowed: at least one column")
        if repeated := duplicates(self.columns):
            raise ValueError(f"{repeated} is given twice; allowed: once, in numeric or categorical")
        return self


class TableKeys(Settings):
    """The keys of tables.

    Attributes:
        table: The feature columns; if given, the data is a table.
    """

    table: TableSpec | None = None


class Tables(Modality[TableKeys]):
    """Table rows."""

    name: ClassVar[str] = "table"
    keys: ClassVar[type[Settings]] = TableKeys
    preprocess: ClassVar[type[Preprocess]] = TablePreprocess
    usage: ClassVar[Usage] = Usage(
        argument="rows.csv", packages="numpy", code=CODE, inputs=("features",)
    )
    hint: ClassVar[str] = ""

    def _settings(self, spec: DataSpec) -> TableSpec:
        return self.of(spec).table or TableSpec()

    def check(self, spec: DataSpec) -> None:
        """Check that no label is among the features."""
        settings = self._settings(spec)
        for label in kind_of(spec).columns(spec):
            if label in settings.columns:
                part = "numeric" if label in settings.numeric else "categorical"
                allowed = "feature columns only, without the label's"
                raise RefusedError(Problem(f"table.{part}", label, allowed))

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the feature columns."""
        return dict.fromkeys(self._settings(spec).columns, "data.table")

    def prepare(
        self, spec: DataSpec, loaded: Loaded, division: Division, *, workdir: Path
    ) -> Prepared:
        """Build splits of features."""
        from limbeck.data.modalities.table._samples import prepare

        return prepare(self._settings(spec), loaded, division)


modality = Tables()
