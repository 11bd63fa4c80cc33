"""What a meta-iteration costs as the problem grows in one direction at a time.

RCIG on real images, solved by conjugate gradients in a fixed number of steps, so that the work is a
function of the sizes alone. Beside the time (median of the turns that all sizes of a direction
take), the operations that XLA counts in all compiled parts, and how much of the time goes into the
n x n (or, where there are fewer, features x features) matrix of the kernel and its factorisation.
Along n also the steps that the default tolerance takes. Each direction ends with the exponent p of
the fit `a + b size^p`, a at least 0: a is what does not grow.

    python benchmarks/scaling.py --help

Resumable: directions that the result file already holds are skipped.
"""

import json
import os
import time
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from _report import RESULTS, data_folder, table, write

from bilevel_distillation import Distillation, RunConfig
from bilevel_distillation.data import ImageData, load
from bilevel_distillation.engine import Draws, meta_step, recorded

KERNEL = "_kernel"
"""The part that forms and factorises the kernel matrix."""


class Case(NamedTuple):
    """Sizes of a problem, each varied alone."""

    n: int = 100
    classes: int = 10
    batch: int = 256
    width: int = 16
    pixels: int = 32
    steps: int = 6
    pool_steps: int = 8


DIRECTIONS: dict[str, tuple[int, ...]] = {
    "n": (100, 200, 400, 800, 1600),
    "classes": (10, 20, 50, 100),
    "batch": (128, 256, 512, 1024),
    "width": (8, 16, 32, 64),
    "pixels": (16, 24, 32, 48, 64),
    "steps": (2, 4, 8, 16),
    "pool_steps": (2, 4, 8, 16),
}


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        directions: which of n (distilled images), classes, batch, width, pixels (of a side), steps
            (of conjugate gradients in each of the two solves), pool_steps.
        repeats: turns; times are medians.
    """

    directions: tuple[str, ...] = tuple(DIRECTIONS)
    repeats: int = 5


def main(arguments: Arguments) -> None:
    path = RESULTS / "scaling.json"
    held = json.loads(path.read_text())["directions"] if path.exists() else {}
    for name in arguments.directions:
        if name not in held:
            held[name] = measure(name, arguments.repeats)
            write("scaling", {"directions": held})
    for name in arguments.directions:
        one = held[name]
        print(f"\n{name}, others {one['others']}")
        table([name, *one["columns"]], [[size, *row] for size, row in one["rows"]])
        fits = ", ".join(f"{column} {p:.2f}" for column, p in one["exponents"].items())
        print(f"exponents: {fits}")
        if "kernel takes over at" in one:
            print(f"the kernel's matrix takes over at n = {one['kernel takes over at']:,.0f}")


def measure(name: str, repeats: int) -> dict[str, Any]:
    sizes = DIRECTIONS[name]
    cases = [Case()._replace(**{name: size}) for size in sizes]
    calls = [prepare(case) for case in cases]
    operations = [count(call) for call in calls]
    timed(calls[-1])
    turns = np.array([[timed(call) for call in calls] for _ in range(repeats)])
    seconds = np.median(turns, axis=0)
    columns = ["seconds", "10^9 operations"]
    rows = [[s, float(f)] for s, f in zip(seconds.tolist(), operations, strict=True)]
    found: dict[str, Any] = {
        "others": {k: v for k, v in Case()._asdict().items() if k != name},
        "load": round(os.getloadavg()[0], 1),
    }
    if name == "n":
        columns += ["kernel seconds", "kernel share", "steps to 1 %"]
        for case, call, row in zip(cases, calls, rows, strict=True):
            kernel = time_of_kernel(call, repeats)
            row += [kernel, kernel / row[0], to_tolerance(case)]
            print(case.n, *row, flush=True)
    table_of = dict(zip(columns, zip(*rows, strict=True), strict=True))
    fits = {c: fit(sizes, v) for c, v in table_of.items() if c in columns[:3]}
    found |= {
        "columns": columns,
        "rows": [[size, row] for size, row in zip(sizes, rows, strict=True)],
        "exponents": {column: p for column, (_, _, p) in fits.items()},
    }
    if name == "n":
        found["kernel takes over at"] = crossing(fits["seconds"], fits["kernel seconds"])
    return found


def prepare(case: Case, rtol: float = 0.0):
    """A meta-iteration, as a function of nothing that can be called again and again."""
    dataset = "tiny_imagenet" if case.classes > 10 or case.pixels > 32 else "cifar10"
    config = RunConfig(
        dataset=dataset,
        ipc=case.n // case.classes,
        width=case.width,
        depth=3,
        batch_size=case.batch,
        pool_size=1,
        zca=False,
        flip=False,
        linear_solver="cg",
        rtol=rtol or 1e-9,
        cg_max_steps=64 if rtol else case.steps,
    )
    one = Distillation(config, some(dataset, case.classes, case.pixels))
    rows = np.random.default_rng(0).choice(len(one.training.images), case.batch, replace=False)
    draws = Draws(
        jnp.asarray(0), jnp.asarray(case.pool_steps), jnp.asarray(rows), jax.random.key(0)
    )

    def call():
        state = jax.tree.map(lambda x: jnp.copy(x) if eqx.is_array(x) else x, one.state)
        jax.block_until_ready(state)
        return lambda: meta_step((one.recipe, one.training), state, draws)

    return call


@cache
def some(dataset: str, classes: int, pixels: int) -> ImageData:
    """The first classes, at so many pixels a side."""
    data = load(data_folder(dataset), resolution=pixels)
    train, test = data.train_labels < classes, data.test_labels < classes
    train &= np.cumsum(train) <= 20_000
    return replace(
        data,
        train_images=data.train_images[train],
        train_labels=data.train_labels[train],
        test_images=data.test_images[test][:10],
        test_labels=data.test_labels[test][:10],
        class_names=data.class_names[:classes],
    )


def timed(call) -> float:
    step = call()
    began = time.perf_counter()
    jax.block_until_ready(step())
    return time.perf_counter() - began


def count(call) -> float:
    """10^9 floating-point operations of all compiled parts."""
    with recorded() as calls:
        jax.block_until_ready(call()())
    return sum(one.program.cost_analysis().get("flops", 0.0) for one in calls) / 1e9


def time_of_kernel(call, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        with recorded() as calls:
            jax.block_until_ready(call()())
        times.append(sum(one.seconds for one in calls if one.name == KERNEL))
    return float(np.median(times))


def to_tolerance(case: Case) -> str:
    _, metrics = prepare(case, rtol=1e-2)()()
    return f"{metrics['inner_steps']} + {metrics['adjoint_steps']}"


def fit(sizes, values) -> tuple[float, float, float]:
    """(a, b, p) with `a + b size^p` nearest to the values, in relative terms, a at least 0."""
    sizes, values = np.asarray(sizes, float), np.asarray(values, float)
    best: tuple[float, tuple[float, float, float]] = (np.inf, (0.0, 0.0, 0.0))
    for p in np.arange(0, 4, 0.01):
        design = np.stack([1 / values, sizes**p / values], axis=1)
        for columns in ([0, 1], [1]):
            chosen = np.linalg.lstsq(design[:, columns], np.ones_like(values))[0]
            a, b = (0.0, *chosen)[-2:]
            off = float(np.sum((design[:, columns] @ chosen - 1) ** 2))
            if a >= 0 and off < best[0]:
                best = off, (float(a), float(b), float(p))
    return best[1]


def crossing(whole, kernel) -> float:
    """The n at which the kernel's fitted time is half of the whole's, features never fewer."""
    (a, b, p), (_, c, q) = whole, kernel
    n = np.logspace(1, 9, 10_000)
    over = c * n**q >= 0.5 * (a + b * n**p + c * n**q)
    return float(n[over][0]) if over.any() else float("inf")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
