"""The rows of a split, from wherever they come: values of a column, and pictures to open."""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ._kinds import formats
from ._listing import is_inside

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from PIL.Image import Image
else:  # heavy imports wait until they are used
    Dataset = Features = Image = Any

_AT_ONCE = 256


class Stored(NamedTuple):
    """A picture that is not yet opened.

    Attributes:
        path: of its file, for messages; None where it has none.
        open: what opens it; raises where it cannot be opened.
    """

    path: str | None
    open: Callable[[], Image]


class Rows(ABC):
    """The rows of a split.

    Attributes:
        features: the columns and what they hold, as `datasets` describes them.
    """

    features: Features

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def values(self, column: str) -> list[Any]:
        """A column of numbers or words."""

    @abstractmethod
    def pictures(self, column: str) -> Iterator[Stored]:
        """A column of pictures, one after the other."""


class _TableRows(Rows):
    """Rows that come in Arrow tables, of which only a few are in memory at a time.

    The Arrow buffers are read directly: making a Python row for each image, as indexing a
    `datasets.Dataset` does, takes several times as long as decoding a small image.
    """

    _root: Path | None = None

    @abstractmethod
    def _tables(self, column: str) -> Iterator[Any]: ...

    def values(self, column: str) -> list[Any]:
        tables = self._tables(column)
        return [value for table in tables for value in table.column(column).to_pylist()]

    def pictures(self, column: str) -> Iterator[Stored]:
        for table in self._tables(column):
            for stored in table.column(column).to_pylist():
                yield self._stored(stored)

    def _stored(self, stored: Any) -> Stored:
        if isinstance(stored, bytes):
            return Stored(None, partial(open_bytes, stored))
        if isinstance(stored, str):
            stored = {"bytes": None, "path": stored}
        stored = stored or {}
        content, path = stored.get("bytes"), stored.get("path")
        if content is not None:
            return Stored(path, partial(open_bytes, content))
        if path is None:
            return Stored(path, partial(_refuse, "it is missing"))
        return Stored(path, partial(self._open_path, path))

    def _open_path(self, path: str) -> Image:
        """A picture that a row only names: from a folder, none that lies outside of it."""
        if self._root is None:
            import datasets

            return datasets.Image().decode_example({"bytes": None, "path": path})
        found = self._root / path
        if not is_inside(found, self._root):
            raise ValueError("it lies outside of the data folder")
        return open_file(found)


class DatasetRows(_TableRows):
    """Rows that the `datasets` library has loaded; `root` is the folder that they came from."""

    def __init__(self, rows: Dataset, root: Path | None = None):
        self.features = rows.features
        self._rows = rows
        self._root = root

    def __len__(self) -> int:
        return len(self._rows)

    def _tables(self, column: str) -> Iterator[Any]:
        narrow = self._rows.select_columns([column]).with_format("arrow")
        return iter(narrow.iter(batch_size=_AT_ONCE))


class FileRows(_TableRows):
    """Rows of Parquet or Arrow files of one folder, read where they lie: no cache is asked."""

    def __init__(self, files: Sequence[Path], features: Features, root: Path):
        self.features = features
        self._files = [_open_table(path) for path in files]
        self._root = root

    def __len__(self) -> int:
        return sum(count for count, _ in self._files)

    def _tables(self, column: str) -> Iterator[Any]:
        for _, read in self._files:
            yield from read(column)


class FolderRows(Rows):
    """Pictures in files of their own, with what is known of each; those `refused` are not opened,
    for the reason given.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        columns: dict[str, list[Any]],
        features: Features,
        refused: Mapping[str, str],
    ):
        self.features = features
        self._root, self._files, self._columns = root, files, columns
        self._refused = refused

    def __len__(self) -> int:
        return len(self._files)

    def values(self, column: str) -> list[Any]:
        return self._columns[column]

    def pictures(self, column: str) -> Iterator[Stored]:
        for file in self._files:
            if file in self._refused:
                yield Stored(file, partial(_refuse, f"it is {self._refused[file]}"))
            else:
                yield Stored(file, partial(open_file, self._root / file))


def open_bytes(content: bytes) -> Image:
    import PIL.Image

    return PIL.Image.open(io.BytesIO(content), formats=formats())


def open_file(path: Path) -> Image:
    import PIL.Image

    try:
        return PIL.Image.open(path, formats=formats())
    except PIL.UnidentifiedImageError as error:
        why = (
            "it is a pointer of Git LFS" if is_pointer(path) else "it is no picture of a known kind"
        )
        raise ValueError(why) from error


def is_pointer(path: Path) -> bool:
    """Whether a file stands for one that Git LFS has not fetched."""
    with path.open("rb") as file:
        return file.read(42) == b"version https://git-lfs.github.com/spec/v1"


def _refuse(why: str) -> Image:
    raise ValueError(why)


def schema_of(path: Path) -> Any:
    """The Arrow schema of a Parquet or Arrow file."""
    import pyarrow.parquet

    if path.suffix.lower() == ".parquet":
        return pyarrow.parquet.read_schema(path)
    return next(_arrow_batches(path)).schema


def _open_table(path: Path) -> tuple[int, Callable[[str], Iterator[Any]]]:
    """How many rows a file has, and what reads a column of it, some rows at a time."""
    import pyarrow.parquet

    if path.suffix.lower() == ".parquet":
        return pyarrow.parquet.read_metadata(path).num_rows, partial(_parquet_column, path)
    count = sum(batch.num_rows for batch in _arrow_batches(path))
    return count, partial(_arrow_column, path)


def _parquet_column(path: Path, column: str) -> Iterator[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_AT_ONCE, columns=[column])


def _arrow_column(path: Path, column: str) -> Iterator[Any]:
    for batch in _arrow_batches(path):
        for start in range(0, batch.num_rows, _AT_ONCE):
            yield batch.select([column]).slice(start, _AT_ONCE)


def _arrow_batches(path: Path) -> Iterator[Any]:
    """Batches of both kinds of Arrow files: those read from the start, and those with an index."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            reader = pyarrow.ipc.open_file(source)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
            return
        source.seek(0)
        yield from pyarrow.ipc.open_stream(source)
