"""Our single loops beside those of benchopt/benchmark_bilevel: the outer loss, and the time.

    python benchmarks/single_loops.py --suite PATH      (a clone of benchopt/benchmark_bilevel)

On the suite's MNIST cleaning problem at p = 0.5, in float64: the rates that it publishes, batches
of 64 consecutive rows, the same number of steps, five seeds each. Every psi in the end is judged by
the outer loss where the inner problem is solved. Turns interleave; compiled before. The suite goes
through all rows before it takes one again; ours do so for SOBA, and draw by key for the others.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ["JAX_ENABLE_X64"] = "1"

import jax
import numpy as np
import optax
from _report import RESULTS, data_folder, table, write
from _whole_contestants import SUITE_RATES, suite_solver
from _whole_problems import Whole, mnist_cleaning

from bilevel.single_loop import SOBA, AmIGO, StocBiO

ROWS, EPOCH = 64, 512
RATES = {
    "SOBA": SUITE_RATES["SOBA"],
    "AmIGO": SUITE_RATES["AmIGO"],
    "StocBiO": {"step_size": 0.01, "outer_ratio": 1e-5, "n_inner_steps": 10, "n_shia_steps": 10},
}
"""Those of the suite's `datacleaning0_5_best_params.yml`."""
EPOCHS = {"SOBA": 20, "AmIGO": 4, "StocBiO": 4}


def ours(problem: Whole, name: str, seed: int):
    batches = problem.batches or {}
    inner_rows, outer_rows = batches["samples"]

    def of(loss, rows):
        def on_rows(theta, psi, start=None, *, key=None):
            if start is None:
                start = ROWS * jax.random.randint(key, (), 0, -(-rows // ROWS))
            return loss(theta, psi, start, ROWS)

        return on_rows

    step_size, ratio = RATES[name]["step_size"], RATES[name]["outer_ratio"]
    falling = name == "SOBA"

    def rate(size):
        return (lambda count: size / (count + 1) ** 0.5) if falling else size

    kind, more = {
        "SOBA": (SOBA, {}),
        "AmIGO": (AmIGO, {"steps": 10}),
        "StocBiO": (StocBiO, {"steps": 10, "step_size": step_size}),
    }[name]
    method = kind(
        of(batches["outer"], outer_rows), of(batches["inner"], inner_rows),
        theta=optax.sgd(rate(step_size)), psi=optax.sgd(rate(step_size / ratio)), **more,
    )  # fmt: skip

    def step(state, drawn):
        if name == "SOBA":
            return method.step(state, None, (drawn[1],), (drawn[0],)), None
        return method.step(state, drawn), None

    @jax.jit
    def epoch(state, drawn):
        return jax.lax.scan(step, state, drawn)[0]

    def run(epochs: int):
        if name == "SOBA":
            orders = [shuffled(rows, epochs, seed) for rows in (inner_rows, outer_rows)]
            drawn = np.stack(orders, 1).reshape(epochs, EPOCH, 2)
        else:
            drawn = jax.random.split(jax.random.key(seed), (epochs, EPOCH))
        first = method.init(problem.psi0, problem.theta0)
        jax.block_until_ready(epoch(first, drawn[0]))  # compiles
        state, began = first, time.perf_counter()
        for part in drawn:
            state = epoch(state, part)
        jax.block_until_ready(state.psi)
        return time.perf_counter() - began, state.psi, state.theta

    return run


def shuffled(rows: int, epochs: int, seed: int) -> np.ndarray:
    """Where each batch begins: all of them in a new order, again and again, as in the suite."""
    rng, batches = np.random.default_rng(seed), -(-rows // ROWS)
    rounds = -(-epochs * EPOCH // batches)
    order = np.concatenate([rng.permutation(batches) for _ in range(rounds)])
    return ROWS * order[: epochs * EPOCH]


def theirs(problem: Whole, name: str, seed: int, suite: Path):
    solve = suite_solver(suite, name, RATES[name], seed)

    def run(epochs: int):
        return solve(problem, epochs=epochs)[-1]  # which compiles first

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    options = parser.parse_args()
    if not data_folder("mnist").is_dir():
        parser.error("BILEVEL_DATA names no folder that holds mnist")
    path = RESULTS / "single_loops.json"
    known = json.loads(path.read_text())["results"] if path.exists() else []
    problem = mnist_cleaning()
    rows = [row for row in known if row["method"] not in options.methods]
    for name in options.methods:
        epochs = EPOCHS[name]
        found: dict[str, dict[str, list[float]]] = {}
        for seed in range(1, options.seeds + 1):
            for who, run in {
                "bilevel": ours(problem, name, seed),
                "the suite": theirs(problem, name, seed, options.suite),
            }.items():
                row = found.setdefault(who, {"values": [], "seconds": []})
                seconds, psi, theta = run(epochs)
                row["seconds"].append(seconds)
                row["values"].append(problem.judge(psi, theta)[0])
                print(f"{name}, {who}, seed {seed}: {row['values'][-1]:.5f}", flush=True)
        rows += [
            {"method": name, "of": who, "steps": epochs * EPOCH, **row}
            for who, row in found.items()
        ]
    headers = ("method", "of", "steps", "outer loss", "spread", "seconds")
    table(headers, [shown(row) for row in rows])
    print(write("single_loops", {"rates": RATES, "results": rows}))


def shown(row: dict[str, Any]) -> list[Any]:
    values = row["values"]
    return [row["method"], row["of"], row["steps"], float(np.mean(values)), float(np.std(values)),
            float(np.median(row["seconds"]))]  # fmt: skip


if __name__ == "__main__":
    main()
