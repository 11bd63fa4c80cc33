"""How the systems of the paper's table 2 do on the card, each in the same share of the time."""

import time
from typing import Any

import jax

from bilevel_distillation import Distillation, EvaluationConfig, RunConfig, hold, judge

from ._task import Task
from .prepare import prepared

FILE = "gpu_systems"
METHODS = ("random", "dm", "kip", "frepo", "bptt", "rcig")
PRECISION = "tensorfloat32"
"""Of distillations and judges."""

FOR_JUDGING = 6.0
"""Seconds that are kept for the judges of each set."""

FEWEST = 20
"""Real images in a batch: DM wants some of each class."""


def systems(task: Task, ipc: int) -> None:
    """CIFAR-10: each distils for its share of the time, compilation counted, with the rates of its
    preset, held constant, as nobody knows before how many meta-iterations there will be.
    """
    data, preprocessor = prepared(task, "cifar10")
    held = hold(data, preprocessor)
    found: dict[str, Any] = {}
    for i, method in enumerate(METHODS):
        left = len(METHODS) - i
        share = max(1.0, task.left / left - FOR_JUDGING)
        task.begin(f"{method} for {share:.0f} s", needs=5)
        one = Distillation(config_of(task, method, ipc), data, preprocessor)
        seconds = distil(one, share)
        distilled = one.distilled()
        record = found[method] = {
            "iterations": one.iteration,
            "seconds": seconds,
            "of them in meta-iterations": one.seconds,
            "peak, bytes": distilled.provenance["peak_memory"],
            "settings": {"width": one.config.width, "batch": one.recipe.batch_size,
                         "norm": one.config.norm, "precision": PRECISION},
        }  # fmt: skip
        task.write(FILE, f"cifar10/{ipc}", found)
        task.begin(f"judging {method}", needs=3)
        with jax.default_matmul_precision(PRECISION):
            record["accuracies"] = judge(one.config, held, distilled)
        task.write(FILE, f"cifar10/{ipc}", found)


def config_of(task: Task, method: str, ipc: int) -> RunConfig:
    sizes = task.sizes
    takes_steps = method != "random"
    inner_steps, window = sizes.unrolled
    own = {"inner_steps": inner_steps, "window": window, "init": "real"} if method == "bptt" else {}
    if method in ("frepo", "rcig"):
        own = {"pool_size": sizes.pool}
    return RunConfig(
        dataset="cifar10", ipc=min(ipc, sizes.most_ipc), method=method, width=sizes.width,
        batch_size=max(sizes.batch, FEWEST), precision=PRECISION,
        iterations=sizes.iterations[1] if takes_steps else 0, coreset_decay=1.0,
        evaluation=EvaluationConfig(judge="paper", width=sizes.width, repeats=sizes.networks,
                                    steps=sizes.judge_steps),
        **own,
    )  # fmt: skip


def distil(one: Distillation, seconds: float) -> float:
    """Until it is done or its time is up; the seconds that it took, all counted."""
    began = time.monotonic()
    one.prepare()
    while one.iteration < one.total and time.monotonic() - began < seconds:
        one.step()
    jax.block_until_ready(one.state)
    return time.monotonic() - began
