"""A sweep's folder: where its figures are, and whose it is for now."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ._folder import RunFolder
from ._lock import hold_lock
from ._writing import write_whole


class SweepFolder:
    """Paths and files of a sweep.

    results.json     all runs, and a row for each setting over its seeds
    results.csv      the rows as a table
    ipc=1,seed=0/    a folder for each run, named by what varies
    .lock            held by the process that goes on with the sweep
    """

    def __init__(self, path: Path):
        self.path = path
        self.results = path / "results.json"
        self.table = path / "results.csv"
        self._lock: FileLock | None = None

    def check_free(self) -> None:
        """Raise where the path holds a run."""
        if RunFolder(self.path).config.exists():
            raise ValueError(f"out={str(self.path)!r} holds a run: give another folder to a sweep.")

    def lock(self) -> None:
        """Be the one process that goes on with this sweep, until `release` or the process's end."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = hold_lock(
            self.path / ".lock",
            f"out={str(self.path)!r} is in use, another process is going on with this sweep: wait "
            "for it or stop it, or give another --out.",
        )

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def keep(self, results: Any, table: Iterable[Sequence[Any]]) -> None:
        """Write what was found so far, for JSON and as the rows of a table."""
        write_whole(self.results, json.dumps(results, indent=2) + "\n")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(table)
        write_whole(self.table, text.getvalue())
