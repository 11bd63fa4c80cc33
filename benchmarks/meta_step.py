"""One meta-iteration of RCIG on real images: linear algebra, the paper's way, a transcription.

A meta-iteration is a meta-gradient, an update of the coreset, and training steps of the network it
was taken on. The ways take turns in one process. Beside the time of each: the relative error of its
meta-gradient, against a float64 solve of the same problem, and how long its parts compile (its
first call less a later one; where nothing was compiled before). Networks have been trained on the
coreset for some steps, as most in a pool have. Both ways with Adam have the transcription's rates:
the highest at which both losses fall at each step, times 0.7. Memory is not measured.

    python benchmarks/meta_step.py --help

Resumable: cases that the result file already holds are skipped. With `--account` floating-point
operations are counted instead: those that XLA reports for each compiled part, times its calls in a
meta-iteration, beside those that the convolutions need.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import _transcription as transcription
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from _report import RESULTS, data_folder, table, write

from bilevel_distillation import Distillation, RunConfig
from bilevel_distillation.data import ImageData, load
from bilevel_distillation.engine import (
    Adam,
    Batch,
    Draws,
    Linear,
    Rates,
    Recipe,
    State,
    Training,
    coreset_gradient,
    linear_gradient,
    meta_step,
    put,
    recorded,
    take,
    train_step,
)
from bilevel_distillation.networks import AbstractNetwork

CASES = {
    "mnist10": ("mnist", 1),
    "cifar20": ("cifar10", 2),
    "cifar200": ("cifar10", 20),
    "classes100": ("tiny_imagenet", 1),
}
"""Data set and images per class; of Tiny ImageNet the first 100 classes, at 32 pixels."""

MOST_DENSE = 400
"""Outputs up to which the reference is a dense solve."""


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        cases: which of mnist10, cifar20, cifar200 and classes100.
        repeats: turns; times are medians.
        width: of the network.
        batch: real images in the outer loss.
        trained: steps that the network has been trained for.
        pool_steps: steps that it is trained for in the meta-iteration.
        rtols: of conjugate gradients.
        account: count floating-point operations instead.
    """

    cases: tuple[str, ...] = tuple(CASES)
    repeats: int = 5
    width: int = 32
    batch: int = 256
    trained: int = 50
    pool_steps: int = 8
    rtols: tuple[float, ...] = (0.1, 0.08, 0.06, 0.03, 0.01)
    account: bool = False


class Problem(NamedTuple):
    """All that a meta-iteration starts from."""

    recipe: Recipe
    training: Training
    state: State
    draws: Draws
    network: AbstractNetwork
    images: jax.Array
    targets: jax.Array


class Way(NamedTuple):
    """A meta-gradient alone, and a whole meta-iteration from `state`."""

    gradient: Callable[[], Any]
    step: Callable[[Any], Any]
    state: Any


def main(arguments: Arguments) -> None:
    path = RESULTS / "meta_step.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    held = {"cases": held.get("cases", {}), "account": held.get("account", {})}
    kind = "account" if arguments.account else "cases"
    for case in arguments.cases:
        if case in held[kind]:
            continue
        problem = make_problem(case, arguments)
        if arguments.account:
            held["account"][case] = account(problem)
        else:
            held["cases"][case] = compare(problem, arguments)
        held[kind] = {name: held[kind][name] for name in CASES if name in held[kind]}
        write("meta_step", held)
    for case in arguments.cases:
        print(f"\n{case}: {held[kind][case]['settings']}")
        table(held[kind][case]["columns"], held[kind][case]["rows"])


def make_problem(case: str, arguments: Arguments) -> Problem:
    dataset, ipc = CASES[case]
    config = RunConfig(
        dataset=dataset,
        ipc=ipc,
        width=arguments.width,
        batch_size=arguments.batch,
        pool_size=1,
        flip=False,
    )
    return problem_of(Distillation(config, some(dataset)), arguments.trained, arguments.pool_steps)


def problem_of(one: Distillation, trained: int, pool_steps: int) -> Problem:
    """Its first meta-iteration, by a network that has been trained for some steps."""
    member, recipe = take(one.state.pool, jnp.asarray(0)), one.recipe
    for _ in range(trained):
        member = train_step(member, recipe.pool_optimiser, one.state.coreset, recipe.microbatch)
    state = eqx.tree_at(lambda s: s.pool, one.state, put(one.state.pool, jnp.asarray(0), member))
    total, batch = len(one.training.images), one.recipe.batch_size
    rows = np.random.default_rng(0).choice(total, batch, replace=False)
    draws = Draws(jnp.asarray(0), jnp.asarray(pool_steps), jnp.asarray(rows), jax.random.key(0))
    targets = jax.nn.one_hot(one.training.labels[rows], one.training.classes)
    images = one.training.images[rows]
    return Problem(one.recipe, one.training, state, draws, member.network, images, targets)


def some(dataset: str) -> ImageData:
    """Ten thousand images of at most 100 classes."""
    if dataset == "tiny_imagenet":
        data = load(data_folder(dataset), resolution=32)
    else:
        data = load(dataset)
    keep = np.flatnonzero(data.train_labels < 100)[:10_000]
    test = data.test_labels < 100
    return replace(
        data,
        train_images=data.train_images[keep],
        train_labels=data.train_labels[keep],
        test_images=data.test_images[test],
        test_labels=data.test_labels[test],
        class_names=data.class_names[:100],
    )


def compare(problem: Problem, arguments: Arguments) -> dict[str, Any]:
    began = time.monotonic()
    exact = reference(problem)
    seconds = time.monotonic() - began
    settings, plain = tuned(problem)
    ways = make_ways(problem, arguments, settings, plain)
    first = {name: first_call(way) for name, way in ways.items() if name in COMPILED}
    times = in_turns({name: runner(way) for name, way in ways.items()}, arguments.repeats)
    rows = []
    for name, way in ways.items():
        found = way.gradient()
        grad = found.grad if hasattr(found, "grad") else jax.tree.map(jnp.add, *found[1:])
        steps = f"{found.inner.steps} + {found.adjoint.steps}" if hasattr(found, "inner") else ""
        rows.append([
            name,
            times[name],
            times[name] / times["transcription"],
            round(first[name] - times[name], 1) if name in first else "",
            distance(grad, exact.grad),
            distance(grad.images, exact.grad.images),
            steps or f"{settings.inner_steps} + {settings.adjoint_steps}",
        ])  # fmt: skip
        print(*rows[-1], flush=True)
    n, classes = problem.state.coreset.labels.shape
    return {
        "settings": {
            "n": n,
            "classes": classes,
            "width": arguments.width,
            "batch": arguments.batch,
            "network trained for": arguments.trained,
            "pool steps": arguments.pool_steps,
            "repeats": arguments.repeats,
            "rates": [settings.inner_rate, settings.adjoint_rate],
            "load": round(os.getloadavg()[0], 1),
        },
        "reference": {
            "seconds": round(seconds),
            "steps": [int(exact.inner.steps), int(exact.adjoint.steps)],
            "error": [float(exact.inner.error), float(exact.adjoint.error)],
        },
        "columns": ["way", "seconds", "of transcription", "compilation", "error", "of images",
                    "steps"],
        "rows": rows,
    }  # fmt: skip


COMPILED = ("exact", "the paper's way", "transcription")


def make_ways(problem: Problem, arguments: Arguments, settings, plain) -> dict[str, Way]:
    recipe, coreset = problem.recipe, problem.state.coreset
    exact: Any = recipe.method.solver
    ways = {"exact": library(problem, recipe)}
    for rtol in arguments.rtols:
        if coreset.labels.size <= 100 or rtol != exact.rtol:  # where "auto" factorises
            cg = replace(exact, linear_solver="cg", rtol=rtol)
            ways[f"conjugate gradients to {rtol:g}"] = library(problem, recipe.solved_by(cg))
    rates = Rates(jnp.asarray(settings.inner_rate), jnp.asarray(settings.adjoint_rate))
    with_rates = eqx.tree_at(lambda s: s.rates, problem.state, rates)
    ways["the paper's way"] = library(problem._replace(state=with_rates), recipe.solved_by(Adam()))
    ways["transcription"] = transcribed(problem, settings, plain)
    return ways


def library(problem: Problem, recipe: Recipe) -> Way:
    _, training, state, draws, network, images, targets = problem

    def gradient():
        batch = Batch(images, targets, network, state.rates, draws.key)
        return coreset_gradient(recipe, state.coreset, batch)

    return Way(gradient, lambda before: meta_step((recipe, training), before, draws), state)


def transcribed(problem: Problem, settings, plain) -> Way:
    coreset = problem.state.coreset
    batch = problem.images, problem.targets
    key, make_network = problem.draws.key, problem.recipe.make_network
    state = transcription.first_state(coreset, make_network, 1, key)
    member = replace(state.pool[0], network=plain)
    optimiser = transcription.POOL_OPTIMISER.init(eqx.filter(plain, eqx.is_inexact_array))
    state = replace(state, pool=[replace(member, optimiser=optimiser)])

    def step(before):
        steps = int(problem.draws.pool_steps)
        after = transcription.meta_step(settings, before, 0, steps, *batch, key, make_network)
        return after.averaged, after.optimiser, after.pool[0].network

    return Way(lambda: transcription.meta_gradient(settings, plain, coreset, *batch), step, state)


def tuned(problem: Problem):
    """Rates for Adam, and the network that has XLA's own convolutions."""
    plain = transcription.PlainConvNet.of(problem.network)
    settings = transcription.Settings(ridge_rate=problem.recipe.method.ridge_rate)
    batch = problem.images, problem.targets
    return transcription.tune(settings, plain, problem.state.coreset, *batch), plain


def reference(problem: Problem):
    """The meta-gradient in float64: dense for few outputs, else conjugate gradients to 1e-8."""
    dense = problem.state.coreset.labels.size <= MOST_DENSE
    solve = Linear("cholesky") if dense else Linear("cg", 1e-8, 400)
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf,
            (problem.state.coreset, problem.network, problem.images, problem.targets),
        )
        return jax.block_until_ready(linear_gradient(solve, problem.recipe.method, *wide))


def first_call(way: Way) -> float:
    """Seconds where nothing has been compiled."""
    jax.clear_caches()
    return timed(runner(way))


def runner(way: Way) -> Callable[[], Callable[[], Any]]:
    """Copies the state, which a meta-iteration may use up, and then has one to time."""

    def prepare():
        before = jax.tree.map(lambda x: jnp.copy(x) if eqx.is_array(x) else x, way.state)
        jax.block_until_ready(before)
        return lambda: way.step(before)

    return prepare


def timed(prepare: Callable[[], Callable[[], Any]]) -> float:
    call = prepare()
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def in_turns(calls: dict[str, Callable[[], Callable[[], Any]]], repeats: int) -> dict[str, float]:
    """Median seconds of each, after one call of each that does not count."""
    turns = [{name: timed(call) for name, call in calls.items()} for _ in range(repeats + 1)]
    return {name: float(np.median([turn[name] for turn in turns[1:]])) for name in calls}


def distance(found, exact) -> float:
    """Relative, in the Euclidean norm."""
    a, b = (
        np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (found, exact)
    )
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


HAND = {
    "_linearized": (1, 0, lambda a: a[1]),
    "_push": (1, 1, lambda a: a[0]),
    "_pull": (1, 1, lambda a: a[0]),
    "_add_pull": (1, 1, lambda a: a[0]),
    "_whole_step": (2, 2, lambda a: a[3].state.x),
    "_outer_part": (3, 2, lambda a: a[4]),
    "_to_part": (8, 5, lambda a: a[3] if a[5] is None else a[5]),
    "_gradient": (2, 1, lambda a: a[2]),
}
"""Forward passes that a part needs, through all convolutions and through all but the first, for
each of its images. The gradient of the images, "_to_part": one primal pass, a tangent along theta
and one along v (1, 1 each), backwards 2, 1 for the direct part and 3, 2 for the implicit one.
"""


def account(problem: Problem) -> dict[str, Any]:
    """Floating-point operations of each compiled part in a meta-iteration."""
    solver = replace(problem.recipe.method.solver, linear_solver="cg")
    way = library(problem, problem.recipe.solved_by(solver))
    of_all, of_inner = forward(problem)
    with recorded() as calls:
        jax.block_until_ready(runner(way)()())
    counts: dict[str, list[float]] = {}
    for call in calls:
        first, inner, images = HAND.get(call.name, (0, 0, lambda a: ()))
        found = images(call.arguments)
        rows = found.rows if hasattr(found, "rows") else found.shape[0] if first else 0
        one = counts.setdefault(call.name, [0, 0.0, 0.0])
        one[0] += 1
        one[1] += call.program.cost_analysis().get("flops", 0.0) / 1e9
        one[2] += rows * (first * of_all + inner * of_inner) / 1e9
    counts["all"] = np.sum(list(counts.values()), axis=0).tolist()
    rows = [
        [name, int(number), xla, hand, round(xla / hand, 3) if hand else ""]
        for name, (number, xla, hand) in counts.items()
        if xla > 1e-3 * counts["all"][1]
    ]
    n, classes = problem.state.coreset.labels.shape
    return {
        "settings": {"n": n, "classes": classes, "pool steps": int(problem.draws.pool_steps)},
        "columns": ["part", "calls", "10^9 operations", "by hand", "ratio"],
        "rows": rows,
    }


def forward(problem: Problem) -> tuple[int, int]:
    """Operations on an image in a forward pass: of all convolutions, and of all but the first."""
    layers = problem.network.layers
    side = problem.images.shape[1] + 2 * (layers[0].padding - 1)
    each = [2 * (side // 2**i) ** 2 * layer.weight.size for i, layer in enumerate(layers)]
    return sum(each), sum(each[1:])


if __name__ == "__main__":
    main(tyro.cli(Arguments))
