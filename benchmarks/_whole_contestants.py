"""Ways of solving a whole bilevel problem, each a list of (seconds, psi, theta)."""

import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _whole_problems import Whole
from jax.flatten_util import ravel_pytree

from bilevel import OuterStep, minimize

Track = list[tuple[float, Any, Any]]
SUITE_RATES = {
    "SOBA": {"step_size": 1.0, "outer_ratio": 1e-4},
    "SABA": {"step_size": 0.1, "outer_ratio": 1e-3, "mode_init_memory": "zero"},
    "SRBA": {"step_size": 1e-3, "outer_ratio": 1e-5, "period_frac": 512.0},
    "AmIGO": {"step_size": 1e-3, "outer_ratio": 1e-5, "n_inner_steps": 10},
}
"""Those of the suite's `datacleaning0_5_best_params.yml`."""
QUADRATIC_RATES = {
    "SOBA": {"step_size": 0.1, "outer_ratio": 1.0},
    "SABA": {"step_size": 0.1, "outer_ratio": 1.0, "mode_init_memory": "zero"},
    "SRBA": {"step_size": 0.1, "outer_ratio": 1.0, "period_frac": 0.5},
    "AmIGO": {"step_size": 0.1, "outer_ratio": 1.0, "n_inner_steps": 10},
}
"""The suite publishes none for its simulated problem: the defaults of its solvers."""


def ours(problem: Whole, seconds: float) -> Track:
    """`minimize` with its defaults."""
    track: Track = []
    start = time.perf_counter()

    def note(step: OuterStep) -> bool:
        track.append((time.perf_counter() - start, step.psi, step.theta))
        return track[-1][0] > seconds

    minimize(
        problem.outer,
        problem.inner,
        problem.psi0,
        problem.theta0,
        inner_args=problem.inner_args,
        outer_args=problem.outer_args,
        callback=note,
        throw="ignore",
    )
    return track


def _by_scipy(value_and_grad: Callable, problem: Whole, seconds: float) -> Track:
    """SciPy's L-BFGS-B around a hypergradient that keeps its theta from call to call."""
    from scipy.optimize import minimize as scipy_minimize

    start, track = time.perf_counter(), []
    x0, unravel = ravel_pytree(problem.psi0)
    theta = [problem.theta0]

    def evaluate(x):
        args = (unravel(jnp.asarray(x)), theta[0], problem.inner_args, problem.outer_args)
        (value, theta[0]), grad = value_and_grad(*args)
        return float(value), np.asarray(ravel_pytree(grad)[0], np.float64)

    def note(x):
        track.append((time.perf_counter() - start, unravel(jnp.asarray(x)), theta[0]))
        if track[-1][0] > seconds:
            raise StopIteration

    options = {"maxiter": 500, "maxcor": 20}
    try:
        scipy_minimize(
            evaluate, np.asarray(x0), jac=True, method="L-BFGS-B", callback=note, options=options
        )
    except Exception:  # of another library: what it met until then counts
        if not track:
            raise
    return track


def jaxopt_lbfgs(problem: Whole) -> Callable[[Whole, float], Track]:
    """jaxopt's L-BFGS with implicit differentiation, warm-started."""
    import jaxopt

    solver = jaxopt.LBFGS(fun=problem.inner, maxiter=100, tol=1e-6, implicit_diff=True)

    def value(psi, theta, inner_args, outer_args):
        found = solver.run(theta, psi, *inner_args).params
        return problem.outer(found, psi, *outer_args), found

    graded = jax.jit(jax.value_and_grad(value, has_aux=True))
    return lambda problem, seconds: _by_scipy(graded, problem, seconds)


def optimistix_bfgs(problem: Whole) -> Callable[[Whole, float], Track]:
    """optimistix's L-BFGS with its implicit adjoint by conjugate gradients, warm-started."""
    import lineax
    import optimistix

    solver = optimistix.LBFGS(rtol=1e-6, atol=1e-6)
    # Its Hessian is indefinite on the way, where one hypergradient takes more than ten minutes.
    most = 1000 if problem.name == "network cleaning" else None
    linear = lineax.CG(rtol=1e-6, atol=1e-6, max_steps=most)
    adjoint = optimistix.ImplicitAdjoint(linear_solver=linear)

    def value(psi, theta, inner_args, outer_args):
        found = optimistix.minimise(
            lambda t, args: problem.inner(t, args[0], *args[1]),
            solver, theta, (psi, inner_args), adjoint=adjoint, max_steps=200, throw=False,
            tags=frozenset({lineax.positive_semidefinite_tag}),
        ).value  # fmt: skip
        return problem.outer(found, psi, *outer_args), found

    graded = jax.jit(jax.value_and_grad(value, has_aux=True))
    return lambda problem, seconds: _by_scipy(graded, problem, seconds)


def suite_solver(folder: Path, name: str, rates: dict[str, Any], seed: int = 1):
    """A solver of benchopt/benchmark_bilevel, by its own code in a clone."""
    _stand_in_for_benchopt()
    sys.path.insert(0, str(folder))
    module = __import__(f"solvers.{name.lower()}", fromlist=["Solver"])
    settings = {"batch_size": 64, "eval_freq": 512, "random_state": seed, "framework": "none"}

    def run(problem: Whole, seconds: float = float("inf"), epochs: float = float("inf")) -> Track:
        batches = problem.batches or {}
        solver = module.Solver()
        defaults = {key: values[0] for key, values in module.Solver.parameters.items()}
        for key, value in (defaults | settings | rates).items():
            setattr(solver, key, value)
        flat_inner = jax.jit(batches["inner"], static_argnames="batch_size")
        flat_outer = jax.jit(batches["outer"], static_argnames="batch_size")
        solver.set_objective(
            flat_inner, flat_outer, *batches["samples"], problem.theta0, problem.psi0
        )
        compiled = [0]

        def some() -> bool:
            compiled[0] += 1
            return compiled[0] <= 2

        solver.run(some)  # compiles
        track: Track = []
        start = time.perf_counter()

        def note() -> bool:
            jax.block_until_ready(solver.outer_var)
            now = time.perf_counter() - start
            track.append((now, solver.outer_var, solver.inner_var))
            return track[-1][0] < seconds and len(track) <= epochs

        solver.run(note)
        return track

    return run


def _stand_in_for_benchopt() -> None:
    """What the suite's files import of benchopt, which would run them itself."""
    if "benchopt" in sys.modules:
        return

    class BaseSolver:
        parameters: dict[str, Any] = {}

        def run_once(self, count):
            """Their warm-up, which is made here."""

    class Quiet:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

    package = types.ModuleType("benchopt")
    stopping = types.ModuleType("benchopt.stopping_criterion")
    package.BaseSolver, package.safe_import_context = BaseSolver, Quiet  # type: ignore
    stopping.SufficientProgressCriterion = lambda **settings: None  # type: ignore
    sys.modules |= {"benchopt": package, "benchopt.stopping_criterion": stopping}


def contestants(problem: Whole, suite: Path | None) -> Iterator[tuple[str, Callable]]:
    """Name and `run(problem, seconds)` of all that can solve the problem."""
    yield "minimize", ours
    yield "jaxopt, L-BFGS outside", jaxopt_lbfgs(problem)
    yield "optimistix, L-BFGS outside", optimistix_bfgs(problem)
    if suite is None or problem.batches is None:
        return
    rates = SUITE_RATES if problem.name == "MNIST cleaning" else QUADRATIC_RATES
    for name, chosen in rates.items():
        yield name, suite_solver(suite, name, chosen)
