"""Files named metadata.csv, .jsonl or .parquet beside pictures: columns that describe them."""

import logging
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ._listing import Listing

_log = logging.getLogger(__name__)

_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_KEY = "file_name"


@dataclass
class Metadata:
    """What is known of pictures beside their folders.

    Attributes:
        name: of the data set.
        rows: by a picture's path, a value for each column.
        sources: the files that say so.
    """

    name: str
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)

    def describes(self, files: Sequence[str]) -> bool:
        return any(file in self.rows for file in files)

    def columns(
        self, files: Sequence[str], beside: Sequence[str] | None = None
    ) -> tuple[dict[str, list[Any]], dict[str, Any]]:
        """The columns that describe these pictures, and what they hold.

        With `beside`, the names of the pictures' class folders, `label` is not among them: where
        it says something else, the log says that the folders count.
        """
        if not self.describes(files):
            return {}, {}
        import datasets
        import pyarrow

        found = [self.rows.get(file, {}) for file in files]
        names = {name: None for row in found for name in row if name not in (_KEY, "image")}
        columns = {name: [row.get(name) for row in found] for name in names}
        if beside is not None and "label" in columns:
            said = columns.pop("label")
            if [str(value) for value in said] != list(beside):
                _log.warning(
                    "The column 'label' of %s of dataset %r is not used: the class folders are "
                    "the classes.",
                    ", ".join(self.sources),
                    self.name,
                )
        kinds = {}
        for name, values in columns.items():
            try:
                kind = pyarrow.array(values).type
            except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
                columns[name] = [None if value is None else str(value) for value in values]
                kind = pyarrow.string()
            schema = pyarrow.schema([pyarrow.field(name, kind)])
            kinds |= datasets.Features.from_arrow_schema(schema)
        return columns, kinds


def read_metadata(listing: Listing, name: str) -> Metadata:
    """All metadata files of a folder; one that cannot be read is not used, and the log says so."""
    metadata = Metadata(name)
    present = set(listing.files)
    for path in listing.files:
        folder, file = posixpath.split(path)
        if file not in _NAMES:
            continue
        try:
            rows = _read(listing, path)
            if not all(isinstance(row.get(_KEY), str) for row in rows):
                raise ValueError(f"it has no column {_KEY!r} with a name in each row")
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")
            _log.warning("%r of dataset %r is not used (%s).", path, name, reason)
            continue
        keyed = {posixpath.normpath(posixpath.join(folder, row[_KEY])): row for row in rows}
        absent = [key for key in keyed if key not in present]
        if absent:
            _log.warning(
                "%r of dataset %r describes %d files that are not there, such as %r.",
                path,
                name,
                len(absent),
                absent[0],
            )
        metadata.rows |= keyed
        metadata.sources.append(path)
    return metadata


def _read(listing: Listing, path: str) -> list[dict[str, Any]]:
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    file = str(listing.root / path)
    if path.endswith(".csv"):
        return pyarrow.csv.read_csv(file).to_pylist()
    if path.endswith(".jsonl"):
        return pyarrow.json.read_json(file).to_pylist()
    return pyarrow.parquet.ParquetFile(file).read().to_pylist()
