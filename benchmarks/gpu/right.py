"""Is it right on the card: gradients in each precision against float64 on the same card."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import _peers_problems as problems
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _peers_reference import MAX_STEPS
from meta_step import Problem, library, problem_of, reference, transcribed, tuned

from bilevel import Result, hypergradient
from bilevel.inverse_hvp import CG
from bilevel_distillation import Distillation, RunConfig
from bilevel_distillation.data import ImageData, Preprocessor
from bilevel_distillation.engine import (
    Batch,
    Recipe,
    compiled_meta_step,
    coreset_gradient,
    meta_step,
)

from ._card import distances
from ._problems import small, solved
from ._task import Task
from .prepare import prepared

FILE = "gpu_right"

TOLERANCES = (
    ("float32", 1e-6),
    ("tensorfloat32", 1e-3),
    ("float32", 1e-3),
    ("tensorfloat32", 1e-6),
    ("bfloat16", 1e-3),
)
"""Precision and relative residual that conjugate gradients are asked for."""

POOL_STEPS = 8
EXACTLY = 1e-5
"""Tolerance of conjugate gradients where it is rounding that shall show."""


def toolkit(task: Task) -> None:
    """Hypergradients of the toolkit by conjugate gradients, and what they say of themselves."""
    columns = ["problem", "precision", "rtol", "error", "residual said", "residual in float64",
               "steps", "result"]  # fmt: skip
    rows: list[list[Any]] = []
    for make in small(task.sizes):
        task.begin("a problem and its solution in float64", needs=5)
        with jax.default_matmul_precision("float32"):
            problem = make()
            try:
                problem, exact = solved(problem)
            except RuntimeError as error:  # of a network that is at no minimum
                rows.append([problem.name, "float64", 0.0, 1.0, 1.0, 1.0, 0, str(error)])
                continue
        compute, residual = _gradient(problem), _true_residual(problem)
        for precision, rtol in TOLERANCES:
            task.begin(f"{problem.name}, {precision}, rtol {rtol:g}", needs=2)
            with jax.default_matmul_precision(precision):
                found = compute(rtol, *problems.arrays(problem, np.float32))
            rows.append([
                problem.name, precision, rtol, distances(found.grad, _in_float64(exact)),
                float(found.adjoint.residual), residual(found.adjoint.v),
                int(found.adjoint.steps), ended(found.adjoint.result),
            ])  # fmt: skip
            task.write(FILE, "toolkit", {"columns": columns, "rows": rows})


def _gradient(problem: problems.Problem) -> Callable:
    inner, outer = problems.jax_losses(problem)

    @eqx.filter_jit
    def compute(rtol, theta, psi, train, validation):
        made = hypergradient(
            outer, inner, solver=lambda _, start: start, throw="ignore",
            inverse_hvp=CG(rtol=rtol, max_steps=MAX_STEPS),
        )  # fmt: skip
        return made(psi, theta, inner_args=train, outer_args=validation)

    return compute


def _true_residual(problem: problems.Problem) -> Callable[[Any], float]:
    """|H v - g| / |g| in float64."""
    inner, outer = problems.jax_losses(problem)

    @jax.jit
    def compute(v, theta, psi, train, validation):
        g = jax.grad(outer)(theta, psi, *validation)
        _, hv = jax.jvp(lambda t: jax.grad(inner)(t, psi, *train), (theta,), (v,))
        return hv, g

    def residual(v) -> float:
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), v)
            return distances(*compute(wide, *problems.arrays(problem, np.float64)))

    return residual


def ended(result: Any) -> str:
    """What a solve says of itself."""
    return "as asked for" if bool(result == Result.successful) else Result[result].split(":")[0]


def meta_gradient(task: Task) -> None:
    """RCIG's meta-gradient: precisions, tolerances, one program or many, and a transcription."""
    data, preprocessor = prepared(task, "cifar10")
    cases: dict[str, Any] = {}
    made: list[tuple[str, Problem, Any]] = []
    for ipc in task.sizes.gradient_ipc:
        name = str(10 * ipc)
        task.begin(f"{name} images, float64", needs=15)
        problem = _problem(task, ipc, data, preprocessor)
        exact, reference_by = _reference(problem)
        made.append((name, problem, exact))
        cases[name] = {
            "settings": {"width": task.sizes.width, "batch": problem.recipe.batch_size},
            "reference": reference_by,
            "columns": ["way", "precision", "error", "of images", "steps", "result"],
            "rows": [],
        }
        _add(task, cases, _first_ways(problem), name, exact)
    name, problem, _ = made[0]
    task.begin(f"{name} images, a meta-iteration as one program and in parts", needs=15)
    cases[name]["one program and parts"] = _one_program_and_parts(problem)
    task.write(FILE, "meta_gradient", cases)
    for name, problem, exact in made:
        _add(task, cases, _other_ways(problem), name, exact)


def _reference(problem: Problem) -> tuple[Any, str]:
    """In float64; where the card's libraries cannot, as exact as float32 gets."""
    try:
        return reference(problem), "float64"
    except Exception as error:
        with jax.default_matmul_precision("float32"):
            fine = library(problem, _finer(problem)).gradient()
        return fine, f"float32, as float64 failed: {type(error).__name__}: {str(error)[:200]}"


def _finer(problem: Problem) -> Recipe:
    solver: Any = problem.recipe.method.solver
    solver = replace(solver, linear_solver="cg", rtol=EXACTLY, max_steps=400)
    return problem.recipe.solved_by(solver)


def _problem(task: Task, ipc: int, data: ImageData, preprocessor: Preprocessor) -> Problem:
    config = RunConfig(
        dataset="cifar10", ipc=ipc, width=task.sizes.width, flip=False, pool_size=1,
        batch_size=task.sizes.gradient_batch,
    )  # fmt: skip
    with jax.default_matmul_precision("float32"):
        return problem_of(Distillation(config, data, preprocessor), task.sizes.trained, POOL_STEPS)


def _add(task: Task, cases: dict[str, Any], ways, name: str, exact: Any) -> None:
    """The errors of more ways."""
    for way, precision, call in ways:
        task.begin(f"{name} images, {way}, {precision}", needs=6)
        with jax.default_matmul_precision(precision):
            found = call()
        cases[name]["rows"].append([way, precision, *_judged(found, exact)])
        task.write(FILE, "meta_gradient", cases)


def _first_ways(problem: Problem):
    """Name, precision and call of each."""
    default = library(problem, problem.recipe).gradient
    yield "exact", "float32", default
    yield "exact", "tensorfloat32", default
    yield "transcription", "float32", lambda: _by_transcription(problem)


def _other_ways(problem: Problem):
    fine = library(problem, _finer(problem)).gradient
    yield f"exact, to {EXACTLY:g}", "float32", fine
    yield f"exact, to {EXACTLY:g}", "tensorfloat32", fine
    yield "transcription", "tensorfloat32", lambda: _by_transcription(problem)
    yield "exact, one program", "float32", partial(_whole_gradient, problem)
    yield "exact", "bfloat16", library(problem, problem.recipe).gradient


_compiled_gradient = eqx.filter_jit(coreset_gradient)


def _whole_gradient(problem: Problem):
    recipe, _, state, draws, network, images, targets = problem
    batch = Batch(images, targets, network, state.rates, draws.key)
    return _compiled_gradient(recipe, state.coreset, batch)


def _by_transcription(problem: Problem):
    """With the rates that its own tuning finds in float32."""
    with jax.default_matmul_precision("float32"):
        settings, plain = tuned(problem)
    return transcribed(problem, settings, plain).gradient()


def _judged(found: Any, exact: Any) -> list[Any]:
    solved = hasattr(found, "grad")
    grad = found.grad if solved else jax.tree.map(jnp.add, *found[1:])
    steps = f"{int(found.inner.steps)} + {int(found.adjoint.steps)}" if solved else "20 + 20"
    result = ended(found.adjoint.result) if solved else ""
    right = _in_float64(exact)
    errors = distances(grad, right), distances(grad.images, right.images)
    return [*errors, steps, result]


def _in_float64(exact: Any) -> Any:
    """The gradient, whose two parts are added when it is asked for."""
    with jax.enable_x64(True):
        return exact.grad


def _one_program_and_parts(problem: Problem) -> dict[str, float]:
    """How far apart the two ways to run a meta-iteration end, in float32."""

    def after(step):
        state = jax.tree.map(lambda x: jnp.copy(x) if eqx.is_array(x) else x, problem.state)
        with jax.default_matmul_precision("float32"):
            return step((problem.recipe, problem.training), state, problem.draws)

    (parts, in_parts), (whole, as_one) = after(meta_step), after(compiled_meta_step)
    before = problem.state.coreset.images
    moved = (whole.coreset.images - before, parts.coreset.images - before)
    return {
        "losses apart": float(abs(as_one.loss - in_parts.loss) / abs(in_parts.loss)),
        "steps of the images apart": distances(*moved),
        "networks apart": distances(whole.pool.networks, parts.pool.networks),
    }
