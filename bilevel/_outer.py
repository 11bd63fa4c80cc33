"""The outer loss as a function of flat psi, as accurate as is asked for, from where it last was."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ._bounds import flat_bounds
from ._hypergradient import hypergradient
from ._inner import InnerLoss, strongly_typed
from ._loops import loops_slowly
from ._operator import Wide
from ._record import Hypergradient
from ._result import Result, failed
from ._stationarity import near_enough, step_to_stop_at
from ._tree import cast, coarsest, dtypes_of, is_wide, wide_dtype, widen
from ._tree import norm as tree_norm
from ._units import Units
from .inverse_hvp import CG, Equilibration
from .inverse_hvp._base import default_rtol
from .inverse_hvp._equilibration import Scaling
from .problems._base import AbstractProblem, no_adjoint
from .problems._stationary import Stationary
from .solvers import NewtonCG

LOOSEST = 0.05
"""The relative error of hypergradients far from the minimum."""


class Losses(eqx.Module):
    """Both losses, and what they return beside their values."""

    outer: Callable[..., Any]
    inner: Callable[..., Any]
    has_aux: bool = eqx.field(static=True)
    inner_has_aux: bool = eqx.field(static=True)


class Outer:
    """The outer value and its gradient as functions of flat psi; what helps is carried along:
    theta, v, and the units in which the default conjugate gradients search, where these are slow.
    """

    def __init__(self, losses: Losses, args, solver, inverse, psi0, theta0, bounds, tol):
        self.losses, self.args = losses, strongly_typed(args)
        self.solver, self.inverse = solver, inverse
        moving, _ = eqx.partition(psi0, eqx.is_inexact_array)
        dtype = wide_dtype(moving)
        self.psi0, flat = psi0, ravel_pytree(widen(moving))[0]
        self.lower, self.upper = flat_bounds(bounds, moving, dtype)
        self.start = jnp.clip(flat, self.lower, self.upper)
        self.theta, self.evaluations = theta0, 0
        parameters = eqx.filter(theta0, eqx.is_inexact_array)
        loss = InnerLoss(losses.inner, theta0, psi0, args["inner_args"])
        self.v = no_adjoint(loss, parameters)
        self.home = self.theta, self.v
        self.ones = Scaling(jax.tree.map(jnp.ones_like, widen(parameters)))
        minimum = not isinstance(losses.inner, AbstractProblem)
        self.units = Units() if minimum and (solver is None or inverse is None) else None
        self.whole = solver is None and self._is_one_program()
        self.theta_dtype = wide_dtype(parameters)
        self.exact = default_rtol(parameters), 0.1 * near_enough(parameters)
        self.finest = step_to_stop_at(parameters)
        self.tol = (1e-7 if jnp.finfo(dtype).eps < 1e-12 else 1e-5) if tol is None else tol
        self.loosest = self.accuracy = LOOSEST
        self.share, self.strict = 0.2, False
        self.still = jnp.zeros_like(flat)
        self.scale = 0.0

    def _is_one_program(self) -> bool:
        """Whether nothing is faster where it is dispatched step by step."""
        if self.inverse is not None and not self.inverse.traceable:
            return False
        args = self.args["inner_args"]
        return not loops_slowly(self.losses.inner, self.theta, self.psi0, *args)

    def psi(self, flat):
        return _unflattened(flat, self.psi0)

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

    def little(self, look: "Look") -> float:
        """What no longer counts, of the value or, where that goes to zero, of what it is made."""
        return max(self.tol * abs(look.value), min(look.rounding, self.tol * self.scale))

    def __call__(self, flat, base: float | None = None, step=None, share: float = 0.0) -> "Look":
        """What is at psi, `share` of a step from `flat`, the value as accurate as a comparison
        with `base` asks for.
        """
        step = self.still if step is None else step
        closer = 1.0
        while True:
            inner_rtol = max(closer * self.share * self.accuracy, self.exact[1])
            look = self._compute((flat, step, share), self.accuracy, inner_rtol)
            apart = 0.1 * abs(look.value) if base is None else abs(look.value - base)
            # Where theta is many of its lengths away, the first order says too little.
            change = abs(look.change) * max(1.0, look.distance)
            sharp = change <= 0.1 * max(apart, self.little(look))
            best = self.solver is not None or inner_rtol == self.exact[1]
            unsure = self.solver is None and best and look.vague and not sharp
            known = max(abs(look.value), self.tol * self.scale)
            lost = self.solver is not None and look.vague and change > max(abs(base or 0.0), known)
            if base is not None and (lost or look.rounding > max(abs(base), 0.1 * known)):
                return dataclasses.replace(look, value=float("inf"))  # error, and no more
            if look.broken and not best and np.isfinite(look.distance):
                # At a saddle, perhaps, where a closer look sees the way down.
                self.theta, closer = look.h.theta, 0.1 * closer
                continue
            if (look.broken or unsure) and self.units is not None and self.units.insist():
                continue
            if (look.broken or unsure) and self.theta is not self.home[0]:
                self.theta, self.v = self.home  # what was found on the way may be far off
                continue
            if unsure and self.exact[1] > self.finest:
                self.exact = self.exact[0], max(0.1 * self.exact[1], self.finest)
                self.share *= 0.1
                continue
            if unsure and self.strict:
                return dataclasses.replace(look, value=float("inf"))
            if not np.isfinite(look.value):
                return look
            self.start_from(look)
            if sharp or best:
                return look
            self.share *= 0.1  # from here on

    def settle(self, look: "Look") -> None:
        """To start from again where another place leads nowhere."""
        if self.scale == 0:
            # What is small beside it may be what rounding leaves of a value near zero.
            self.scale = _size_at(self.losses, self.args, self.home[0], self.psi(self.start))
        self.scale = max(self.scale, abs(look.value))
        self.home = look.h.theta, look.h.adjoint.v
        self.start_from(look)

    def start_from(self, look: "Look") -> None:
        """Solve from what was found there."""
        self.theta, self.v = look.h.theta, look.h.adjoint.v

    def exactly(self, flat, roughly: "Look") -> "Look":
        """To full precision, and where the gradient is so small that a little of theta is all of
        it, beyond; as far as that can be had.
        """
        best, (rtol, inner_rtol) = roughly, self.exact
        for tight in (inner_rtol, self.finest):
            look = self._compute((flat, self.still, 0.0), rtol, tight, verify=True)
            nearer = best.vague and abs(look.change) <= abs(best.change)
            rougher = self.solver is None and look.vague and not nearer
            if look.broken or bool(failed(look.h.inner.result)) or rougher:
                break
            best = look
            self.start_from(best)
            if self.solver is not None or not look.vague or inner_rtol == self.finest:
                break
        return best

    def _compute(self, place, rtol, inner_rtol, verify=False) -> "Look":
        solver, inverse = self.solver, self.inverse
        bounds, (flat, step, share) = (self.lower, self.upper), place
        place = flat, step, jnp.asarray(share, flat.dtype)
        scaling = self.ones
        if self.units is not None and self.units.pay:
            # Where psi is now, which may be far from where theta was found.
            scaling = _row_norms(self.losses, self.args, self.psi0, self.theta, place, bounds)
        # As arrays, which can change without compiling anew.
        if solver is None:
            rtol_of_inner = jnp.asarray(inner_rtol, self.theta_dtype)
            solver = NewtonCG(rtol=rtol_of_inner, preconditioner=scaling)
        if inverse is None:
            inverse = CG(
                rtol=jnp.asarray(rtol, self.theta_dtype),
                verify=jnp.asarray(verify),
                preconditioner=scaling,
            )
        self.evaluations += 1
        look = _look if self.whole else _looked
        h, there, gradient, free, numbers = look(
            self.losses, self.args, solver, inverse, self.psi0, self.theta, self.v, place, bounds
        )
        numbers = np.asarray(numbers)
        value, change, distance, norm, slope, rounding, broken, vague = map(float, numbers[:8])
        value += change if self.solver is None else 0.0
        value = float("inf") if self.strict and broken else value
        if self.units is not None and self.inverse is None:
            self.units.follow(int(numbers[8]))
        said = bool(broken), bool(vague)
        numbers = value, change, distance, norm, slope, rounding
        return Look(h, there, *numbers, *said, gradient, free)


@dataclasses.dataclass(frozen=True)
class Look:
    """A hypergradient, and what a descent asks of it.

    Attributes:
        flat: psi.
        value: the outer loss where the inner problem would be solved, to first order; infinite
            where a solve failed, as it did not at the start, or theta is so far from the solution
            that the first order tells nothing.
        change: `h.change`, which `value` includes where the inner solver is the default.
        distance: `h.inner.distance`; 0 where that is not known.
        norm: that of the gradient among the free coordinates.
        slope: along the step, but for the coordinates that have come to a bound.
        rounding: what the value may be off because theta is rounded.
        broken: whether a solve failed, and not only in that it stopped as early as it was told to.
        vague: whether nothing has shown that theta solves the inner problem.
        gradient: flat.
        free: the coordinates that no bound holds back.
    """

    h: Hypergradient
    flat: Array
    value: float
    change: float
    distance: float
    norm: float
    slope: float
    rounding: float
    broken: bool
    vague: bool
    gradient: Array
    free: Array


def _looked(losses: Losses, args, solver, inverse, psi0, theta, v, place, bounds):
    there = along(*place, *bounds)
    compute = hypergradient(
        losses.outer,
        losses.inner,
        solver=solver,
        inverse_hvp=inverse,
        has_aux=losses.has_aux,
        inner_has_aux=losses.inner_has_aux,
        throw="ignore",
    )
    h = compute(_unflattened(there, psi0), theta, v0=v, **args)
    rounding = _rounding(losses, args, h.theta, _unflattened(there, psi0))
    return h, there, *_read(h, there, place[1], rounding, *bounds)


_look = eqx.filter_jit(_looked)


@eqx.filter_jit
def along(flat, step, share, lower, upper):
    return jnp.clip(flat + share * step, lower, upper)


def held_back(step, flat, lower, upper):
    """The coordinates that are at a bound, and would be moved beyond it."""
    if lower is None:
        return jnp.zeros(flat.shape, bool)
    return ((flat <= lower) & (step < 0)) | ((flat >= upper) & (step > 0))


def slope_of_path(gradient, step, flat, lower, upper):
    """Along `clip(. + share step)` where that is at `flat`."""
    return jnp.vdot(gradient, jnp.where(held_back(step, flat, lower, upper), 0, step))


@eqx.filter_jit
def _unflattened(flat, psi0):
    moving, static = eqx.partition(psi0, eqx.is_inexact_array)
    unravel = ravel_pytree(widen(moving))[1]
    return eqx.combine(cast(unravel(flat), dtypes_of(moving)), static)


@eqx.filter_jit
def _value(losses: Losses, args, theta, psi):
    found = losses.outer(theta, psi, *args["outer_args"])
    return found[0] if losses.has_aux else found


def _size_at(losses: Losses, args, theta, psi) -> float:
    with jax.debug_nans(False):
        return abs(float(np.nan_to_num(_value(losses, args, theta, psi), posinf=0, neginf=0)))


@eqx.filter_jit
def _rounding(losses: Losses, args, theta, psi):
    """Of the outer value, where each number of theta is off by a little of the length of all."""
    moving, static = eqx.partition(theta, eqx.is_inexact_array)
    size, dtype = tree_norm(moving), wide_dtype(moving)
    gradient = jax.grad(lambda moving: _value(losses, args, eqx.combine(moving, static), psi))
    slope = tree_norm(gradient(moving)).astype(dtype)
    return 4 * coarsest(dtypes_of(moving)) * slope * size.astype(dtype)


@eqx.filter_jit
def _read(h: Hypergradient, flat, step, rounding, lower, upper):
    gradient = ravel_pytree(widen(h.grad))[0]
    free = ~held_back(-gradient, flat, lower, upper)
    norm = jnp.linalg.norm(jnp.where(free, gradient, 0))
    slope = slope_of_path(gradient, step, flat, lower, upper)
    rough = h.inner.result == Result.not_stationary
    broken = (failed(h.inner.result) & ~rough) | failed(h.adjoint.result)
    vague = h.inner.result != Result.successful
    distance = jnp.zeros(()) if h.inner.distance is None else h.inner.distance
    numbers = [h.value, h.change, distance, norm, slope, rounding, broken, vague, h.adjoint.steps]
    return gradient, free, jnp.stack([number.astype(flat.dtype) for number in numbers])


@eqx.filter_jit
def _row_norms(losses: Losses, args, psi0, theta, place, bounds) -> Scaling:
    start, static = eqx.partition(theta, eqx.is_inexact_array)
    psi, inner_args = _unflattened(along(*place, *bounds), psi0), args["inner_args"]
    loss = InnerLoss(losses.inner, static, psi, inner_args, {}, losses.inner_has_aux)
    *_, hessian = Stationary(loss).linearize(start, None, rederive=False)
    if not is_wide(start):
        hessian, start = Wide(hessian, dtypes_of(start)), widen(start)
    return Equilibration().prepare(hessian, start, None)
