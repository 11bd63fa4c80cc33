"""What a sweep found: its runs, and a row for each setting over its seeds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .._artifacts import Accuracies, lines, table


@dataclass(frozen=True)
class SweptRun:
    """A run of a sweep.

    Attributes:
        varied: the settings that are its own.
        accuracies: what it found; None where it failed.
        error: the sentence that it ended with; None where it did not fail.
    """

    varied: Mapping[str, Any]
    accuracies: Accuracies | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        found = {"error": self.error} if self.accuracies is None else self.accuracies.to_json()
        return {"varied": dict(self.varied)} | found


@dataclass(frozen=True)
class OverSeeds:
    """Mean over seeds, None where no run ended, and deviation, None where fewer than two did."""

    mean: float | None
    deviation: float | None

    def __str__(self) -> str:
        """In percent."""
        if self.mean is None:
            return "\N{EN DASH}"
        if self.deviation is None:
            return f"{100 * self.mean:.1f} %"
        return f"{100 * self.mean:.1f} ± {100 * self.deviation:.1f} %"

    @classmethod
    def of(cls, runs: list[tuple[float, ...]]) -> "OverSeeds":
        means = [np.mean(accuracies) for accuracies in runs]
        return cls(
            float(np.mean(means)) if means else None,
            float(np.std(means)) if len(means) > 1 else None,
        )


@dataclass(frozen=True)
class SweptSetting:
    """A setting over its seeds.

    Attributes:
        varied: its values, without the seed.
        seeds: how many runs ended.
        failed: how many failed.
        distilled: accuracies of networks trained on the distilled set, as fractions.
        random_subset: of those trained on random subsets of the same size.
    """

    varied: Mapping[str, Any]
    seeds: int
    failed: int
    distilled: OverSeeds
    random_subset: OverSeeds

    @classmethod
    def of(cls, varied: Mapping[str, Any], runs: list[SweptRun]) -> "SweptSetting":
        ended = [run.accuracies for run in runs if run.accuracies is not None]
        return cls(
            varied,
            seeds=len(ended),
            failed=len(runs) - len(ended),
            distilled=OverSeeds.of([one.distilled for one in ended]),
            random_subset=OverSeeds.of(
                [one.random_subset for one in ended if one.random_subset is not None]
            ),
        )


@dataclass(frozen=True)
class SweepResults:
    """What a sweep found so far.

    Attributes:
        runs: by the names of their folders.
    """

    runs: Mapping[str, SweptRun]

    @property
    def settings(self) -> list[SweptSetting]:
        """A row for each setting but the seed."""
        groups: dict[tuple, list[SweptRun]] = {}
        for run in self.runs.values():
            setting = tuple((k, v) for k, v in run.varied.items() if k != "seed")
            groups.setdefault(setting, []).append(run)
        return [SweptSetting.of(dict(setting), runs) for setting, runs in groups.items()]

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        rows = self.settings
        names = [*rows[0].varied] if rows else []
        header = [*names, "distilled set", "random subset, same size", "runs", "failed"]
        return header, [
            [
                *map(str, row.varied.values()),
                str(row.distilled),
                str(row.random_subset),
                str(row.seeds),
                str(row.failed or ""),
            ]
            for row in rows
        ]

    def __str__(self) -> str:
        return lines(*self._shown())

    def _repr_html_(self) -> str:
        return table("", *self._shown())

    def to_json(self) -> dict[str, Any]:
        """As `results.json` holds them."""
        return {
            "settings": [asdict(row) for row in self.settings],
            "runs": {name: run.to_json() for name, run in self.runs.items()},
        }

    def table(self) -> list[list[Any]]:
        """As `results.csv` holds them."""
        rows, kinds = self.settings, ("distilled", "random_subset")
        names = [f"{kind}_{part}" for kind in kinds for part in ("mean", "deviation")]
        header = [*rows[0].varied, "seeds", "failed", *names]
        return [header, *map(_cells, rows)]


def _cells(row: SweptSetting) -> list[Any]:
    over = [value for one in (row.distilled, row.random_subset)
            for value in (one.mean, one.deviation)]  # fmt: skip
    return [*row.varied.values(), row.seeds, row.failed, *over]
