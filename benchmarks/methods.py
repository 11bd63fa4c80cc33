"""The five methods with the same small budget: the shape of table 1 of the RCIG paper.

Each (data set, method, seed) is distilled for the same number of meta-iterations with the same
network, batch and initial images, at the paper's rate of the coreset's optimiser, and judged by
networks trained from scratch; beside it random subsets of the same size by the same recipe.

    python benchmarks/methods.py --dataset digits
    python benchmarks/methods.py --dataset mnist

Resumable: what the result file already holds is skipped.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from _report import table, write

from bilevel_distillation import (
    Distillation,
    EvaluationConfig,
    RunConfig,
    hold,
    judge,
    judge_random_subsets,
)
from bilevel_distillation.data import load

BUDGETS = {
    "digits": dict(width=32, depth=2, batch_size=256, iterations=300),
    "mnist": dict(width=16, batch_size=256, iterations=120),
}
FIVE = ("vig", "cig", "rig", "rcig", "frepo")
PAPER = {"vig": 77.4, "cig": 69.2, "rig": 94.8, "rcig": 94.8, "random subset": 62.7}
"""Table 1, MNIST, 1 image per class, width 128, 15,000 meta-iterations."""


@dataclass(frozen=True)
class Arguments:
    """Settings of the comparison.

    Attributes:
        dataset: digits or mnist.
        seeds: initial images, pools and batches.
        networks: trained from scratch on each distilled set.
    """

    dataset: str = "digits"
    seeds: tuple[int, ...] = (0, 1, 2)
    networks: int = 3


def main(arguments: Arguments) -> None:
    name = f"methods_{arguments.dataset}"
    path = Path(__file__).parent / "results" / f"{name}.json"
    records = json.loads(path.read_text())["records"] if path.exists() else []
    data = load(arguments.dataset)
    for seed in arguments.seeds:
        for method in FIVE:
            if any(r["method"] == method and r["seed"] == seed for r in records):
                continue
            records += distil(arguments, data, method, seed)
            budget = BUDGETS[arguments.dataset]
            write(name, {"budget": budget, "records": records})
    show(records)


def distil(arguments: Arguments, data, method: str, seed: int) -> list[dict]:
    config = RunConfig(
        dataset=arguments.dataset,
        method=method,
        seed=seed,
        coreset_rate=3e-3,
        coreset_decay=1.0,
        evaluation=EvaluationConfig(repeats=arguments.networks),
        **BUDGETS[arguments.dataset],
    )
    one = Distillation(config, data)
    began = time.monotonic()
    one.tune()
    tuning = time.monotonic() - began
    while one.iteration < one.total:
        metrics = one.step()
        metrics.loss.block_until_ready()
    held = hold(one.data, one.preprocessor)
    accuracies = judge(one.config, held, one.distilled())
    record = dict(method=method, seed=seed, accuracies=accuracies)
    record |= dict(seconds=round(one.seconds, 1), tuning_seconds=round(tuning, 1))
    print(f"seed {seed}  {method:6}  {100 * np.mean(accuracies):5.1f} %", flush=True)
    if method != "rcig":
        return [record]
    subsets = judge_random_subsets(replace(one.config, seed=seed), data, held, one.distilled())
    return [record, dict(method="random subset", seed=seed, accuracies=subsets)]


def show(records: list[dict]) -> None:
    rows = []
    for method in sorted(
        {r["method"] for r in records}, key=lambda m: list(PAPER).index(m) if m in PAPER else 9
    ):
        means = [100 * np.mean(r["accuracies"]) for r in records if r["method"] == method]
        rows.append(
            [method, f"{np.mean(means):.1f} ± {np.std(means):.1f}", str(PAPER.get(method, ""))]
        )
    table(["method", "test accuracy % (mean ± std over seeds)", "paper, MNIST, full budget"], rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
