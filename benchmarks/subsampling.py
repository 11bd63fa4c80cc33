"""What it costs to derive by a few of many distilled images (figure 5 of the RCIG paper).

100 classes x 50 images at 32 pixels. Memory: that of a meta-step compiled whole, as on an
accelerator, for shapes alone (nothing is run); beside the full backward pass, which keeps the
activations of all images, the same in parts of `--microbatch` images with nothing kept
(`--remat`), and through `n_subset` images. Time and test accuracy: of a short distillation of 100
classes of Tiny ImageNet at 32 pixels at a small width, in turns.

    python benchmarks/subsampling.py --help

Resumable: what the result file already holds is skipped.
"""

import json
import os
import time
from dataclasses import dataclass
from unittest import mock

import jax
import numpy as np
import tyro
from _report import RESULTS, table, write
from _whole_step import compile_whole, memory_of
from meta_step import some

from bilevel_distillation import Distillation, EvaluationConfig, RunConfig, hold, judge, resolve
from bilevel_distillation.engine import make_recipe

CLASSES, SHAPE, SAMPLES = 100, (32, 32, 3), 50_000


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        subsets: values of n_subset; that of all images is the full gradient.
        ipc: distilled images per class.
        width: of the network whose memory is told.
        microbatch: images at a time, with n_subset.
        small_width: of the network that is distilled with; 0: none is.
        rtol: of its conjugate gradients.
        iterations: of distillation.
        batch: real images in the outer loss.
        repeats: networks trained for the accuracy; 0: none are.
        steps: that they are trained for.
        learning_rate: and their highest rate.
    """

    subsets: tuple[int, ...] = (200, 500, 1000, 2000, 5000)
    ipc: int = 50
    width: int = 128
    microbatch: int = 250
    small_width: int = 8
    rtol: float = 0.1
    iterations: int = 8
    batch: int = 256
    repeats: int = 2
    steps: int = 1000
    learning_rate: float = 1e-3


def main(arguments: Arguments) -> None:
    path = RESULTS / "subsampling.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    held.pop("machine", None)
    if "memory" not in held:
        held["memory"] = memory(arguments)
        write("subsampling", held)
    if arguments.small_width and "distillation" not in held:
        held["distillation"] = distil(arguments)
        write("subsampling", held)
    for part in held.values():
        print(f"\n{part['settings']}")
        table(part["columns"], part["rows"])


def memory(arguments: Arguments) -> dict:
    total = arguments.ipc * CLASSES
    rows = []

    def add(name: str, **settings) -> None:
        config = RunConfig(
            dataset="cifar100", ipc=arguments.ipc, width=arguments.width, iterations=1,
            batch_size=arguments.batch, pool_size=5, flip=False, cg_max_steps=64,
            linear_solver="cg", **settings,
        )  # fmt: skip
        config = resolve(config, SHAPE, CLASSES)
        began = time.perf_counter()
        with mock.patch.object(jax, "default_backend", lambda: "gpu"):
            recipe = make_recipe(config, SHAPE, CLASSES, SAMPLES)
            program = compile_whole(recipe, config, SHAPE, CLASSES, SAMPLES)
        found = memory_of(program)
        gigabytes = (found["arguments"] + found["temporaries"]) / 1e9
        share = gigabytes / rows[0][1] if rows else 1.0
        training = SAMPLES * np.prod(SHAPE) * 4 / 1e9
        rows.append([name, gigabytes, share, float(training), time.perf_counter() - began])
        print(*rows[-1], flush=True)

    add("full")
    add("full, in parts, rematerialised", microbatch=arguments.microbatch, remat=True)
    for subset in arguments.subsets:
        if subset < total:
            parts = dict(microbatch=arguments.microbatch, remat=True)
            add(f"n_subset {subset}, in parts, rematerialised", n_subset=subset, **parts)
    smallest = min(arguments.subsets)
    add(f"n_subset {smallest} alone", n_subset=smallest)
    return {
        "settings": {
            "n": total,
            "classes": CLASSES,
            "width": arguments.width,
            "batch": arguments.batch,
            "microbatch": arguments.microbatch,
        },
        "columns": ["way", "10^9 bytes", "of full", "of it training images", "compilation"],
        "rows": rows,
    }


def distil(arguments: Arguments) -> dict:
    data = some("tiny_imagenet")
    runs: dict[int, Distillation] = {}
    seconds: dict[int, list[float]] = {}
    for subset in arguments.subsets:
        config = RunConfig(
            dataset="tiny_imagenet", ipc=arguments.ipc, width=arguments.small_width, depth=3,
            batch_size=arguments.batch, pool_size=5, flip=False, iterations=arguments.iterations,
            rtol=arguments.rtol,
            n_subset=None if subset == arguments.ipc * CLASSES else subset, remat=True,
            evaluation=EvaluationConfig(
                repeats=max(1, arguments.repeats), steps=arguments.steps,
                learning_rate=arguments.learning_rate,
            ),
        )  # fmt: skip
        runs[subset], seconds[subset] = Distillation(config, data), []
    held = hold(data, runs[min(runs)].preprocessor)
    for iteration in range(arguments.iterations):
        for subset, one in runs.items():
            began = time.perf_counter()
            metrics = one.step()
            jax.block_until_ready((metrics, one.state.coreset))
            seconds[subset].append(time.perf_counter() - began)
        print(iteration, {k: round(v[-1], 1) for k, v in seconds.items()}, flush=True)
    rows = []
    for subset, one in runs.items():
        median = float(np.median(seconds[subset][1:]))
        found = [None, None]
        if arguments.repeats:
            accuracies = 100 * np.array(judge(one.config, held, one.distilled()))
            found = [float(accuracies.mean()), float(accuracies.std())]
        rows.append([subset, median, *found])
        print(*rows[-1], flush=True)
    return {
        "settings": {
            "n": arguments.ipc * CLASSES,
            "classes": CLASSES,
            "width": arguments.small_width,
            "iterations": arguments.iterations,
            "tolerance": arguments.rtol,
            "batch": arguments.batch,
            "load": round(os.getloadavg()[0], 1),
        },
        "columns": ["n_subset", "seconds", "test accuracy %", "deviation"],
        "rows": rows,
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments))
