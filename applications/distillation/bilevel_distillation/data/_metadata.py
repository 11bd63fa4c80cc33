"""Files named metadata.csv, .jsonl or .parquet beside pictures: columns that describe them."""

import csv
import io
import json
import logging
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ._listing import Listing
from ._words import composed, some

_log = logging.getLogger(__name__)

_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_KEY = "file_name"
_LABEL = "label"
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?")


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

    def labels(self, files: Sequence[str]) -> bool:
        """Whether the classes of these pictures are named."""
        return any(self.rows.get(file, {}).get(_LABEL) is not None for file in files)

    def labelled(self, files: Sequence[str]) -> tuple[list[str], list[str]]:
        """These pictures, and those among them whose class is missing where others have one."""
        if not self.labels(files):
            return sorted(files), []
        missing = [file for file in files if self.rows.get(file, {}).get(_LABEL) is None]
        return sorted(set(files) - set(missing)), missing

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
        if beside is not None and _LABEL in columns:
            said = columns.pop(_LABEL)
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
    there, present = set(listing.files), {composed(path): path for path in listing.files}
    for path in listing.files:
        folder, file = posixpath.split(path)
        if file.lower() not in _NAMES:
            continue
        try:
            rows = _read(listing, path)
            if not rows or not all(isinstance(row.get(_KEY), str) for row in rows):
                raise ValueError(f"it has no column {_KEY!r} with a name in each row")
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")
            _log.warning("%r of dataset %r is not used (%s).", path, name, reason)
            continue
        absent, differing = [], []
        for row in rows:
            key = _found(folder, row[_KEY], present)
            if key not in there:
                absent.append(key)
                continue
            known = metadata.rows.setdefault(key, {})
            told = {column: value for column, value in row.items() if column != _KEY}
            if any(known.get(column, value) != value for column, value in told.items()):
                differing.append(key)
            known |= told
        if absent:
            _log.warning("%r of dataset %r describes %d files that are not there: %s.", path, name,
                         len(absent), some(absent))  # fmt: skip
        if differing:
            _log.warning("%r of dataset %r describes %d files differently from what was read "
                         "before, and takes precedence: %s.",
                         path, name, len(differing), some(differing))  # fmt: skip
        metadata.sources.append(path)
    return metadata


def _found(folder: str, name: str, present: dict[str, str]) -> str:
    """The path of a file that a row names, perhaps as another system writes it."""
    plain = posixpath.normpath(posixpath.join(folder, name))
    tried = (plain, posixpath.normpath(posixpath.join(folder, name.replace("\\", "/"))))
    return next((present[key] for one in tried if (key := composed(one)) in present), plain)


def _read(listing: Listing, path: str) -> list[dict[str, Any]]:
    import pyarrow.parquet

    file = listing.root / path
    if path.lower().endswith(".parquet"):
        return pyarrow.parquet.ParquetFile(file).read().to_pylist()
    text = file.read_bytes().decode("utf-8-sig")
    if path.lower().endswith(".jsonl"):
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line of it is no object")
        return rows
    return _typed(list(csv.DictReader(io.StringIO(text, newline=""), strict=True)))


def _typed(rows: list[dict[Any, Any]]) -> list[dict[str, Any]]:
    """Columns of numbers as such, unless their digits are names: 7 is 7, and 007 is text. What is
    empty is missing.
    """
    if any(None in row for row in rows):
        raise ValueError("a row of it has more cells than there are columns")
    for column in rows[0] if rows else ():
        texts = [row[column] for row in rows if row[column]]
        kind: type = str
        if column != _KEY and all(_WHOLE.fullmatch(text) for text in texts):
            kind = int
        elif column != _KEY and all(_is_number(text) for text in texts):
            kind = float
        for row in rows:
            row[column] = kind(row[column]) if row[column] else None
    return rows


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and any(map(str.isdigit, text))
