"""A run's folder: where its files are, and how they are read back."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from .._config import RunConfig, differences, from_json, to_json
from ..data import Preprocessor
from ._arrays import read_arrays, write_arrays
from ._attacked import AttackResults
from ._distilled import DistilledSet
from ._history import History
from ._lines import append_lines, read_lines, write_lines
from ._lock import hold_lock
from ._reading import Damaged, finite, guarded, parse_json
from ._results import Accuracies, Judges, evaluations_from_json, evaluations_to_json
from ._sums import Sums
from ._writing import drop_leftovers, is_leftover, move_aside

log = logging.getLogger(__name__)
T = TypeVar("T")


class RunFolder:
    """Paths and small files of a run.

    config.json      the settings, complete
    preprocess.npz   what brings images into training space, as fitted at the start
    begun.npz        the set that the run begins from, where it begins from one
    prepared.npz     what the method made of the real images once, where it makes anything
    data.json        checksums of the images and labels that the run began with
    metrics.jsonl    one JSON object a line
    checkpoints/     the last two
    history/         snapshots of the images, 000123.npz after iteration 123
    distilled.npz    the distilled set, once done; its whitening is that of preprocess.npz
    dataset/         the same as a `datasets` folder with a card
    results.json     accuracies
    evaluations.json accuracies of other networks, where they were asked for
    attack.json      what membership inference found, where it was tried
    images.png, curve.png
    report.html      the run on a page
    checksums.json   of the JSON files and of preprocess.npz; the others have their own
    damaged/         what was proven not to be as it was written
    .lock            held by the process that goes on with the run
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.preprocess = path / "preprocess.npz"
        self.begun = path / "begun.npz"
        self.data = path / "data.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.distilled = path / "distilled.npz"
        self.dataset = path / "dataset"
        self.results = path / "results.json"
        self.images = path / "images.png"
        self.curve = path / "curve.png"
        self.history = History(path / "history")
        self.evaluations = path / "evaluations.json"
        self.attack = path / "attack.json"
        self.report = path / "report.html"
        self.damaged = path / "damaged"
        self._sums = Sums(path)
        self._lock: FileLock | None = None

    def check_free(self) -> None:
        """Raise where the path holds something that is no run."""
        if self.config.exists() or not self.path.exists():
            return
        if not self.path.is_dir() or any(not _is_ours(name) for name in os.listdir(self.path)):
            raise ValueError(
                f"out={str(self.path)!r} exists and holds no run: give a new or empty folder."
            )

    def open(self) -> Preprocessor | None:
        """Take hold of a run that is there, and read how it preprocesses images; None if it is not
        there, or that is damaged.

        Raises:
            ValueError: the folder holds something else, or another process is at work in it.
        """
        self.check_free()
        if not self.config.exists():
            return None
        self.lock()
        self.read_config()
        return self.sound(self.preprocess, self.read_preprocessor)

    def claim(
        self, config: RunConfig, complete: Callable[[RunConfig], RunConfig] = lambda found: found
    ) -> bool:
        """Make the folder this run's own; True if it already held this run.

        Args:
            config: the settings of this run.
            complete: fills in the settings that a version before did not have.

        Raises:
            ValueError: the folder holds another run, or other files.
        """
        self.check_free()
        if self.config.exists():
            different = differences(config, complete(self.read_config()))
            if different:
                raise ValueError(
                    f"out={str(self.path)!r} holds a run with other settings "
                    f"({'; '.join(different)}): give the same to resume it, or another --out."
                )
            return True
        self.path.mkdir(parents=True, exist_ok=True)
        self._sums.write(self.config, to_json(config).encode())
        return False

    def lock(self) -> None:
        """Be the one process that goes on with this run, until `release` or the process's end."""
        if self._lock is not None:
            return
        for folder in (self.checkpoints, self.history.folder, self.damaged):
            if folder.is_symlink():
                raise ValueError(
                    f"{str(folder)!r} is a link, which a run does not follow: put a folder in its "
                    "place."
                )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = hold_lock(
            self.path / ".lock",
            f"out={str(self.path)!r} is in use, another process is going on with this run: wait "
            "for it or stop it, or give another --out.",
        )
        if self._lock is not None:
            folders = (self.path, self.history.folder, *self.checkpoints.glob("[0-9]*"))
            for folder in filter(Path.is_dir, folders):
                drop_leftovers(folder)

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def sound(self, path: Path, read: Callable[[], T]) -> T | None:
        """What `read` gives; None where the file is not there, or is damaged: then it is moved
        aside, which the log says.
        """
        if not path.exists():
            return None
        try:
            return read()
        except Damaged as error:
            place = move_aside(path, self.damaged)
            log.warning("%s It is now %s, and made again.", error, place)
            return None

    def read_config(self) -> RunConfig:
        if not self.config.exists():
            raise ValueError(
                f"{str(self.path)!r} holds no run, as no config.json is in it: give a run's folder."
            )
        remedy = "restore it, give another --out, or delete checksums.json if you changed it"
        content = self._sums.checked(self.config, remedy)
        with guarded(self.config, remedy):
            missing = {"dataset", "ipc", "method", "seed"} - set(parse_json(content))
            if missing:
                raise ValueError(f"it has no {min(missing)}")
        return from_json(content.decode("utf-8"), self.config)

    def keep_data(self, fingerprint: dict[str, str]) -> None:
        """Note what the run's data are, or raise where it began with others: it could not go on to
        the same bits.
        """
        known = self.sound(self.data, self._read_data)
        if known is None:
            self.write_json(self.data, fingerprint)
            return
        changed = [name for name, digest in fingerprint.items() if known.get(name) != digest]
        if changed:
            raise ValueError(
                f"the data of the run in out={str(self.path)!r} have changed since it began (its "
                f"{' and its '.join(changed)}): put back what was there to go on, or give another "
                "--out."
            )

    def _read_data(self) -> dict[str, str]:
        return self.read_json(self.data, dict, "delete it, and the data are taken as they are")

    def read_preprocessor(self) -> Preprocessor | None:
        if not self.preprocess.exists():
            return None
        remedy = "give the same command again to have it made again"
        arrays = read_arrays(self.preprocess, remedy=remedy)
        with guarded(self.preprocess, remedy):
            return Preprocessor.from_arrays(arrays)

    def keep_preprocessor(self, preprocessor: Preprocessor) -> None:
        """Keep it, as one fitted anew with another number of threads might differ in a last bit."""
        if self.preprocess.exists():
            return
        write_arrays(self.preprocess, preprocessor.to_arrays())
        if not self._sums.keep_first(self.preprocess) and self.checkpoints.exists():
            place = move_aside(self.preprocess, self.damaged)
            raise ValueError(
                f"{str(self.preprocess)!r} was lost, and made again it differs ({str(place)!r}): "
                "restore it from a copy, or give another --out."
            )

    def keep_beginning(self, begun: DistilledSet | None) -> None:
        """Keep the set that the run begins from, which need not stay where it was."""
        if begun is not None and not self.begun.exists():
            begun.save_npz(self.begun, beside=self.preprocess.name)

    def read_beginning(self) -> DistilledSet | None:
        return self.sound(self.begun, lambda: DistilledSet.load_npz(self.begun))

    def keep_distilled(self, distilled: DistilledSet) -> None:
        """All but the whitening, which may be much larger, and is in preprocess.npz already."""
        distilled.save_npz(self.distilled, beside=self.preprocess.name)

    def read_distilled(self) -> DistilledSet:
        return DistilledSet.load_npz(self.distilled)

    def keep_evaluations(self, evaluations: Mapping[tuple, Accuracies]) -> None:
        """Accuracies by `Judges`, or by their first fields; the same ones replace themselves."""
        with FileLock(self.path / ".evaluations.lock"):
            held = self.read_evaluations() | {Judges(*k): v for k, v in evaluations.items()}
            self.write_json(self.evaluations, evaluations_to_json(held))

    def read_evaluations(self) -> dict[Judges, Accuracies]:
        if not self.evaluations.exists():
            return {}
        remedy, verdict = "delete it, and evaluate again", "is not a list of evaluations"
        return self.read_json(self.evaluations, evaluations_from_json, remedy, verdict)

    def lock_attack(self) -> FileLock | None:
        """Be the one process that attacks this run; None where nothing can be written."""
        return hold_lock(
            self.path / ".attack.lock",
            f"path={str(self.path)!r} is in use, another process is attacking this run: wait for "
            "it or stop it.",
        )

    def keep_attack(self, results: AttackResults) -> None:
        self.write_json(self.attack, results.to_json())

    def read_attack(self) -> AttackResults | None:
        """What an attack left, if there was one."""
        if not self.attack.exists():
            return None
        remedy, verdict = "delete it, and attack again", "is not what an attack leaves"
        return self.read_json(self.attack, AttackResults.from_json, remedy, verdict)

    def append_metrics(self, records: Iterable[dict[str, Any]], sync: bool = False) -> None:
        append_lines(self.metrics, records, sync)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines."""
        return read_lines(self.metrics, _check_record)

    def cut_metrics(self, iteration: int) -> None:
        """Drop what was written after the checkpoint of `iteration`."""
        kept = [record for record in self.read_metrics() if record["iteration"] <= iteration]
        write_lines(self.metrics, kept)

    def begin_anew(self, keep: bool) -> None:
        """Empty metrics and history, of which a copy is kept if they tell of what is lost."""
        for path in (self.metrics, self.history.folder):
            if keep and path.exists():
                move_aside(path, self.damaged)
        self.metrics.unlink(missing_ok=True)
        self.history.cut(-1)

    def keep_results(self, results: Accuracies) -> None:
        self.write_json(self.results, results.to_json())

    def read_results(self) -> Accuracies | None:
        if not self.results.exists():
            return None
        remedy = "move it away, and give the run's command again"
        return self.read_json(self.results, Accuracies.from_json, remedy)

    def write_json(self, path: Path, value: Any) -> None:
        """Write one of the folder's files, and its checksum."""
        self._sums.write(path, (json.dumps(value, indent=2) + "\n").encode())

    def read_json(
        self, path: Path, parse: Callable[[Any], T], remedy: str, verdict: str = "is damaged"
    ) -> T:
        """What `parse` makes of what `write_json` wrote; it raises where that is something else."""
        content = self._sums.checked(path, remedy)
        with guarded(path, remedy, verdict):
            return parse(parse_json(content))


def _check_record(record: dict[str, Any]) -> None:
    if type(record["iteration"]) is not int or record["iteration"] < 0:
        raise ValueError(f"iteration is {record['iteration']!r}")
    for name, value in record.items():
        if name != "iteration":
            finite(value)


def _is_ours(name: str) -> bool:
    """Whether a file may be left of a run that was stopped before its first settings were there."""
    return name in (".lock", ".files.lock", "checksums.json") or is_leftover(name)
