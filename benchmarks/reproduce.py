"""The rows of the RCIG paper's tables 2 and 4, each under a time budget; for a GPU.

Per row (data set and images per class) the paper's network, batch and number of meta-iterations,
or as many of these as fit into `--minutes` (the first few are timed), then five networks trained
from scratch, and as many on random subsets. The learning curve tells after how many minutes the
paper's accuracy was reached, by one network at each of `--points` marks.

    python benchmarks/reproduce.py --rows cifar10/1 cifar10/10 --minutes 10

Resumable: each row is a run of `bilevel-distill` in its own folder under `--out`, which goes on
where it was stopped; rows that the result file holds are skipped. `--width 8 --batch-size 64
--rows mnist/1 --minutes 1` is a try on a CPU.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from _report import RESULTS, table, write

from bilevel_distillation import EvaluationConfig, RunConfig, run
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
        width: of the network.
        batch_size: real images in a meta-iteration; None: the paper's.
        precision: of convolutions and matrix products: float32, tensorfloat32 or bfloat16.
        points: of the learning curve.
        repeats: networks trained for the accuracy at the end.
        seed: of everything random.
        out: the runs' folder.
    """

    rows: tuple[str, ...] = ROWS
    minutes: float = 10
    width: int = 128
    batch_size: int | None = None
    precision: str = "float32"
    points: int = 20
    repeats: int = 5
    seed: int = 0
    out: Path = Path("runs/reproduce")


def main(arguments: Arguments) -> None:
    path = RESULTS / "reproduce.json"
    held = json.loads(path.read_text())["rows"] if path.exists() else {}
    for row in arguments.rows:
        if row not in held:
            held[row] = distil(row, arguments)
            write("reproduce", {"rows": held})
            print(row, held[row], flush=True)
    columns = ["seconds an iteration", "iterations", "minutes", "random subset, %", "accuracy, %",
               "paper, %", "minutes to the paper's"]  # fmt: skip
    table(
        ["row", *columns],
        [
            [row, *("" if one[name] is None else one[name] for name in columns)]
            for row, one in held.items()
        ],
    )


def distil(row: str, arguments: Arguments) -> dict[str, Any]:
    dataset, ipc = row.split("/")
    config = RunConfig(
        dataset=dataset,
        ipc=int(ipc),
        out=arguments.out / dataset / ipc,
        width=arguments.width,
        batch_size=arguments.batch_size,
        precision=arguments.precision,  # pyright: ignore[reportArgumentType]
        curve_points=arguments.points,
        seed=arguments.seed,
        evaluation=EvaluationConfig(repeats=arguments.repeats),
    )
    config = replace(config, iterations=iterations(config, arguments.minutes))
    results = run(config)
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    paper = PAPER[dataset][int(ipc)]
    last = [record for record in records if "loss" in record][-1]
    reached = [r["seconds"] / 60 for r in records if 100 * r.get("test_accuracy", 0) >= paper]
    accuracies = 100 * np.asarray(results["distilled"])
    return {
        "settings": {
            "width": config.width,
            "batch": config.batch_size or "the paper's",
            "precision": config.precision,
            "seed": config.seed,
        },
        "seconds an iteration": last["seconds"] / last["iteration"],
        "iterations": last["iteration"],
        "minutes": last["seconds"] / 60,
        "random subset, %": float(100 * np.mean(results["random_subset"])),
        "accuracy, %": float(accuracies.mean()),
        "deviation": float(accuracies.std()),
        "paper, %": paper,
        "minutes to the paper's": reached[0] if reached else None,
    }


def iterations(config: RunConfig, minutes: float) -> int:
    """As many as fit; those of a run that was begun stay as they were."""
    begun = config.out / "config.json"
    if begun.exists():
        return json.loads(begun.read_text())["iterations"]
    expected = estimate(config)
    fitting = max(1, int(60 * minutes / expected.seconds))
    return min(expected.iterations, fitting) if minutes else expected.iterations


if __name__ == "__main__":
    main(tyro.cli(Arguments))
