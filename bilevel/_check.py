"""Whether a hypergradient is right, and if not, why."""

import dataclasses
import enum
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray, Scalar

from ._central_differences import derivatives, disagreement
from ._hypergradient import hypergradient
from ._implicit import as_it_is
from ._inner import InnerLoss, as_arrays
from ._point import primal
from ._record import Hypergradient
from ._result import Result
from ._settle import judge_for, settle, smallest_eigenvalue
from ._tree import coarsest, dtypes_of, norm
from ._types import PyTree
from ._unrolled import unrolled_grad
from .functions import CheckFn, _described
from .inverse_hvp import AbstractInverseHVP
from .inverse_hvp._base import as_inverse
from .problems._base import begin, inverse_for, rejoin
from .problems._condition import AbstractCondition
from .solvers import AbstractSolver, GradientDescent, Steps
from .solvers._base import as_solver, find


class Cause(enum.Enum):
    """Why a hypergradient is wrong, and what to do about it."""

    nonfinite = (
        "NaN or infinity appears: check the losses and their second derivatives at theta, and "
        "lower the learning rate of the inner solver."
    )
    not_stationary = (
        "The inner problem is not at a stationary point, or not at its root: allow the inner "
        "solver more steps or another learning rate, or start it nearer."
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
        passed: whether theta is at the solution and all comparisons agree to `rtol`.
        judged: whether the differences are precise enough to tell; if not, `passed` is False.
        causes: the likely causes if it did not pass, the likeliest first.
        hypergradient: the one that was checked.
        derivatives: rows of (by the hypergradient, by finite differences, uncertainty of the
            latter), one a direction; the first direction is that of the hypergradient itself.
        error: the largest disagreement with finite differences, relative to the largest of them.
        unrolled_error: the relative distance to the gradient through the solver's steps; None
            where the solver is not `GradientDescent`.
        distance: how far theta is from the solution, by one more Newton step, relative to theta.
        smallest_eigenvalue: of the (symmetric) Hessian at theta; None where theta has more than
            1,000 numbers.
        rtol: what the errors were compared with.
    """

    passed: bool
    judged: bool
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
        verdict = "DISAGREES with" if self.judged else "cannot be judged by"
        verdict = "agrees with" if self.error <= self.rtol else verdict
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
        rows.append(f"{f'inner {h.inner.measure} norm':<26}{float(h.inner.gradient_norm):.1e}")
        rows.append(f"distance to the solution  {self.distance:.1e}  (relative to theta)")
        rows.append(f"adjoint residual          {float(h.adjoint.residual):.1e}")
        if self.smallest_eigenvalue is not None:
            rows.append(f"smallest eigenvalue       {self.smallest_eigenvalue:.1e}")
        rows.extend(f"Likely cause: {cause.value}" for cause in self.causes)
        return "\n".join(rows)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def check_hypergradient(
    outer: Callable[..., Any],
    inner: Callable[..., Any],
    *,
    solver: AbstractSolver | Callable[..., Any],
    inverse_hvp: AbstractInverseHVP | None = None,
    has_aux: bool = False,
    inner_has_aux: bool = False,
    directions: int = 3,
    step: float | None = None,
    rtol: float | None = None,
) -> CheckFn:
    """A function that checks a hypergradient against the problem solved again next to psi.

    Along each direction d it compares `<grad, d>` with the central difference of the outer loss,
    the inner problem solved anew on either side: by Newton steps on the inner gradient, which
    cannot be stuck where the solver is, or by the solver where those lead nowhere. Where that is
    `GradientDescent` it also compares with backpropagation through its steps. A theta that is not
    at the solution does not pass. Then it mends one suspect after the other (theta, the damping,
    the adjoint) and names those that made the difference. For small problems in a notebook or a
    test, best in float64; not under `jit`.

    Args:
        outer: `outer(theta, psi, *outer_args)`, a scalar (and anything, with `has_aux`).
        inner: `inner(theta, psi, *inner_args)`, a scalar, or one of `bilevel.problems`.
        solver: how theta* is found: one of `bilevel.solvers`, or any `(loss, theta0) -> theta`.
        inverse_hvp: how H^-1 g is applied: one of `bilevel.inverse_hvp`. None: `CG()`, `Dense()`
            for a `Constrained` problem, and what suits the size of a `Root` or a `FixedPoint`
            (see `root`).
        has_aux: whether `outer` returns `(scalar, aux)`.
        inner_has_aux: whether `inner` returns `(scalar, aux)`.
        directions: how many random directions, beside that of the hypergradient itself; no more
            than psi has.
        step: the length of a finite difference, in units of psi; None: from the precision, and
            shorter where that is too long for what is small of psi.
        rtol: the relative error to pass with; None: 1e-4 in float64, 5e-2 in lower precision.

    Returns:
        A function `check_at(psi, theta0, *, outer_args=(), inner_args=(), key=None)`, which returns
        a `HypergradientCheck`. A `key` is used for both sides of a difference alike.

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
    if step is not None and not step > 0:
        raise ValueError(f"step={step} is no length: give one in units of psi, or None.")
    inner_solver, inverse = as_solver(solver, inner), as_inverse(inverse_for(inner, inverse_hvp))
    settings = {"has_aux": has_aux, "inner_has_aux": inner_has_aux, "throw": "ignore"}
    compute = hypergradient(outer, inner, solver=inner_solver, inverse_hvp=inverse, **settings)

    @_described(CheckFn, "check_at")
    def check(
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
    ) -> HypergradientCheck:
        psi, theta0 = as_arrays(psi, "psi"), as_arrays(theta0, "theta0")
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((psi, theta0))):
            raise ValueError("check_hypergradient compares numbers: call it outside of jax.jit.")
        args = {"outer_args": outer_args, "inner_args": inner_args, "key": key}
        found = compute(psi, theta0, **args)
        start, static = eqx.partition(theta0, eqx.is_inexact_array)
        loss = InnerLoss(inner, static, psi, tuple(inner_args), {}, inner_has_aux)
        loss, start = begin(loss, start)
        loss = as_it_is(loss, inner_solver, start, key)
        theta = rejoin(loss, eqx.filter(found.theta, eqx.is_inexact_array), found.inner.multipliers)

        def condition(psi):
            return inner_solver.condition(eqx.tree_at(lambda at: at.psi, loss, psi))

        settled, distance, solved = settle(condition(psi), theta, start, key)

        def outer_value(theta, psi):
            out = outer(eqx.combine(primal(theta), static), psi, *outer_args)
            return float(out[0] if has_aux else out)

        def value(psi):
            if key is not None:
                return float(compute(psi, theta0, **args).value)
            theta, _, reached = settle(condition(psi), settled, start, None)
            if not (solved and reached):
                again = find(inner_solver, condition(psi).loss, start, None).theta
                theta, *_ = settle(condition(psi), again, start, None)
            return outer_value(theta, psi)

        tolerance = _default_rtol(psi) if rtol is None else rtol
        rows = tuple(derivatives(found.grad, psi, value, directions, step))
        error, uncertain = disagreement(rows)
        unrolled_error = None
        if isinstance(inner_solver, GradientDescent) and not inner_has_aux:
            through = unrolled_grad(
                outer, inner, solver=inner_solver, has_aux=has_aux, throw="ignore"
            )
            other = through(psi, theta0, **args)
            unrolled_error = _distance(found.grad, other[0] if has_aux else other)

        def mended(theta, inverse):
            stay = _Stay(inner_solver, theta)
            compute = hypergradient(outer, inner, solver=stay, inverse_hvp=inverse, **settings)
            return compute(psi, theta0, **args).grad

        smallest = smallest_eigenvalue(condition(psi), theta, key)
        agrees, away = error <= tolerance, solved and not distance <= tolerance
        judged = bool(agrees or not error <= 4 * uncertain)
        causes: tuple[Cause, ...] = ()
        if away or not agrees:
            suspects = (mended, theta, settled, inverse, away, smallest, tolerance)
            causes = tuple(_causes(found, *suspects))
            causes = causes or ((Cause.unexplained,) if judged else (Cause.noise,))
        passed = bool(agrees and not away)
        return HypergradientCheck(
            passed,
            judged,
            causes,
            found,
            rows,
            error,
            unrolled_error,
            distance,
            smallest,
            tolerance,
        )

    return check


class _Stay(AbstractSolver):
    """Takes `theta` for the solution of what `solver` solves."""

    solver: AbstractSolver
    theta: PyTree

    def condition(self, loss: Any) -> AbstractCondition:
        return self.solver.condition(loss)

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        return Steps(self.theta, jnp.asarray(0), jnp.zeros((0,)), Result.not_judged)


def _causes(found, mended, theta, settled, inverse, away, smallest, tolerance) -> Iterator[Cause]:
    results = (found.inner.result, found.adjoint.result)
    arrays = eqx.filter((found.value, found.grad, found.theta), eqx.is_inexact_array)
    if not np.isfinite(float(norm(arrays))) or any(
        bool(result == Result.nonfinite) for result in results
    ):
        yield Cause.nonfinite
        return
    # Each suspect is mended alone, with the others already above suspicion.
    judge = judge_for(theta)
    exact = mended(theta, judge)
    moved = _distance(mended(settled, judge), exact)
    if away or moved > tolerance / 2 or bool(found.inner.result == Result.not_stationary):
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
    return 1e-4 if coarsest(dtypes_of(eqx.filter(psi, eqx.is_inexact_array))) < 1e-12 else 5e-2
