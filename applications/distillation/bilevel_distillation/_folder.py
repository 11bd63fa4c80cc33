"""A run's folder: where its files are, and how they are written so that none is ever half there."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ._config import RunConfig, differences, from_json, to_json
from ._history import History
from .data import Preprocessor


class RunFolder:
    """Paths and small files of a run.

    config.json      the settings, complete
    preprocess.npz   what brings images into training space, as fitted at the start
    metrics.jsonl    one JSON object a line
    checkpoints/     the last two
    history/         snapshots of the images, 000123.npz after iteration 123
    distilled.npz    the distilled set, once done
    dataset/         the same as a `datasets` folder with a card
    results.json     accuracies
    evaluations.json accuracies of other networks, where they were asked for
    attack.json      what membership inference found, where it was tried
    images.png, curve.png
    report.html      the run on a page
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.preprocess = path / "preprocess.npz"
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

    def check_free(self) -> None:
        """Raise where the path holds something that is no run."""
        if self.config.exists() or not self.path.exists():
            return
        if not self.path.is_dir() or any(self.path.iterdir()):
            raise ValueError(
                f"out={str(self.path)!r} exists and holds no run: give a new or empty folder."
            )

    def claim(self, config: RunConfig) -> bool:
        """Make the folder this run's own; True if it already held this run.

        Raises:
            ValueError: the folder holds another run, or other files.
        """
        self.check_free()
        if self.config.exists():
            different = differences(config, self.read_config())
            if different:
                raise ValueError(
                    f"out={str(self.path)!r} holds a run with other settings "
                    f"({'; '.join(different)}): give the same to resume it, or another --out."
                )
            return True
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.config, to_json(config))
        return False

    def read_config(self) -> RunConfig:
        if not self.config.exists():
            raise ValueError(f"{str(self.path)!r} holds no run: no config.json is in it.")
        return from_json(self.config.read_text(), self.config)

    def read_preprocessor(self) -> Preprocessor | None:
        if not self.preprocess.exists():
            return None
        with np.load(self.preprocess) as arrays:
            return Preprocessor.from_arrays(arrays)

    def keep_preprocessor(self, preprocessor: Preprocessor) -> None:
        """Fitting it anew might differ in the last bit, with another number of threads."""
        if not self.preprocess.exists():
            temporary = self.path / "partial.preprocess.npz"
            np.savez(temporary, allow_pickle=False, **preprocessor.to_arrays())
            os.replace(temporary, self.preprocess)

    def keep_evaluations(self, table: list[dict[str, Any]]) -> None:
        """Accuracies of networks with their normalisations; a pair replaces itself."""
        held = json.loads(self.evaluations.read_text()) if self.evaluations.exists() else []
        names = ("network", "norm", "distilled", "random_subset")
        rows = [{name: row[name] for name in names if name in row} for row in table]
        pairs = {(row["network"], row["norm"]): row for row in [*held, *rows]}
        write_whole(self.evaluations, json.dumps(list(pairs.values()), indent=2) + "\n")

    def append_metrics(self, records: Iterable[dict[str, Any]]) -> None:
        with self.metrics.open("a") as file:
            for record in records:
                file.write(json.dumps(record) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines."""
        if not self.metrics.exists():
            return []
        records = []
        for line in self.metrics.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def cut_metrics(self, iteration: int) -> None:
        """Drop what was written after the checkpoint of `iteration`."""
        kept = [record for record in self.read_metrics() if record["iteration"] <= iteration]
        write_whole(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def read_results(self) -> dict[str, Any] | None:
        return json.loads(self.results.read_text()) if self.results.exists() else None


def write_whole(path: Path, text: str) -> None:
    """Replace a file by a new one in one step."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
