"""Accuracy against wall time: RCIG solved exactly, RCIG the paper's way, FRePo; side by side.

The exact way has this library's default rate of the coreset's optimiser, ten times the paper's and
falling; "the paper's rate" is the exact way with that of the paper, "our rate" the paper's way with
ours: so the solve and the rate can be told apart.

Per seed, all variants run in one process and take turns: the one whose clock is furthest behind
makes the next meta-iteration, so that a machine whose speed drifts is the same to all. The clock of
a variant holds its meta-iterations alone, compilation included, the paper's tuning round left out
(which favours the paper's way). At each mark the moving average is put aside, and afterwards
networks are trained from scratch on it by the evaluation protocol.

    python benchmarks/accuracy_over_time.py --help

Resumable: (variant, seed) pairs that the result file already holds are skipped.
"""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tyro
from _report import table, write

from bilevel_distillation import (
    Distillation,
    RunConfig,
    hold,
    judge,
)
from bilevel_distillation.data import load

VARIANTS = {
    "RCIG exact": dict(method="rcig", solve="linear"),
    "RCIG exact, unclipped": dict(method="rcig", solve="linear", clip_implicit=False),
    "RCIG exact, the paper's rate": dict(method="rcig", coreset_rate=3e-3, coreset_decay=1.0),
    "RCIG paper's way": dict(method="rcig", solve="adam"),
    "RCIG paper's way, our rate": dict(
        method="rcig", solve="adam", coreset_rate=3e-2, coreset_decay=0.1
    ),
    "FRePo": dict(method="frepo", coreset_rate=3e-3, coreset_decay=1.0),
}


@dataclass(frozen=True)
class Arguments:
    """Settings of the comparison.

    Attributes:
        name: of the result file.
        variants: which of "RCIG exact", "RCIG exact, unclipped", "RCIG exact, the paper's rate",
            "RCIG paper's way", "RCIG paper's way, our rate", "FRePo".
        seeds: initial images, pools and batches.
        marks: seconds at which accuracy is measured; the last one ends the run.
        ends: the last seconds of some variants, in their order, where others go on longer.
        networks: trained from scratch at each mark.
        final_networks: at the last mark.
        run: the distillation.
    """

    name: str = "accuracy_over_time"
    variants: tuple[str, ...] = ("RCIG exact", "RCIG paper's way", "RCIG paper's way, our rate")
    seeds: tuple[int, ...] = (0, 1, 2)
    marks: tuple[float, ...] = (20, 45, 90, 150, 240, 450, 900)
    ends: tuple[float, ...] = (240, 900, 240)
    networks: int = 2
    final_networks: int = 3
    run: RunConfig = field(
        default_factory=lambda: RunConfig(dataset="mnist", width=32, batch_size=256)
    )


def main(arguments: Arguments) -> None:
    data = load(arguments.run.dataset)
    path = Path(__file__).parent / "results" / f"{arguments.name}.json"
    records = json.loads(path.read_text())["records"] if path.exists() else []
    for seed in arguments.seeds:
        missing = [
            v
            for v in arguments.variants
            if not any(r["variant"] == v and r["seed"] == seed for r in records)
        ]
        if missing:
            records += race(arguments, data, seed, missing)
            write(arguments.name, {"records": records})
    show(records)


def race(arguments: Arguments, data, seed: int, variants: list[str]) -> list[dict]:
    runs, kept, tuning = {}, {v: [] for v in variants}, {}
    for variant in variants:
        config = replace(arguments.run, seed=seed, **VARIANTS[variant])
        runs[variant] = Distillation(config, data)
        began = time.monotonic()
        runs[variant].tune()
        tuning[variant] = time.monotonic() - began
        kept[variant].append((0, 0.0, runs[variant].distilled(), None))
    last = dict(zip(arguments.variants, arguments.ends, strict=False))
    last = {v: last.get(v, arguments.marks[-1]) for v in variants}
    while behind := [
        v for v in variants if runs[v].seconds < last[v] and runs[v].iteration < runs[v].total
    ]:
        variant = min(behind, key=lambda v: runs[v].seconds)
        one = runs[variant]
        before = one.seconds
        began = time.monotonic()
        metrics = one.step()
        metrics.loss.block_until_ready()
        one.spent.seconds = before + time.monotonic() - began
        if any(before < mark <= one.seconds for mark in arguments.marks):
            kept[variant].append((one.iteration, one.seconds, one.distilled(), float(metrics.loss)))
            print(
                f"seed {seed}  {variant:24}  {one.seconds:6.0f} s  iteration {one.iteration}",
                flush=True,
            )
    return [judged(arguments, runs[v], v, seed, kept[v], tuning[v]) for v in variants]


def judged(arguments: Arguments, one: Distillation, variant, seed, kept, tuning) -> dict:
    held = hold(one.data, one.preprocessor)
    points = []
    for iteration, seconds, distilled, loss in kept:
        final = seconds >= arguments.marks[-1]
        networks = arguments.final_networks if final else arguments.networks
        evaluation = replace(one.config.evaluation, repeats=networks)
        accuracies = judge(replace(one.config, evaluation=evaluation), held, distilled)
        points.append(
            dict(iteration=iteration, seconds=round(seconds, 1), accuracies=accuracies, loss=loss)
        )
        print(
            f"seed {seed}  {variant:24}  {seconds:6.0f} s  {100 * np.mean(accuracies):5.1f} %",
            flush=True,
        )
    return dict(variant=variant, seed=seed, tuning_seconds=round(tuning, 1), points=points)


def show(records: list[dict]) -> None:
    rows = []
    for variant in dict.fromkeys(r["variant"] for r in records):
        of = [r for r in records if r["variant"] == variant]
        for i in range(len(of[0]["points"])):
            means = [100 * np.mean(r["points"][i]["accuracies"]) for r in of]
            rows.append(
                [
                    variant,
                    f"{np.mean([r['points'][i]['seconds'] for r in of]):.0f}",
                    f"{np.mean([r['points'][i]['iteration'] for r in of]):.0f}",
                    f"{np.mean(means):.1f} ± {np.std(means):.1f}",
                ]
            )
    table(["variant", "seconds", "iteration", "test accuracy % (mean ± std over seeds)"], rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
