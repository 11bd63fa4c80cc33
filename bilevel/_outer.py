"""The outer loss as a function of flat psi, as accurate as is asked for, from where it last was."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ._bounds import flat_bounds
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
        self.lower, self.upper = flat_bounds(bounds, moving, dtype)
        self.start = jnp.clip(flat, self.lower, self.upper)
        self.theta, self.v, self.evaluations = theta0, None, 0
        parameters = eqx.filter(theta0, eqx.is_inexact_array)
        self.theta_dtype = wide_dtype(parameters)
        self.exact = default_rtol(parameters), 0.1 * near_enough(parameters)
        self.tol = (1e-7 if jnp.finfo(dtype).eps < 1e-12 else 1e-5) if tol is None else tol
        self.loosest = self.accuracy = LOOSEST
        self.share, self.strict = 0.2, False

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

    def __call__(self, flat, base: float | None = None) -> "Look":
        """What is at psi, the value as accurate as a comparison with `base` asks for."""
        while True:
            inner_rtol = max(self.share * self.accuracy, self.exact[1])
            look = self._compute(flat, self.accuracy, inner_rtol)
            if not np.isfinite(look.value):
                return look
            self.theta, self.v = look.h.theta, look.h.adjoint.v
            apart = 0.1 * abs(look.value) if base is None else abs(look.value - base)
            sharp = abs(look.change) <= 0.1 * max(apart, self.tol * abs(look.value))
            if sharp or self.solver is not None or inner_rtol == self.exact[1]:
                return look
            self.share *= 0.1  # from here on

    def exactly(self, flat, roughly: "Look") -> "Look":
        """To full precision, where that can be had."""
        look = self._compute(flat, *self.exact, verify=True)
        if look.broken or bool(failed(look.h.inner.result)):
            return roughly
        self.theta, self.v = look.h.theta, look.h.adjoint.v
        return look

    def _compute(self, flat, rtol, inner_rtol, verify=False):
        solver, inverse = self.solver, self.inverse
        # As arrays, which can change without compiling anew.
        if solver is None:
            solver = NewtonCG(rtol=jnp.asarray(inner_rtol, self.theta_dtype))
        if inverse is None:
            inverse = CG(rtol=jnp.asarray(rtol, self.theta_dtype), verify=jnp.asarray(verify))
        self.evaluations += 1
        h = self.function(solver, inverse)(self.psi(flat), self.theta, v0=self.v, **self.args)
        numbers, gradient, free = _read(h, flat, self.lower, self.upper)
        value, change, norm, broken = map(float, np.asarray(numbers))
        value += change if self.solver is None else 0.0
        value = float("inf") if self.strict and broken else value
        return Look(h, value, change, norm, bool(broken), gradient, free)

    def along(self, flat, step, share):
        return jnp.clip(flat + share * step, self.lower, self.upper)


@dataclasses.dataclass(frozen=True)
class Look:
    """A hypergradient, and what a descent asks of it.

    Attributes:
        value: the outer loss where the inner problem would be solved, to first order; infinite
            where a solve failed, as it did not at the start.
        change: `h.change`, which `value` includes where the inner solver is the default.
        norm: that of the gradient among the free coordinates.
        broken: whether a solve failed, and not only in that it stopped as early as it was told to.
        gradient: flat.
        free: the coordinates that no bound holds back.
    """

    h: Hypergradient
    value: float
    change: float
    norm: float
    broken: bool
    gradient: Array
    free: Array


@eqx.filter_jit
def _read(h: Hypergradient, flat, lower, upper):
    gradient = ravel_pytree(widen(h.grad))[0]
    free = jnp.ones(flat.shape, bool)
    if lower is not None:
        free = ~(((flat <= lower) & (gradient > 0)) | ((flat >= upper) & (gradient < 0)))
    norm = jnp.linalg.norm(jnp.where(free, gradient, 0))
    rough = h.inner.result == Result.not_stationary
    broken = (failed(h.inner.result) & ~rough) | failed(h.adjoint.result)
    numbers = [leaf.astype(flat.dtype) for leaf in (h.value, h.change, norm, broken)]
    return jnp.stack(numbers), gradient, free
