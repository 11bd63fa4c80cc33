"""How fast on the card: a meta-iteration of each way, what it compiles to, and its share of the
rate of a matrix product.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import _transcription as transcription
import equinox as eqx
import jax
import jax.numpy as jnp
from meta_step import Problem, forward, in_turns, library, runner, timed, transcribed

from bilevel_distillation import Distillation, RunConfig
from bilevel_distillation.engine import Adam, Metrics, Recipe, compiled_meta_step, recorded, take

from ._card import compilations, make_compiled, peak_memory, product_rate, waited
from ._task import OutOfTime, Task
from .prepare import prepared

FILE = "gpu_speed"

POOL_STEPS = 8
"""The mean of 1 to 15."""

WAYS = (
    ("exact", "float32"),
    ("exact", "tensorfloat32"),
    ("transcription", "float32"),
    ("transcription", "tensorfloat32"),
    ("the paper's way", "float32"),
)
"""What matters most first."""


def speed(task: Task, dataset: str, ipc: int) -> None:
    """One row: data set and images per class."""
    data, preprocessor = prepared(task, dataset)
    config = RunConfig(
        dataset=dataset, ipc=min(ipc, task.sizes.most_ipc), width=task.sizes.width,
        batch_size=task.sizes.batch, pool_size=task.sizes.pool,
    )  # fmt: skip
    one = Distillation(config, data, preprocessor)
    found: dict[str, Any] = {
        "settings": {"width": config.width, "batch": one.recipe.batch_size,
                     "images, mirrored ones too": _images(one), "pool steps": POOL_STEPS},
        "ways": {},
    }  # fmt: skip

    def write() -> None:
        task.write(FILE, f"{dataset}/{ipc}", found)

    with jax.default_matmul_precision("float32"):
        task.begin("exact, float32: compilation", needs=15)
        found["program"] = make_compiled(compiled_meta_step, *one.next_arguments())
        write()
        task.begin("meta-iterations in a row", needs=5)
        found["in a row"] = _in_a_row(one, task.sizes.in_a_row)
        found["peak, bytes"] = peak_memory()
        write()
        found["products, operations a second"] = {
            precision: product_rate(task.sizes.matrix, precision)
            for precision in ("float32", "tensorfloat32")
        }
        problem = _problem(one, task.sizes.trained)
    rates = found["products, operations a second"]
    prepares: dict[str, Callable] = {}
    needed: dict[str, float] = {}
    slowest = found["program"]["tracing, s"] + found["program"]["compilation, s"]
    cut = None
    for way, precision in WAYS:
        name = f"{way}, {precision}"
        if task.left < 1.2 * slowest + 5:
            cut = name
            break
        task.begin(f"{name}: first calls")
        prepares[name] = _in_precision(precision, runner(_way(way, problem)))
        first = timed(prepares[name])
        found["ways"][name] = {"first call, s": first, "seconds": timed(prepares[name])}
        slowest = max(slowest, first)
        if way == "exact":
            metrics = prepares[name]()()[1]
            needed[name] = operations(problem, metrics)
            found["ways"][name] |= {
                "operations": needed[name],
                "steps": [int(metrics["inner_steps"]), int(metrics["adjoint_steps"])],
            }
        write()
    task.begin("all in turns")
    for name, seconds in in_turns(prepares, task.sizes.turns).items():
        precision = name.rsplit(", ", 1)[1]
        found["ways"][name]["seconds"] = seconds
        if name in needed:
            found["ways"][name]["share of a product's rate"] = (
                needed[name] / seconds / rates[precision]
            )
    for name, of in found["ways"].items():
        plain = found["ways"].get(f"transcription, {name.rsplit(', ', 1)[1]}")
        if plain is not None:
            of["times as fast as the transcription"] = plain["seconds"] / of["seconds"]
    write()
    if cut is not None:
        raise OutOfTime(cut)
    task.begin("the exact way's parts", needs=25)
    found["parts, tensorfloat32"] = _parts(problem)
    write()


def _images(one: Distillation) -> int:
    return one.state.coreset.rows


def _in_a_row(one: Distillation, count: int) -> dict[str, Any]:
    """As a run has them. The first pays for what the program does not hold, and nothing after it
    may compile or ask the host for an array.
    """
    first = waited(lambda: (one.step(), one.state))
    with compilations() as names:
        seconds = waited(lambda: ([one.step() for _ in range(count)], one.state))
    fixed, state, draws = one.next_arguments()
    state = jax.tree.map(lambda x: jnp.copy(x) if eqx.is_array(x) else x, state)
    jax.block_until_ready((state, draws))
    try:
        with jax.transfer_guard("disallow"):
            jax.block_until_ready(compiled_meta_step(fixed, state, draws))
            transfers = "none"
    except Exception as error:
        transfers = f"{type(error).__name__}: {str(error)[:300]}"
    return {
        "first, s": first,
        "seconds an iteration": seconds / count,
        "iterations": count,
        "compilations after the first": names,
        "transfers inside a step": transfers,
    }


def _problem(one: Distillation, trained: int) -> Problem:
    """A meta-iteration by a network that has been trained, from a state that nobody else uses."""
    training, draws = one.next_arguments()[0][1], one.next_arguments()[2]
    draws = replace(draws, model=jnp.asarray(0, jnp.int32))
    state = one.state
    for steps in (trained // 2, trained - trained // 2):
        some = replace(draws, pool_steps=jnp.asarray(steps, jnp.int32))
        state, _ = compiled_meta_step((one.recipe, training), state, some)
    one.state = state
    draws = replace(draws, pool_steps=jnp.asarray(POOL_STEPS, jnp.int32))
    network = take(state.pool, draws.model).network
    return Problem(one.recipe, training, state, draws, network, *training.batch(draws.rows))


def _parts(problem: Problem) -> dict[str, list[float]]:
    """Calls and seconds of each part of a meta-iteration that is dispatched: a profile."""
    step = runner(library(problem, problem.recipe))
    with jax.default_matmul_precision("tensorfloat32"):
        timed(step)  # compiles
        with recorded() as calls:
            timed(step)
    parts: dict[str, list[float]] = {}
    for call in calls:
        one = parts.setdefault(call.name, [0, 0.0])
        one[0] += 1
        one[1] += call.seconds
    return dict(sorted(parts.items(), key=lambda part: -part[1][1]))


def _way(way: str, problem: Problem):
    if way == "transcription":
        settings = transcription.Settings(ridge_rate=problem.recipe.method.ridge_rate)
        return transcribed(problem, settings, transcription.PlainConvNet.of(problem.network))
    recipe = problem.recipe if way == "exact" else problem.recipe.solved_by(Adam())
    return library(problem, recipe)._replace(step=_one_program(problem, recipe))


def _one_program(problem: Problem, recipe: Recipe) -> Callable:
    fixed = recipe, problem.training
    return lambda state: compiled_meta_step(fixed, state, problem.draws)


def _in_precision(precision: str, prepare: Callable) -> Callable:
    def prepared_call():
        call = prepare()

        def run():
            with jax.default_matmul_precision(precision):
                return call()

        return run

    return prepared_call


def operations(problem: Problem, metrics: Metrics) -> float:
    """Floating-point operations that the mathematics of an exact meta-iteration needs: those of
    the convolutions, and of the products with J where it is a matrix.
    """
    of_all, of_inner = forward(problem)
    recipe, coreset = problem.recipe, problem.state.coreset
    classes = coreset.labels.shape[1]
    rows = coreset.rows
    there_and_back = of_all + of_inner  # along a tangent, or back to the parameters
    steps = int(metrics["inner_steps"]) + int(metrics["adjoint_steps"])
    if steps == 0:
        moving = jax.tree.leaves(eqx.filter(problem.network, recipe.method.moving(problem.network)))
        parameters = sum(leaf.size for leaf in moving)
        m = rows * classes
        solving = rows * (2 * of_all + classes * there_and_back)
        solving += 2 * parameters * m * (m + 4)
    else:
        solving = rows * (of_all + (2 * steps + 3) * there_and_back)
    outer = len(problem.images) * (3 * of_all + 2 * of_inner)
    to_images = rows * (8 * of_all + 5 * of_inner)
    pool = int(problem.draws.pool_steps) * rows * (2 * of_all + of_inner)
    return float(solving + outer + to_images + pool)
