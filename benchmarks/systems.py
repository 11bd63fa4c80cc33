"""All systems with the same wall time, and chosen real images: accuracy, seconds and memory.

For each seed all methods run in one process and take turns: the one whose clock is furthest behind
makes the next meta-iteration, so that a machine whose speed drifts is the same to all. A clock
holds what a method does once (trajectories, choosing) and its meta-iterations, without compilation.
Each has the settings of its own preset, but for the width and the batch; where a rate falls over a
run, the run's length is what a short pilot finds for the time. All are judged by the same
recipe: networks without normalisation, trained from scratch on the set's own labels, and the same
with instance normalisation.

    python benchmarks/systems.py --dataset digits --ipc 1 --seconds 60
    python benchmarks/systems.py --dataset mnist --ipc 10 --seconds 300
    python benchmarks/systems.py --dataset digits --memory

On a machine that others use too, `--clock processor` gives all the same processor time instead, one
after the other.

Resumable: what the result file already holds is skipped. `--memory` adds how large a process of its
own grows in a few meta-iterations of each method.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import tyro
from _report import RESULTS, table, write

from bilevel_distillation import (
    METHODS,
    Distillation,
    DistilledSet,
    EvaluationConfig,
    RunConfig,
    hold,
    judge,
)
from bilevel_distillation.data import load
from bilevel_distillation.networks import NormName

SIZES: dict[str, dict[str, Any]] = {
    "digits": dict(width=32, depth=2, batch_size=256),
    "mnist": dict(width=16, batch_size=256),
}
SMALL: dict[str, dict[str, Any]] = {
    "bptt": dict(init="real", coreset_rate=1e-2, inner_steps=60, window=20),
    "mtt": dict(trajectories=5, start_epochs=4, match_epochs=1, inner_steps=20),
}
"""What replaces the presets of large runs, whose steps alone would take the time that there is."""

CHOSEN = ("random", "herding", "k-center", "el2n")
PILOT = 4


@dataclass(frozen=True)
class Arguments:
    """Settings of the comparison.

    Attributes:
        dataset: digits or mnist.
        ipc: images per class.
        seconds: of each method.
        seeds: initial images, networks and batches.
        networks: trained from scratch on each set, by each judge.
        judges: the normalisations of the networks that judge.
        clock: wall, or processor.
        methods: which; by default all.
        memory: measure the memory of each method, and nothing else.
        grow: (used by `memory`) run this method alone, and print how large the process has grown.
    """

    dataset: str = "digits"
    ipc: int = 1
    seconds: float = 60.0
    seeds: tuple[int, ...] = (0, 1, 2)
    networks: int = 3
    judges: tuple[NormName, ...] = ("none", "instance")
    clock: Literal["wall", "processor"] = "wall"
    methods: tuple[str, ...] = tuple(METHODS)
    memory: bool = False
    grow: str | None = None


def main(arguments: Arguments) -> None:
    if arguments.grow is not None:
        return print(grown(arguments))
    name = f"systems_{arguments.dataset}_{arguments.ipc}"
    path = RESULTS / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {"records": [], "memory": {}}

    def keep() -> None:
        write(name, {"records": found["records"], "memory": found["memory"]})

    if arguments.memory:
        for method in arguments.methods:
            if method not in found["memory"]:
                found["memory"][method] = in_its_own_process(arguments, method)
                keep()
    else:
        data = load(arguments.dataset)
        for seed in arguments.seeds:
            missing = [m for m in arguments.methods if not _has(found["records"], m, seed)]
            together = [missing] if arguments.clock == "wall" else [[m] for m in missing]
            for methods in together:
                for record in race(arguments, data, seed, methods):
                    found["records"].append(record)
                    keep()
    show(found)


def _has(records: list[dict[str, Any]], method: str, seed: int) -> bool:
    return any(r["method"] == method and r["seed"] == seed for r in records)


def settings(arguments: Arguments, method: str, seed: int) -> RunConfig:
    small = {} if arguments.dataset == "digits" else SMALL.get(method, {})
    return RunConfig(
        dataset=arguments.dataset, ipc=arguments.ipc, method=method, seed=seed,
        evaluation=EvaluationConfig(repeats=arguments.networks),
        **SIZES[arguments.dataset] | small,
    )  # fmt: skip


def race(arguments: Arguments, data, seed: int, methods: list[str]):
    """A record of each method, when all have had their time."""
    runs: dict[str, Distillation] = {}
    compilation: dict[str, float] = {}
    preparation: dict[str, float] = {}
    for method in methods:
        config = settings(arguments, method, seed)
        if method not in CHOSEN:
            iterations, compilation[method] = pilot(arguments, data, config)
            config = replace(config, iterations=iterations)
        runs[method] = Distillation(config, data)
        preparation[method] = prepared_in(arguments, runs[method])
        if runs[method].total:
            step(arguments, Distillation(config, data), runs[method].prepared)
    clock = dict(preparation)
    while behind := [
        m for m in methods if clock[m] < arguments.seconds and runs[m].iteration < runs[m].total
    ]:
        method = min(behind, key=lambda m: clock[m])
        clock[method] += step(arguments, runs[method])
    held = hold(data, next(iter(runs.values())).preprocessor) if runs else None
    for method in methods:
        one, distilled = runs[method], runs[method].distilled()
        accuracies = {n: judged(one.config, held, distilled, n) for n in arguments.judges}
        shown = "  ".join(f"{norm} {100 * np.mean(a):5.1f} %" for norm, a in accuracies.items())
        print(f"seed {seed}  {method:9}  {one.iteration:5} iterations  {shown}", flush=True)
        yield dict(
            method=method, seed=seed, accuracies=accuracies, iterations=one.iteration,
            seconds=round(clock[method], 1), preparation=round(preparation[method], 1),
            compilation=round(compilation.get(method, 0.0), 1), budget=arguments.seconds,
            clock=arguments.clock,
        )  # fmt: skip


def pilot(arguments: Arguments, data, config: RunConfig) -> tuple[int, float]:
    """How many meta-iterations the time has room for, and the seconds until the first was done."""
    short = replace(config, iterations=10)
    one, again = Distillation(short, data), Distillation(short, data)
    one.prepare()  # compiles what the other then runs
    preparation = prepared_in(arguments, again)
    first = step(arguments, one)
    each = float(np.median([step(arguments, one) for _ in range(PILOT)]))
    left = max(0.0, arguments.seconds - preparation)
    return max(1, round(left / each)), first


def step(arguments: Arguments, one: Distillation, prepared: Any = None) -> float:
    """Seconds of a meta-iteration."""
    now = clock_of(arguments)
    if prepared is not None:
        one.give_prepared(prepared, 0.0)
    began = now()
    one.step().loss.block_until_ready()
    one.state.coreset.images.block_until_ready()
    return now() - began


def prepared_in(arguments: Arguments, one: Distillation) -> float:
    """Seconds of what is done once."""
    now = clock_of(arguments)
    began = now()
    one.prepare()
    return now() - began


def clock_of(arguments: Arguments) -> Callable[[], float]:
    return time.monotonic if arguments.clock == "wall" else time.process_time


def judged(config: RunConfig, held, distilled: DistilledSet, norm: Any) -> list[float]:
    evaluation = replace(config.evaluation, norm=norm)
    return judge(replace(config, evaluation=evaluation), held, distilled)


def grown(arguments: Arguments) -> float:
    """Bytes by which this process grows at its peak, from the data on."""
    data = load(arguments.dataset)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one = Distillation(settings(arguments, str(arguments.grow), 0), data)
    one.prepare()
    for _ in range(min(3, one.total)):
        step(arguments, one)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def in_its_own_process(arguments: Arguments, method: str) -> float:
    command = [sys.executable, __file__, "--dataset", arguments.dataset, "--ipc",
               str(arguments.ipc), "--grow", method]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    print(f"{method:9}  {float(done.stdout) / 1e6:.0f} MB", flush=True)
    return float(done.stdout)


def show(found: dict[str, Any]) -> None:
    rows = []
    judges = sorted({norm for r in found["records"] for norm in r["accuracies"]}, reverse=True)
    for method in METHODS:
        records = [r for r in found["records"] if r["method"] == method]
        if not records:
            continue
        grew = found["memory"].get(method)
        rows.append([
            method,
            *(over_seeds([100 * np.mean(r["accuracies"][norm]) for r in records
                          if norm in r["accuracies"]]) for norm in judges),
            f"{np.mean([r['iterations'] for r in records]):.0f}",
            f"{np.mean([r['seconds'] for r in records]):.0f}",
            "" if grew is None else f"{grew / 1e6:.0f}",
            str(len(records)),
        ])  # fmt: skip
    heads = [f"accuracy %, judge {norm}" for norm in judges]
    table(["method", *heads, "iterations", "seconds", "MB", "seeds"], rows)


def over_seeds(means: list[Any]) -> str:
    if not means:
        return ""
    return f"{np.mean(means):.1f} ± {np.std(means):.1f}"


if __name__ == "__main__":
    main(tyro.cli(Arguments))
