"""Whether a hypergradient is right, and if not, why."""

import dataclasses
import enum
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray, PyTree

from ._condition import AbstractCondition
from ._hypergradient import Hypergradient, hypergradient
from ._inner import InnerLoss, as_arrays
from ._result import Result
from ._tree import norm
from ._unrolled import unrolled_grad
from .inverse_hvp import CG, AbstractInverseHVP, Dense
from .solvers import AbstractSolver, GradientDescent, Steps
from .solvers._base import as_solver

MOST_DENSE = 1000
"""Parameters up to which the judge factorises the Hessian, and knows its eigenvalues."""


class Cause(enum.Enum):
    """Why a hypergradient is wrong, and what to do about it."""

    nonfinite = (
        "NaN or infinity appears: check the losses and their second derivatives at theta, and "
        "lower the learning rate of the inner solver."
    )
    not_stationary = (
        "The inner problem is not at a stationary point: allow the inner solver more steps or "
        "another learning rate, or start it nearer."
    )
    indefinite = (
        "The Hessian of the inner loss has non-positive eigenvalues, so theta is no strict "
        "minimum: regularise the inner loss, or solve it further."
    )
    damping = (
        "The damping of the inverse Hessian biases the adjoint: lower it, and allow more steps."
    )
    adjoint = (
        "The adjoint is not solved: allow the inverse Hessian more steps, tighten its `rtol`, "
        "or use CG or Dense."
    )
    noise = (
        "Finite differences are too noisy here to judge by: compute in float64, tighten the inner "
        "solver, or give another `step`."
    )
    unexplained = (
        "The parts of the hypergradient are sound, and yet the solved problem changes "
        "differently: look for a loss that is not smooth, for randomness without a key, and for "
        "psi reaching the outer loss by another way than its argument."
    )


@dataclasses.dataclass(frozen=True)
class HypergradientCheck:
    """What `check_hypergradient` found; `print` it.

    Attributes:
        passed: whether all comparisons agree to `rtol`.
        causes: the likely causes if they do not, the likeliest first.
        hypergradient: the one that was checked.
        derivatives: rows of (by the hypergradient, by finite differences, uncertainty of the
            latter), one a direction; the first direction is that of the hypergradient itself.
        error: the largest disagreement with finite differences, relative to the largest of them.
        unrolled_error: the relative distance to the gradient through the solver's steps; None
            where the solver is not `GradientDescent`.
        distance: how far theta is from the minimum, by one more Newton step, relative to theta.
        smallest_eigenvalue: of the (symmetric) Hessian at theta; None where theta has more than
            1,000 numbers.
        rtol: what the errors were compared with.
    """

    passed: bool
    causes: tuple[Cause, ...]
    hypergradient: Hypergradient
    derivatives: tuple[tuple[float, float, float], ...]
    error: float
    unrolled_error: float | None
    distance: float
    smallest_eigenvalue: float | None
    rtol: float

    def __str__(self) -> str:
        h = self.hypergradient
        verdict = "agrees with" if self.passed else "DISAGREES with"
        rows = [
            f"The hypergradient {verdict} finite differences of the re-solved problem.",
            f"{'direction':>12} {'hypergradient':>15} {'differences':>15} {'+-':>9}",
        ]
        for number, (found, expected, uncertain) in enumerate(self.derivatives):
            name = "along it" if number == 0 else f"random {number}"
            rows.append(f"{name:>12} {found:15.6e} {expected:15.6e} {uncertain:9.0e}")
        rows.append(f"relative error            {self.error:.1e}  (allowed: {self.rtol:.0e})")
        if self.unrolled_error is not None:
            rows.append(f"distance to unrolling     {self.unrolled_error:.1e}")
        rows.append(f"inner gradient norm       {float(h.inner.gradient_norm):.1e}")
        rows.append(f"distance to the minimum   {self.distance:.1e}  (relative to theta)")
        rows.append(f"adjoint residual          {float(h.adjoint.residual):.1e}")
        if self.smallest_eigenvalue is not None:
            rows.append(f"smallest eigenvalue       {self.smallest_eigenvalue:.1e}")
        rows.extend(f"Likely cause: {cause.value}" for cause in self.causes)
        return "\n".join(rows)


def check_hypergradient(
    outer: Callable,
    inner: Callable,
    *,
    solver: AbstractSolver | Callable,
    inverse_hvp: AbstractInverseHVP | None = None,
    has_aux: bool = False,
    directions: int = 3,
    step: float | None = None,
    rtol: float | None = None,
) -> Callable[..., HypergradientCheck]:
    """A function that checks a hypergradient against the problem solved again next to psi.

    Along each direction d it compares `<grad, d>` with the central difference of the outer loss,
    the inner problem solved anew on either side by the same solver, and where that is
    `GradientDescent` also with backpropagation through its steps. If they disagree, it mends one
    suspect after the other (theta, the damping, the adjoint) and names those that made the
    difference. For small problems in a notebook or a test, best in float64; not under `jit`.

    Args:
        outer: as in `hypergradient`, as are `inner`, `solver`, `inverse_hvp` and `has_aux`.
        directions: how many random directions, beside that of the hypergradient itself.
        step: the length of a finite difference, in units of psi; None: from the precision.
        rtol: the relative error to pass with; None: 1e-4 in float64, 5e-2 in lower precision.

    Returns:
        `fn(psi, theta0, *, outer_args=(), inner_args=(), key=None)`, which returns a
        `HypergradientCheck`. A `key` is used for both sides of a difference alike.

    Raises:
        ValueError: fewer than one direction; a call under `jit`.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from bilevel import check_hypergradient
        >>> from bilevel.solvers import GradientDescent
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum(theta**2)
        >>> descent = GradientDescent(optax.sgd(0.25), steps=2)  # too few
        >>> check = check_hypergradient(outer, inner, solver=descent)
        >>> check(jnp.array([1.0, 2.0]), jnp.zeros(2)).causes[0].name
        'not_stationary'
    """
    if directions < 1:
        raise ValueError(f"directions={directions} leaves nothing to compare: give 1 or more.")
    inner_solver = as_solver(solver)
    inverse = CG() if inverse_hvp is None else inverse_hvp
    settings = {"has_aux": has_aux, "throw": "ignore"}
    compute = hypergradient(outer, inner, solver=inner_solver, inverse_hvp=inverse, **settings)

    def check(
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple = (),
        inner_args: tuple = (),
        key: PRNGKeyArray | None = None,
    ) -> HypergradientCheck:
        psi, theta0 = as_arrays(psi, "psi"), as_arrays(theta0, "theta0")
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((psi, theta0))):
            raise ValueError("check_hypergradient compares numbers: call it outside of jax.jit.")
        args = {"outer_args": outer_args, "inner_args": inner_args, "key": key}
        found = compute(psi, theta0, **args)

        def value(psi):
            return float(compute(psi, theta0, **args).value)

        tolerance = _default_rtol(psi) if rtol is None else rtol
        rows = tuple(_derivatives(found.grad, psi, value, directions, step))
        error, uncertain = _disagreement(rows)
        unrolled_error = None
        if isinstance(inner_solver, GradientDescent):
            through = unrolled_grad(outer, inner, solver=inner_solver, has_aux=has_aux)
            other = through(psi, theta0, **args)
            unrolled_error = _distance(found.grad, other[0] if has_aux else other)

        start, static = eqx.partition(found.theta, eqx.is_inexact_array)
        condition = inner_solver.condition(InnerLoss(inner, static, psi, tuple(inner_args)))
        judge = _judge(start)
        settled, distance = _settle(condition, start, judge, key)

        def mended(theta, inverse):
            stay = hypergradient(
                outer, inner, solver=_Stay(inner_solver), inverse_hvp=inverse, **settings
            )
            return stay(psi, eqx.combine(theta, static), **args).grad

        smallest = _smallest_eigenvalue(condition, start, key)
        passed = bool(error <= tolerance)
        causes: tuple[Cause, ...] = ()
        if not passed:
            causes = tuple(
                _causes(found, mended, start, settled, inverse, judge, smallest, tolerance)
            )
            if uncertain > tolerance and not causes:
                causes = (Cause.noise,)
            causes = causes or (Cause.unexplained,)
        return HypergradientCheck(
            passed, causes, found, rows, error, unrolled_error, distance, smallest, tolerance
        )

    return check


class _Stay(AbstractSolver):
    """Takes theta0 for the solution of what `solver` solves."""

    solver: AbstractSolver

    def condition(self, loss):
        return self.solver.condition(loss)

    def solve(self, loss, theta0, key):
        return Steps(theta0, jnp.asarray(0), jnp.zeros((0,)), Result.successful)


def _derivatives(grad, psi, value, directions, step):
    flat, unravel = ravel_pytree(eqx.filter(psi, eqx.is_inexact_array))
    static = eqx.filter(psi, eqx.is_inexact_array, inverse=True)
    gradient = np.asarray(ravel_pytree(grad)[0])
    rng = np.random.default_rng(0)
    along = [gradient, *rng.normal(size=(directions, flat.size))]
    length = step or float(jnp.finfo(flat.dtype).eps) ** (1 / 3) * max(1.0, float(norm(flat)))

    def difference(direction, length):
        at = [
            value(
                eqx.combine(unravel(flat + jnp.asarray(s * length * direction, flat.dtype)), static)
            )
            for s in (1, -1)
        ]
        return (at[0] - at[1]) / (2 * length)

    for direction in along:
        size = np.linalg.norm(direction)
        if not np.isfinite(size) or size == 0:
            yield float(size), float("nan"), float("nan")
            continue
        unit = direction / size
        expected, longer = difference(unit, length), difference(unit, 2 * length)
        yield float(gradient @ unit), expected, abs(longer - expected)


def _disagreement(rows) -> tuple[float, float]:
    """The largest error and the largest uncertainty, relative to the largest difference."""
    table = np.asarray([row for row in rows if not np.isnan(row[1])])
    if not len(table):
        return float("inf"), float("inf")
    scale = max(np.max(np.abs(table[:, 1])), np.finfo(float).tiny)
    errors = np.max(np.abs(table[:, 0] - table[:, 1])) / scale
    return float(errors) if np.isfinite(errors) else float("inf"), float(
        np.max(table[:, 2]) / scale
    )


def _judge(theta) -> AbstractInverseHVP:
    size = optax.tree.size(theta)
    return Dense() if size <= MOST_DENSE else CG(max_steps=2000)


def _settle(condition: AbstractCondition, theta, judge, key, steps=8):
    """theta after Newton steps, and how far the first one was, relative to theta."""
    distance = 0.0
    for count in range(steps):
        _, residual, jacobian = condition.linearize(theta, key, rederive=False)
        move = judge(jacobian, residual, key=key)
        if not bool(move.result == Result.successful):
            break
        if count == 0:
            distance = float(norm(move.v) / max(float(norm(theta)), 1e-30))
        theta = optax.tree.sub(theta, move.v)
    return theta, distance


def _smallest_eigenvalue(condition, theta, key) -> float | None:
    flat, unravel = ravel_pytree(theta)
    if flat.size > MOST_DENSE or not condition.symmetric:
        return None
    *_, hvp = condition.linearize(theta, key, rederive=False)

    def column(v):
        return ravel_pytree(hvp(unravel(v)) if key is None else hvp(unravel(v), key))[0]

    hessian = np.asarray(jax.vmap(column)(jnp.eye(flat.size, dtype=flat.dtype)), np.float64)
    if not np.all(np.isfinite(hessian)):
        return float("nan")
    return float(np.linalg.eigvalsh((hessian + hessian.T) / 2)[0])


def _causes(found, mended, theta, settled, inverse, judge, smallest, tolerance):
    results = (found.inner.result, found.adjoint.result)
    finite = np.isfinite(float(norm((found.value, found.grad, found.theta))))
    if not finite or any(bool(result == Result.nonfinite) for result in results):
        yield Cause.nonfinite
        return
    # Each suspect is mended alone, with the others already above suspicion.
    exact = mended(theta, judge)
    moved = _distance(mended(settled, judge), exact)
    if moved > tolerance / 2 or bool(found.inner.result == Result.not_stationary):
        yield Cause.not_stationary
    if (smallest is not None and smallest <= 0) or bool(found.adjoint.result == Result.indefinite):
        yield Cause.indefinite
    if _distance(found.grad, exact) > tolerance / 2:
        biased = eqx.tree_at(lambda at: at.damping, judge, inverse.damping)
        if _distance(mended(theta, biased), exact) > tolerance / 2:
            yield Cause.damping
        if _distance(found.grad, mended(theta, biased)) > tolerance / 2:
            yield Cause.adjoint


def _distance(one, other) -> float:
    a, b = (np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (one, other))
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), np.finfo(float).tiny))


def _default_rtol(psi) -> float:
    coarsest = max(
        float(jnp.finfo(leaf.dtype).eps)
        for leaf in jax.tree.leaves(psi)
        if eqx.is_inexact_array(leaf)
    )
    return 1e-4 if coarsest < 1e-12 else 5e-2
