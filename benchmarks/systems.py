"""All systems with the same time, and chosen real images: accuracy, seconds and memory.

    python benchmarks/systems.py --dataset digits --ipc 1 --seconds 20
    python benchmarks/systems.py --dataset mnist --ipc 1 --seconds 120
    python benchmarks/systems.py --dataset digits --ipc 1 --memory
    python benchmarks/systems.py --dataset cifar10 --ipc 10 --judges resnet18 vgg11 alexnet

First every method distils with each seed, and its set is put aside under `--out`; a clock holds
what it does once (trajectories, choosing) and its meta-iterations, without compilation. Each has
the settings of its own preset, but for the width and the batch; where a rate falls over a run, the
run's length is what a short pilot finds for the time. `--clock processor` gives all the same time
of the processors, one after the other, which other programs on the machine disturb little;
`--clock wall` has them take turns in one process, the one furthest behind making the next
meta-iteration.

Then each judge trains networks on every set, with soft and with hard labels: those of the paper
(its width doubles at each layer, no normalisation) and those of later work (128 channels in every
layer, instance normalisation). Nothing is selected: each network is what it is at its last step, so
test images are asked once.

Resumable: what the result file holds is skipped, and a further judge takes the sets that are there.
`--memory` adds how large a process of its own grows in a few meta-iterations of each method.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
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
    resolve,
)
from bilevel_distillation.data import ImageData, load

SIZES: dict[str, dict[str, Any]] = {
    "digits": dict(width=32, depth=2, batch_size=256),
    "mnist": dict(width=16, batch_size=256),
    "cifar10": dict(width=32, batch_size=128),
}
SMALL: dict[str, dict[str, Any]] = {
    "bptt": dict(init="real", coreset_rate=1e-2, inner_steps=60, window=20),
    "mtt": dict(trajectories=5, start_epochs=4, match_epochs=1, inner_steps=20),
}
"""What replaces the presets of large runs, whose steps alone would take the time that there is."""

BEGINNING: dict[str, dict[str, Any]] = {"dc": dict(init="real")}
"""So few steps leave the noise of its preset what it is."""

CHOSEN = ("random", "herding", "k-center", "el2n")
SYSTEMS = ("rcig", "frepo", "dm", "dc", "dsa", "kip", "rfad", "bptt", "mtt", *CHOSEN)
PILOT = 4

Judge = Literal["paper", "wide-instance", "resnet18", "vgg11", "alexnet"]
JUDGES: dict[Judge, dict[str, Any]] = {
    "paper": dict(judge="paper"),
    "wide-instance": dict(judge="wide-instance"),
    "resnet18": dict(network="resnet18", norm="batch"),
    "vgg11": dict(network="vgg11", norm="batch"),
    "alexnet": dict(network="alexnet", norm="none"),
}
"""The two of the literature, and those of the paper's table 3."""

Labels = Literal["soft", "hard"]


@dataclass(frozen=True)
class Arguments:
    """Settings of the comparison.

    Attributes:
        dataset: digits, mnist or cifar10.
        ipc: images per class.
        seconds: of each method.
        seeds: initial images, networks and batches.
        networks: trained from scratch on each set, by each judge.
        judges: some of paper, wide-instance, resnet18, vgg11 and alexnet; none: the sets are only
            made.
        labels: that networks are trained on.
        steps: of their training; None: the protocol's.
        width: of the judges but wide-instance, which has 128; None: that of the paper's judge is
            as distilled, and the others have their own.
        clock: wall, or processor.
        methods: which.
        memory: measure the memory of each method, and nothing else.
        out: where the sets are.
        grow: (used by `memory`) run this method alone, and print how large the process has grown.
    """

    dataset: str = "digits"
    ipc: int = 1
    seconds: float = 20.0
    seeds: tuple[int, ...] = (0, 1, 2)
    networks: int = 2
    judges: tuple[Judge, ...] = ("paper", "wide-instance")
    labels: tuple[Labels, ...] = ("soft", "hard")
    steps: int | None = None
    width: int | None = None
    clock: Literal["wall", "processor"] = "processor"
    methods: tuple[str, ...] = SYSTEMS
    memory: bool = False
    out: Path = Path("runs/systems")
    grow: str | None = None


def main(arguments: Arguments) -> None:
    if arguments.grow is not None:
        return print(grown(arguments))
    name = f"systems_{arguments.dataset}_{arguments.ipc}"
    path = RESULTS / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {"records": [], "memory": {}}

    def keep() -> None:
        write(name, {one: value for one, value in found.items() if one != "machine"})

    if arguments.memory:
        for method in arguments.methods:
            if method not in found["memory"]:
                found["memory"][method] = in_its_own_process(arguments, method)
                keep()
    else:
        data = load(arguments.dataset)
        for record in distil_all(arguments, data, found["records"]):
            found["records"].append(record)
            keep()
        for _ in judge_all(arguments, data, found["records"]):
            keep()
    show(found)


def distil_all(
    arguments: Arguments, data: ImageData, held: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Records of the sets that are still missing."""
    wanted = [
        (method, seed)
        for method in arguments.methods
        for seed in arguments.seeds
        if not (_found(held, method, seed) and set_of(arguments, method, seed).exists())
    ]
    sizes = SIZES[arguments.dataset].items()
    if other := [r for r in held if "settings" in r and not sizes <= r["settings"].items()]:
        raise SystemExit(f"the results hold {other[0]['settings']}, not sets of {dict(sizes)}: "
                         "move them away to begin.")  # fmt: skip
    held[:] = [r for r in held if (r["method"], r["seed"]) not in wanted]
    if arguments.clock == "processor":
        # All seeds of a method in a row, as they share what is compiled, and its pilot.
        compiled: set[str] = set()
        for method, seed in wanted:
            known = [r["planned"] for r in held if r["method"] == method]
            planned = known[0] if known else None
            yield from race(arguments, data, seed, [method], planned, method in compiled)
            compiled.add(method)
    else:
        for seed in arguments.seeds:
            yield from race(arguments, data, seed, [m for m, s in wanted if s == seed])


def _found(records: list[dict[str, Any]], method: str, seed: int) -> bool:
    return any(r["method"] == method and r["seed"] == seed for r in records)


def set_of(arguments: Arguments, method: str, seed: int) -> Path:
    return arguments.out / f"{arguments.dataset}_{arguments.ipc}" / f"{method}_{seed}.npz"


def settings(arguments: Arguments, method: str, seed: int) -> RunConfig:
    small = {} if arguments.dataset == "digits" else SMALL.get(method, {})
    beginning = BEGINNING.get(method, {})
    return RunConfig(
        dataset=arguments.dataset, ipc=arguments.ipc, method=method, seed=seed,
        **SIZES[arguments.dataset] | beginning | small,
    )  # fmt: skip


def race(
    arguments: Arguments,
    data: ImageData,
    seed: int,
    methods: list[str],
    known: int | None = None,
    compiled: bool = False,
) -> Iterator[dict[str, Any]]:
    """A record of each method, when all have had their time; `known`: the run's length, where a
    pilot has found it; `compiled`: whether this process has run the method before.
    """
    runs: dict[str, Distillation] = {}
    compilation: dict[str, float] = {}
    clock: dict[str, float] = {}
    for method in methods:
        config = settings(arguments, method, seed)
        if method not in CHOSEN:
            found = None if compiled else pilot(arguments, data, config)
            iterations, compilation[method] = found or (known, 0.0)
            config = replace(config, iterations=known or iterations)
        runs[method] = Distillation(config, data)
        clock[method] = prepared_in(arguments, runs[method])
        if runs[method].total and not compiled:
            step(arguments, Distillation(config, data), runs[method].prepared)
    preparation = dict(clock)
    while behind := [
        m for m in methods if clock[m] < arguments.seconds and runs[m].iteration < runs[m].total
    ]:
        method = min(behind, key=lambda m: clock[m])
        clock[method] += step(arguments, runs[method])
    for method in methods:
        one, path = runs[method], set_of(arguments, method, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        one.distilled().save_npz(path)
        print(f"seed {seed}  {method:9}  {one.iteration:5} iterations", flush=True)
        yield dict(
            method=method, seed=seed, accuracies={}, iterations=one.iteration, planned=one.total,
            seconds=round(clock[method], 1), preparation=round(preparation[method], 1),
            compilation=round(compilation.get(method, 0.0), 1), budget=arguments.seconds,
            clock=arguments.clock, settings=said(one.config),
        )  # fmt: skip


def said(config: RunConfig) -> dict[str, Any]:
    """The settings that a reader wants beside the figures."""
    names = ("width", "depth", "batch_size", "norm", "coreset_optimiser", "coreset_rate", "init")
    return {name: getattr(config, name) for name in names}


def pilot(arguments: Arguments, data: ImageData, config: RunConfig) -> tuple[int, float]:
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


def judge_all(
    arguments: Arguments, data: ImageData, records: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The records, each time that one has got further accuracies."""
    held = None
    for name in arguments.judges:
        for labels in arguments.labels:
            for record in records:
                method, seed = record["method"], record["seed"]
                if method not in arguments.methods or seed not in arguments.seeds:
                    continue
                key = f"{name}, {labels}"
                if key in record["accuracies"]:
                    continue
                distilled = DistilledSet.load_npz(set_of(arguments, method, seed))
                if labels == "hard" and not learned(distilled):
                    if (soft := record["accuracies"].get(f"{name}, soft")) is not None:
                        record["accuracies"][key] = soft  # the same labels, so the same networks
                        yield record
                        continue
                held = held or hold(data, distilled.preprocessor)
                config = judging(arguments, data, name, labels, seed)
                found = judge(config, held, distilled)
                record["accuracies"][key] = found
                evaluation = config.evaluation
                record.setdefault("judges", {})[name] = dict(
                    width=evaluation.width, norm=evaluation.norm, steps=evaluation.steps
                )
                shown = f"{100 * np.mean(found):5.1f} %"
                print(f"seed {seed}  {method:9}  {key}  {shown}", flush=True)
                yield record


def judging(
    arguments: Arguments, data: ImageData, name: Judge, labels: Labels, seed: int
) -> RunConfig:
    width = None if name == "wide-instance" else arguments.width
    if name == "paper" and width is None:
        width = SIZES[arguments.dataset]["width"]
    evaluation = EvaluationConfig(
        width=width, labels=labels, repeats=arguments.networks, steps=arguments.steps,
        **JUDGES[name],
    )  # fmt: skip
    config = replace(settings(arguments, "rcig", seed), evaluation=evaluation)
    return resolve(config, data.image_shape, data.classes)


def learned(distilled: DistilledSet) -> bool:
    """Whether its labels are others than one-hot ones."""
    labels = distilled.labels - distilled.labels.min(1, keepdims=True)
    return bool(np.abs(np.sort(labels, 1)[:, :-1]).max() > 1e-6 or np.ptp(labels.max(1)) > 1e-6)


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
    judges = list(dict.fromkeys(key for r in found["records"] for key in r["accuracies"]))
    for method in METHODS:
        records = [r for r in found["records"] if r["method"] == method]
        if not records:
            continue
        grew = found["memory"].get(method)
        rows.append([
            method,
            *(over_seeds([100 * np.mean(r["accuracies"][key]) for r in records
                          if key in r["accuracies"]]) for key in judges),
            f"{np.mean([r['iterations'] for r in records]):.0f}",
            f"{np.mean([r['seconds'] for r in records]):.0f}",
            "" if grew is None else f"{grew / 1e6:.0f}",
            str(len(records)),
        ])  # fmt: skip
    heads = [f"{key}, %" for key in judges]
    table(["method", *heads, "iterations", "seconds", "MB", "seeds"], rows)


def over_seeds(means: list[Any]) -> str:
    if not means:
        return ""
    deviation = f" ± {np.std(means):.1f}" if len(means) > 1 else ""
    return f"{np.mean(means):.1f}{deviation}"


if __name__ == "__main__":
    main(tyro.cli(Arguments))
