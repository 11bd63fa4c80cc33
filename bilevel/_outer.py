"""The outer loss as a function of flat psi, as accurate as is asked for, from where it last was."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ._bounds import clip, flat_bounds
from ._record import Hypergradient
from ._result import Result, failed
from ._stationarity import near_enough
from ._tree import cast, dtypes_of, wide_dtype, widen
from .inverse_hvp import CG
from .inverse_hvp._base import default_rtol
from .solvers import NewtonCG

LOOSEST = 0.05
"""The relative error of hypergradients far from the minimum."""


class Outer:
    """The outer value and its gradient as functions of flat psi; what helps is carried along."""

    def __init__(self, function, args, solver, inverse, psi0, theta0, bounds, tol):
        self.function, self.args = function, args
        self.solver, self.inverse = solver, inverse
        moving, self.static = eqx.partition(psi0, eqx.is_inexact_array)
        dtype = wide_dtype(moving)
        self.dtypes = dtypes_of(moving)
        flat, self.unravel = ravel_pytree(widen(moving))
        self.start = flat
        self.lower, self.upper = flat_bounds(bounds, moving, dtype)
        if self.bounded:
            self.start = clip(self.start, self.lower, self.upper)
        self.theta, self.v, self.evaluations = theta0, None, 0
        parameters = eqx.filter(theta0, eqx.is_inexact_array)
        self.theta_dtype = wide_dtype(parameters)
        self.exact = default_rtol(parameters), 0.1 * near_enough(parameters)
        self.tol = (1e-7 if jnp.finfo(dtype).eps < 1e-12 else 1e-5) if tol is None else tol
        self.loosest = self.accuracy = LOOSEST
        self.share, self.strict = 0.2, False

    @property
    def bounded(self) -> bool:
        return self.lower is not None

    def psi(self, flat):
        return eqx.combine(cast(self.unravel(flat), self.dtypes), self.static)

    def follow(self, shrunk: float) -> bool:
        """Ask for an accuracy in step with the gradient, which has shrunk to this part; whether
        that is much more than before.
        """
        before = self.accuracy
        self.accuracy = float(np.clip(self.loosest * shrunk**0.5, self.exact[0], LOOSEST))
        return self.inverse is None and self.accuracy < before / 4

    def sharpen(self) -> bool:
        """Ask for ten times the accuracy from now on, if there is more to be had."""
        before = self.accuracy
        self.loosest *= 0.1
        self.accuracy = max(0.1 * self.accuracy, self.exact[0])
        return self.inverse is None and self.accuracy < before

    def __call__(self, flat, base: float | None = None) -> Hypergradient:
        """The hypergradient at psi, whose value is to be compared with `base`."""
        while True:
            inner_rtol = max(self.share * self.accuracy, self.exact[1])
            h = self._compute(flat, self.accuracy, inner_rtol)
            value, change = float(h.value), abs(float(h.change))
            if not np.isfinite(value + change):
                return h
            self.theta, self.v = h.theta, h.adjoint.v
            apart = 0.1 * abs(value) if base is None else abs(value + float(h.change) - base)
            sharp = change <= 0.1 * max(apart, self.tol * abs(value))
            if sharp or self.solver is not None or inner_rtol == self.exact[1]:
                return h
            self.share *= 0.1  # from here on

    def exactly(self, flat, roughly: Hypergradient) -> Hypergradient:
        """To full precision, where that can be had."""
        h = self._compute(flat, *self.exact, verify=True)
        if bool(failed(h.inner.result)) or bool(failed(h.adjoint.result)):
            return roughly
        self.theta, self.v = h.theta, h.adjoint.v
        return h

    def _compute(self, flat, rtol, inner_rtol, verify=False):
        solver, inverse = self.solver, self.inverse
        # As arrays, which can change without compiling anew.
        if solver is None:
            solver = NewtonCG(rtol=jnp.asarray(inner_rtol, self.theta_dtype))
        if inverse is None:
            inverse = CG(rtol=jnp.asarray(rtol, self.theta_dtype), verify=jnp.asarray(verify))
        self.evaluations += 1
        return self.function(solver, inverse)(self.psi(flat), self.theta, v0=self.v, **self.args)

    def value(self, h: Hypergradient) -> float:
        """The outer loss where the inner problem would be solved, to first order."""
        value = float(h.value) + (float(h.change) if self.solver is None else 0.0)
        return float("inf") if self.strict and self.broken(h) else value

    def broken(self, h: Hypergradient) -> bool:
        """Whether a solve failed, and not only in that it stopped as early as it was told to."""
        rough = h.inner.result == Result.not_stationary
        return bool((failed(h.inner.result) & ~rough) | failed(h.adjoint.result))

    def gradient(self, h: Hypergradient) -> Array:
        return ravel_pytree(widen(h.grad))[0]

    def free(self, flat, gradient):
        """The coordinates that no bound holds back."""
        if not self.bounded:
            return jnp.ones(flat.shape, bool)
        held = ((flat <= self.lower) & (gradient > 0)) | ((flat >= self.upper) & (gradient < 0))
        return ~held

    def along(self, flat, step, share):
        moved = flat + share * step
        return clip(moved, self.lower, self.upper) if self.bounded else moved
