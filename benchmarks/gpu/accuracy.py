"""How good on the card: a distillation of a few minutes, and who else is judged by its judge."""

import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from bilevel_distillation import (
    Distillation,
    DistilledSet,
    EvaluationConfig,
    RunConfig,
    hold,
    judge,
    judge_random_subsets,
)

from ._card import compilations
from ._task import Task, read
from .prepare import AUTHORS, middle, prepared
from .speed import FILE as SPEED

FILE = "gpu_accuracy"
PRECISION = "tensorfloat32"
"""Of the distillation, and of the judges."""

FOR_JUDGING = 60.0
"""Seconds that are kept for judges, and for what was compiled too slowly."""


def accuracy(task: Task, ipc: int, most_seconds: float) -> None:
    """CIFAR-10, distilled for at most so many seconds, compilation included."""
    data, preprocessor = prepared(task, "cifar10")
    known = read(task.out / f"{SPEED}.json").get(f"cifar10/{ipc}", {})
    seconds = max(1.0, min(most_seconds, task.left - min(FOR_JUDGING, task.left / 2)))
    config = RunConfig(
        dataset="cifar10", ipc=min(ipc, task.sizes.most_ipc), width=task.sizes.width,
        batch_size=task.sizes.batch, pool_size=task.sizes.pool, precision=PRECISION,
        iterations=fitting(known, seconds, *task.sizes.iterations),
        evaluation=EvaluationConfig(repeats=task.sizes.networks, steps=task.sizes.judge_steps),
    )  # fmt: skip
    task.begin(f"distilling for {seconds:.0f} s, {config.iterations} meta-iterations", needs=10)
    one = Distillation(config, data, preprocessor)
    kept = distil(one, seconds, task.sizes.marks)
    distilled = one.distilled()
    np.savez(task.out / f"distilled_cifar10_{ipc}.npz", images=distilled.images,
             labels=distilled.labels)  # fmt: skip
    found: dict[str, Any] = {
        "settings": {"width": config.width, "batch": one.recipe.batch_size, "precision": PRECISION},
        "iterations": one.iteration,
        "planned": one.total,
        "seconds": one.seconds,
        "first, s": kept[0][1],
    }

    def write() -> None:
        task.write(FILE, f"cifar10/{ipc}", found)

    write()
    held = hold(data, preprocessor)
    task.begin("judging it", needs=5)
    with jax.default_matmul_precision(PRECISION):
        found["accuracies"] = judge(one.config, held, distilled)
        write()
        if ipc == 1:
            task.begin("judging the authors' set", needs=5)
            found["authors"] = judge(one.config, held, authors(task, distilled))
            write()
        task.begin("judging random images", needs=5)
        found["random"] = judge_random_subsets(one.config, data, held, distilled)
        write()
        single = replace(one.config, evaluation=replace(one.config.evaluation, repeats=1))
        found["curve"] = []
        for iteration, at, some in kept:
            task.begin(f"judging what was there after {at:.0f} s", needs=3)
            with compilations() as names:
                (result,) = judge(single, held, some, seed=iteration)
            found["curve"].append([iteration, at, result])
            found["compilations of the last judge"] = names
            write()


def fitting(known: dict[str, Any], seconds: float, otherwise: int, most: int) -> int:
    """Meta-iterations for so many seconds, by the speed that was measured in the same run."""
    ways = known.get("ways", {})
    way = ways.get(f"exact, {PRECISION}") or ways.get("exact, float32")
    if way is None:
        return otherwise
    left = seconds - 1.1 * way["first call, s"]
    return int(min(max(left / (1.1 * way["seconds"]), 10), most))


def distil(
    one: Distillation, seconds: float, marks: tuple[float, ...]
) -> list[tuple[int, float, DistilledSet]]:
    """Until it is done or its time is up: what was there after the first meta-iteration, and at
    each mark.
    """
    began, kept, due = time.monotonic(), [], [0.0, *(share * seconds for share in marks)]
    while one.iteration < one.total and (spent := time.monotonic() - began) < seconds:
        one.step()
        if due and spent >= due[0]:
            due.pop(0)
            jax.block_until_ready(one.state)
            kept.append((one.iteration, time.monotonic() - began, one.distilled()))
    jax.block_until_ready(one.state)
    return kept


def authors(task: Task, like: DistilledSet) -> DistilledSet:
    """The set that RCIG's authors released."""
    with np.load(task.data / AUTHORS) as file:
        images, labels = file["x_proto"], file["y_proto"]
    return replace(like, images=middle(images, task.sizes), labels=labels,
                   classes=np.argmax(labels, 1).astype(np.int32), flip=True)  # fmt: skip
