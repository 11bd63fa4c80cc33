"""The rows of the RCIG paper's tables 2 and 4, each under a budget; for a GPU.

Per row (data set and images per class) the paper's network, batch and number of meta-iterations,
or as many of these as fit into `--minutes` (the first few are timed), then five networks trained
from scratch, and as many on random subsets. The learning curve tells after how many minutes the
paper's accuracy was reached, by one network at each of `--points` marks.

    python benchmarks/reproduce.py --rows cifar10/1 cifar10/10 --minutes 10

Resumable: each row and seed is a run of `bilevel-distill` in its own folder under `--out`, which
goes on where it was stopped; those that the result file holds are skipped, `--again` aside.

On a CPU it is width that costs: `--width 32 --judge-width 128` distils by a narrow network, and
judges by the paper's as well. `--width 8 --batch-size 64 --rows mnist/1 --minutes 1` is a try.
"""

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from _report import RESULTS, table, write

from bilevel_distillation import EvaluateConfig, EvaluationConfig, RunConfig, reevaluate, run
from bilevel_distillation.engine import estimate

PAPER = {
    "mnist": {1: 94.7, 10: 98.9, 50: 99.2},
    "fashion_mnist": {1: 79.8, 10: 88.5, 50: 90.2},
    "cifar10": {1: 53.9, 10: 69.1, 50: 73.5},
    "cifar100": {1: 39.3, 10: 44.1, 50: 46.7},
    "tiny_imagenet": {1: 25.6, 10: 29.4},
    "cub200": {1: 12.1, 10: 15.7},
    "imagenette": {1: 53.0, 10: 65.0},
    "imagewoof": {1: 33.9, 10: 42.2},
    "imagenet64": {1: 15.6, 2: 16.6},
}
"""Test accuracy, %, of tables 2 and 4: the better of table 8's, with and without augmentation."""

ROWS = tuple(f"{name}/{ipc}" for name, of in PAPER.items() for ipc in of)


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        rows: data set and images per class.
        minutes: of distillation, each row; 0: the paper's number of meta-iterations.
        iterations: so many instead.
        width: of the network.
        batch_size: real images in a meta-iteration; None: the paper's.
        precision: of convolutions and matrix products: float32, tensorfloat32 or bfloat16.
        points: of the learning curve.
        repeats: networks trained for the accuracy at the end.
        judge_width: of a second judge's networks, which see the distilled set alone.
        judge_repeats: how many of them; None: as many as of the first's.
        seeds: of everything random, each a run of its own.
        out: the runs' folder.
        again: measure anew what the result file holds.
    """

    rows: tuple[str, ...] = ROWS
    minutes: float = 10
    iterations: int | None = None
    width: int = 128
    batch_size: int | None = None
    precision: str = "float32"
    points: int = 20
    repeats: int = 5
    judge_width: int | None = None
    judge_repeats: int | None = None
    seeds: tuple[int, ...] = (0,)
    out: Path = Path("runs/reproduce")
    again: bool = False


def main(arguments: Arguments) -> None:
    path = RESULTS / "reproduce.json"
    for row in arguments.rows:
        held = json.loads(path.read_text())["rows"] if path.exists() else {}
        runs = {} if arguments.again else held.get(row, {}).get("runs", {})
        if row in held and not runs and not arguments.again:
            continue  # of before there were seeds
        for seed in arguments.seeds:
            if str(seed) in runs:
                continue
            runs[str(seed)] = distil(row, seed, arguments)
            held[row] = summary(row, runs, arguments)
            write("reproduce", {"rows": {name: held[name] for name in ROWS if name in held}})
            print(row, held[row], flush=True)
    show(json.loads(path.read_text())["rows"])


def distil(row: str, seed: int, arguments: Arguments) -> dict[str, Any]:
    config = run_config(row, seed, arguments)
    with processor_time(config.out.with_suffix(".seconds")) as spent:
        config = replace(config, iterations=iterations(config, arguments))
        results, wide = run(config), None
        if arguments.judge_width is not None:
            by = EvaluationConfig(
                width=arguments.judge_width, repeats=arguments.judge_repeats or arguments.repeats
            )
            asked = EvaluateConfig(config.out, evaluation=by, baseline=False, seed=seed)
            wide = reevaluate(asked)[0].accuracies.distilled
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    last = [record for record in records if "loss" in record][-1]
    paper = PAPER[config.dataset][config.ipc]
    reached = [r["seconds"] / 60 for r in records if 100 * r.get("test_accuracy", 0) >= paper]
    return {
        "accuracies": results.distilled,
        "by the wide judge": wide,
        "random subsets": results.random_subset,
        "iterations": last["iteration"],
        "minutes": last["seconds"] / 60,
        "processor minutes": spent() / 60,
        "minutes to the paper's": reached[0] if reached else None,
    }


def run_config(row: str, seed: int, arguments: Arguments) -> RunConfig:
    dataset, ipc = row.split("/")
    return RunConfig(
        dataset=dataset,
        ipc=int(ipc),
        out=arguments.out / dataset / ipc / str(seed),
        width=arguments.width,
        batch_size=arguments.batch_size,
        precision=arguments.precision,  # pyright: ignore[reportArgumentType]
        curve_points=arguments.points,
        seed=seed,
        evaluation=EvaluationConfig(repeats=arguments.repeats),
    )


def iterations(config: RunConfig, arguments: Arguments) -> int:
    """As many as were asked for or fit; those of a run that was begun stay as they were."""
    begun = config.out / "config.json"
    if begun.exists():
        return json.loads(begun.read_text())["iterations"]
    if arguments.iterations is not None:
        return arguments.iterations
    expected = estimate(config)
    fitting = max(1, int(60 * arguments.minutes / expected.seconds))
    return min(expected.iterations, fitting) if arguments.minutes else expected.iterations


@contextmanager
def processor_time(path: Path) -> Iterator[Any]:
    """Gives a function: the seconds that the processors have worked so far. They are kept at
    `path`, so that those of a run which was stopped count.
    """
    before = float(path.read_text()) if path.exists() else 0.0
    began = time.process_time()

    def spent() -> float:
        return before + time.process_time() - began

    try:
        yield spent
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{spent():.1f}\n")


def summary(row: str, runs: dict[str, Any], arguments: Arguments) -> dict[str, Any]:
    """The row over all its runs: accuracies are means over all their networks."""
    dataset, ipc = row.split("/")

    def all_of(name: str) -> np.ndarray:
        return 100 * np.concatenate([one[name] for one in runs.values()])

    ours, last = all_of("accuracies"), list(runs.values())[-1]
    reached = [one["minutes to the paper's"] for one in runs.values()]
    found: dict[str, Any] = {
        "command": command(row, arguments),
        "settings": {
            "width": arguments.width,
            "batch": arguments.batch_size or "the paper's",
            "precision": arguments.precision,
            "seeds": len(runs),
        },
        "seconds an iteration": 60 * last["minutes"] / last["iterations"],
        "iterations": last["iterations"],
        "minutes": float(np.mean([one["minutes"] for one in runs.values()])),
        "processor minutes": float(np.mean([one["processor minutes"] for one in runs.values()])),
        "random subset, %": float(all_of("random subsets").mean()),
        "accuracy, %": float(ours.mean()),
        "paper, %": PAPER[dataset][int(ipc)],
        "minutes to the paper's": None if None in reached else float(np.mean(reached)),
    }
    if arguments.judge_width is not None and all(one["by the wide judge"] for one in runs.values()):
        wide = all_of("by the wide judge")
        found["by the wide judge"] = {
            "width": arguments.judge_width,
            "networks": len(wide),
            "accuracy, %": float(wide.mean()),
        }
    return found | {"runs": runs}


def command(row: str, arguments: Arguments) -> str:
    """What gives this row again."""
    given = replace(arguments, rows=(row,), again=False)
    words = ["python", "benchmarks/reproduce.py"]
    for name, value in vars(given).items():
        if value != getattr(Arguments(), name):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def show(rows: dict[str, Any]) -> None:
    columns = ["seconds an iteration", "iterations", "minutes", "random subset, %", "accuracy, %",
               "paper, %", "minutes to the paper's"]  # fmt: skip
    table(
        ["row", *columns, "by the wide judge, %"],
        [
            [
                row,
                *("" if one[name] is None else one[name] for name in columns),
                one.get("by the wide judge", {}).get("accuracy, %", ""),
            ]
            for row, one in rows.items()
        ],
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
